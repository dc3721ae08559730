# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""All Sinkhorn iterations of an item in one program: up to MAX_ROWS rows and a dustbin row, any columns.

The potentials of the rows stay in registers. Given u, a column's v_j and its share of P depend on that column
alone, and the row sums that the next u needs add up over the columns: one pass over S per iteration, with one
exponential per entry, e_ij = exp(S_ij + u_i - max_i). For P = e b / sum_i e,
    LSE_j(S_ij + v_j) = log sum_j P_ij - u_i,
which loses nothing as long as masses are within exp(+-WIDE_MASSES); beyond, S + v gets exponentials of its
own. The dustbin row is a scalar beside the tile. sinkhorn_item_gradient.py walks the same way back.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.assignment_tiles import (
    count_of,
    exp,
    finite_or_zero,
    join,
    potential,
)  # fmt: skip

MAX_ROWS = 128  # as in weighted_sums.py
WIDE_MASSES = tl.constexpr(40.0)


@triton.jit
def tile_of(scores, row, column, m, n, columns):
    """S in float32, -inf outside."""
    inside = (row[:, None] < m) & (column[None, :] < columns)
    s = tl.load(scores + row[:, None] * n + column[None, :], mask=inside, other=float("-inf"))
    return s.to(tl.float32)


@triton.jit
def row_masses(log_row_mass, item, row, m, columns, SALAD: tl.constexpr):
    """log a of an item's rows and of its dustbin; SALAD: clusters take 1, the dustbin what is left."""
    if SALAD:
        log_a = tl.where(row < m, 0.0, float("-inf"))
        log_bin = tl.log((columns - m).to(tl.float32))
    else:
        log_a = tl.load(log_row_mass + item * (m + 1) + row, mask=row < m, other=float("-inf"))
        log_a = log_a.to(tl.float32)
        log_bin = tl.load(log_row_mass + item * (m + 1) + m).to(tl.float32)
    return log_a, log_bin


@triton.jit
def column_masses(log_column_mass, item, column, n, columns, SALAD: tl.constexpr):
    """log b; -inf for columns that do not count."""
    if SALAD:
        log_b = tl.where(column < columns, 0.0, float("-inf"))
    else:
        place = log_column_mass + item * n + column
        log_b = tl.load(place, mask=column < columns, other=float("-inf")).to(tl.float32)
    return log_b


@triton.jit
def _spread(log_mass, largest, smallest):
    """Running largest and smallest of the finite masses."""
    some = log_mass != float("-inf")
    largest = tl.maximum(largest, tl.max(log_mass, 0))
    smallest = tl.minimum(smallest, tl.min(tl.where(some, log_mass, float("inf")), 0))
    return largest, smallest


@triton.jit
def _column(s, u_i, u_bin, z, log_b):
    """e (m, columns), e of the dustbin, their sum over the rows, and v, for a tile of S."""
    x = s + u_i[:, None]
    # z = -inf: a dustbin that takes nothing. Columns beyond the end have log_b = -inf.
    in_bin = tl.where(log_b == float("-inf"), float("-inf"), z + u_bin)
    peak = tl.maximum(tl.max(x, 0), in_bin)
    base = finite_or_zero(peak)
    e = exp(x - base[None, :])
    e_bin = exp(in_bin - base)
    total = tl.sum(e, 0) + e_bin
    return e, e_bin, total, potential(log_b, peak, total)


