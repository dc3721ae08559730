# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From listed correlations to sparse loss maps: choose, count, scan, fill, all on the device.

`choose_kernel` keeps the live cells of every list, at most `limit` of them (the least informative go
first, of equal ones the later cell), in staging rows; their counts are scanned; `fill_kernel` writes the
rows to their places, sorted by cell, and finds the peaks. The gain of a cell with correlation c is
    ln|O| + ln(C + epsilon),    ln C = (c - c*) / T - ln(sum) + ln(weight)
with the softmax of the map, its peak c* and `sum` as in correlation_stream.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.correlation_rank import list_value_at_rank

_ROWS, _CHUNK = 4, 512  # maps per program, list entries looked at together


@triton.jit
def gain_of(
    value, peak, log_sum, log_weight, scale, log_cardinality, epsilon, EPSILON: tl.constexpr
):
    """Nats; not positive: not live. `scale` = log2(e) / T."""
    log_c = (value - peak) * scale * 0.6931471805599453 - log_sum + log_weight
    if EPSILON:
        log_c = tl.log(tl.exp(log_c) + epsilon)
    return tl.where(value > float("-inf"), log_cardinality + log_c, -1.0)


@triton.jit
def list_chunk(
    values_ptr, cells_ptr, starts, lengths, first, ORDERED: tl.constexpr, CHUNK: tl.constexpr
):
    """Values, cells and which are there, (BLOCK_R, CHUNK). ORDERED: entry i is cell i."""
    at = first + tl.arange(0, CHUNK)
    live = at[None, :] < lengths[:, None]
    value = tl.load(values_ptr + starts[:, None] + at[None, :], mask=live, other=float("-inf"))
    if ORDERED:
        cell = tl.broadcast_to(at[None, :], value.shape)
    else:
        cell = tl.load(cells_ptr + starts[:, None] + at[None, :], mask=live, other=0)
    return value, cell, live


