# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""Gradients of the metadata cost volume: two passes that recompute the samples, of which nothing is stored.

`owned`: a program owns a block of cells and some planes, adds up the gradient of the reference's features there
and its part of the weights' in registers, and notes the largest slope of a warped feature. Parts are then added
in a fixed order. `scattered`: the warped features' slopes go to the four taps of their sources, as 64-bit
integers in units of 2^-bits of that largest slope, added atomically: in any order the same bits. With S samples
per item, a map's sum is at most S of the largest slope, and bits = 61 - ceil(log2 S): 41 for 64 planes of
120 x 160 cells, where float32 has 24.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.assignment_tiles import exp
from pyloc_core._triton.metadata_arguments import Problem
from pyloc_core._triton.metadata_sample import (
    META,
    first_layer,
    leaky,
    leaky_slope,
    matrix,
    meta_weights,
    product,
    ray_of,
    reference_part,
    reference_tile,
)
from pyloc_core._triton.plane_sweep_adjoint import fixed_point_bits, units
from pyloc_core._triton.plane_sweep_gradient import plane_splits
from pyloc_core._triton.sweep_tiles import add_taps, count_views, depth_of, interpolate, unpack

_ROWS = 32  # cells of a tile


@triton.jit
def _store(place, tile, row, column, width, rows, columns):
    """tile at place[row, column] of an array of `width` columns; leaves out what is beyond its ends."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(place + row[:, None] * width + column[None, :], tile, mask=mask)


@triton.jit
def gradient_kernel(
    reference, sources, w1, b1, w2, b2, w3, b3, projection, rays, centres, pose_values, depths,
    limits, num_views, volume, log_sum, d_volume, parts, part_size, d_reference, largest,
    inverse_units, sums, scale, blocks, splits, items, split_planes, views, planes, cells, width, hs,
    ws, channels, h1, h2, HAS_VIEWS: tl.constexpr, PER_CELL: tl.constexpr, H1: tl.constexpr,
    H2: tl.constexpr, DEPTH: tl.constexpr, BLOCK_C: tl.constexpr, SPLIT: tl.constexpr,
    SCATTER: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Programs of blocks of cells, splits of the planes, and items; blocks of channels on axis 1, of which
    the first writes what belongs to no channel."""
    program = tl.program_id(0)
    row = tl.arange(0, ROWS)
    cell = (program % blocks) * ROWS + row
    inside = cell < cells
    y = cell // width
    x = (cell - y * width).to(tl.float32)
    y = y.to(tl.float32)
    split = (program // blocks) % splits
    item = (program // blocks // splits).to(tl.int64)
    count = count_views(num_views, item, views, HAS_VIEWS)
    size = (hs + 2) * (ws + 2) * DEPTH
    reference += item * cells * DEPTH
    ray = ray_of(rays + item * 9, x, y)
    low = tl.load(limits + item * 2)
    reciprocal_high = 1.0 / tl.load(limits + item * 2 + 1)
    base = reference_part(
        reference, w1, cell, inside, channels, h1, ROWS, H1, DEPTH, BLOCK_C, SPLIT
    )
    h = tl.arange(0, H1)
    g = tl.arange(0, H2)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    stride = 2 * channels + 14
    w_source = matrix(w1, h[None, :], tl.arange(0, BLOCK_C)[:, None], h1, channels, stride)
    w_own = matrix(w1, h[:, None], c[None, :], h1, channels, stride)
    w_meta = meta_weights(w1, b1, channels, h1, H1)
    w_inner = tl.load(w1 + h * stride + 2 * channels + 3, mask=h < h1, other=0.0).to(tl.float32)
    w_second = matrix(w2, g[None, :], h[:, None], h2, h1, h1)
    w_back = matrix(w2, g[:, None], h[None, :], h2, h1, h1)
    bias = tl.load(b2 + g, mask=g < h2, other=0.0).to(tl.float32)
    w_score = tl.load(w3 + g, mask=g < h2, other=0.0).to(tl.float32)
    w_logit = tl.load(w3 + h2 + g, mask=g < h2, other=0.0).to(tl.float32)
    b_score = tl.load(b3).to(tl.float32)
    b_logit = tl.load(b3 + 1).to(tl.float32)
    r = reference_tile(reference, cell, inside, c, DEPTH)
    unit = 1.0
    if SCATTER:
        unit = tl.load(inverse_units + item)
    d_source = tl.zeros([BLOCK_C, H1], tl.float32)
    d_meta = tl.zeros([META, H1], tl.float32)
    d_back = tl.zeros([H2, H1], tl.float32)
    d_bias = tl.zeros([ROWS, H2], tl.float32)
    d_last = tl.zeros([META, H2], tl.float32)
    d_score_sum = tl.zeros([ROWS], tl.float32)
    d_logit_sum = tl.zeros([ROWS], tl.float32)
    d_base = tl.zeros([ROWS, H1], tl.float32)
    d_r = tl.zeros([ROWS, BLOCK_C], tl.float32)
    top = tl.zeros([ROWS], tl.float32)
    for plane in range(split * split_planes, tl.minimum(planes, (split + 1) * split_planes)):
        at = (item * planes + plane) * cells + cell
        if PER_CELL:
            depth = depth_of(depths, item, plane, planes, cell, inside, cells, True)
        else:  # a number: the compiler lays this kernel out better so
            depth = tl.load(depths + item * planes + plane)
        inverse = 1.0 / depth
        mean = tl.load(volume + at, mask=inside, other=0.0).to(tl.float32)
        level = tl.load(log_sum + at, mask=inside, other=0.0)
        slope = tl.load(d_volume + at, mask=inside, other=0.0).to(tl.float32)
        maps = sources + item * views * size
        view = item * views
        for _ in range(count):
            first, meta, front, offset, fx, fy, on_map = first_layer(
                base, reference, maps, w1, w_source, w_meta, projection + view * 12,
                centres + view * 3, pose_values + view * 3, ray, cell, inside, x, y, depth, inverse,
                low, reciprocal_high, channels, h1, hs, ws, ROWS, H1, DEPTH, BLOCK_C, SPLIT,
            )  # fmt: skip
            active = leaky(first)
            second = tl.zeros([ROWS, H2], tl.float32) + bias[None, :]
            second = product(active, w_second, second, SPLIT)
            last = leaky(second)
            score = tl.sum(last * w_score[None, :], 1) + b_score
            logit = tl.sum(last * w_logit[None, :], 1) + b_logit
            d_score = tl.where(inside, slope * exp(logit - level), 0.0)
            d_logit = tl.where(inside, d_score * (score - mean), 0.0)
            d_second = d_score[:, None] * w_score[None, :] + d_logit[:, None] * w_logit[None, :]
            d_second *= leaky_slope(second)
            nothing = tl.zeros([ROWS, H1], tl.float32)
            d_first = product(d_second, w_back, nothing, SPLIT) * leaky_slope(first)
            d_inner = tl.sum(d_first * w_inner[None, :], 1) * front
            d_warped = product(d_first, w_own, tl.zeros([ROWS, BLOCK_C], tl.float32), SPLIT)
            d_warped += d_inner[:, None] * r
            if SCATTER:
                place = sums + view * size
                add_taps(place, offset, fx, fy, on_map, ws, c, d_warped * unit * scale, DEPTH)
            else:
                warped = interpolate(maps, offset, fx, fy, ws, c, DEPTH)
                d_base += d_first
                d_r += d_inner[:, None] * warped
                top = tl.maximum(top, tl.max(tl.abs(d_warped), 1))
                d_source = product(tl.trans(warped), d_first, d_source, SPLIT)
                d_meta = product(tl.trans(meta), d_first, d_meta, SPLIT)
                d_back = product(tl.trans(d_second), active, d_back, SPLIT)
                column = tl.arange(0, META)[None, :]
                d_out = tl.where(column == 0, d_score[:, None], 0.0)
                d_out = tl.where(column == 1, d_logit[:, None], d_out)
                d_last = product(tl.trans(d_out), last, d_last, SPLIT)
                d_bias += d_second
                d_score_sum += d_score
                d_logit_sum += d_logit
            maps += size
            view += 1
    if not SCATTER:
        w_reference = matrix(w1 + channels, h[:, None], c[None, :], h1, channels, stride)
        d_r = product(d_base, w_reference, d_r, SPLIT)
        place = d_reference + (split * items + item) * cells * DEPTH
        tl.store(place + (cell * DEPTH)[:, None] + c[None, :], d_r, mask=inside[:, None])
        d_own = product(tl.trans(r), d_base, tl.zeros([BLOCK_C, H1], tl.float32), SPLIT)
        # Parts: w1^T (stride, h1), b1, w2 (h2, h1), b2, w3 (2, h2), b3.
        part = parts + program.to(tl.int64) * part_size
        _store(part, d_source, c, h, h1, channels, h1)
        _store(part + channels * h1, d_own, c, h, h1, channels, h1)
        if tl.program_id(1) == 0:
            meta_row = tl.arange(0, META)
            _store(part + 2 * channels * h1, d_meta, meta_row, h, h1, 15, h1)
            part += (stride + 1) * h1
            _store(part, d_back, g, h, h1, h2, h1)
            part += h2 * h1
            tl.store(part + g, tl.sum(d_bias, 0), mask=g < h2)
            part += h2
            _store(part, d_last, meta_row, g, h2, 2, h2)
            part += 2 * h2
            tl.store(part, tl.sum(d_score_sum, 0))
            tl.store(part + 1, tl.sum(d_logit_sum, 0))
        tl.store(largest + program * tl.num_programs(1) + tl.program_id(1), tl.max(top, 0))


# ---------------------------------------------------------------------------------------------- launchers


def _launch(
    problem: Problem, kept: tuple[Tensor, ...], splits: int, scatter: bool, **given: Any
) -> None:
    blocks = triton.cdiv(problem.cells, _ROWS)
    share = triton.cdiv(problem.planes, splits)
    unread = problem.tensors[0]
    out = [
        given.get(name, unread)
        for name in ("parts", "d_reference", "largest", "inverse_units", "sums")
    ]
    options = problem.options
    grid = (problem.batch * splits * blocks, options["DEPTH"] // options["BLOCK_C"])
    gradient_kernel[grid](
        *problem.tensors, problem.num_views, *kept, out[0], given.get("part_size", 0), *out[1:],
        given.get("scale", 1.0), blocks, splits, problem.batch, share, *problem.sizes, **options,
        SCATTER=int(scatter), ROWS=_ROWS, num_warps=4, num_stages=1,
    )  # fmt: skip


def _splits(problem: Problem) -> int:
    return plane_splits(problem.batch * triton.cdiv(problem.cells, _ROWS), problem.planes, 1)


def owned(
    problem: Problem, kept: tuple[Tensor, ...], reference: Tensor, weights: tuple[Tensor, ...]
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Gradients of the reference (B, C, H, W) and the weights in their dtypes; and for `scattered` a power of
    two at least the largest slope of a warped feature of every item, and its reciprocal.

    kept: volume, log_sum and d_volume (B, D, H, W)."""
    splits = _splits(problem)
    programs = problem.batch * splits * triton.cdiv(problem.cells, _ROWS)
    made: dict[str, Any] = {"dtype": torch.float32, "device": reference.device}
    h1, h2 = problem.hidden
    columns = 2 * problem.channels + 15  # of w1 and b1
    sizes = [columns * h1, h2 * h1, h2, 2 * h2, 2]
    parts = torch.empty(programs, sum(sizes), **made)
    depth, block = problem.options["DEPTH"], problem.options["BLOCK_C"]
    largest = torch.empty(problem.batch, programs // problem.batch * (depth // block), **made)
    d_reference = torch.empty(splits, problem.batch, *problem.size, depth, **made)
    _launch(
        problem, kept, splits, False, parts=parts, part_size=sum(sizes), d_reference=d_reference,
        largest=largest,
    )  # fmt: skip
    first, d_w2, d_b2, d_w3, d_b3 = parts.sum(0).split(sizes)
    first = first.reshape(columns, h1)
    found = (first[:-1].t(), first[-1], d_w2, d_b2, d_w3, d_b3)
    d_weights = [
        d.reshape(w.shape).to(w.dtype, copy=True).contiguous() for d, w in zip(found, weights)
    ]
    d_reference = unpack(d_reference, reference, 0, block)
    return d_reference, d_weights, *units(largest.amax(1))


def scattered(
    problem: Problem, kept: tuple[Tensor, ...], sources: Tensor, unit: Tensor, inverse_unit: Tensor
) -> Tensor:
    """Gradient of the sources (B, V, C, Hs, Ws) in their dtype."""
    (hs, ws), depth = problem.source_size, problem.options["DEPTH"]
    sums = sources.new_zeros(
        1, problem.batch, problem.views, hs + 2, ws + 2, depth, dtype=torch.int64
    )
    bits = fixed_point_bits(problem.planes * problem.cells)
    _launch(
        problem,
        kept,
        _splits(problem),
        True,
        inverse_units=inverse_unit,
        sums=sums,
        scale=2.0**bits,
    )
    return unpack(sums, sources, 1, problem.options["BLOCK_C"], unit, 2.0**-bits)
