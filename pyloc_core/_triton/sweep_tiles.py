# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""What the kernels of both cost volumes share: where a cell of a plane falls, its four taps, and the layout.

A reference cell (x, y) at depth d falls on q = M [x, y, 1]^T + m / d of a source, at (u, v) = (q_x, q_y) / q_z,
in front of the camera where q_z > 0. `projection` holds the rows [M | m] of every view.

Maps are read from copies with the channels last, padded with zeros to a multiple of the block of channels, and
sources have a border of one cell of zeros: a tap is one piece of memory, and no tap of a sample is outside.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

REDUCE = {"mean": 0, "valid_mean": 1, "none": 2}


@triton.jit
def count_views(num_views, item, views, HAS_VIEWS: tl.constexpr):
    """num_views[item] held within 0 and `views`, or `views`."""
    count = views
    if HAS_VIEWS:
        count = tl.load(num_views + item).to(tl.int32)
        count = tl.minimum(tl.maximum(count, 0), views)
    return count


@triton.jit
def cell_of(blocks, cells, width, BLOCK: tl.constexpr):
    """Cells of this program's block, and their coordinates."""
    cell = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    y = cell // width
    return cell, (cell - y * width).to(tl.float32), y.to(tl.float32), cell < cells


@triton.jit
def depth_of(depths, item, plane, planes, cell, inside, cells, PER_CELL: tl.constexpr):
    """Depths of a tile's cells at a plane: of their own, or that of the plane."""
    place = depths + item * planes + plane + cell // cells  # which is 0
    if PER_CELL:
        place = depths + (item * planes + plane) * cells + cell
    return tl.load(place, mask=inside, other=1.0)


@triton.jit
def homography_row(row, inverse):
    """A row of M + m (0, 0, 1) / d."""
    return tl.load(row), tl.load(row + 1), tl.load(row + 2) + tl.load(row + 3) * inverse


@triton.jit
def row_times(row, x, y, inverse):
    first, second, last = homography_row(row, inverse)
    return first * x + (second * y + last)


@triton.jit
def project(view, x, y, inverse):
    """u, v and q_z of cells at inverse depths; `view` points to the 12 numbers of one view."""
    qx = row_times(view, x, y, inverse)
    qy = row_times(view + 4, x, y, inverse)
    qz = row_times(view + 8, x, y, inverse)
    reciprocal = 1.0 / qz
    return qx * reciprocal, qy * reciprocal, qz


@triton.jit
def sees(u, v, qz, hs, ws):
    """In front of the camera and on the map: within half a cell of a cell's centre."""
    return (qz > 0) & (u >= -0.5) & (u <= ws - 0.5) & (v >= -0.5) & (v <= hs - 0.5)


@triton.jit
def spoiled(u, v, qz):
    """NaN where a camera or a depth was not finite, else 0: such a sample must not pass for one beyond the map.

    Behind the camera and in its plane (q_z <= 0) u and v are nothing to go by."""
    bad = (qz != qz) | ((qz > 0) & ((u != u) | (v != v)))
    return tl.where(bad, float("nan"), 0.0)


@triton.jit
def once(x):
    """x, computed by one thread for every row and then handed to those that share the channels of the row:
    compilers follow a reduction to its layout, and recompute what comes before anything else."""
    return tl.max(tl.join(x, x), 1)


@triton.jit
def taps(u, v, counted, hs, ws, DEPTH: tl.constexpr):
    """Offset of the first of the four cells in the bordered map, the fractions, and whether any of the four is
    on the map. What does not count is sent to the border's corner, with weight on its zeros alone.

    Comparisons come before the conversion to integers: they are false for NaN and hold off the infinite."""
    inside = counted & (u > -1.0) & (u < ws) & (v > -1.0) & (v < hs)
    u = tl.where(inside, u, -1.0)
    v = tl.where(inside, v, -1.0)
    left = tl.floor(u)
    top = tl.floor(v)
    cell = top.to(tl.int32) * (ws + 2) + left.to(tl.int32) + (ws + 3)
    # Times DEPTH last: the compiler sees that 16 bytes at once are aligned.
    return once(cell) * DEPTH, once(u - left), once(v - top), inside


@triton.jit
def interpolate(maps, offset, fx, fy, ws, channel, DEPTH: tl.constexpr):
    """Bilinear mean of the four taps, (rows, channels) in float32."""
    place = maps + offset[:, None] + channel[None, :]
    below = place + (ws + 2) * DEPTH
    fx = fx[:, None]
    fy = fy[:, None]
    both = fx * fy
    found = tl.load(place).to(tl.float32) * (1.0 - fx - (fy - both))
    found += tl.load(place + DEPTH).to(tl.float32) * (fx - both)
    found += tl.load(below).to(tl.float32) * (fy - both)
    found += tl.load(below + DEPTH).to(tl.float32) * both
    return found


@triton.jit
def add_taps(sums, offset, fx, fy, inside, ws, channel, value, DEPTH: tl.constexpr):
    """The adjoint of `interpolate` into 64-bit integers, whose sums have the same bits in any order."""
    place = sums + offset[:, None] + channel[None, :]
    below = place + (ws + 2) * DEPTH
    both = fx * fy
    mask = inside[:, None]
    part = (value * (1.0 - fx - (fy - both))[:, None]).to(tl.int64)
    tl.atomic_add(place, part, mask=mask, sem="relaxed")
    part = (value * (fx - both)[:, None]).to(tl.int64)
    tl.atomic_add(place + DEPTH, part, mask=mask, sem="relaxed")
    part = (value * (fy - both)[:, None]).to(tl.int64)
    tl.atomic_add(below, part, mask=mask, sem="relaxed")
    part = (value * both[:, None]).to(tl.int64)
    tl.atomic_add(below + DEPTH, part, mask=mask, sem="relaxed")


