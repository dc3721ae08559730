# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""One tile of correlation maps, (BLOCK_N descriptors, BLOCK_P cells), that every correlation kernel streams.

c_n(p) = sum over levels of <h_n, F(p)>, the levels of another size than the map resized bilinearly
(half-pixel centres, clamped; Eq. 3.3). Resizing is linear, so it is done to the features of a tile, in
float32, before the product: <h, sum_k w_k F_k> = sum_k w_k <h, F_k>. A 16-bit level keeps the digits of
that mixture by multiplying it in two 16-bit parts, high and low.

A level is a tuple (descriptors, features, and their strides and extents; see `Tiling`), all levels a
tuple of these, so that one kernel serves any number of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LINEAR, STRIDED, RESIZED = 0, 1, 2  # how a level's cells follow from the map's


@triton.jit
def descriptor_block(level, rows, count, first, BLOCK_D: tl.constexpr):
    """Channels first ... first + BLOCK_D - 1 of the descriptors `rows`: (BLOCK_N, BLOCK_D), 0 outside."""
    d = first + tl.arange(0, BLOCK_D)
    at = level[0] + (rows.to(tl.int64) * level[2])[:, None] + (d.to(tl.int64) * level[3])[None, :]
    return tl.load(at, mask=(rows < count)[:, None] & (d < level[7])[None, :], other=0.0)


@triton.jit
def interpolation_tap(target, target_size, source_size):
    """Source cells and the weight of the second for target cell centres; exact up to one rounding."""
    twice = 2 * target_size
    at = (2 * target + 1) * source_size - target_size  # times 1 / (2 target_size): the source point
    at = tl.minimum(tl.maximum(at, 0), (source_size - 1) * twice)
    low = at // twice
    weight = (at - low * twice).to(tl.float32) / (twice * 1.0)
    return low, tl.minimum(low + 1, source_size - 1), weight


@triton.jit
def resized_block(level, planes, cells, mask, map_height, map_width):
    """Features mixed from four cells of a level of another size, float32."""
    y = cells // map_width
    x = cells - y * map_width
    y0, y1, v = interpolation_tap(y, map_height, level[8])
    x0, x1, u = interpolation_tap(x, map_width, level[9])
    y0, y1 = y0 * level[5], y1 * level[5]
    x0, x1 = x0 * level[6], x1 * level[6]
    f00 = tl.load(planes + (y0 + x0)[None, :], mask=mask, other=0.0).to(tl.float32)
    f01 = tl.load(planes + (y0 + x1)[None, :], mask=mask, other=0.0).to(tl.float32)
    f10 = tl.load(planes + (y1 + x0)[None, :], mask=mask, other=0.0).to(tl.float32)
    f11 = tl.load(planes + (y1 + x1)[None, :], mask=mask, other=0.0).to(tl.float32)
    top = f00 + u[None, :] * (f01 - f00)
    bottom = f10 + u[None, :] * (f11 - f10)
    return top + v[None, :] * (bottom - top)


