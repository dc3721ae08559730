# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse-to-dense matching on the GPU: one pass over the cells, then a small kernel per result.

Passes of the matrix product over all cells: 1; with the ratio test 1 and the samples (a few percent on
a large map). Predictions for N 1000, D 128, 16-bit operands on one H200, from the compiler's output
(Triton 3.6, sm_90): 12 instructions per cell in the plain pass, 13 us of issue at 200 x 150 beside 10 us
of products and 8 us of exponentials, overlapped where three programs share a multiprocessor: 15 to 20 us
against the goal of 18; 1200 x 1600 in proportion, 0.9 to 1.2 ms against 0.85. The pass that collects for
the ratio test has 47 instructions per cell and one program per multiprocessor: at least 3 ms at
1200 x 1600, so that goal (1.6 ms) is missed; writing lists is what it costs. float32 operands use the
ordinary units, some 15 times slower. Counted, not measured: these kernels have never run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton import correlation_rank
from pyloc_core._triton.correlation_stream import (
    LOG2E,
    Partials,
    first_cell,
    merge_partials,
    stream,
)
from pyloc_core._triton.correlation_tile import Tiling, interpolation_tap, tiling

_ROWS = 4  # descriptors per program of the merging kernel


@triton.jit
def match_kernel(
    peak_ptr, cell_ptr, sum_ptr, moment_ptr, other_ptr, xy_ptr, log_probability_ptr,
    ratio_ptr, entropy_ptr, count, splits, width, scale, RATIO: tl.constexpr, MOMENT: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Joins the splits and writes the results; a map that a NaN entered gives NaN."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = rows < count
    peak, total, moment = merge_partials(
        peak_ptr, sum_ptr, moment_ptr, rows, live, count, splits, scale, MOMENT, BLOCK_R, BLOCK_S
    )
    cell = first_cell(peak_ptr, cell_ptr, peak, rows, live, count, splits, BLOCK_S)
    bad = total != total
    log_sum = tl.log(total)
    log_sum = tl.where(
        log_sum < 0, 0.0, log_sum
    )  # the sum is at least 1, its logarithm approximate
    tl.store(log_probability_ptr + rows, -log_sum, mask=live)
    x = tl.where(bad, float("nan"), (cell % width).to(tl.float64))
    y = tl.where(bad, float("nan"), (cell // width).to(tl.float64))
    tl.store(xy_ptr + 2 * rows, x, mask=live)
    tl.store(xy_ptr + 2 * rows + 1, y, mask=live)
    if RATIO:  # Eq. 3.1; infinite where the best is positive and the other is not, 1 where equal
        other = tl.load(other_ptr + rows, mask=live, other=1.0)
        ratio = tl.div_rn(peak, tl.where(other == 0, 1.0, other))
        ratio = tl.where(peak == other, 1.0, ratio)
        ratio = tl.where((other == 0) & (peak < 0), float("-inf"), ratio)
        ratio = tl.where((peak > 0) & (other <= 0), float("inf"), ratio)
        tl.store(ratio_ptr + rows, tl.where(bad, float("nan"), ratio), mask=live)
    if MOMENT:
        entropy = log_sum - 0.6931471805599453 * moment / total
        entropy = tl.where(bad, float("nan"), tl.maximum(entropy, 0.0))
        tl.store(entropy_ptr + rows, entropy, mask=live)


@triton.jit
def add_products(acc, level, row, y, x, weight, live, BLOCK_D: tl.constexpr):
    """acc + weight * <h_row, F(y, x)> for a few cells, float64."""
    for first in range(0, level[7], BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        inner = d < level[7]
        h = tl.load(
            level[0] + row * level[2] + d * tl.cast(level[3], tl.int64), mask=inner, other=0.0
        )
        plane = d.to(tl.int64) * level[4]
        at = (y.to(tl.int64) * level[5] + x.to(tl.int64) * level[6])[:, None] + plane[None, :]
        f = tl.load(level[1] + at, mask=live[:, None] & inner[None, :], other=0.0)
        product = f.to(tl.float64) * h.to(tl.float64)[None, :]
        acc += weight.to(tl.float64) * tl.sum(product, 1)
    return acc


@triton.jit
def pick(values, index, which: tl.constexpr):
    return tl.sum(tl.where(index == which, values, 0.0), 0)


@triton.jit
def vertex(low, middle, high, inner):
    """Maximum of the parabola through (-1, low), (0, middle), (1, high), within half a cell."""
    curvature = low - 2.0 * middle + high
    is_peak = inner & (curvature < 0)
    at = 0.5 * (low - high) / tl.where(is_peak, curvature, -1.0)
    return tl.where(is_peak, tl.minimum(tl.maximum(at, -0.5), 0.5), 0.0)


@triton.jit
def subcell_kernel(
    levels, xy_ptr, map_height, map_width, KINDS: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Moves one peak to the maximum of the quadratic through the 3 x 3 correlations around it."""
    row = tl.program_id(0).to(tl.int64)
    peak_x = tl.load(xy_ptr + 2 * row)
    peak_y = tl.load(xy_ptr + 2 * row + 1)
    good = peak_x == peak_x
    column = tl.where(good, peak_x, 0.0).to(tl.int32)
    line = tl.where(good, peak_y, 0.0).to(tl.int32)
    k = tl.arange(0, 16)  # cell k is (k // 3 - 1, k % 3 - 1) from the peak; 9 of them
    y = line + k // 3 - 1
    x = column + k % 3 - 1
    live = (k < 9) & (y >= 0) & (y < map_height) & (x >= 0) & (x < map_width)
    y = tl.where(live, y, 0)
    x = tl.where(live, x, 0)
    c = tl.zeros((16,), tl.float64)
    one = tl.full((16,), 1.0, tl.float32)
    for i in tl.static_range(len(KINDS)):
        if KINDS[i] != 2:
            c = add_products(c, levels[i], row, y, x, one, live, BLOCK_D)
        else:
            y0, y1, v = interpolation_tap(y.to(tl.int64), map_height, levels[i][8])
            x0, x1, u = interpolation_tap(x.to(tl.int64), map_width, levels[i][9])
            c = add_products(c, levels[i], row, y0, x0, (1 - v) * (1 - u), live, BLOCK_D)
            c = add_products(c, levels[i], row, y0, x1, (1 - v) * u, live, BLOCK_D)
            c = add_products(c, levels[i], row, y1, x0, v * (1 - u), live, BLOCK_D)
            c = add_products(c, levels[i], row, y1, x1, v * u, live, BLOCK_D)
    inner_x = (column > 0) & (column + 1 < map_width)
    inner_y = (line > 0) & (line + 1 < map_height)
    centre = pick(c, k, 4)
    left, right, up, down = pick(c, k, 3), pick(c, k, 5), pick(c, k, 1), pick(c, k, 7)
    gx, gy = 0.5 * (right - left), 0.5 * (down - up)
    hxx, hyy = left - 2.0 * centre + right, up - 2.0 * centre + down
    hxy = 0.25 * (pick(c, k, 8) - pick(c, k, 6) - pick(c, k, 2) + pick(c, k, 0))
    det = hxx * hyy - hxy * hxy
    joint = inner_x & inner_y & (hxx < 0) & (det > 1e-3 * hxx * hyy)
    det = tl.where(joint, det, 1.0)
    ux, uy = (hxy * gy - hyy * gx) / det, (hxy * gx - hxx * gy) / det
    joint = joint & (tl.abs(ux) <= 1.0) & (tl.abs(uy) <= 1.0)
    dx = tl.where(joint, ux, vertex(left, centre, right, inner_x))
    dy = tl.where(joint, uy, vertex(up, centre, down, inner_y))
    tl.store(xy_ptr + 2 * row, peak_x + dx)
    tl.store(xy_ptr + 2 * row + 1, peak_y + dy)


class MatchResult(NamedTuple):
    """xy (N, 2) float64; log_probability, quantile_ratio, entropy (N,) float32, the last two empty
    (0,) unless asked for."""

    xy: Tensor
    log_probability: Tensor
    quantile_ratio: Tensor
    entropy: Tensor


def empty_result(like: Tensor, count: int, rank: int, entropy: bool) -> MatchResult:
    def new(n: int) -> Tensor:
        return torch.empty(n, dtype=torch.float32, device=like.device)

    xy = torch.empty((count, 2), dtype=torch.float64, device=like.device)
    return MatchResult(xy, new(count), new(count if rank else 0), new(count if entropy else 0))


def match(
    descriptors: Sequence[Tensor],
    features: Sequence[Tensor],
    size: tuple[int, int],
    temperature: float,
    rank: int,
    entropy: bool,
    subcell: bool,
) -> MatchResult:
    """As `pyloc_core.match`. Descriptors (N, D), features (D, h, w) per level, on one device.

    `rank` counts from 1, the largest; 0 for no ratio test. Nothing here waits for the device.
    """
    count = descriptors[0].shape[0]
    out = empty_result(descriptors[0], count, rank, entropy)
    if count == 0:
        return out
    plan = correlation_rank.list_plan(max(rank, 1), size[0] * size[1], True)
    group = max(1, correlation_rank.LIST_BYTES // (4 * plan[0])) if rank else count
    with torch.cuda.device_of(descriptors[0]):
        for first in range(0, count, group):
            rows = slice(first, min(first + group, count))
            part = MatchResult(*(each[rows] for each in out))  # what is not asked for stays empty
            tiled = tiling([h[rows] for h in descriptors], features, size, rank > 0)
            _match_rows(tiled, part, LOG2E / temperature, rank, entropy, plan)
            if subcell:
                _refine(tiled, part.xy)
    return out


def _match_rows(
    tiled: Tiling, out: MatchResult, scale: float, rank: int, entropy: bool,
    plan: tuple[int, list[int]],
) -> None:  # fmt: skip
    lists, other = None, out.log_probability
    if rank:
        lists = correlation_rank.bracket(tiled, rank, plan, both=True, scale=scale)
    partials = stream(tiled, scale, moment=entropy, lists=lists, bounded=True)
    if lists is not None:
        other = correlation_rank.value_at_rank(tiled, lists, rank)
    _write(partials, other, out, tiled, scale, rank, entropy)


def _write(
    partials: Partials, other: Tensor, out: MatchResult, tiled: Tiling, scale: float, rank: int,
    entropy: bool,
) -> None:  # fmt: skip
    match_kernel[(triton.cdiv(tiled.count, _ROWS),)](
        *partials, other, *out, tiled.count, partials.splits, tiled.size[1], scale,
        RATIO=rank > 0, MOMENT=entropy, BLOCK_R=_ROWS, BLOCK_S=triton.next_power_of_2(partials.splits),
    )  # fmt: skip


def _refine(tiled: Tiling, xy: Tensor) -> None:
    subcell_kernel[(tiled.count,)](
        tiled.levels, xy, *tiled.size, KINDS=tiled.constants["KINDS"], BLOCK_D=128
    )