@triton.jit
def pack_kernel(
    maps, packed, blocks, channels, height, width, depth,
    BORDER: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """(maps, C, H, W) -> (maps, H + 2 BORDER, W + 2 BORDER, depth), zeros around."""
    item = (tl.program_id(0) // blocks).to(tl.int64)
    cell = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    wide = width + 2 * BORDER
    y = cell // wide - BORDER
    x = cell % wide - BORDER
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    size = (height + 2 * BORDER) * wide
    for first in range(0, depth, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        place = maps + item * channels * height * width + (y * width + x)[:, None]
        place += c[None, :].to(tl.int64) * (height * width)
        value = tl.load(place, mask=inside[:, None] & (c < channels)[None, :], other=0.0)
        place = packed + item * size * depth + (cell * depth)[:, None] + c[None, :]
        tl.store(place, value, mask=(cell < size)[:, None])


@triton.jit
def unpack_kernel(
    packed, unit, maps, shift, blocks, channels, height, width, depth, parts, part_size, per_item,
    HAS_UNIT: tl.constexpr, BORDER: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The way back: (parts, maps, H + 2 BORDER, W + 2 BORDER, depth), summed over the parts in their order,
    times `shift`, times the unit of the map's item: one product of the two could leave float32."""
    item = (tl.program_id(0) // blocks).to(tl.int64)
    cell = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = cell < height * width
    wide = width + 2 * BORDER
    at = (cell // width + BORDER) * wide + cell % width + BORDER
    source = packed + item * (height + 2 * BORDER) * wide * depth
    scale = 1.0
    if HAS_UNIT:
        scale = tl.load(unit + item // per_item)
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        mask = inside[:, None] & (c < channels)[None, :]
        place = source + (at * depth)[:, None] + c[None, :]
        total = tl.zeros([BLOCK, BLOCK_C], tl.float32)
        for _ in range(parts):
            value = tl.load(place, mask=mask, other=0)
            total += value.to(tl.float32)
            place += part_size
        place = maps + item * channels * height * width + cell[:, None]
        place += c[None, :].to(tl.int64) * (height * width)
        tl.store(place, (total * shift * scale).to(maps.dtype.element_ty), mask=mask)


# ---------------------------------------------------------------------------------------------- launchers


def block_of(channels: int, least: int = 4, most: int = 32) -> int:
    """Channels that a tile holds."""
    return int(min(max(least, triton.next_power_of_2(channels)), most))


def packed_shape(maps: Tensor, border: int, block: int) -> tuple[int, int, int]:
    height, width = (size + 2 * border for size in maps.shape[-2:])
    return height, width, block * triton.cdiv(maps.shape[-3], block)


def pack(maps: Tensor, border: int, block: int) -> Tensor:
    """(..., C, H, W) -> (..., H + 2 border, W + 2 border, C rounded up to blocks)."""
    maps = maps.contiguous()
    channels, height, width = maps.shape[-3:]
    shape = packed_shape(maps, border, block)
    packed = maps.new_empty(*maps.shape[:-3], *shape)
    items, size = maps.shape[:-3].numel(), 64
    blocks = triton.cdiv(shape[0] * shape[1], size)
    pack_kernel[(items * blocks,)](
        maps, packed, blocks, channels, height, width, shape[2],
        BORDER=border, BLOCK=size, BLOCK_C=min(block, 32), num_warps=4,
    )  # fmt: skip
    return packed


def unpack(
    packed: Tensor,
    like: Tensor,
    border: int,
    block: int,
    unit: Tensor | None = None,
    shift: float = 1.0,
) -> Tensor:
    """(parts, *packed shape) -> the sum over the parts in the shape and dtype of `like`, times shift and
    `unit` (B,)."""
    maps = torch.empty_like(like, memory_format=torch.contiguous_format)
    channels, height, width = maps.shape[-3:]
    items, size = maps.shape[:-3].numel(), 64
    blocks = triton.cdiv(height * width, size)
    unpack_kernel[(items * blocks,)](
        packed, packed if unit is None else unit, maps, shift, blocks, channels, height, width,
        packed.shape[-1], packed.shape[0], packed[0].numel(), maps.shape[1:-3].numel(),
        HAS_UNIT=int(unit is not None), BORDER=border, BLOCK=size, BLOCK_C=min(block, 32),
        num_warps=4,
    )  # fmt: skip
    return maps


def check(op: str, reference: Tensor, sources: Tensor, depths: Tensor, block: int) -> None:
    """Offsets within one map, and within the planes of one item, are int32 in the kernels."""
    if reference.dtype == torch.float64:
        raise ValueError(f"{op}: the Triton kernels take float32, float16 and bfloat16")
    for name, maps, border in (("reference", reference, 0), ("sources", sources, 1)):
        height, width, depth = packed_shape(maps, border, block)
        if height * width * depth >= 2**31 - 2**16:
            raise ValueError(
                f"{op}: {name} {tuple(maps.shape)} is too large for one map of a launch"
            )
    planes = depths.shape[1] * reference.shape[-2] * reference.shape[-1]
    if reference.shape[0] * planes >= 2**36:
        raise ValueError(f"{op}: {tuple(depths.shape)} depths are too many for one launch")
