# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""Gradient of the dot-product volume by the reference: sum over planes and views of slope x warped source.

A program owns a block of cells: rows of a tile are cells x planes, whose sums meet in registers. Where a map
has few cells the planes are shared among programs, whose parts are then added in their order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.sweep_tiles import (
    REDUCE,
    block_of,
    cell_of,
    count_views,
    depth_of,
    interpolate,
    pack,
    project,
    sees,
    taps,
    unpack,
)


class Problem(NamedTuple):
    """What the gradient kernels take. slopes (B, D, H, W), or (B, V, D, H, W) with `per_view`; divided by the
    number of views that see the cell where that is not the item's number of views (`divide`)."""

    reference: Tensor  # channels last
    sources: Tensor  # channels last, bordered
    projection: Tensor
    depths: Tensor
    num_views: Tensor | None
    slopes: Tensor
    per_cell: bool
    per_view: bool
    divide: bool
    seen_only: bool
    size: tuple[int, int]
    source_size: tuple[int, int]
    block: int


@triton.jit
def seen_slope_kernel(
    slopes, projection, depths, num_views, scaled, blocks, views, planes, cells, width, hs, ws,
    HAS_VIEWS: tl.constexpr, PER_CELL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Slopes divided by the number of views that see the cell."""
    cell, x, y, inside = cell_of(blocks, cells, width, BLOCK)
    plane = (tl.program_id(0) // blocks) % planes
    item = (tl.program_id(0) // blocks // planes).to(tl.int64)
    inverse = 1.0 / depth_of(depths, item, plane, planes, cell, inside, cells, PER_CELL)
    seen = tl.zeros([BLOCK], tl.float32)
    for index in range(count_views(num_views, item, views, HAS_VIEWS)):
        u, v, qz = project(projection + (item * views + index) * 12, x, y, inverse)
        seen += sees(u, v, qz, hs, ws).to(tl.float32)
    place = (item * planes + plane) * cells + cell
    slope = tl.load(slopes + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(scaled + place, slope / tl.maximum(seen, 1.0), mask=inside)


@triton.jit
def reference_kernel(
    sources, projection, depths, num_views, slopes, parts, blocks, splits, items, views, planes,
    split_planes, cells, width, hs, ws, HAS_VIEWS: tl.constexpr, PER_CELL: tl.constexpr,
    PER_VIEW: tl.constexpr, DIVIDE: tl.constexpr, SEEN_ONLY: tl.constexpr, DEPTH: tl.constexpr,
    CELLS: tl.constexpr, PLANES: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Programs of blocks of cells, splits of the planes, and items; blocks of channels on axis 1."""
    row = tl.arange(0, CELLS * PLANES)
    cell = (tl.program_id(0) % blocks) * CELLS + row % CELLS
    y = cell // width
    x = (cell - y * width).to(tl.float32)
    y = y.to(tl.float32)
    split = (tl.program_id(0) // blocks) % splits
    item = (tl.program_id(0) // blocks // splits).to(tl.int64)
    count = count_views(num_views, item, views, HAS_VIEWS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    size = (hs + 2) * (ws + 2) * DEPTH
    sums = tl.zeros([CELLS * PLANES, BLOCK_C], tl.float32)
    end = tl.minimum(planes, (split + 1) * split_planes)
    for first in range(split * split_planes, end, PLANES):
        plane = first + row // CELLS
        inside = (cell < cells) & (plane < end)
        place = depths + item * planes + plane
        if PER_CELL:
            place = depths + (item * planes + plane) * cells + cell
        inverse = 1.0 / tl.load(place, mask=inside, other=1.0)
        maps = sources + item * views * size
        view = projection + item * views * 12
        at = (item * planes + plane) * cells + cell
        if PER_VIEW:
            at = (item * views * planes + plane) * cells + cell
        for _ in range(count):
            slope = tl.load(slopes + at, mask=inside, other=0.0).to(tl.float32)
            u, v, qz = project(view, x, y, inverse)
            counted = inside & (qz > 0)
            if SEEN_ONLY:
                counted &= sees(u, v, qz, hs, ws)
            tap, fx, fy, _ = taps(u, v, counted, hs, ws, DEPTH)
            sums += slope[:, None] * interpolate(maps, tap, fx, fy, ws, c, DEPTH)
            maps += size
            view += 12
            if PER_VIEW:
                at += tl.cast(planes, tl.int64) * cells  # planes may be a constant 1
    if DIVIDE:
        sums = sums / tl.maximum(count, 1).to(tl.float32)
    total = tl.sum(tl.reshape(sums, (PLANES, CELLS, BLOCK_C)), 0)
    cell = (tl.program_id(0) % blocks) * CELLS + tl.arange(0, CELLS)
    place = parts + (split * items + item) * cells * DEPTH + (cell * DEPTH)[:, None] + c[None, :]
    tl.store(place, total, mask=(cell < cells)[:, None])


# ---------------------------------------------------------------------------------------------- launchers


def prepare(
    reference: Tensor, sources: Tensor, projection: Tensor, depths: Tensor, num_views: Tensor | None,
    d_volume: Tensor, reduce: str,
) -> Problem:  # fmt: skip
    block = block_of(reference.shape[1])
    height, width = reference.shape[-2:]
    source_size = (sources.shape[-2], sources.shape[-1])
    projection, depths, slopes = (t.contiguous() for t in (projection, depths, d_volume))
    num_views = None if num_views is None else num_views.contiguous()
    per_cell = depths.dim() == 4
    if REDUCE[reduce] == 1:
        scaled = torch.empty_like(slopes, dtype=torch.float32)
        (b, views), planes, size = sources.shape[:2], depths.shape[1], 256
        blocks = triton.cdiv(height * width, size)
        seen_slope_kernel[(b * planes * blocks,)](
            slopes, projection, depths, depths if num_views is None else num_views, scaled, blocks,
            views, planes, height * width, width, *source_size,
            HAS_VIEWS=int(num_views is not None), PER_CELL=int(per_cell), BLOCK=size, num_warps=4,
        )  # fmt: skip
        slopes = scaled
    return Problem(
        pack(reference, 0, block), pack(sources, 1, block), projection, depths, num_views, slopes,
        per_cell, reduce == "none", reduce == "mean", reduce == "valid_mean", (height, width),
        source_size, block,
    )  # fmt: skip


def plane_splits(programs: int, planes: int, tile: int) -> int:
    """Programs that share the planes of a block of cells, so that small maps fill a GPU. From the shapes
    alone: the bits are those of every device."""
    wanted = triton.cdiv(1024, programs)
    share = triton.cdiv(triton.cdiv(planes, min(wanted, planes)), tile) * tile
    return int(triton.cdiv(planes, share))


def reference_gradient(problem: Problem, like: Tensor) -> Tensor:
    """(B, C, H, W) in the dtype of `like`."""
    (b, views), planes = problem.projection.shape[:2], problem.depths.shape[1]
    cells, tile = problem.size[0] * problem.size[1], (32, 4)
    depth = problem.sources.shape[-1]
    blocks = triton.cdiv(cells, tile[0])
    splits = plane_splits(b * blocks, planes, tile[1])
    share = triton.cdiv(triton.cdiv(planes, splits), tile[1]) * tile[1]
    parts = like.new_empty(splits, b, *problem.size, depth, dtype=torch.float32)
    reference_kernel[(b * splits * blocks, depth // problem.block)](
        problem.sources, problem.projection, problem.depths,
        problem.depths if problem.num_views is None else problem.num_views, problem.slopes, parts,
        blocks, splits, b, views, planes, share, cells, problem.size[1], *problem.source_size,
        HAS_VIEWS=int(problem.num_views is not None), PER_CELL=int(problem.per_cell),
        PER_VIEW=int(problem.per_view), DIVIDE=int(problem.divide),
        SEEN_ONLY=int(problem.seen_only), DEPTH=depth,
        CELLS=tile[0], PLANES=tile[1], BLOCK_C=problem.block,
        num_warps=4,
    )  # fmt: skip
    return unpack(parts, like, 0, problem.block)
