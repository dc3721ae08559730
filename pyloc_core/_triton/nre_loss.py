# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The NRE loss on a GPU: three kernels, no atomics, no synchronisation, the same bits every time.

Forward: `_reduce_cells`, a program per block of points and share of the cells, keeps the running softmax
of its points and the mean of the features under it, as attention does with keys that are also its values;
`_finish_points` joins the shares and reads the map at the targets. Backward: `_feature_gradient`, a program
per block of cells, which owns its gradient and recomputes the correlations of all points there. That makes
four matrix products in all, and memory for the partial means alone (some `_PARTIAL_BYTES`).

Compiled for sm_80 and sm_90 and run in Triton's interpreter only: never yet on a GPU.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2E = 1.4426950408889634
_PARTIAL_BYTES = 48 << 20


@triton.jit
def _product(a, b, acc, WIDE: tl.constexpr):
    """acc + a @ b in float32. WIDE: operands as float32, for Triton's interpreter, whose bfloat16 are bits."""
    if WIDE:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a.to(b.dtype), b, acc, input_precision="ieee")


@triton.jit
def _taps(targets, at, width, height, x0, y0, rows):
    """First cell, fractions and validity of the targets `at` (in points); the taps of nre_rows.h."""
    x = tl.load(targets + 2 * at, mask=rows, other=0.0) - x0
    y = tl.load(targets + 2 * at + 1, mask=rows, other=0.0) - y0
    # A comparison with NaN is false.
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x = tl.where(inside, x, 0.0)
    y = tl.where(inside, y, 0.0)
    column = tl.maximum(tl.minimum(tl.floor(x), width - 2), 0.0)
    row = tl.maximum(tl.minimum(tl.floor(y), height - 2), 0.0)
    cell = row.to(tl.int32) * width + column.to(tl.int32)
    return cell, (x - column).to(tl.float32), (y - row).to(tl.float32), inside & rows


