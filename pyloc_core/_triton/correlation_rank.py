# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The value at a rank of every correlation map, exact to float32, without a sort and without the maps.

Samples of a map bound the value from both sides (`bracket_ranks`); the pass over all cells then counts what
lies above the bounds and lists what lies between, and a histogram search in the list ends it. Bounds
that were wrong, or too wide for the list, cost no exactness: those rows, and only those, are searched
by `exact_rank_kernel`, which narrows an interval of float keys sixteenfold per pass over the cells.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.correlation_stream import Lists, empty_lists, stream
from pyloc_core._triton.correlation_tile import (
    Tiling,
    correlation_tile,
    descriptor_block,
    ordered_key,
    value_of_key,
)

SAMPLES = 2048  # of a map, at first
_LEAST_LISTED, _MOST_LISTED = 4096, 32768  # values per list; smaller maps are listed whole
LIST_BYTES = 128 << 20  # of all lists together; more descriptors go in groups
_ROWS = 4  # descriptors per program of the small kernels
_CHUNK = 512  # list values looked at together


@triton.jit
def list_value_at_rank(
    values_ptr, starts, lengths, ranks, BLOCK_R: tl.constexpr, CHUNK: tl.constexpr
):
    """The rank-th largest (1 is the largest) of each row's list, by bisection on the float keys."""
    low = tl.full((BLOCK_R,), -2147483648, tl.int64)
    high = tl.full((BLOCK_R,), 2147483647, tl.int64)
    longest = tl.max(lengths, 0)
    for _ in range(32):
        middle = low + ((high - low + 1) >> 1)
        reached = tl.zeros((BLOCK_R,), tl.int32)
        for first in range(0, longest, CHUNK):
            at = first + tl.arange(0, CHUNK)
            live = at[None, :] < lengths[:, None]
            value = tl.load(values_ptr + starts[:, None] + at[None, :], mask=live, other=0.0)
            hit = (ordered_key(value).to(tl.int64) >= middle[:, None]) & live
            reached += tl.sum(hit.to(tl.int32), 1)
        enough = reached >= ranks
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
        high = tl.maximum(high, low)
    return value_of_key(low.to(tl.int32))


