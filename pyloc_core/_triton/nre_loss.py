# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The NRE loss on a GPU: three kernels, no atomics, no synchronisation, the same bits every time.

Forward: `reduce_cells`, a program per block of points and share of the cells, keeps the running softmax
of its points and the mean of the features under it, as attention does with keys that are also its values;
`finish_points` joins the shares and reads the map at the targets. Backward: `feature_gradient`, a program
per block of cells, which owns its gradient and recomputes the correlations of all points there. That makes
four matrix products in all, and memory for the partial means alone (some `_PARTIAL_BYTES`).

Compiled for sm_80 and sm_90 and run in Triton's interpreter only: never yet on a GPU.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from pyloc_core._triton.nre_kernels import feature_gradient, finish_points, reduce_cells

_LOG2E = 1.4426950408889634
_PARTIAL_BYTES = 48 << 20


class Tiles(NamedTuple):
    """Constants of a kernel's tiles, and its launch options."""

    constants: dict[str, Any]
    num_warps: int
    num_stages: int


def tiles_of(kernel: str, dtype: torch.dtype, depth: int, roomy: bool, wide: bool = False) -> Tiles:
    """Sizes for which the compiler, for sm_90 and aligned features, spills no registers.

    Depths beyond one block are cut, and the correlations recomputed for every cut. The sums of float32
    products run on the ordinary units, in smaller tiles. `roomy`: sm_90 or newer with the 160 KB of
    shared memory per block of data-centre GPUs.
    """
    forward = kernel == "reduce_cells"
    if dtype == torch.float32:
        points, cells, block_d, block_k, whole, warps, stages = 32, 32, 128, 32, False, 4, 2
        stages = 2 if forward else 1
    elif depth <= 128:
        points, cells, block_d, block_k, whole, warps, stages = 64, 128, 128, 128, True, 8, 3
        if forward:
            points, cells = 128, 64
    elif depth <= 256 and roomy:
        points, cells, block_d, block_k, whole, warps, stages = 32, 128, 256, 256, True, 8, 2
        if forward:
            points, cells = 128, 64
    else:
        points, cells, block_d, block_k, whole, warps, stages = 64, 128, 128, 64, False, 8, 2
    small = max(16, triton.next_power_of_2(depth))
    constants = {
        "BLOCK_N": points,
        "BLOCK_P": cells,
        "BLOCK_D": min(block_d, small),
        "BLOCK_K": min(block_k, small),
        "WHOLE": whole,
        "WIDE": wide,
    }
    return Tiles(constants, warps, stages)


def _tiles(kernel: str, d: Tensor) -> Tiles:
    roomy = True
    if d.is_cuda:
        properties = torch.cuda.get_device_properties(d.device)
        shared = getattr(properties, "shared_memory_per_block_optin", 0)
        roomy = properties.major >= 9 and shared >= 160 << 10
    return tiles_of(kernel, d.dtype, d.shape[2], roomy, not d.is_cuda and d.dtype == torch.bfloat16)


def _on(tensor: Tensor) -> Any:
    return torch.cuda.device_of(tensor) if tensor.is_cuda else contextlib.nullcontext()


def _probability_scale(dtype: torch.dtype) -> float:
    """What brings small probabilities into float16's range; products are float32."""
    return 4096.0 if dtype == torch.float16 else 1.0


def _strided(f: Tensor) -> tuple[Tensor, int, int, int]:
    """Features with strides of items, channels and cells; a copy if rows are not side by side."""
    _, plane, row, column = f.stride()
    width = f.shape[3]
    if width == 1:
        column = row
    if f.shape[2] > 1 and row != width * column:
        return _strided(f.contiguous())
    return f, f.stride(0), plane, column


def _multiprocessors(tensor: Tensor) -> int:
    if not tensor.is_cuda:
        return 4
    return int(torch.cuda.get_device_properties(tensor.device).multi_processor_count)


