# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""Gradient of the dot-product volume by the sources: the adjoint of the bilinear taps.

Planes of an image: (view, plane) is a homography H, and the adjoint a gather. A program owns a tile of source
cells; for every plane it visits the reference cells that can fall within one cell of its own, projects them as
the forward does, and adds hat(u - i) hat(v - j) slope x reference. The search window of a source cell is
found in plane_sweep_windows.py: minification makes it larger and never cuts it.

Depths of every cell: taps are added atomically as 64-bit integers, in units of 2^-bits of a bound on every
term, bits = 61 - ceil(log2 S) for S samples of a view, so that the order of the additions changes no bit and
nothing overflows. Terms are truncated to such units: 2^-41 for 64 planes of 120 x 160 cells.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.plane_sweep_gradient import Problem
from pyloc_core._triton.plane_sweep_windows import TILE, first_of_window, plan_kernel
from pyloc_core._triton.sweep_tiles import (
    add_taps,
    cell_of,
    count_views,
    depth_of,
    homography_row,
    once,
    project,
    sees,
    taps,
    unpack,
)


@triton.jit
def gather_kernel(
    reference, projection, depths, num_views, slopes, inverses, counts, halves, d_sources, tiles,
    tiles_x, views, planes, cells, width, height, hs, ws, channels,
    HAS_VIEWS: tl.constexpr, PER_VIEW: tl.constexpr, DIVIDE: tl.constexpr, SEEN_ONLY: tl.constexpr,
    DEPTH: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Programs of tiles of source cells and maps; blocks of channels on axis 1."""
    tile = tl.program_id(0) % tiles
    map_index = (tl.program_id(0) // tiles).to(tl.int64)
    item = map_index // views
    count = count_views(num_views, item, views, HAS_VIEWS)
    row = tl.arange(0, TILE_Y * TILE_X)
    i = (tile % tiles_x) * TILE_X + row % TILE_X
    j = (tile // tiles_x) * TILE_Y + row // TILE_X
    own_x = i.to(tl.float32)
    own_y = j.to(tl.float32)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    view = projection + map_index * 12
    reference += item * cells * DEPTH
    at = item * planes * cells
    if PER_VIEW:
        at = map_index * planes * cells
    sums = tl.zeros([TILE_Y * TILE_X, BLOCK_C], tl.float32)
    last = planes
    if map_index - item * views >= count:
        last = 0
    for plane in range(last):
        plan = (map_index * planes + plane) * tiles + tile
        n_x = tl.load(counts + plan * 2)
        n_y = tl.load(counts + plan * 2 + 1)
        inverse = 1.0 / tl.load(depths + item * planes + plane)
        h = inverses + (map_index * planes + plane) * 9
        z = tl.load(h + 6) * own_x + (tl.load(h + 7) * own_y + tl.load(h + 8))
        centre_x = (tl.load(h) * own_x + (tl.load(h + 1) * own_y + tl.load(h + 2))) / z
        centre_y = (tl.load(h + 3) * own_x + (tl.load(h + 4) * own_y + tl.load(h + 5))) / z
        first_x = first_of_window(centre_x, tl.load(halves + plan * 2), n_x, width)
        first_y = first_of_window(centre_y, tl.load(halves + plan * 2 + 1), n_y, height)
        a, b, e = homography_row(view, inverse)
        f, g, k = homography_row(view + 4, inverse)
        p, q, r = homography_row(view + 8, inverse)
        for down in range(n_y):
            y = first_y + down
            y_part = y.to(tl.float32)
            u_row = b * y_part + e
            v_row = g * y_part + k
            z_row = q * y_part + r
            for across in range(n_x):
                x = first_x + across
                x_part = x.to(tl.float32)
                qz = p * x_part + z_row
                reciprocal = 1.0 / qz
                u = (a * x_part + u_row) * reciprocal
                v = (f * x_part + v_row) * reciprocal
                weight = tl.maximum(1.0 - tl.abs(u - own_x), 0.0)
                weight *= tl.maximum(1.0 - tl.abs(v - own_y), 0.0)
                counted = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                counted &= (qz > 0) & (weight > 0)
                if SEEN_ONLY:
                    counted &= sees(u, v, qz, hs, ws)
                cell = tl.where(counted, y * width + x, 0)
                slope = tl.load(slopes + at + cell, mask=counted, other=0.0).to(tl.float32)
                weight = once(tl.where(counted, weight * slope, 0.0))
                place = reference + (once(cell) * DEPTH)[:, None] + c[None, :]
                sums += weight[:, None] * tl.load(place).to(tl.float32)
        at += cells
    if DIVIDE:
        sums = sums / tl.maximum(count, 1).to(tl.float32)
    place = d_sources + map_index * channels * hs * ws + (j * ws + i)[:, None]
    place += c[None, :].to(tl.int64) * (hs * ws)
    mask = ((i < ws) & (j < hs))[:, None] & (c < channels)[None, :]
    tl.store(place, sums.to(d_sources.dtype.element_ty), mask=mask)


@triton.jit
def scatter_kernel(
    reference, projection, depths, num_views, slopes, inverse_units, sums, scale, blocks, views,
    planes, cells, width, hs, ws,
    HAS_VIEWS: tl.constexpr, PER_VIEW: tl.constexpr, DIVIDE: tl.constexpr, SEEN_ONLY: tl.constexpr,
    DEPTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Programs of blocks of cells, planes and items; blocks of channels on axis 1."""
    cell, x, y, inside = cell_of(blocks, cells, width, BLOCK)
    plane = (tl.program_id(0) // blocks) % planes
    item = (tl.program_id(0) // blocks // planes).to(tl.int64)
    count = count_views(num_views, item, views, HAS_VIEWS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inverse = 1.0 / depth_of(depths, item, plane, planes, cell, inside, cells, True)
    place = reference + item * cells * DEPTH + (cell * DEPTH)[:, None] + c[None, :]
    r = tl.load(place, mask=inside[:, None], other=0.0).to(tl.float32)
    r = r * tl.load(inverse_units + item * 2)
    share = tl.load(inverse_units + item * 2 + 1)
    if DIVIDE:
        share = share / tl.maximum(count, 1).to(tl.float32)
    size = (hs + 2) * (ws + 2) * DEPTH
    sums += item * views * size
    view = projection + item * views * 12
    at = (item * planes + plane) * cells + cell
    if PER_VIEW:
        at = (item * views * planes + plane) * cells + cell
    for _ in range(count):
        slope = tl.load(slopes + at, mask=inside, other=0.0).to(tl.float32) * share
        u, v, qz = project(view, x, y, inverse)
        counted = inside & (qz > 0)
        if SEEN_ONLY:
            counted &= sees(u, v, qz, hs, ws)
        tap, fx, fy, counted = taps(u, v, counted, hs, ws, DEPTH)
        add_taps(sums, tap, fx, fy, counted, ws, c, slope[:, None] * r * scale, DEPTH)
        sums += size
        view += 12
        if PER_VIEW:
            at += tl.cast(planes, tl.int64) * cells  # planes may be a constant 1


# ---------------------------------------------------------------------------------------------- launchers


def _flags(problem: Problem) -> dict[str, int]:
    return {
        "HAS_VIEWS": int(problem.num_views is not None), "PER_VIEW": int(problem.per_view),
        "DIVIDE": int(problem.divide), "SEEN_ONLY": int(problem.seen_only),
        "DEPTH": problem.reference.shape[-1], "BLOCK_C": problem.block,
    }  # fmt: skip


def gathered(problem: Problem, like: Tensor) -> Tensor:
    """(B, V, C, Hs, Ws) in the dtype of `like`, for planes of an image."""
    (b, views), planes = problem.projection.shape[:2], problem.depths.shape[1]
    (height, width), (hs, ws) = problem.size, problem.source_size
    tiles_x = triton.cdiv(ws, TILE[1])
    tiles = tiles_x * triton.cdiv(hs, TILE[0])
    d_sources = torch.empty_like(like, memory_format=torch.contiguous_format)
    counts = like.new_empty(b * views, planes, tiles, 2, dtype=torch.int32)
    halves = like.new_empty(b * views, planes, tiles, 2, dtype=torch.float32)
    inverses = like.new_empty(b * views, planes, 9, dtype=torch.float32)
    size = 128
    programs = triton.cdiv(planes * tiles, size)
    plan_kernel[(b * views * programs,)](
        problem.projection, problem.depths, inverses, counts, halves, programs, views, planes, tiles,
        tiles_x, height, width, TILE_Y=TILE[0], TILE_X=TILE[1], BLOCK=size, num_warps=4,
    )  # fmt: skip
    depth = problem.reference.shape[-1]
    gather_kernel[(b * views * tiles, depth // problem.block)](
        problem.reference, problem.projection, problem.depths,
        problem.depths if problem.num_views is None else problem.num_views, problem.slopes, inverses,
        counts, halves, d_sources, tiles, tiles_x, views, planes, height * width, width, height, hs,
        ws, like.shape[2], **_flags(problem), TILE_Y=TILE[0], TILE_X=TILE[1], num_warps=4,
    )  # fmt: skip
    return d_sources


def units(largest: Tensor) -> tuple[Tensor, Tensor]:
    """Powers of two: the least of at least each of `largest`, and its reciprocal; NaN for what is not
    finite, 1 for 0."""
    exponent = torch.frexp(largest).exponent.clamp(-100, 127)
    one = torch.ones_like(largest)
    spoilt = torch.where(largest.isfinite(), one, torch.nan)
    return torch.ldexp(spoilt, exponent), torch.ldexp(one, -exponent)


def fixed_point_bits(samples: int) -> int:
    """The sum of so many numbers of at most 1, times 2 to this, stays within 64 bits with one to spare."""
    return 61 - math.ceil(math.log2(max(samples, 1)))


def _largest_factors(problem: Problem) -> Tensor:
    """(B, 2): the largest magnitudes of the reference and of the slopes that count."""
    slopes = problem.slopes
    if problem.per_view:
        slopes = slopes.flatten(2).abs().amax(2)
        if problem.num_views is not None:
            index = torch.arange(slopes.shape[1], device=slopes.device)
            slopes = slopes.masked_fill(index >= problem.num_views[:, None], 0.0)
    both = problem.reference.flatten(1), slopes.flatten(1)
    return torch.stack([x.abs().amax(1).float() for x in both], 1)


def scattered(problem: Problem, like: Tensor) -> Tensor:
    """(B, V, C, Hs, Ws) in the dtype of `like`, for depths of every cell."""
    (b, views), planes = problem.projection.shape[:2], problem.depths.shape[1]
    (height, width), (hs, ws) = problem.size, problem.source_size
    unit, inverse_unit = units(_largest_factors(problem))
    depth, size = problem.reference.shape[-1], 64
    sums = like.new_zeros(1, b, views, hs + 2, ws + 2, depth, dtype=torch.int64)
    blocks = triton.cdiv(height * width, size)
    bits = fixed_point_bits(planes * height * width)
    scatter_kernel[(b * planes * blocks, depth // problem.block)](
        problem.reference, problem.projection, problem.depths,
        problem.depths if problem.num_views is None else problem.num_views, problem.slopes,
        inverse_unit, sums, 2.0**bits, blocks, views, planes, height * width, width, hs, ws,
        **_flags(problem), BLOCK=size, num_warps=4,
    )  # fmt: skip
    return unpack(sums, like, 1, problem.block, unit.prod(1), 2.0**-bits)