@triton.jit
def _logits(
    h_ptr, f_ptr, rows, cells, offs_n, offs_p, depth, plane, cell_stride,
    BLOCK_K: tl.constexpr, TRANSPOSED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """<h_n, F(p)> for depths of any number: (BLOCK_N, BLOCK_P), or (BLOCK_P, BLOCK_N)."""
    if TRANSPOSED:
        c = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    else:
        c = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)
    for k in range(0, depth, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        kept = offs_k < depth
        h = tl.load(
            h_ptr + offs_n[:, None].to(tl.int64) * depth + offs_k[None, :],
            mask=rows[:, None] & kept[None, :], other=0.0,
        )  # fmt: skip
        f = tl.load(
            f_ptr + offs_k[:, None].to(tl.int64) * plane + offs_p[None, :].to(tl.int64) * cell_stride,
            mask=kept[:, None] & cells[None, :], other=0.0,
        )  # fmt: skip
        if TRANSPOSED:
            c = _product(tl.trans(f), tl.trans(h), c, WIDE)
        else:
            c = _product(h, f, c, WIDE)
    return c


@triton.jit
def _reduce_cells(
    h_ptr, f_ptr, num_valid_ptr, peak_ptr, sum_ptr, mean_ptr, count, depth, n_cells, item, plane,
    cell_stride, tiles_per_share, scale,
    BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    WHOLE: tl.constexpr, WIDE: tl.constexpr, MEAN: tl.constexpr, HAS_VALID: tl.constexpr,
    P_SCALE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of points * blocks of depths, shares, B). Partial results (B, share, N[, D])."""
    blocks_d = tl.cdiv(depth, BLOCK_D) if MEAN else 1
    first = (tl.program_id(0) // blocks_d) * BLOCK_N
    first_d = (tl.program_id(0) % blocks_d) * BLOCK_D
    share = tl.program_id(1)
    item_index = tl.program_id(2).to(tl.int64)
    valid = count
    if HAS_VALID:
        valid = tl.load(num_valid_ptr + item_index).to(tl.int32)
    offs_n = first + tl.arange(0, BLOCK_N)
    offs_d = first_d + tl.arange(0, BLOCK_D)
    rows = offs_n < valid
    h_ptr += item_index * count * depth
    f_ptr += item_index * item
    peak = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    mean = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    if WHOLE:  # the descriptors fit one block of depths and stay
        h = tl.load(
            h_ptr + offs_n[:, None].to(tl.int64) * depth + offs_d[None, :],
            mask=rows[:, None] & (offs_d < depth)[None, :], other=0.0,
        )  # fmt: skip
    tiles = tiles_per_share
    if first >= valid:
        tiles = 0
    for tile in range(tiles):
        offs_p = (share * tiles_per_share + tile) * BLOCK_P + tl.arange(0, BLOCK_P)
        cells = offs_p < n_cells
        if WHOLE or MEAN:
            f = tl.load(
                f_ptr + offs_d[:, None].to(tl.int64) * plane + offs_p[None, :].to(tl.int64) * cell_stride,
                mask=(offs_d < depth)[:, None] & cells[None, :], other=0.0,
            )  # fmt: skip
        if WHOLE:
            c = _product(h, f, tl.zeros((BLOCK_N, BLOCK_P), tl.float32), WIDE)
        else:
            c = _logits(
                h_ptr, f_ptr, rows, cells, offs_n, offs_p, depth, plane, cell_stride,
                BLOCK_K, False, BLOCK_N, BLOCK_P, WIDE,
            )  # fmt: skip
        c = tl.where(cells[None, :], c, float("-inf"))
        raised = tl.maximum(peak, tl.max(c, 1))
        # The last share may begin beyond the last cell: nothing is seen, and nothing may become NaN.
        shift = tl.where(raised == float("-inf"), 0.0, raised)
        factor = tl.exp2((peak - shift) * scale)
        e = tl.exp2((c - shift[:, None]) * scale)
        total = total * factor + tl.sum(e, 1)
        if MEAN:
            mean *= factor[:, None]
            mean = _product(e * P_SCALE, tl.trans(f), mean, WIDE)
        peak = raised
    at = (item_index * tl.num_programs(1) + share) * count + offs_n
    if first_d == 0:
        tl.store(peak_ptr + at, peak, mask=offs_n < count)
        tl.store(sum_ptr + at, total, mask=offs_n < count)
    if MEAN:
        tl.store(
            mean_ptr + at[:, None] * depth + offs_d[None, :], mean,
            mask=(offs_n < count)[:, None] & (offs_d < depth)[None, :],
        )  # fmt: skip


@triton.jit
def _finish_points(
    h_ptr, f_ptr, target_ptr, num_valid_ptr, peak_ptr, sum_ptr, mean_ptr,
    loss_ptr, statistics_ptr, counted_ptr, by_target_ptr, by_descriptor_ptr,
    count, depth, width, height, item, plane, cell_stride, shares, inverse_temperature, scale, x0, y0,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, MEAN: tl.constexpr, HAS_VALID: tl.constexpr,
    MASK: tl.constexpr, P_SCALE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of points, B): the shares joined, the loss, and its derivatives by target and h."""
    item_index = tl.program_id(1).to(tl.int64)
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = count
    if HAS_VALID:
        valid = tl.load(num_valid_ptr + item_index).to(tl.int32)
    exists = offs_n < count
    rows = offs_n < valid
    at = item_index * count + offs_n
    cell, fx, fy, inside = _taps(target_ptr, at, width, height, x0, y0, rows)
    right = tl.where(width > 1, 1, 0)
    down = tl.where(height > 1, width, 0)
    # The softmax of all shares.
    partial = item_index * shares * count + offs_n
    peak = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    for s in range(shares):
        peak = tl.maximum(peak, tl.load(peak_ptr + partial + s * count, mask=rows, other=0.0))
    total = tl.zeros((BLOCK_N,), tl.float32)
    for s in range(shares):
        of_share = tl.load(peak_ptr + partial + s * count, mask=rows, other=0.0)
        sum_of_share = tl.load(sum_ptr + partial + s * count, mask=rows, other=1.0)
        total += sum_of_share * tl.exp2((of_share - peak) * scale)
    # Features at the target, and the correlations there.
    h_ptr += at[:, None] * depth
    f_ptr += item_index * item
    base = f_ptr + cell[:, None].to(tl.int64) * cell_stride
    c00 = tl.zeros((BLOCK_N,), tl.float32)
    c01 = tl.zeros((BLOCK_N,), tl.float32)
    c10 = tl.zeros((BLOCK_N,), tl.float32)
    c11 = tl.zeros((BLOCK_N,), tl.float32)
    for k in range(0, depth, BLOCK_D):
        offs_d = k + tl.arange(0, BLOCK_D)
        kept = inside[:, None] & (offs_d < depth)[None, :]
        corner = base + offs_d[None, :].to(tl.int64) * plane
        h = tl.load(h_ptr + offs_d[None, :], mask=kept, other=0.0).to(tl.float32)
        f00 = tl.load(corner, mask=kept, other=0.0).to(tl.float32)
        f01 = tl.load(corner + right * cell_stride, mask=kept, other=0.0).to(tl.float32)
        f10 = tl.load(corner + down * cell_stride, mask=kept, other=0.0).to(tl.float32)
        f11 = tl.load(corner + (down + right) * cell_stride, mask=kept, other=0.0).to(tl.float32)
        c00 += tl.sum(h * f00, 1)
        c01 += tl.sum(h * f01, 1)
        c10 += tl.sum(h * f10, 1)
        c11 += tl.sum(h * f11, 1)
        if MEAN:
            mean = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
            for s in range(shares):
                of_share = tl.load(peak_ptr + partial + s * count, mask=rows, other=0.0)
                part = tl.load(
                    mean_ptr + (partial + s * count)[:, None] * depth + offs_d[None, :],
                    mask=kept, other=0.0,
                )  # fmt: skip
                mean += part * tl.exp2((of_share - peak) * scale)[:, None]
            upper = (1 - fx)[:, None] * f00 + fx[:, None] * f01
            lower = (1 - fx)[:, None] * f10 + fx[:, None] * f11
            read = (1 - fy)[:, None] * upper + fy[:, None] * lower
            derivative = (mean / (total * P_SCALE)[:, None] - read) * inverse_temperature
            if MASK:
                derivative = tl.where(inside[:, None], derivative, 0.0)
            else:
                nothing = tl.where(rows, float("nan"), 0.0)
                derivative = tl.where(inside[:, None], derivative, nothing[:, None])
            tl.store(
                by_descriptor_ptr + at[:, None] * depth + offs_d[None, :], derivative,
                mask=exists[:, None] & (offs_d < depth)[None, :],
            )  # fmt: skip
    above = (1 - fy) * ((1 - fx) * (peak - c00) + fx * (peak - c01))
    below = fy * ((1 - fx) * (peak - c10) + fx * (peak - c11))
    log_sum = tl.log(total)
    loss = log_sum + (above + below) * inverse_temperature
    by_x = -((1 - fy) * (c01 - c00) + fy * (c11 - c10)) * inverse_temperature
    by_y = -((1 - fx) * (c10 - c00) + fx * (c11 - c01)) * inverse_temperature
    if MASK:
        outside = tl.zeros((BLOCK_N,), tl.float32)
        tl.store(counted_ptr + at, inside, mask=exists)
    else:
        outside = tl.where(rows, float("nan"), 0.0)
        tl.store(counted_ptr + at, rows, mask=exists)
    tl.store(loss_ptr + at, tl.where(inside, loss, outside), mask=exists)
    tl.store(by_target_ptr + 2 * at, tl.where(inside, by_x, outside), mask=exists)
    tl.store(by_target_ptr + 2 * at + 1, tl.where(inside, by_y, outside), mask=exists)
    tl.store(statistics_ptr + 2 * at, tl.where(rows, peak, 0.0).to(tl.float64), mask=exists)
    tl.store(statistics_ptr + 2 * at + 1, tl.where(rows, log_sum, 0.0).to(tl.float64), mask=exists)


@triton.jit
def _feature_gradient(
    weight_ptr, largest_ptr, statistics_ptr, h_ptr, f_ptr, target_ptr, num_valid_ptr, out_ptr,
    count, depth, width, height, n_cells, item, plane, cell_stride, out_item, out_plane, out_cell,
    inverse_temperature, scale, x0, y0,
    BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    WHOLE: tl.constexpr, WIDE: tl.constexpr, HAS_VALID: tl.constexpr, P_SCALE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of cells, blocks of depths, B): dL/dF = sum_n dL/dloss_n / T (C_n - w_n) h_n.

    Works on transposed tiles (cells, points), whose products need no trip through shared memory.
    Weights are taken relative to the largest, so that float16 operands do not underflow.
    """
    item_index = tl.program_id(2).to(tl.int64)
    offs_p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    cells = (
        offs_p < n_cells
    )  # an argument: whether 16 divides it decides how wide memory is accessed
    valid = count
    if HAS_VALID:
        valid = tl.load(num_valid_ptr + item_index).to(tl.int32)
    largest = tl.load(largest_ptr)
    unit = tl.where(largest > 0, largest, 1.0)
    h_ptr += item_index * count * depth
    f_ptr += item_index * item
    if WHOLE:
        f = tl.load(
            f_ptr + offs_d[:, None].to(tl.int64) * plane + offs_p[None, :].to(tl.int64) * cell_stride,
            mask=(offs_d < depth)[:, None] & cells[None, :], other=0.0,
        )  # fmt: skip
        f = tl.trans(f)
    gradient = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    for first in range(0, valid, BLOCK_N):
        offs_n = first + tl.arange(0, BLOCK_N)
        rows = offs_n < valid
        at = item_index * count + offs_n
        cell, fx, fy, inside = _taps(target_ptr, at, width, height, x0, y0, rows)
        h = tl.load(
            h_ptr + offs_n[:, None].to(tl.int64) * depth + offs_d[None, :],
            mask=inside[:, None] & (offs_d < depth)[None, :], other=0.0,
        )  # fmt: skip
        if WHOLE:
            c = _product(f, tl.trans(h), tl.zeros((BLOCK_P, BLOCK_N), tl.float32), WIDE)
        else:
            c = _logits(
                h_ptr, f_ptr, inside, cells, offs_n, offs_p, depth, plane, cell_stride,
                BLOCK_K, True, BLOCK_N, BLOCK_P, WIDE,
            )  # fmt: skip
        peak = tl.load(statistics_ptr + 2 * at, mask=inside, other=0.0).to(tl.float32)
        log_sum = tl.load(statistics_ptr + 2 * at + 1, mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32) / unit * P_SCALE
        probability = tl.exp2((c - peak[None, :]) * scale - (log_sum * 1.4426950408889634)[None, :])
        # Bilinear weights of the targets' cells. A map of one column has no cell to the right: its
        # neighbour in the flat order is the one below, so the rows are asked for first.
        step = offs_p[:, None] - cell[None, :]
        w = tl.where(step == 0, ((1 - fx) * (1 - fy))[None, :], 0.0)
        w = tl.where(step == 1, (fx * (1 - fy))[None, :], w)
        w = tl.where(step == width + 1, (fx * fy)[None, :], w)
        w = tl.where(step == width, ((1 - fx) * fy)[None, :], w)
        share = tl.where(inside[None, :], (probability - w) * weight[None, :], 0.0)
        gradient = _product(share, h, gradient, WIDE)
    gradient *= unit * inverse_temperature / P_SCALE
    tl.store(
        out_ptr + item_index * out_item + offs_p[:, None].to(tl.int64) * out_cell
        + offs_d[None, :].to(tl.int64) * out_plane,
        gradient, mask=cells[:, None] & (offs_d < depth)[None, :],
    )  # fmt: skip


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
    forward = kernel == "_reduce_cells"
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
    size, warps, stages = _tiles("_reduce_cells", d)
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
        _reduce_cells[(programs, shares, batch)](
            d, f, num_valid, peak, total, mean, count, depth, height * width, item, plane, cell,
            triton.cdiv(tiles, shares), scale, **size, MEAN=jacobian, HAS_VALID=has_valid,
            P_SCALE=p_scale, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        _finish_points[(triton.cdiv(count, 4), batch)](
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
    size, warps, stages = _tiles("_feature_gradient", d)
    grid = triton.cdiv(height * width, size["BLOCK_P"]), triton.cdiv(depth, size["BLOCK_D"]), batch
    with _on(d):
        _feature_gradient[grid](
            weight, largest, statistics, d, f, t, valid if valid is not None else weight, target,
            count, depth, width, height, height * width, item, plane, cell, *strides,
            1 / temperature, _LOG2E / temperature, *origin, **size, HAS_VALID=valid is not None,
            P_SCALE=_probability_scale(d.dtype), num_warps=warps, num_stages=stages,
        )  # fmt: skip
    if target is not out:
        out.copy_(target)