@triton.jit
def potentials_kernel(
    scores, log_row_mass, log_column_mass, dustbin, num_columns, u, v, out, batch, m, n, iterations,
    slots, dustbin_stride, HAS_COLUMNS: tl.constexpr, SALAD: tl.constexpr, HAS_OUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """u (slots, B, m + 1), v (slots, B, n), slots = iterations or 1; log P (B, m + 1, n)."""
    item = tl.program_id(0).to(tl.int64)
    columns = count_of(num_columns, item, n, HAS_COLUMNS)
    z = tl.load(dustbin + item * dustbin_stride).to(tl.float32)
    row = tl.arange(0, BLOCK_M)
    log_a, log_bin = row_masses(log_row_mass, item, row, m, columns, SALAD)
    s_item = scores + item * m * n
    # The first u, from v = 0; and how far the masses lie apart.
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    live = 0.0
    largest, smallest = _spread(log_a, log_bin, tl.where(log_bin == float("-inf"), 0.0, log_bin))
    b_largest, b_smallest = float("-inf"), float("inf")
    for first in range(0, n, BLOCK_N):
        column = first + tl.arange(0, BLOCK_N)
        log_b = column_masses(log_column_mass, item, column, n, columns, SALAD)
        some = log_b != float("-inf")
        s = tile_of(s_item, row, column, m, n, columns)
        peak, total = join(peak, total, tl.where(some[None, :], s, float("-inf")), 1)
        live += tl.sum(some.to(tl.float32), 0)
        b_largest, b_smallest = _spread(log_b, b_largest, b_smallest)
    wide = (largest - smallest > WIDE_MASSES) | (b_largest - b_smallest > WIDE_MASSES)
    wide = wide | (tl.abs(b_largest) > WIDE_MASSES)
    if SALAD:
        wide = tl.full([], 0, tl.int1)
    u_i = potential(log_a, peak, total)
    live = tl.where(z == float("-inf"), 0.0, live)
    u_bin = potential(log_bin, z, live)
    for step in range(iterations):
        slot = tl.where(slots == 1, 0, step)
        u_place = (slot * batch + item) * (m + 1)
        tl.store(u + u_place + row, u_i, mask=row < m)
        tl.store(u + u_place + m, u_bin)
        peak = tl.where(wide, float("-inf"), -finite_or_zero(u_i))
        bin_peak = tl.where(wide, float("-inf"), -finite_or_zero(u_bin))
        total = tl.zeros([BLOCK_M], tl.float32)
        bin_total = 0.0
        plan = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for first in range(0, n, BLOCK_N):
            column = first + tl.arange(0, BLOCK_N)
            log_b = column_masses(log_column_mass, item, column, n, columns, SALAD)
            s = tile_of(s_item, row, column, m, n, columns)
            e, e_bin, sums, v_j = _column(s, u_i, u_bin, z, log_b)
            tl.store(v + (slot * batch + item) * n + column, v_j, mask=column < n)
            if step == iterations - 1:
                place = out + item * (m + 1) * n + column
                inside = (row[:, None] < m) & (column[None, :] < n)
                value = s + u_i[:, None] + v_j[None, :]
                kind = out.dtype.element_ty
                if HAS_OUT:
                    tl.store(place[None, :] + row[:, None] * n, value.to(kind), mask=inside)
                    tl.store(place + m * n, (z + u_bin + v_j).to(kind), mask=column < n)
            elif wide:
                peak, total = join(peak, total, s + v_j[None, :], 1)
                bin_top = tl.maximum(bin_peak, tl.max(z + v_j, 0))
                base = finite_or_zero(bin_top)
                bin_total = bin_total * exp(bin_peak - base) + tl.sum(exp(z + v_j - base), 0)
                bin_peak = bin_top
            else:
                share = tl.where(
                    v_j == float("-inf"), 0.0, exp(log_b) / tl.where(sums == 0.0, 1.0, sums)
                )
                plan += e * share[None, :]
                bin_total += tl.sum(e_bin * share, 0)
        if step < iterations - 1:
            u_i = potential(log_a, peak, total + tl.sum(plan, 1))
            u_bin = potential(log_bin, bin_peak, bin_total)


# ---------------------------------------------------------------------------------------------- launchers


def fits_a_program(m: int) -> bool:
    return m <= MAX_ROWS


def blocks(m: int, lean: bool) -> dict[str, int]:
    """Tiles that the compiler, for sm_90, keeps in registers; `lean`: SALAD's masses, forward."""
    block_m = max(16, triton.next_power_of_2(m))
    block_n = (128 if lean else 64) if block_m <= 64 else 32
    return {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": 8}


def item_forward(
    scores: Tensor, masses: tuple[Tensor, Tensor] | None, dustbin: Tensor,
    num_columns: Tensor | None, iterations: int, u: Tensor, v: Tensor, out: Tensor | None,
) -> None:  # fmt: skip
    """Fills u, v and log P. Without `masses` those of SALAD, and one dustbin () for all items."""
    batch, m, n = scores.shape
    a, b = masses or (scores, scores)
    potentials_kernel[(batch,)](
        scores, a, b, dustbin, scores if num_columns is None else num_columns, u, v,
        u if out is None else out, batch, m, n, iterations, len(u), min(1, dustbin.dim()),
        HAS_COLUMNS=int(num_columns is not None), SALAD=int(masses is None),
        HAS_OUT=int(out is not None), **blocks(m, masses is None),
    )  # fmt: skip
