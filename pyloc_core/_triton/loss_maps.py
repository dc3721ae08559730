# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse loss maps on the GPU, without waiting for the device.

Samples bound every map's `max_entries`-th correlation from below; one pass over the cells then gives the
softmax and lists what lies above that bound and above the live threshold under the sum so far; the live
entries are chosen, counted, scanned and filled (map_entries). An exactly flat map (a descriptor of
zeros) is known by its sum, and keeps its first cells. Any other map whose list overflowed, or whose
bound was wrong, is listed again by `exact_rank`, one program per block of descriptors: correct, slow.

Passes of the matrix product over all cells: 1, and the samples (7 % at 200 x 150). At N 1000, D 128,
200 x 150, 16-bit, the pass has 42 instructions per cell in the compiler's output (Triton 3.6, sm_90), 43
us of issue at least, and seven more launches: the goal of 35 us is missed, by two or three times.
Counted, not measured: these kernels have never run on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton import correlation_rank, map_entries
from pyloc_core._triton.correlation_stream import (
    LOG2E,
    Lists,
    Partials,
    merge_partials,
    stream,
)
from pyloc_core._triton.correlation_tile import Tiling, tiling
from pyloc_core._triton.map_entries import GainRule, MapEntries, Softmax, Staging, gain_of

_ROWS, _CHUNK = 4, 512


@triton.jit
def settle_kernel(
    peak_ptr, sum_ptr, low_ptr, found_ptr, values_ptr, cells_ptr, out_peak_ptr, out_log_sum_ptr, done_ptr,
    count, splits, cells_total, capacity, limit, scale, log_cardinality, epsilon, EPSILON: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Joins the splits, and says which lists hold all that must be kept."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_live = rows < count
    peak, total, _ = merge_partials(
        peak_ptr, sum_ptr, sum_ptr, rows, row_live, count, splits, scale, False, BLOCK_R, BLOCK_S
    )
    log_sum = tl.log(total)
    tl.store(out_peak_ptr + rows, peak, mask=row_live)
    tl.store(out_log_sum_ptr + rows, log_sum, mask=row_live)
    found = tl.load(found_ptr + rows, mask=row_live, other=0)
    low = tl.load(low_ptr + rows, mask=row_live, other=0.0)
    lengths = tl.minimum(found, capacity)
    starts = rows.to(tl.int64) * capacity
    live_count = tl.zeros((BLOCK_R,), tl.int32)
    for first in range(0, tl.max(lengths, 0), CHUNK):
        at = first + tl.arange(0, CHUNK)
        there = at[None, :] < lengths[:, None]
        value = tl.load(values_ptr + starts[:, None] + at[None, :], mask=there, other=float("-inf"))
        gain = gain_of(
            value, peak[:, None], log_sum[:, None], 0.0, scale, log_cardinality, epsilon, EPSILON
        )
        live_count += tl.sum((there & (gain > 0)).to(tl.int32), 1)
    # Cells below `low` were not listed; they matter where they are live and the list does not suffice.
    low_gain = gain_of(low, peak, log_sum, 0.0, scale, log_cardinality, epsilon, EPSILON)
    suffices = (live_count >= limit) | (low == float("-inf")) | ((low_gain > 0) == 0)
    # Every cell counted 1, exactly while float32 holds the integers: all have the same loss.
    flat = (total == cells_total * 1.0) & (total <= 16777216.0) & (found > capacity)
    if tl.max((flat & row_live).to(tl.int32), 0) > 0:
        for first in range(0, limit, CHUNK):
            at = first + tl.arange(0, CHUNK)
            kept = (flat & row_live)[:, None] & (at < limit)[None, :]
            place = starts[:, None] + at[None, :]
            tl.store(values_ptr + place, tl.broadcast_to(peak[:, None], place.shape), mask=kept)
            tl.store(cells_ptr + place, tl.broadcast_to(at[None, :], place.shape), mask=kept)
        tl.store(found_ptr + rows, tl.zeros((BLOCK_R,), tl.int32) + limit, mask=flat & row_live)
    done = ((found <= capacity) & suffices) | flat | (total != total)
    tl.store(done_ptr + rows, done.to(tl.int32), mask=row_live)


def loss_maps(
    descriptors: Sequence[Tensor],
    features: Sequence[Tensor],
    size: tuple[int, int],
    temperature: float,
    log_cardinality: float,
    epsilon: float,
    limit: int,
) -> MapEntries:
    """As `pyloc_core.loss_maps`. Descriptors (N, D), features (D, h, w) per level, on one device.

    `limit`: entries per map, at most H W. A map that a NaN entered is empty.
    """
    count = descriptors[0].shape[0]
    if count == 0:
        return map_entries.empty_entries(descriptors[0], 0, limit)
    rule = GainRule(LOG2E / temperature, log_cardinality, epsilon)
    plan = correlation_rank.list_plan(limit, size[0] * size[1], False)
    group = max(1, correlation_rank.LIST_BYTES // (8 * plan[0]))
    with torch.cuda.device_of(descriptors[0]):
        staged = map_entries.empty_staging(descriptors[0], count, limit)
        for first in range(0, count, group):
            rows = slice(first, min(first + group, count))
            tiled = tiling([h[rows] for h in descriptors], features, size, True)
            _stage_rows(tiled, plan, limit, rule, staged.rows(rows))
        return map_entries.fill(staged, size[1], None, ordered=False)


def _stage_rows(
    tiled: Tiling, plan: tuple[int, list[int]], limit: int, rule: GainRule, out: Staging
) -> None:
    lists = correlation_rank.bracket(tiled, limit, plan, both=False, scale=rule.scale)
    least = math.exp(-rule.log_cardinality) - rule.epsilon  # probability of a cell that is live
    margin = math.log2(least) / rule.scale if least > 0 else float("-inf")
    partials = stream(tiled, rule.scale, lists=lists, margin=margin)
    softmax, done = _settle(tiled, lists, partials, limit, rule)
    bound = torch.empty_like(softmax.peak)  # the exact rank's value, of which only the list is used
    correlation_rank.exact_rank(tiled, lists, limit, bound, done, fill=True)
    map_entries.choose(lists.values, lists.cells, lists.found, softmax, rule, out)


def _settle(
    tiled: Tiling, lists: Lists, partials: Partials, limit: int, rule: GainRule
) -> tuple[Softmax, Tensor]:
    peak, log_sum = torch.empty_like(lists.low), torch.empty_like(lists.low)
    done = torch.empty_like(lists.found)
    settle_kernel[(triton.cdiv(tiled.count, _ROWS),)](
        partials.peak, partials.sum, lists.low, lists.found, lists.values, lists.cells, peak,
        log_sum, done, tiled.count, partials.splits, tiled.cells, lists.capacity, limit, *rule,
        EPSILON=rule.epsilon > 0, BLOCK_R=_ROWS, BLOCK_S=triton.next_power_of_2(partials.splits), CHUNK=_CHUNK,
    )  # fmt: skip
    return Softmax(peak, log_sum, lists.low[:0]), done