def _shares(programs: int, tiles: int, bytes_each: int, tensor: Tensor) -> int:
    """How many programs share the cells of a block of points: two programs per multiprocessor."""
    wanted = triton.cdiv(2 * _multiprocessors(tensor), programs)
    affordable = max(1, _PARTIAL_BYTES // max(1, bytes_each))
    shares = max(1, min(wanted, tiles, affordable))
    return int(triton.cdiv(tiles, triton.cdiv(tiles, shares)))  # none of them empty


def _checked(d: Tensor, f: Tensor) -> None:
    if d.dtype == torch.float64:
        raise ValueError(
            "descriptors and features in float64 run on the CPU: the Triton kernels take float32, "
            "float16 and bfloat16"
        )
    if f.shape[2] * f.shape[3] >= 2**31 - 2**16 or f.shape[0] >= 2**16:
        raise ValueError(f"features {tuple(f.shape)} have too many cells or items for one launch")


def forward(
    d: Tensor, f: Tensor, t: Tensor, valid: Tensor | None, temperature: float, origin: list[float],
    mask_outside: bool, jacobian: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Loss (B, N), statistics (B, N, 2), counted (B, N), and the derivatives by target and descriptor."""
    _checked(d, f)
    batch, count, depth = d.shape
    height, width = f.shape[2:]
    loss = d.new_empty((batch, count), dtype=torch.float32)
    statistics = d.new_empty((batch, count, 2), dtype=torch.float64)
    counted = d.new_empty((batch, count), dtype=torch.bool)
    by_target = d.new_empty((batch, count, 2), dtype=torch.float32)
    by_descriptor = d.new_empty((batch, count, depth) if jacobian else (0,), dtype=torch.float32)
    results = loss, statistics, counted, by_target, by_descriptor
    if batch == 0 or count == 0:
        return results
    d, t = d.contiguous(), t.contiguous()
    f, item, plane, cell = _strided(f)
    size, warps, stages = _tiles("reduce_cells", d)
    block_n, block_p, block_d = size["BLOCK_N"], size["BLOCK_P"], size["BLOCK_D"]
    programs = triton.cdiv(count, block_n) * (triton.cdiv(depth, block_d) if jacobian else 1)
    tiles = triton.cdiv(height * width, block_p)
    shares = _shares(programs * batch, tiles, batch * count * (depth + 2) * 4, d)
    peak, total = d.new_empty((2, batch, shares, count), dtype=torch.float32).unbind(0)
    mean = d.new_empty((batch, shares, count, depth) if jacobian else (1,), dtype=torch.float32)
    scale, p_scale = _LOG2E / temperature, _probability_scale(d.dtype)
    has_valid = valid is not None
    num_valid = valid if valid is not None else peak
    with _on(d):
        reduce_cells[(programs, shares, batch)](
            d, f, num_valid, peak, total, mean, count, depth, height * width, item, plane, cell,
            triton.cdiv(tiles, shares), scale, **size, MEAN=jacobian, HAS_VALID=has_valid,
            P_SCALE=p_scale, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        finish_points[(triton.cdiv(count, 4), batch)](
            d, f, t, num_valid, peak, total, mean, loss, statistics, counted, by_target,
            by_descriptor, count, depth, width, height, item, plane, cell, shares,
            1 / temperature, scale, *origin, BLOCK_N=4, BLOCK_D=min(block_d, 128), MEAN=jacobian,
            HAS_VALID=has_valid, MASK=mask_outside, P_SCALE=p_scale, num_warps=4,
        )  # fmt: skip
    return results


def backward(
    loss_gradient: Tensor, statistics: Tensor, d: Tensor, f: Tensor, t: Tensor,
    valid: Tensor | None, temperature: float, origin: list[float], out: Tensor,
) -> None:  # fmt: skip
    """Writes the gradient of the features into `out`."""
    _checked(d, f)
    batch, count, depth = d.shape
    height, width = f.shape[2:]
    if batch == 0 or count == 0:
        out.zero_()
        return
    d, t = d.contiguous(), t.contiguous()
    weight, statistics = loss_gradient.contiguous(), statistics.contiguous()
    largest = weight.abs().amax().to(torch.float32)
    f, item, plane, cell = _strided(f)
    target, *strides = _strided(out)
    size, warps, stages = _tiles("feature_gradient", d)
    grid = triton.cdiv(height * width, size["BLOCK_P"]), triton.cdiv(depth, size["BLOCK_D"]), batch
    with _on(d):
        feature_gradient[grid](
            weight, largest, statistics, d, f, t, valid if valid is not None else weight, target,
            count, depth, width, height, height * width, item, plane, cell, *strides,
            1 / temperature, _LOG2E / temperature, *origin, **size, HAS_VALID=valid is not None,
            P_SCALE=_probability_scale(d.dtype), num_warps=warps, num_stages=stages,
        )  # fmt: skip
    if target is not out:
        out.copy_(target)
