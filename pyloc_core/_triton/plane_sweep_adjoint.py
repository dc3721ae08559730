# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""Gradient of the dot-product volume by the sources: the adjoint of the bilinear taps.

Planes of an image: (view, plane) is a homography H, and the adjoint a gather. A program owns a tile of source
cells; for every plane it visits the reference cells that can fall within one cell of its own, projects them as
the forward does, and adds hat(u - i) hat(v - j) slope x reference. The search window of a source cell is
centred on H^-1 (i, j, 1) and bounded by `plan_kernel` in float64: the largest derivatives of the inverse over
the tile, times one cell and what rounding can add. Minification makes windows larger, never cuts them; a tile
that the horizon of the plane crosses (the preimage is unbounded) visits all reference cells.

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
from pyloc_core._triton.sweep_tiles import (
    add_taps,
    cell_of,
    count_views,
    homography_row,
    inverse_depth,
    once,
    project,
    sees,
    taps,
    unpack,
)

TILE = (8, 16)  # rows and columns of source cells that a program owns


@triton.jit
def _largest(a, b, c, d):
    return tl.maximum(tl.maximum(a, b), tl.maximum(c, d))


@triton.jit
def _smallest(a, b, c, d):
    return tl.minimum(tl.minimum(a, b), tl.minimum(c, d))


@triton.jit
def _wide_row(row, inverse):
    """A row of H in float64, and the sum of magnitudes that its last entry is made of."""
    a = tl.load(row).to(tl.float64)
    b = tl.load(row + 1).to(tl.float64)
    c = tl.load(row + 2).to(tl.float64)
    m = tl.load(row + 3).to(tl.float64) * inverse
    return a, b, c + m, tl.abs(c) + tl.abs(m)


@triton.jit
def _bend(k0, k1, low, high):
    """Largest |k0 + k1 t| for t within low and high."""
    return tl.maximum(tl.abs(k0 + k1 * low), tl.abs(k0 + k1 * high))