@triton.jit
def last_tied_cell(
    values_ptr, cells_ptr, starts, lengths, value, ties,
    ORDERED: tl.constexpr, BLOCK_R: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The cell up to which `ties` entries equal `value`, by bisection on the cells."""
    low = tl.zeros((BLOCK_R,), tl.int32)
    high = tl.full((BLOCK_R,), 2147483647, tl.int32)
    for _ in range(31):
        middle = low + ((high - low) >> 1)
        reached = tl.zeros((BLOCK_R,), tl.int32)
        for first in range(0, tl.max(lengths, 0), CHUNK):
            v, cell, live = list_chunk(
                values_ptr, cells_ptr, starts, lengths, first, ORDERED, CHUNK
            )
            hit = live & (v == value[:, None]) & (cell <= middle[:, None])
            reached += tl.sum(hit.to(tl.int32), 1)
        enough = reached >= ties
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, tl.minimum(middle + 1, high))
    return high


@triton.jit
def choose_kernel(
    values_ptr, cells_ptr, length_ptr, peak_ptr, log_sum_ptr, log_weight_ptr, stage_cell_ptr,
    stage_gain_ptr, kept_ptr, count, stride, limit, scale, log_cardinality, epsilon,
    ORDERED: tl.constexpr, WEIGHTED: tl.constexpr, EPSILON: tl.constexpr, BLOCK_R: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Live entries of BLOCK_R lists, at most `limit` each, to staging rows of `limit` places.

    ORDERED lists hold all `stride` cells; the others `length_ptr` of them, at most `stride`."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_live = rows < count
    lengths = tl.where(row_live, stride, 0)
    if not ORDERED:
        lengths = tl.minimum(tl.load(length_ptr + rows, mask=row_live, other=0), lengths)
    starts = rows.to(tl.int64) * stride
    peak = tl.load(peak_ptr + rows, mask=row_live, other=0.0)[:, None]
    log_sum = tl.load(log_sum_ptr + rows, mask=row_live, other=0.0)[:, None]
    weight = tl.zeros((BLOCK_R, 1), tl.float32)
    if WEIGHTED:
        weight = tl.load(log_weight_ptr + rows, mask=row_live, other=0.0)[:, None]
    longest = tl.max(lengths, 0)
    live_count = tl.zeros((BLOCK_R,), tl.int32)
    for first in range(0, longest, CHUNK):
        v, cell, live = list_chunk(values_ptr, cells_ptr, starts, lengths, first, ORDERED, CHUNK)
        gain = gain_of(v, peak, log_sum, weight, scale, log_cardinality, epsilon, EPSILON)
        live_count += tl.sum((live & (gain > 0)).to(tl.int32), 1)
    bound = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    last_cell = tl.full((BLOCK_R,), 2147483647, tl.int32)
    crowded = live_count > limit
    if tl.max(crowded.to(tl.int32), 0) > 0:
        wanted = tl.where(crowded, limit, 1)
        found = list_value_at_rank(values_ptr, starts, lengths, wanted, BLOCK_R, CHUNK)
        bound = tl.where(crowded, found, bound)
        beyond = tl.zeros((BLOCK_R,), tl.int32)
        for first in range(0, longest, CHUNK):
            v, cell, live = list_chunk(
                values_ptr, cells_ptr, starts, lengths, first, ORDERED, CHUNK
            )
            beyond += tl.sum((live & (v > bound[:, None])).to(tl.int32), 1)
        last = last_tied_cell(
            values_ptr, cells_ptr, starts, lengths, bound, limit - beyond, ORDERED, BLOCK_R, CHUNK
        )
        last_cell = tl.where(crowded, last, last_cell)
    used = tl.zeros((BLOCK_R,), tl.int32)
    stage = rows.to(tl.int64) * limit
    for first in range(0, longest, CHUNK):
        v, cell, live = list_chunk(values_ptr, cells_ptr, starts, lengths, first, ORDERED, CHUNK)
        gain = gain_of(v, peak, log_sum, weight, scale, log_cardinality, epsilon, EPSILON)
        chosen = (v > bound[:, None]) | ((v == bound[:, None]) & (cell <= last_cell[:, None]))
        chosen = chosen & live & (gain > 0)
        ones = chosen.to(tl.int32)
        order = used[:, None] + tl.cumsum(ones, 1) - 1
        chosen = chosen & (order < limit)
        tl.store(stage_cell_ptr + stage[:, None] + order, cell, mask=chosen)
        tl.store(stage_gain_ptr + stage[:, None] + order, gain, mask=chosen)
        used += tl.sum(ones, 1)
    tl.store(kept_ptr + rows, tl.minimum(used, limit).to(tl.int64), mask=row_live)


@triton.jit
def fill_kernel(
    stage_cell_ptr, stage_gain_ptr, row_ptr_ptr, origin_ptr, xy_ptr, gain_ptr, peak_xy_ptr,
    peak_gain_ptr, limit, width, ORDERED: tl.constexpr, ORIGINS: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """One staging row to its place, sorted by cell (its rank among the row's cells), and its peak."""
    row = tl.program_id(0).to(tl.int64)
    begin = tl.load(row_ptr_ptr + row)
    length = (tl.load(row_ptr_ptr + row + 1) - begin).to(tl.int32)
    x0, y0 = 0, 0
    if ORIGINS:
        x0 = tl.load(origin_ptr + 2 * row)
        y0 = tl.load(origin_ptr + 2 * row + 1)
    cells = stage_cell_ptr + row * limit
    gains = stage_gain_ptr + row * limit
    best = tl.zeros((BLOCK_I,), tl.float32)
    best_cell = tl.full((BLOCK_I,), 2147483647, tl.int32)
    for first in range(0, length, BLOCK_I):
        i = first + tl.arange(0, BLOCK_I)
        live = i < length
        cell = tl.load(cells + i, mask=live, other=2147483647)
        gain = tl.load(gains + i, mask=live, other=0.0)
        place = i
        if not ORDERED:
            place = tl.zeros((BLOCK_I,), tl.int32)
            for second in range(0, length, BLOCK_J):
                j = second + tl.arange(0, BLOCK_J)
                other = tl.load(cells + j, mask=j < length, other=2147483647)
                place += tl.sum((other[None, :] < cell[:, None]).to(tl.int32), 1)
        at = begin + place
        tl.store(gain_ptr + at, gain, mask=live)
        tl.store(xy_ptr + 2 * at, (cell % width + x0).to(tl.int16), mask=live)
        tl.store(xy_ptr + 2 * at + 1, (cell // width + y0).to(tl.int16), mask=live)
        better = (gain > best) | ((gain == best) & (cell < best_cell))
        best = tl.where(better & live, gain, best)
        best_cell = tl.where(better & live, cell, best_cell)
    peak = tl.max(best, 0)
    cell = tl.min(tl.where(best == peak, best_cell, 2147483647), 0)
    empty = length == 0
    tl.store(peak_gain_ptr + row, tl.where(empty, 0.0, peak))
    tl.store(peak_xy_ptr + 2 * row, tl.where(empty, -1, cell % width + x0))
    tl.store(peak_xy_ptr + 2 * row + 1, tl.where(empty, -1, cell // width + y0))


class Staging(NamedTuple):
    """Rows of N x limit places, cells and gains, and how many of each are `kept` (N,) int64."""

    cell: Tensor
    gain: Tensor
    kept: Tensor

    def rows(self, rows: slice) -> Staging:
        return Staging(*(each[rows] for each in self))


class Softmax(NamedTuple):
    """What the gains of a map need: c* and ln(sum), (N,) float32, and ln(weight) or an empty tensor."""

    peak: Tensor
    log_sum: Tensor
    log_weight: Tensor


class GainRule(NamedTuple):
    """`scale` = log2(e) / T, ln|O|, and epsilon, 0 or the published program's."""

    scale: float
    log_cardinality: float
    epsilon: float


class MapEntries(NamedTuple):
    """row_ptr (N + 1,) int64; xy (N limit, 2) int16; gain (N limit,); peak_xy (N, 2) int32; peak_gain (N,)."""

    row_ptr: Tensor
    xy: Tensor
    gain: Tensor
    peak_xy: Tensor
    peak_gain: Tensor


def empty_staging(like: Tensor, count: int, limit: int) -> Staging:
    return Staging(
        torch.empty((count, limit), dtype=torch.int32, device=like.device),
        torch.empty((count, limit), dtype=torch.float32, device=like.device),
        torch.empty(count, dtype=torch.int64, device=like.device),
    )


def choose(
    values: Tensor,
    cells: Tensor | None,
    found: Tensor,
    softmax: Softmax,
    rule: GainRule,
    out: Staging,
) -> None:
    """`values` (N, capacity); `cells` their cells, None where entry i is cell i; `found` (N,)."""
    count, stride = values.shape
    choose_kernel[(triton.cdiv(count, _ROWS),)](
        values, values if cells is None else cells, found, *softmax, *out, count, stride,
        out.cell.shape[1], *rule, ORDERED=cells is None, WEIGHTED=softmax.log_weight.numel() > 0,
        EPSILON=rule.epsilon > 0, BLOCK_R=_ROWS, CHUNK=_CHUNK,
    )  # fmt: skip


def fill(staged: Staging, width: int, origins: Tensor | None, ordered: bool) -> MapEntries:
    """The maps' entries from all staging rows; `origins` (N, 2) int32 or None; N > 0."""
    count, limit = staged.cell.shape
    entries = empty_entries(staged.cell, count, limit)
    torch.cumsum(staged.kept, 0, out=entries.row_ptr[1:])
    fill_kernel[(count,)](
        staged.cell, staged.gain, entries.row_ptr, staged.cell if origins is None else origins,
        entries.xy, entries.gain, entries.peak_xy, entries.peak_gain, limit, width, ORDERED=ordered,
        ORIGINS=origins is not None, BLOCK_I=128, BLOCK_J=32,
    )  # fmt: skip
    return entries


def empty_entries(like: Tensor, count: int, limit: int) -> MapEntries:
    """Results of N maps; row_ptr[0] = 0 and nothing else is set."""

    def new(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=like.device)

    return MapEntries(
        torch.zeros(count + 1, dtype=torch.int64, device=like.device),
        new(count * limit, 2, dtype=torch.int16),
        new(count * limit, dtype=torch.float32),
        new(count, 2, dtype=torch.int32),
        new(count, dtype=torch.float32),
    )