@triton.jit
def feature_block(
    level, cells, live, first, map_height, map_width,
    KIND: tl.constexpr, WIDE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Channels first ... first + BLOCK_D - 1 of the features at `cells` of the map: (BLOCK_D, BLOCK_P)."""
    d = tl.arange(0, BLOCK_D)
    mask = ((first + d) < level[7])[:, None] & live[None, :]
    base = level[1] + first * tl.cast(level[4], tl.int64)
    if WIDE:
        d = d.to(tl.int64)
        cells = cells.to(tl.int64)
    planes = base + (d * level[4])[:, None]
    if KIND == 0:  # the map's rows follow each other in memory
        block = tl.load(planes + (cells * level[6])[None, :], mask=mask, other=0.0)
    elif KIND == 1:
        y = cells // map_width
        x = cells - y * map_width
        block = tl.load(planes + (y * level[5] + x * level[6])[None, :], mask=mask, other=0.0)
    else:
        block = resized_block(level, planes, cells, mask, map_height, map_width)
    return block


@triton.jit
def multiply(acc, h, f, EXACT: tl.constexpr, KIND: tl.constexpr):
    """acc + h @ f, float32. EXACT: in float32 operands; else in the 16-bit type of the descriptors."""
    if EXACT:
        acc = tl.dot(h.to(tl.float32), f.to(tl.float32), acc, input_precision="ieee")
    elif KIND == 2:
        high = f.to(h.dtype)
        low = (f - high.to(tl.float32)).to(h.dtype)
        acc = tl.dot(h, low, acc)
        acc = tl.dot(h, high, acc)
    else:
        acc = tl.dot(h, f, acc)
    return acc


@triton.jit
def correlation_tile(
    levels, resident, rows, count, cells, live, map_height, map_width,
    KINDS: tl.constexpr, EXACT: tl.constexpr, HOIST: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """c (BLOCK_N, BLOCK_P) float32, not divided by T. `resident`: the descriptors, if HOIST."""
    acc = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)
    if HOIST:  # one level whose channels fit one block: its descriptors stay on the chip
        f = feature_block(levels[0], cells, live, 0, map_height, map_width, KINDS[0], WIDE, BLOCK_D)
        acc = multiply(acc, resident, f, EXACT[0], KINDS[0])
    else:
        for i in tl.static_range(len(KINDS)):
            for first in range(0, levels[i][7], BLOCK_D):
                h = descriptor_block(levels[i], rows, count, first, BLOCK_D)
                f = feature_block(
                    levels[i], cells, live, first, map_height, map_width, KINDS[i], WIDE, BLOCK_D
                )
                acc = multiply(acc, h, f, EXACT[i], KINDS[i])
    return acc


@triton.jit
def ordered_key(value):
    """Integers (int32) in the order of the floats; both zeros are one."""
    bits = tl.where(value == 0, 0.0, value).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def value_of_key(key):
    """Inverse of `ordered_key`."""
    bits = tl.where(key < 0, key ^ 0x7FFFFFFF, key)
    return bits.to(tl.float32, bitcast=True)


def _interpreted(device: torch.device) -> bool:
    """Whether kernels on this device's tensors run in Triton's interpreter."""
    return device.type == "cpu"


@functools.cache
def _resources(device: torch.device) -> tuple[int, bool]:
    """Multiprocessors, and whether a program may use 160 KB of shared memory or only some 99."""
    if _interpreted(device):
        return 2, True  # the interpreter: enough to see partial results being merged
    capability = torch.cuda.get_device_capability(device)
    roomy = capability >= (8, 0) and capability not in ((8, 6), (8, 9)) and capability[0] < 12
    return int(torch.cuda.get_device_properties(device).multi_processor_count), roomy


@dataclass(frozen=True)
class Tiling:
    """How a call is cut into tiles, and its levels in the form that the kernels take."""

    levels: tuple[tuple[Any, ...], ...]
    count: int
    size: tuple[int, int]
    constants: dict[str, Any]  # constexpr arguments shared by the streaming kernels
    num_warps: int
    num_stages: int
    processors: int

    @property
    def cells(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def row_blocks(self) -> int:
        return triton.cdiv(self.count, self.constants["BLOCK_N"])

    def splits(self, cells: int) -> tuple[int, int]:
        """Programs that share the cells of a block of rows, and tiles per program; none is idle."""
        tiles = triton.cdiv(cells, self.constants["BLOCK_P"])
        wanted = max(1, 2 * self.processors // self.row_blocks)
        each = triton.cdiv(tiles, min(wanted, tiles))
        return triton.cdiv(tiles, each), each


def tiling(
    descriptors: Sequence[Tensor],
    features: Sequence[Tensor],
    size: tuple[int, int],
    collect: bool,
) -> Tiling:
    """Tile sizes for a call. Descriptors (N, D), features (D, h, w), checked, on one device.

    The sizes are those for which the compiler, for sm_90, spills no registers (`collect`: in the pass
    that writes lists) and three programs, or one that collects, fit a multiprocessor.
    """
    if size[0] * size[1] >= 2**31:
        raise ValueError(f"the GPU counts cells in 32 bits: size {size} has too many")
    count = descriptors[0].shape[0]
    pairs = [(h.dtype, f.dtype) for h, f in zip(descriptors, features)]
    exact = tuple(h != f or h == torch.float32 for h, f in pairs)
    kinds = tuple(_kind(f, size) for f in features)
    depth = max(f.shape[0] for f in features)
    # Accumulators of float32 products are summed by the ordinary units: smaller tiles than the matrix
    # units take. The mixture of a resized level lives in registers.
    rows, channels = (64, 16) if any(exact) else (128, 128)
    processors, roomy = _resources(descriptors[0].device)
    if collect and not roomy:
        rows = 64
    if RESIZED in kinds:
        channels = min(channels, 32)
    rows = min(rows, max(16, triton.next_power_of_2(max(count, 1))))
    cells = 64 if rows >= 64 else 128
    channels = min(channels, max(16, triton.next_power_of_2(depth)))
    if _interpreted(descriptors[0].device):
        # The interpreter takes the bits of bfloat16 operands for integers; in float32 the products are
        # the same.
        exact = tuple(e or h == torch.bfloat16 for e, (h, _) in zip(exact, pairs))
    # h, F, their strides (row, channel; plane, row, column), D, height, width
    levels = tuple(
        (h, f, *h.stride(), *f.stride(), *f.shape) for h, f in zip(descriptors, features)
    )
    constants = {
        "KINDS": kinds,
        "EXACT": exact,
        "HOIST": len(levels) == 1 and depth <= channels,
        "WIDE": any(_is_wide(f, size, channels) for f in features),
        "BLOCK_N": rows,
        "BLOCK_P": cells,
        "BLOCK_D": channels,
    }
    warps = 8 if rows == 128 or collect else 4
    return Tiling(levels, count, size, constants, warps, 2, processors)


def _kind(features: Tensor, size: tuple[int, int]) -> int:
    _, height, width = features.shape
    if (height, width) != tuple(size):
        return RESIZED
    _, row, column = features.stride()
    return LINEAR if height == 1 or row == width * column else STRIDED


def _is_wide(features: Tensor, size: tuple[int, int], channels: int) -> bool:
    """Whether offsets inside a block of channels, or the products of a tap, leave 32 bits."""
    _, height, width = features.shape
    plane, row, column = features.stride()
    reach = channels * plane + (height + 1) * row + (width + 1) * column
    taps = max((2 * size[0] + 2) * (height + 1), (2 * size[1] + 2) * (width + 1))
    return max(reach, taps, size[0] * size[1] * column) >= 2**31