@triton.jit
def plan_kernel(
    projection, depths, inverses, counts, halves, programs, views, planes, tiles, tiles_x, height,
    width, TILE_Y: tl.constexpr, TILE_X: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Windows of every (view, plane, tile): counts (maps, D, tiles, 2) of cells across and down, 0 for none,
    and halves (.., 2) of their extents; inverses (maps, D, 9), rows of H^-1 up to a positive factor."""
    map_index = (tl.program_id(0) // programs).to(tl.int64)
    entry = (tl.program_id(0) % programs) * BLOCK + tl.arange(0, BLOCK)
    exists = entry < planes * tiles
    plane = entry // tiles
    tile = entry % tiles
    d = tl.load(depths + (map_index // views) * planes + plane, mask=exists, other=1.0)
    inverse = (1.0 / d).to(tl.float64)
    row = projection + map_index * 12
    a, b, c, c_size = _wide_row(row, inverse)
    e, f, g, g_size = _wide_row(row + 4, inverse)
    p, q, r, r_size = _wide_row(row + 8, inverse)
    # Cofactors of H = [a b c; e f g; p q r].
    x0 = f * r - g * q
    x1 = c * q - b * r
    x2 = b * g - c * f
    y0 = g * p - e * r
    y1 = a * r - c * p
    y2 = c * e - a * g
    z0 = e * q - f * p
    z1 = b * p - a * q
    z2 = a * f - b * e
    det = a * x0 + b * y0 + c * z0
    biggest = _largest(
        _largest(tl.abs(x0), tl.abs(x1), tl.abs(x2), tl.abs(y0)), tl.abs(y1), tl.abs(y2),
        _largest(tl.abs(z0), tl.abs(z1), tl.abs(z2), 1e-300),
    )  # fmt: skip
    s = tl.where(det < 0, -1.0, 1.0) / biggest
    x0, x1, x2, y0, y1, y2, z0, z1, z2 = (
        x0 * s, x1 * s, x2 * s, y0 * s, y1 * s, y2 * s, z0 * s, z1 * s, z2 * s
    )  # fmt: skip
    det = tl.abs(det) / biggest  # q_z of what falls on (i, j) is det / Z(i, j)
    # What float32 can move a projection by: its rounding, relative to the sums of magnitudes.
    span_x = tl.abs(a) * width + tl.abs(b) * height + c_size
    span_y = tl.abs(e) * width + tl.abs(f) * height + g_size
    span_z = tl.abs(p) * width + tl.abs(q) * height + r_size
    low_i = (tile % tiles_x) * TILE_X - 1.0
    low_j = (tile // tiles_x) * TILE_Y - 1.0
    high_i = low_i + (TILE_X + 1.0)
    high_j = low_j + (TILE_Y + 1.0)
    far = tl.maximum(tl.abs(high_i), tl.abs(high_j)) + 1.0
    top_z = z2 + tl.maximum(z0 * low_i, z0 * high_i) + tl.maximum(z1 * low_j, z1 * high_j)
    move = (tl.maximum(span_x, span_y) + far * span_z) * 1e-6 * (top_z / det)
    slack = tl.maximum(move, 0.0) + 0.01
    low_i -= slack
    low_j -= slack
    high_i += slack
    high_j += slack
    z_00 = z0 * low_i + z1 * low_j + z2
    z_01 = z0 * high_i + z1 * low_j + z2
    z_10 = z0 * low_i + z1 * high_j + z2
    z_11 = z0 * high_i + z1 * high_j + z2
    z_low = _smallest(z_00, z_01, z_10, z_11)
    z_high = _largest(z_00, z_01, z_10, z_11)
    z_sum = tl.abs(z0) * far + tl.abs(z1) * far + tl.abs(z2)
    sound = (slack < 4.0) & (z_low > 1e-5 * z_sum) & (det > 1e-12)  # false for NaN
    behind = (z_high < -1e-5 * z_sum) & (det > 1e-12)
    z_low = tl.where(sound, z_low, 1.0)
    # d X/Z / di = (x0 Z - z0 X) / Z^2, whose numerator depends on j alone, and so on.
    square = (1.0 + slack) / (z_low * z_low)
    half_x = square * (
        _bend(x0 * z2 - z0 * x2, x0 * z1 - z0 * x1, low_j, high_j)
        + _bend(x1 * z2 - z1 * x2, x1 * z0 - z1 * x0, low_i, high_i)
    )
    half_y = square * (
        _bend(y0 * z2 - z0 * y2, y0 * z1 - z0 * y1, low_j, high_j)
        + _bend(y1 * z2 - z1 * y2, y1 * z0 - z1 * y0, low_i, high_i)
    )
    # float32 again, of the window's centre, for centres on the map or near it.
    x_sum = tl.abs(x0) * far + tl.abs(x1) * far + tl.abs(x2)
    y_sum = tl.abs(y0) * far + tl.abs(y1) * far + tl.abs(y2)
    half_x += 1e-6 * (x_sum + 2.0 * width * z_sum) / z_low + 1e-3
    half_y += 1e-6 * (y_sum + 2.0 * height * z_sum) / z_low + 1e-3
    # Where the whole tile comes from: the corners, since it is in front.
    u_00 = (x0 * low_i + x1 * low_j + x2) / z_00
    u_01 = (x0 * high_i + x1 * low_j + x2) / z_01
    u_10 = (x0 * low_i + x1 * high_j + x2) / z_10
    u_11 = (x0 * high_i + x1 * high_j + x2) / z_11
    v_00 = (y0 * low_i + y1 * low_j + y2) / z_00
    v_01 = (y0 * high_i + y1 * low_j + y2) / z_01
    v_10 = (y0 * low_i + y1 * high_j + y2) / z_10
    v_11 = (y0 * high_i + y1 * high_j + y2) / z_11
    off = (_largest(u_00, u_01, u_10, u_11) < -0.5) | (_largest(v_00, v_01, v_10, v_11) < -0.5)
    off |= _smallest(u_00, u_01, u_10, u_11) > width - 0.5
    off |= _smallest(v_00, v_01, v_10, v_11) > height - 0.5
    nothing = behind | (sound & off)
    across = tl.where(sound & (half_x < width), half_x, 1.0 * width)
    down = tl.where(sound & (half_y < height), half_y, 1.0 * height)
    n_x = tl.minimum((2.0 * across).to(tl.int32) + 1, width)
    n_y = tl.minimum((2.0 * down).to(tl.int32) + 1, height)
    at = (map_index * planes * tiles + entry) * 2
    tl.store(counts + at, tl.where(nothing, 0, n_x), mask=exists)
    tl.store(counts + at + 1, tl.where(nothing, 0, n_y), mask=exists)
    tl.store(halves + at, across.to(tl.float32), mask=exists)
    tl.store(halves + at + 1, down.to(tl.float32), mask=exists)
    first = exists & (tile == 0)
    at = inverses + (map_index * planes + plane) * 9
    tl.store(at, x0.to(tl.float32), mask=first)
    tl.store(at + 1, x1.to(tl.float32), mask=first)
    tl.store(at + 2, x2.to(tl.float32), mask=first)
    tl.store(at + 3, y0.to(tl.float32), mask=first)
    tl.store(at + 4, y1.to(tl.float32), mask=first)
    tl.store(at + 5, y2.to(tl.float32), mask=first)
    tl.store(at + 6, z0.to(tl.float32), mask=first)
    tl.store(at + 7, z1.to(tl.float32), mask=first)
    tl.store(at + 8, z2.to(tl.float32), mask=first)


@triton.jit
def _window(centre, half, count, size):
    """First of `count` cells that hold every integer within `half` of the centre."""
    low = centre - half
    low = tl.where((low > -1e6) & (low < 1e6), low, -1e6)  # NaN, too
    return tl.where(count >= size, 0, tl.ceil(low).to(tl.int32))


@triton.jit
def gather_kernel(
    reference, projection, depths, num_views, slopes, inverses, counts, halves, d_sources, tiles,
    tiles_x, views, planes, cells, width, height, hs, ws, channels,
    HAS_VIEWS: tl.constexpr, PER_VIEW: tl.constexpr, DIVIDE: tl.constexpr, SEEN_ONLY: tl.constexpr,
    DEPTH: tl.constexpr, SPREAD: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr,
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
        first_x = _window(centre_x, tl.load(halves + plan * 2), n_x, width)
        first_y = _window(centre_y, tl.load(halves + plan * 2 + 1), n_y, height)
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
                weight = once(tl.where(counted, weight * slope, 0.0), SPREAD)
                place = reference + (once(cell, SPREAD) * DEPTH)[:, None] + c[None, :]
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
    DEPTH: tl.constexpr, SPREAD: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Programs of blocks of cells, planes and items; blocks of channels on axis 1."""
    cell, x, y, inside = cell_of(blocks, cells, width, BLOCK)
    plane = (tl.program_id(0) // blocks) % planes
    item = (tl.program_id(0) // blocks // planes).to(tl.int64)
    count = count_views(num_views, item, views, HAS_VIEWS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inverse = inverse_depth(depths, item, plane, planes, cell, inside, cells, True)
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
        tap, fx, fy, counted = taps(u, v, counted, hs, ws, DEPTH, SPREAD)
        add_taps(sums, tap, fx, fy, counted, ws, c, slope[:, None] * r * scale, DEPTH)
        sums += size
        view += 12
        if PER_VIEW:
            at += planes.to(tl.int64) * cells


# ---------------------------------------------------------------------------------------------- launchers


def _flags(problem: Problem) -> dict[str, int]:
    return {
        "HAS_VIEWS": int(problem.num_views is not None), "PER_VIEW": int(problem.per_view),
        "DIVIDE": int(problem.divide), "SEEN_ONLY": int(problem.seen_only),
        "DEPTH": problem.reference.shape[-1],
        "SPREAD": int(problem.reference.device.type == "cpu"), "BLOCK_C": problem.block,
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
