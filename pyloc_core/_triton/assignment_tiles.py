# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""What the assignment kernels share: tiles of scores with a dustbin that is not stored, and log-sum-exps.

Scores S (B, m, n) may be followed by a dustbin row, index m (SIDES 1), or a row and a column (SIDES 3), all
of one scalar per item; M and N count them. Rows from `rows` and columns from `columns` on, the dustbin
aside, are -inf, and so is everything that takes no part: -inf is never subtracted from -inf.

Sums run over tiles of fixed sizes in a fixed order, so that padding adds zeros and changes no bit.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def count_of(counts, item, size, HAS: tl.constexpr):
    """counts[item] held within 0 and size, or size."""
    count = size
    if HAS:
        count = tl.load(counts + item).to(tl.int32)
        count = tl.minimum(tl.maximum(count, 0), size)
    return count


@triton.jit
def bin_score(dustbin, item, SIDES: tl.constexpr):
    z = 0.0
    if SIDES != 0:
        z = tl.load(dustbin + item).to(tl.float32)
    return z


@triton.jit
def tiles_along(size, BIN: tl.constexpr, BLOCK: tl.constexpr):
    """Tiles that cover `size` entries; a dustbin has one of its own, the last, wherever padding ends."""
    tiles = tl.cdiv(size, BLOCK)
    if BIN:
        tiles += 1
    return tiles


@triton.jit
def tile_index(tile, size, BLOCK: tl.constexpr):
    """Indices of a tile's entries; size + 1, which does not exist, for those that it lacks."""
    offset = tl.arange(0, BLOCK)
    index = tile * BLOCK + offset
    own_bin = (tile >= tl.cdiv(size, BLOCK)) & (offset == 0)
    return tl.where(index < size, index, tl.where(own_bin, size, size + 1))


@triton.jit
def score_tile(scores, z, row, column, m, n, rows, columns, SIDES: tl.constexpr):
    """S at `row` x `column` of an item in float32, with its dustbins; -inf outside."""
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    s = tl.load(scores + row[:, None] * n + column[None, :], mask=inside, other=float("-inf"))
    s = s.to(tl.float32)
    if SIDES == 1:
        s = tl.where((row == m)[:, None] & (column < columns)[None, :], z, s)
    if SIDES == 3:
        counted_row = (row < rows) | (row == m)
        counted_column = (column < columns) | (column == n)
        in_bins = (row == m)[:, None] | (column == n)[None, :]
        s = tl.where(in_bins & counted_row[:, None] & counted_column[None, :], z, s)
    return s


@triton.jit
def exp(x):
    return tl.exp2(x * LOG2E)


@triton.jit
def share(x):
    """exp(x) of what is at most 0 but for rounding, which for scores beyond 1e8 is no small thing."""
    return exp(tl.where(x > 1.0, 1.0, x))


@triton.jit
def finite_or_zero(peak):
    """A maximum to subtract: 0 where there is nothing."""
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def join(peak, total, x, AXIS: tl.constexpr):
    """Running maximum and sum of exp(x - maximum) along AXIS, with one more tile of x."""
    top = tl.maximum(peak, tl.max(x, AXIS))
    base = finite_or_zero(top)
    total = total * exp(peak - base) + tl.sum(exp(x - tl.expand_dims(base, AXIS)), AXIS)
    return top, total


@triton.jit
def potential(log_mass, peak, total):
    """log mass - (peak + log total); -inf without mass or without anything to send it to."""
    nothing = (log_mass == float("-inf")) | (total == 0.0)
    found = log_mass - (finite_or_zero(peak) + tl.log(tl.where(total == 0.0, 1.0, total)))
    return tl.where(nothing, float("-inf"), found)


@triton.jit
def relative(potential_, log_mass):
    """u - log a, with which exp(S + v + u - log a) are a row's shares; -inf without mass."""
    absent = potential_ == float("-inf")
    return tl.where(absent, float("-inf"), potential_ - tl.where(absent, 0.0, log_mass))


def check_scores(op: str, scores: Tensor, extra: int = 1) -> None:
    """Offsets within an item are int32 in the kernels."""
    if scores.dtype.itemsize == 8:
        raise ValueError(f"{op}: the Triton kernels take float32, float16 and bfloat16 scores")
    if (scores.shape[-2] + extra) * (scores.shape[-1] + extra) >= 2**31 - 2**16:
        raise ValueError(
            f"{op}: scores {tuple(scores.shape)} are too large for one item of a launch"
        )
