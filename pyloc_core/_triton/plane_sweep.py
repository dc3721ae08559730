# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""The dot-product cost volume of a plane sweep on a GPU: one launch beside the copies with channels last.

A program owns a block of reference cells and some planes. For one plane it adds up the warped features of all
views and multiplies by the reference's once, since the dot product is linear: nothing per view is stored but
with reduce="none", whose result that is. Gradients: plane_sweep_gradient.py and plane_sweep_adjoint.py.

Run in Triton's interpreter and compiled for sm_80 and sm_90 only: never yet on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton import plane_sweep_adjoint, plane_sweep_gradient
from pyloc_core._triton.sweep_tiles import (
    REDUCE,
    block_of,
    cell_of,
    check,
    count_views,
    depth_of,
    interpolate,
    pack,
    project,
    sees,
    spoiled,
    taps,
)

_OP = "plane_sweep"


@triton.jit
def view_dot(
    reference, maps, view, x, y, inverse, inside, cell, hs, ws,
    DEPTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """<reference, source> of one view and plane."""
    u, v, qz = project(view, x, y, inverse)
    at, fx, fy, _ = taps(u, v, inside & (qz > 0), hs, ws, DEPTH)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, DEPTH, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        place = reference + (cell * DEPTH)[:, None] + c[None, :]
        r = tl.load(place, mask=inside[:, None], other=0.0).to(tl.float32)
        total += tl.sum(interpolate(maps, at, fx, fy, ws, c, DEPTH) * r, 1)
    return total + spoiled(u, v, qz)


@triton.jit
def forward_kernel(
    reference, sources, projection, depths, num_views, volume, blocks, groups, views, planes, cells,
    width, hs, ws, HAS_VIEWS: tl.constexpr, PER_CELL: tl.constexpr, REDUCE_BY: tl.constexpr,
    DEPTH: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    cell, x, y, inside = cell_of(blocks, cells, width, BLOCK)
    group = (tl.program_id(0) // blocks) % groups
    item = (tl.program_id(0) // blocks // groups).to(tl.int64)
    count = count_views(num_views, item, views, HAS_VIEWS)
    size = (hs + 2) * (ws + 2) * DEPTH
    reference += item * cells * DEPTH
    sources += item * views * size
    projection += item * views * 12
    for plane in range(group * GROUP, tl.minimum(planes, (group + 1) * GROUP)):
        inverse = 1.0 / depth_of(depths, item, plane, planes, cell, inside, cells, PER_CELL)
        if REDUCE_BY == 2:
            maps = sources
            view = projection
            for index in range(views):
                total = tl.zeros([BLOCK], tl.float32)
                if index < count:
                    total = view_dot(
                        reference, maps, view, x, y, inverse, inside, cell, hs, ws, DEPTH,
                        BLOCK, BLOCK_C,
                    )  # fmt: skip
                maps += size
                view += 12
                place = volume + ((item * views + index) * planes + plane) * cells + cell
                tl.store(place, total.to(volume.dtype.element_ty), mask=inside)
        else:
            total = tl.zeros([BLOCK], tl.float32)
            seen = tl.zeros([BLOCK], tl.float32)
            spoil = tl.zeros([BLOCK], tl.float32)
            for first in range(0, DEPTH, BLOCK_C):
                c = first + tl.arange(0, BLOCK_C)
                sums = tl.zeros([BLOCK, BLOCK_C], tl.float32)
                seen = tl.zeros([BLOCK], tl.float32)
                maps = sources
                view = projection
                for _ in range(count):
                    u, v, qz = project(view, x, y, inverse)
                    counted = inside & (qz > 0)
                    spoil += spoiled(u, v, qz)
                    if REDUCE_BY == 1:
                        counted &= sees(u, v, qz, hs, ws)
                        seen += counted.to(tl.float32)
                    at, fx, fy, _ = taps(u, v, counted, hs, ws, DEPTH)
                    sums += interpolate(maps, at, fx, fy, ws, c, DEPTH)
                    maps += size
                    view += 12
                place = reference + (cell * DEPTH)[:, None] + c[None, :]
                r = tl.load(place, mask=inside[:, None], other=0.0).to(tl.float32)
                total += tl.sum(sums * r, 1)
            total += spoil
            if REDUCE_BY == 1:
                total = total / tl.maximum(seen, 1.0)
            else:
                total = total / tl.maximum(count, 1).to(tl.float32)
            place = volume + (item * planes + plane) * cells + cell
            tl.store(place, total.to(volume.dtype.element_ty), mask=inside)


@triton.jit
def mask_kernel(
    projection, depths, num_views, mask, blocks, views, planes, cells, width, hs, ws,
    HAS_VIEWS: tl.constexpr, PER_CELL: tl.constexpr, PER_VIEW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Which views see a cell of a plane, or whether any does."""
    cell, x, y, inside = cell_of(blocks, cells, width, BLOCK)
    plane = (tl.program_id(0) // blocks) % planes
    item = (tl.program_id(0) // blocks // planes).to(tl.int64)
    count = count_views(num_views, item, views, HAS_VIEWS)
    inverse = 1.0 / depth_of(depths, item, plane, planes, cell, inside, cells, PER_CELL)
    any_view = tl.zeros([BLOCK], tl.int32)
    for index in range(views):
        u, v, qz = project(projection + (item * views + index) * 12, x, y, inverse)
        seen = sees(u, v, qz, hs, ws) & (index < count)
        any_view |= seen.to(tl.int32)
        if PER_VIEW:
            place = mask + ((item * views + index) * planes + plane) * cells + cell
            tl.store(place, seen.to(tl.int8), mask=inside)
    if not PER_VIEW:
        place = mask + (item * planes + plane) * cells + cell
        tl.store(place, any_view.to(tl.int8), mask=inside)


# ---------------------------------------------------------------------------------------------- launchers


def forward(
    reference: Tensor, sources: Tensor, projection: Tensor, depths: Tensor, num_views: Tensor | None,
    reduce: str,
) -> Tensor:  # fmt: skip
    """Volume (B, D, H, W), or (B, V, D, H, W) for "none", in the dtype of the features."""
    (b, channels, height, width), views = reference.shape, sources.shape[1]
    block = block_of(channels)
    check(_OP, reference, sources, depths, block)
    planes, cells = depths.shape[1], height * width
    leading = (b, views) if reduce == "none" else (b,)
    volume = reference.new_empty(*leading, planes, height, width)
    if b == 0:
        return volume
    size, group = 128, 8
    blocks, groups = triton.cdiv(cells, size), triton.cdiv(planes, group)
    with torch.cuda.device_of(reference):
        cells_last, packed = pack(reference, 0, block), pack(sources, 1, block)
        forward_kernel[(b * groups * blocks,)](
            cells_last, packed, projection.contiguous(), depths.contiguous(),
            depths if num_views is None else num_views.contiguous(), volume, blocks, groups, views,
            planes, cells, width, *sources.shape[-2:],
            HAS_VIEWS=int(num_views is not None), PER_CELL=int(depths.dim() == 4),
            REDUCE_BY=REDUCE[reduce], DEPTH=packed.shape[-1],
            GROUP=group, BLOCK=size, BLOCK_C=block, num_warps=4,
        )  # fmt: skip
    return volume


def mask(
    projection: Tensor, depths: Tensor, num_views: Tensor | None, size: tuple[int, int],
    source_size: tuple[int, int], per_view: bool,
) -> Tensor:  # fmt: skip
    """bool (B, V, D, H, W): the view sees the cell of the plane; or (B, D, H, W): a view does."""
    (b, views), planes, (height, width) = projection.shape[:2], depths.shape[1], size
    leading = (b, views) if per_view else (b,)
    found = projection.new_empty(*leading, planes, height, width, dtype=torch.int8)
    if b:
        block = 256
        blocks = triton.cdiv(height * width, block)
        with torch.cuda.device_of(projection):
            mask_kernel[(b * planes * blocks,)](
                projection.contiguous(), depths.contiguous(),
                depths if num_views is None else num_views.contiguous(), found, blocks, views, planes,
                height * width, width, *source_size,
                HAS_VIEWS=int(num_views is not None), PER_CELL=int(depths.dim() == 4),
                PER_VIEW=int(per_view), BLOCK=block, num_warps=4,
            )  # fmt: skip
    return found.view(torch.bool)


def backward(
    reference: Tensor, sources: Tensor, projection: Tensor, depths: Tensor, num_views: Tensor | None,
    d_volume: Tensor, reduce: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of reference (B, C, H, W) and sources (B, V, C, Hs, Ws), in their dtype."""
    block = block_of(reference.shape[1])
    check(_OP, reference, sources, depths, block)
    if reference.shape[0] == 0:
        return torch.empty_like(reference), torch.empty_like(sources)
    with torch.cuda.device_of(reference):
        problem = plane_sweep_gradient.prepare(
            reference, sources, projection, depths, num_views, d_volume, reduce
        )
        d_reference = plane_sweep_gradient.reference_gradient(problem, reference)
        adjoint = (
            plane_sweep_adjoint.scattered if problem.per_cell else plane_sweep_adjoint.gathered
        )
        return d_reference, adjoint(problem, sources)