@triton.jit
def narrow_kernel(
    low_ptr, high_ptr, above_ptr, found_ptr, values_ptr, result_ptr, done_ptr, count, capacity,
    rank_high, rank_low, FINAL: tl.constexpr, HIGH: tl.constexpr, BLOCK_R: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Bounds at the ranks rank_high <= rank_low of what was visited; FINAL: the value at rank_high.

    `found` and `above` are left at 0 for the next pass."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = rows < count
    above = tl.load(above_ptr + rows, mask=live, other=0)
    found = tl.load(found_ptr + rows, mask=live, other=0)
    low = tl.load(low_ptr + rows, mask=live, other=0.0)
    complete = found <= capacity
    lengths = tl.where(complete, found, 0)
    starts = rows.to(tl.int64) * capacity
    first, last = rank_high - above, rank_low - above
    has_first = complete & (first >= 1) & (first <= found)
    if FINAL:
        value = list_value_at_rank(values_ptr, starts, lengths, first, BLOCK_R, CHUNK)
        value = tl.where(has_first, value, low)
        if HIGH:  # an interval of one value needs no list
            high = tl.load(high_ptr + rows, mask=live, other=1.0)
            known = (low == high) & (first >= 1) & (first <= found)
        else:
            known = has_first
        tl.store(result_ptr + rows, value, mask=live)
        tl.store(done_ptr + rows, (has_first | known).to(tl.int32), mask=live)
    else:
        has_last = complete & (last >= 1) & (last <= found)
        value = list_value_at_rank(values_ptr, starts, lengths, last, BLOCK_R, CHUNK)
        tl.store(low_ptr + rows, value, mask=live & has_last)
        if HIGH:
            value = list_value_at_rank(values_ptr, starts, lengths, first, BLOCK_R, CHUNK)
            tl.store(high_ptr + rows, value, mask=live & has_first)
        tl.store(above_ptr + rows, tl.zeros((BLOCK_R,), tl.int32), mask=live)
        tl.store(found_ptr + rows, tl.zeros((BLOCK_R,), tl.int32), mask=live)


@triton.jit
def exact_rank_kernel(
    levels, result_ptr, done_ptr, found_ptr, list_value_ptr, list_cell_ptr, count, cells_total,
    map_height, map_width, rank, capacity, FILL: tl.constexpr, KINDS: tl.constexpr,
    EXACT: tl.constexpr, HOIST: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The rank-th value of the rows that are not done, which are few or none: one program per block.

    FILL: also the list of the `rank` largest cells, of equal ones the first in row-major order."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_live = rows < count
    wanted = tl.load(done_ptr + rows, mask=row_live, other=1) == 0
    if tl.max(wanted.to(tl.int32), 0) > 0:
        resident = descriptor_block(levels[0], rows, count, 0, BLOCK_D) if HOIST else 0
        low = tl.full((BLOCK_N,), -2147483648, tl.int64)
        high = tl.where(wanted, tl.full((BLOCK_N,), 2147483647, tl.int64), low)
        beyond = tl.zeros((BLOCK_N,), tl.int32)  # cells above `high`
        for _ in range(8):  # 2^32 keys, a sixteenth of them after every pass
            width = ((high - low) >> 4) + 1
            columns = tl.arange(0, 16)
            counts = tl.zeros((BLOCK_N, 16), tl.int32)
            for first in range(0, cells_total, BLOCK_P):
                cells = first + tl.arange(0, BLOCK_P)
                live = cells < cells_total
                acc = correlation_tile(
                    levels, resident, rows, count, cells, live, map_height, map_width, KINDS, EXACT,
                    HOIST, WIDE, BLOCK_N, BLOCK_P, BLOCK_D,
                )  # fmt: skip
                key = ordered_key(acc).to(tl.int64)
                for k in tl.static_range(1, 16):
                    hit = (key >= (low + k * width)[:, None]) & live[None, :]
                    reached = tl.sum(hit.to(tl.int32), 1)
                    counts += tl.where(columns[None, :] == k, reached[:, None], 0)
            # Counts fall with k: the last one that still holds the rank is the interval.
            holds = (counts >= rank) & (columns >= 1)[None, :]
            steps = tl.sum(holds.to(tl.int32), 1)
            next_count = tl.sum(tl.where(columns[None, :] == (steps + 1)[:, None], counts, 0), 1)
            low = low + steps.to(tl.int64) * width
            beyond = tl.where(low + width - 1 < high, next_count, beyond)
            high = tl.minimum(high, low + width - 1)
        tl.store(result_ptr + rows, value_of_key(low.to(tl.int32)), mask=row_live & wanted)
        if FILL:
            start = rows.to(tl.int64) * capacity
            ties = tl.minimum(rank, cells_total) - beyond
            used = tl.zeros((BLOCK_N,), tl.int32)
            tied = tl.zeros((BLOCK_N,), tl.int32)
            for first in range(0, cells_total, BLOCK_P):
                cells = first + tl.arange(0, BLOCK_P)
                live = cells < cells_total
                acc = correlation_tile(
                    levels, resident, rows, count, cells, live, map_height, map_width, KINDS, EXACT,
                    HOIST, WIDE, BLOCK_N, BLOCK_P, BLOCK_D,
                )  # fmt: skip
                key = ordered_key(acc).to(tl.int64)
                here = live[None, :] & wanted[:, None]
                equal = ((key == low[:, None]) & here).to(tl.int32)
                order = tied[:, None] + tl.cumsum(equal, 1)
                keep = ((key > low[:, None]) & here) | ((equal > 0) & (order <= ties[:, None]))
                kept = keep.to(tl.int32)
                place = start[:, None] + used[:, None] + tl.cumsum(kept, 1) - 1
                tl.store(list_value_ptr + place, acc, mask=keep)
                tl.store(
                    list_cell_ptr + place, tl.broadcast_to(cells[None, :], acc.shape), mask=keep
                )
                tied += tl.sum(equal, 1)
                used += tl.sum(kept, 1)
            tl.store(found_ptr + rows, used, mask=row_live & wanted)


def bracket_ranks(rank: int, cells: int, samples: int) -> tuple[int, int]:
    """Ranks among `samples` of `cells` values between which the rank-th of all lies: within five
    standard deviations of the count of a random sample, and two."""
    share = rank / cells
    expected = share * samples
    slack = 5.0 * math.sqrt(expected * (1.0 - share)) + 2.0
    return math.floor(expected - slack), math.ceil(expected + slack)


def list_plan(rank: int, cells: int, both: bool) -> tuple[int, list[int]]:
    """Capacity of the lists, and the steps between sampled cells of the passes before the last.

    The bracket is expected to fill half a list at most, better half a short one; where one pass over
    samples does not make it so narrow, the next takes four times as many. `both`: the value alone is
    wanted, bounded from both sides; else everything above it."""
    steps: list[int] = []
    capacity = triton.next_power_of_2(cells) if cells <= _LEAST_LISTED else _MOST_LISTED
    wanted = SAMPLES
    while cells > _LEAST_LISTED and cells // wanted >= 2:
        step = cells // wanted
        steps.append(step)
        first, last = bracket_ranks(rank, cells, triton.cdiv(cells, step))
        inside = (last - max(first, 0) if both else last) * step
        cheap = cells // (4 * wanted) >= 64  # the next pass over samples
        if 2 * inside <= (_LEAST_LISTED if cheap else _MOST_LISTED):
            capacity = max(_LEAST_LISTED, triton.next_power_of_2(2 * inside))
            break
        wanted *= 4
    if not both:
        capacity = max(capacity, triton.next_power_of_2(min(rank, cells)))
    return capacity, steps


def value_at_rank(tiled: Tiling, lists: Lists, rank: int) -> Tensor:
    """(N,) float32 from the lists of the pass over all cells; rows that need it are searched again."""
    result, done = torch.empty_like(lists.low), torch.empty_like(lists.found)
    _launch_narrow(lists, result, done, (rank, rank), True, True)
    exact_rank(tiled, lists, rank, result, done, fill=False)
    return result


def exact_rank(
    tiled: Tiling, lists: Lists, rank: int, result: Tensor, done: Tensor, *, fill: bool
) -> None:
    """The rank-th value of rows that are not `done`, and with `fill` their largest cells as the list."""
    exact_rank_kernel[(tiled.row_blocks,)](
        tiled.levels, result, done, lists.found, lists.values, lists.cells, tiled.count, tiled.cells,
        *tiled.size, rank, lists.capacity, FILL=fill, **tiled.constants, num_warps=tiled.num_warps,
        num_stages=tiled.num_stages,
    )  # fmt: skip


def _launch_narrow(
    lists: Lists, result: Tensor, done: Tensor, ranks: tuple[int, int], both: bool, final: bool
) -> None:
    count = lists.low.shape[0]
    narrow_kernel[(triton.cdiv(count, _ROWS),)](
        lists.low, lists.high, lists.above, lists.found, lists.values, result, done, count,
        lists.capacity, *ranks, FINAL=final, HIGH=both, BLOCK_R=_ROWS, CHUNK=_CHUNK,
    )  # fmt: skip


def bracket(
    tiled: Tiling, rank: int, plan: tuple[int, list[int]], *, both: bool, scale: float
) -> Lists:
    """Empty lists with bounds, from samples, that the rank-th value of each map lies between.

    `plan` from `list_plan`. Without `both` the lists keep the cells too."""
    capacity, steps = plan
    lists = empty_lists(tiled.levels[0][0], tiled.count, capacity, not both)
    for step in steps:
        stream(tiled, scale, softmax=False, lists=lists, bounded=both, step=step)
        samples = triton.cdiv(tiled.cells, step)
        _launch_narrow(
            lists, lists.low, lists.found, bracket_ranks(rank, tiled.cells, samples), both, False
        )
    return lists
