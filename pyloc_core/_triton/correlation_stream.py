# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The pass over all cells: running softmax, first argmax, and the cells above a bound, in one product.

Nothing of size N x HW is written. The cells are split over programs, so that few descriptors still
fill the GPU; each split leaves its partial softmax (splits, N), which `merge_partials` joins in order.
With s = log2(e) / T a partial holds the peak c*, the first cell that has it, and
    sum    = sum over cells of 2^((c - c*) s)
    moment = sum over cells of 2^((c - c*) s) (c - c*) s        (for the entropy, on request)

COLLECT writes the cells with low <= c <= high to a list per descriptor, and counts those above high.
The slots come from an integer counter: which slot a cell gets depends on timing, what is in the list does
not, unless it overflows; then `found` exceeds the capacity, and whoever reads the list must not use it.
With SAMPLED only one cell of every `step` is visited, at a hashed place, and there is no softmax.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.correlation_tile import Tiling, correlation_tile, descriptor_block

LOG2E = 1.4426950408889634


@triton.jit
def small_integer(x):
    """Whole numbers from 0 to 2^23 - 1 as int32, by their bits: conversions share a unit with exp2."""
    return (x + 8388608.0).to(tl.int32, bitcast=True) - 0x4B000000


@triton.jit
def stream_kernel(
    levels, peak_ptr, cell_ptr, sum_ptr, moment_ptr, low_ptr, high_ptr, above_ptr, found_ptr,
    list_value_ptr, list_cell_ptr, count, cells_total, samples, step, map_height, map_width,
    tiles_each, capacity, scale, margin,
    SOFTMAX: tl.constexpr, MOMENT: tl.constexpr, COLLECT: tl.constexpr, HIGH: tl.constexpr,
    PLACES: tl.constexpr, SAMPLED: tl.constexpr, KINDS: tl.constexpr, EXACT: tl.constexpr,
    HOIST: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of BLOCK_N descriptors, splits). PLACES: the list keeps cells beside values."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    row_live = rows < count
    resident = descriptor_block(levels[0], rows, count, 0, BLOCK_D) if HOIST else 0
    peak = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    cell = tl.zeros((BLOCK_N,), tl.int32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    moment = tl.zeros((BLOCK_N,), tl.float32)
    above = tl.zeros((BLOCK_N,), tl.int32)
    if COLLECT:
        low = tl.load(low_ptr + rows, mask=row_live, other=float("inf"))
        if HIGH:
            high = tl.load(high_ptr + rows, mask=row_live, other=float("inf"))
        step_from, step_to = tl.arange(0, BLOCK_P)[:, None], tl.arange(0, BLOCK_P)[None, :]
        triangle = (step_from <= step_to).to(tl.float16)
        list_start = rows * capacity  # all lists together: below 2^31 values
    first_tile = split * tiles_each
    last_tile = tl.minimum(first_tile + tiles_each, tl.cdiv(samples, BLOCK_P))
    for tile in range(first_tile, last_tile):
        at = tile * BLOCK_P + tl.arange(0, BLOCK_P)
        live = at < samples
        if SAMPLED:
            hashed = ((at * 1640531527) >> 9) & 0x3FFFFF
            cells = tl.minimum(at * step + hashed % step, cells_total - 1)
        else:
            cells = at
        acc = correlation_tile(
            levels, resident, rows, count, cells, live, map_height, map_width, KINDS, EXACT, HOIST,
            WIDE, BLOCK_N, BLOCK_P, BLOCK_D,
        )  # fmt: skip
        acc = tl.where(live[None, :], acc, float("-inf"))
        if SOFTMAX:
            largest = tl.max(acc, 1)
            place = tl.min(tl.where(acc == largest[:, None], at[None, :], 2147483647), 1)
            cell = tl.where(largest > peak, place, cell)
            raised = tl.maximum(peak, largest)
            shift = tl.maximum((peak - raised) * scale, -1000.0)
            x = (acc - raised[:, None]) * scale
            share = tl.exp2(x)
            factor = tl.exp2(shift)
            if MOMENT:
                moment = factor * (moment + total * shift)
                moment += tl.sum(share * tl.maximum(x, -200.0), 1)
            total = total * factor + tl.sum(share, 1)
            peak = raised
        if COLLECT:
            bound = low
            if SOFTMAX:  # the sum is at least 1: ln C <= (c - peak) / T
                bound = tl.maximum(low, peak + margin)
            inside = (acc >= bound[:, None]) & live[None, :] & row_live[:, None]
            if HIGH:
                over = acc > high[:, None]
                above += tl.sum((over & live[None, :]).to(tl.int32), 1)
                inside = inside & (acc <= high[:, None])
            # Running counts along the cells are a product with a triangle of ones: exact, and in the
            # accumulators' own layout, where a scan would move every value through shared memory.
            order = tl.dot(tl.where(inside, 1.0, 0.0).to(tl.float16), triangle)
            listed = tl.max(order, 1).to(tl.int32)
            first_slot = tl.atomic_add(found_ptr + rows, listed, mask=row_live, sem="relaxed")
            slot = first_slot[:, None] + small_integer(order) - 1
            kept = inside & (slot < capacity)
            place = list_start[:, None] + slot
            tl.store(list_value_ptr + place, acc, mask=kept)
            if PLACES:
                tl.store(
                    list_cell_ptr + place, tl.broadcast_to(cells[None, :], acc.shape), mask=kept
                )
    if SOFTMAX:
        out = split.to(tl.int64) * count + rows
        tl.store(peak_ptr + out, peak, mask=row_live)
        tl.store(cell_ptr + out, cell, mask=row_live)
        tl.store(sum_ptr + out, total, mask=row_live)
        if MOMENT:
            tl.store(moment_ptr + out, moment, mask=row_live)
    if COLLECT and HIGH:
        tl.atomic_add(above_ptr + rows, above, mask=row_live, sem="relaxed")


@triton.jit
def merge_partials(
    peak_ptr, sum_ptr, moment_ptr, rows, row_live, count, splits, scale,
    MOMENT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """(peak, sum, moment) of BLOCK_R rows from all splits (at most BLOCK_S)."""
    s = tl.arange(0, BLOCK_S)
    at = (s.to(tl.int64) * count)[None, :] + rows[:, None]
    live = row_live[:, None] & (s < splits)[None, :]
    peaks = tl.load(peak_ptr + at, mask=live, other=float("-inf"))
    sums = tl.load(sum_ptr + at, mask=live, other=0.0)
    peak = tl.where(row_live, tl.max(peaks, 1), 0.0)
    shift = tl.maximum((peaks - peak[:, None]) * scale, -1000.0)
    factor = tl.exp2(shift)
    moment = tl.zeros((BLOCK_R,), tl.float32)
    if MOMENT:
        moments = tl.load(moment_ptr + at, mask=live, other=0.0)
        moment = tl.sum(factor * (moments + sums * shift), 1)
    return peak, tl.where(row_live, tl.sum(factor * sums, 1), 1.0), moment


@triton.jit
def first_cell(peak_ptr, cell_ptr, peak, rows, row_live, count, splits, BLOCK_S: tl.constexpr):
    """The first cell with the value `peak`, which is that of the first split that reached it."""
    s = tl.arange(0, BLOCK_S)
    at = (s.to(tl.int64) * count)[None, :] + rows[:, None]
    live = row_live[:, None] & (s < splits)[None, :]
    reached = live & (tl.load(peak_ptr + at, mask=live, other=float("-inf")) == peak[:, None])
    cells = tl.load(cell_ptr + at, mask=live, other=0)
    cell = tl.min(tl.where(reached, cells, 2147483647), 1)
    return tl.where(cell == 2147483647, 0, cell)


class Partials(NamedTuple):
    """Softmax of every split, (splits, N) each; `moment` is empty unless asked for."""

    peak: Tensor
    cell: Tensor
    sum: Tensor
    moment: Tensor

    @property
    def splits(self) -> int:
        return int(self.peak.shape[0])


class Lists(NamedTuple):
    """Cells within [low, high] of every row: `values` and `cells` (N, capacity), `found` (N,) of them,
    and `above` (N,) cells beyond high. `cells` is empty where only values are wanted."""

    low: Tensor
    high: Tensor
    above: Tensor
    found: Tensor
    values: Tensor
    cells: Tensor

    @property
    def capacity(self) -> int:
        return int(self.values.shape[1])


def empty_lists(like: Tensor, count: int, capacity: int, places: bool) -> Lists:
    """Lists of everything: the bounds are infinite."""

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=like.device)

    low, high = new(count).fill_(float("-inf")), new(count).fill_(float("inf"))
    above, found = (new(count, dtype=torch.int32).zero_() for _ in range(2))
    cells = new(count if places else 0, capacity, dtype=torch.int32)
    return Lists(low, high, above, found, new(count, capacity), cells)


def stream(
    tiled: Tiling,
    scale: float,
    *,
    softmax: bool = True,
    moment: bool = False,
    lists: Lists | None = None,
    bounded: bool = False,
    margin: float = float("-inf"),
    step: int = 1,
) -> Partials:
    """Launch the pass. `scale` = log2(e) / T; `margin`: how far below the peak a cell may lie to be
    collected; `bounded`: the lists' `high` counts; `step` > 1 visits one cell of so many."""
    samples = triton.cdiv(tiled.cells, step)
    splits, each = tiled.splits(samples)
    some = tiled.levels[0][0]

    def new(wanted: bool, dtype: torch.dtype = torch.float32) -> Tensor:
        shape = (splits if wanted else 0, tiled.count)
        return torch.empty(shape, dtype=dtype, device=some.device)

    out = Partials(new(softmax), new(softmax, torch.int32), new(softmax), new(softmax and moment))
    held: tuple[Any, ...] = lists if lists is not None else (out.peak,) * 6
    stream_kernel[(tiled.row_blocks, splits)](
        tiled.levels, *out, *held, tiled.count, tiled.cells, samples, step, *tiled.size, each,
        lists.capacity if lists is not None else 0, scale, margin, SOFTMAX=softmax, MOMENT=moment,
        COLLECT=lists is not None, HIGH=bounded, PLACES=lists is not None and lists.cells.numel() > 0,
        SAMPLED=step > 1, **tiled.constants, num_warps=tiled.num_warps, num_stages=tiled.num_stages,
    )  # fmt: skip
    return out
