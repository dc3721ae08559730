# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""Half an iteration of Sinkhorn per launch, for items of any size, and its gradient.

A program owns a block of rows or columns of one item and streams over the others, so that nothing is summed
across programs; S comes from the second-level cache again and again. Potentials are kept as (slots, B, M) and
(slots, B, N), and a launch names the slots it reads and writes. An item that met the tolerance is left alone
by later launches: num_iterations, on the device, is below `iterations` from then on.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pyloc_core._triton.assignment_tiles import (
    bin_score,
    count_of,
    exp,
    join,
    potential,
    relative,
    score_tile,
    share,
    tile_index,
    tiles_along,
)  # fmt: skip


@triton.jit(do_not_specialize=["slot", "before"])
def row_kernel(
    scores, log_row_mass, dustbin, num_rows, num_columns, u, v, num_iterations,
    slot, before, batch, m, n, M, N, iterations,
    SIDES: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_COLUMNS: tl.constexpr,
    HAS_TOLERANCE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """u[slot] = log a - LSE_j(S + v[before])."""
    blocks = tl.cdiv(M, BLOCK_M)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    active = True
    if HAS_TOLERANCE:
        active = tl.load(num_iterations + item) == iterations
    if active:
        rows = count_of(num_rows, item, m, HAS_ROWS)
        columns = count_of(num_columns, item, n, HAS_COLUMNS)
        z = bin_score(dustbin, item, SIDES)
        peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        for tile in range(tiles_along(n, SIDES == 3, BLOCK_N)):
            column = tile_index(tile, n, BLOCK_N)
            s = score_tile(scores + item * m * n, z, row, column, m, n, rows, columns, SIDES)
            v_j = tl.load(v + (before * batch + item) * N + column, mask=column < N, other=0.0)
            peak, total = join(peak, total, s + v_j[None, :], 1)
        log_a = tl.load(log_row_mass + item * M + row, mask=row < M, other=float("-inf"))
        u_i = potential(log_a.to(tl.float32), peak, total)
        tl.store(u + (slot * batch + item) * M + row, u_i, mask=row < M)


@triton.jit
def change_of_rows(worst, largest, log_a, u_new, u_old):
    """Row sums before an update are a exp(u_old - u_new): what the last iteration left wrong."""
    alive = (u_new != float("-inf")) & (u_old != float("-inf"))
    change = tl.where(alive, u_old, 0.0) - tl.where(alive, u_new, 0.0)
    mass = exp(log_a)
    off = tl.where(alive, mass * tl.abs(exp(change) - 1.0), 0.0)
    return tl.maximum(worst, tl.max(off, 0)), tl.maximum(largest, tl.max(mass, 0))


@triton.jit(do_not_specialize=["slot", "last", "step"])
def column_kernel(
    scores, log_row_mass, log_column_mass, dustbin, num_rows, num_columns, u, v, num_iterations,
    slot, last, step, tolerance, batch, m, n, M, N, iterations,
    SIDES: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_COLUMNS: tl.constexpr,
    HAS_TOLERANCE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """v[slot] = log b - LSE_i(S + u[slot]), unless the `step` iterations before were enough.

    All programs of an item decide alike, from u[slot] and u[last]; one of them says so.
    """
    blocks = tl.cdiv(N, BLOCK_N)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    active = True
    if HAS_TOLERANCE:
        active = tl.load(num_iterations + item) == iterations
    if active:
        rows = count_of(num_rows, item, m, HAS_ROWS)
        columns = count_of(num_columns, item, n, HAS_COLUMNS)
        z = bin_score(dustbin, item, SIDES)
        peak = tl.full([BLOCK_N], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_N], tl.float32)
        worst, largest = 0.0, 0.0
        for tile in range(tiles_along(m, SIDES != 0, BLOCK_M)):
            row = tile_index(tile, m, BLOCK_M)
            s = score_tile(scores + item * m * n, z, row, column, m, n, rows, columns, SIDES)
            place = (slot * batch + item) * M + row
            u_i = tl.load(u + place, mask=row < M, other=float("-inf"))
            peak, total = join(peak, total, s + u_i[:, None], 0)
            if HAS_TOLERANCE:
                place = (last * batch + item) * M + row
                old = tl.load(u + place, mask=row < M, other=float("-inf"))
                counted = (row < rows) | ((row >= m) & (row < M))
                log_a = tl.load(log_row_mass + item * M + row, mask=counted, other=float("-inf"))
                worst, largest = change_of_rows(worst, largest, log_a.to(tl.float32), u_i, old)
        log_b = tl.load(log_column_mass + item * N + column, mask=column < N, other=float("-inf"))
        v_j = potential(log_b.to(tl.float32), peak, total)
        enough = False
        if HAS_TOLERANCE:
            enough = (step > 0) & (worst <= tolerance * largest)
            if enough & (tl.program_id(0) % blocks == 0):
                tl.store(num_iterations + item, step)
        if not enough:
            tl.store(v + (slot * batch + item) * N + column, v_j, mask=column < N)


@triton.jit
def assignment_kernel(
    scores, dustbin, num_rows, num_columns, u, v, out, m, n, M, N,
    SIDES: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """log P = S + u + v, from (B, M) and (B, N)."""
    blocks = tl.cdiv(M, BLOCK_M)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = count_of(num_rows, item, m, HAS_ROWS)
    columns = count_of(num_columns, item, n, HAS_COLUMNS)
    z = bin_score(dustbin, item, SIDES)
    s = score_tile(scores + item * m * n, z, row, column, m, n, rows, columns, SIDES)
    u_i = tl.load(u + item * M + row, mask=row < M, other=0.0)
    v_j = tl.load(v + item * N + column, mask=column < N, other=0.0)
    place = out + item * M * N + row[:, None] * N + column[None, :]
    inside = (row < M)[:, None] & (column < N)[None, :]
    value = s + u_i[:, None] + v_j[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)


# ------------------------------------------------------------------------------------------- the gradient


@triton.jit
def slope_tile(log_assignment, d_out, row, column, M, N):
    """dL / d log P in float32, 0 where log P is -inf."""
    inside = (row < M)[:, None] & (column < N)[None, :]
    place = row[:, None] * N + column[None, :]
    p = tl.load(log_assignment + place, mask=inside, other=float("-inf")).to(tl.float32)
    slope = tl.load(d_out + place, mask=inside, other=0.0).to(tl.float32)
    return tl.where(p == float("-inf"), 0.0, slope)


@triton.jit
def column_slope_kernel(
    log_assignment, d_out, num_iterations, d_v, batch, m, M, N,
    SIDES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """d_v[num_iterations] = sum_i dL / d log P."""
    blocks = tl.cdiv(N, BLOCK_N)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    sums = tl.zeros([BLOCK_N], tl.float32)
    p, g = log_assignment + item * M * N, d_out + item * M * N
    for tile in range(tiles_along(m, SIDES != 0, BLOCK_M)):
        row = tile_index(tile, m, BLOCK_M)
        sums += tl.sum(slope_tile(p, g, row, column, M, N), 0)
    step = tl.load(num_iterations + item)
    tl.store(d_v + (step * batch + item) * N + column, sums, mask=column < N)


@triton.jit
def column_shift(v, log_column_mass, place, item, column, N):
    """v - log b, or -inf, for columns of an item; `place`: of its first column in v."""
    v_j = tl.load(v + place + column, mask=column < N, other=float("-inf"))
    log_b = tl.load(log_column_mass + item * N + column, mask=column < N, other=0.0)
    return relative(v_j, log_b.to(tl.float32))


@triton.jit(do_not_specialize=["step", "slot"])
def row_gradient_kernel(
    scores, log_column_mass, dustbin, num_rows, num_columns, log_assignment, d_out, u, v,
    num_iterations, d_u, d_v, step, slot, batch, m, n, M, N,
    SIDES: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """d_u[step - 1] = [last] sum_j dL / d log P - sum_j Q_ij d_v[step]_j, Q = exp(S + u + v - log b)."""
    blocks = tl.cdiv(M, BLOCK_M)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    last = tl.load(num_iterations + item)
    if step <= last:
        rows = count_of(num_rows, item, m, HAS_ROWS)
        columns = count_of(num_columns, item, n, HAS_COLUMNS)
        z = bin_score(dustbin, item, SIDES)
        u_i = tl.load(u + (slot * batch + item) * M + row, mask=row < M, other=float("-inf"))
        sums = tl.zeros([BLOCK_M], tl.float32)
        for tile in range(tiles_along(n, SIDES == 3, BLOCK_N)):
            column = tile_index(tile, n, BLOCK_N)
            s = score_tile(scores + item * m * n, z, row, column, m, n, rows, columns, SIDES)
            shift = column_shift(v, log_column_mass, (slot * batch + item) * N, item, column, N)
            place = (step * batch + item) * N + column
            d_v_j = tl.load(d_v + place, mask=column < N, other=0.0)
            sums -= tl.sum(share(s + u_i[:, None] + shift[None, :]) * d_v_j[None, :], 1)
            if step == last:
                p, g = log_assignment + item * M * N, d_out + item * M * N
                sums += tl.sum(slope_tile(p, g, row, column, M, N), 1)
        tl.store(d_u + ((step - 1) * batch + item) * M + row, sums, mask=row < M)


@triton.jit(do_not_specialize=["step", "slot"])
def column_gradient_kernel(
    scores, log_row_mass, dustbin, num_rows, num_columns, u, v_before, num_iterations,
    d_u, d_v, step, slot, batch, m, n, M, N,
    SIDES: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """d_v[step - 1] = -sum_i R_ij d_u[step - 1]_i, R = exp(S + v_before + u - log a)."""
    blocks = tl.cdiv(N, BLOCK_N)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    if step <= tl.load(num_iterations + item):
        rows = count_of(num_rows, item, m, HAS_ROWS)
        columns = count_of(num_columns, item, n, HAS_COLUMNS)
        z = bin_score(dustbin, item, SIDES)
        place = (slot * batch + item) * N + column
        v_j = tl.load(v_before + place, mask=column < N, other=float("-inf"))
        sums = tl.zeros([BLOCK_N], tl.float32)
        for tile in range(tiles_along(m, SIDES != 0, BLOCK_M)):
            row = tile_index(tile, m, BLOCK_M)
            s = score_tile(scores + item * m * n, z, row, column, m, n, rows, columns, SIDES)
            u_i = tl.load(u + (slot * batch + item) * M + row, mask=row < M, other=float("-inf"))
            log_a = tl.load(log_row_mass + item * M + row, mask=row < M, other=0.0)
            shift = relative(u_i, log_a.to(tl.float32))
            d_u_i = tl.load(d_u + ((step - 1) * batch + item) * M + row, mask=row < M, other=0.0)
            sums -= tl.sum(share(s + shift[:, None] + v_j[None, :]) * d_u_i[:, None], 0)
        place = ((step - 1) * batch + item) * N + column
        tl.store(d_v + place, sums, mask=column < N)


@triton.jit
def score_gradient_kernel(
    scores, log_row_mass, log_column_mass, dustbin, num_rows, num_columns, log_assignment, d_out,
    u, v, v_before, num_iterations, d_u, d_v, d_scores, corner, batch, m, n, M, N,
    SIDES: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dS = dL / d log P - sum_t (Q^t d_v^t + R^t d_u^t); `corner`: that of the dustbins' common entry.

    The exponentials are taken anew for every t: factors relative to the last potentials could overflow.
    """
    blocks = tl.cdiv(M, BLOCK_M)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = count_of(num_rows, item, m, HAS_ROWS)
    columns = count_of(num_columns, item, n, HAS_COLUMNS)
    z = bin_score(dustbin, item, SIDES)
    s = score_tile(scores + item * m * n, z, row, column, m, n, rows, columns, SIDES)
    log_a = tl.load(log_row_mass + item * M + row, mask=row < M, other=0.0).to(tl.float32)
    p, g = log_assignment + item * M * N, d_out + item * M * N
    slope = slope_tile(p, g, row, column, M, N)
    steps = tl.load(num_iterations + item)
    for t in range(steps):
        place = t * batch + item
        u_i = tl.load(u + place * M + row, mask=row < M, other=float("-inf"))
        shift = column_shift(v, log_column_mass, place * N, item, column, N)
        d_u_i = tl.load(d_u + place * M + row, mask=row < M, other=0.0)
        d_v_j = tl.load(d_v + (place + batch) * N + column, mask=column < N, other=0.0)
        v_j = tl.load(v_before + place * N + column, mask=column < N, other=float("-inf"))
        slope -= share(s + u_i[:, None] + shift[None, :]) * d_v_j[None, :]
        slope -= share(s + relative(u_i, log_a)[:, None] + v_j[None, :]) * d_u_i[:, None]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    whole = (row < m)[:, None] & (column < n)[None, :]
    target = d_scores + item * m * n + row[:, None] * n + column[None, :]
    tl.store(target, tl.where(inside, slope, 0.0).to(d_scores.dtype.element_ty), mask=whole)
    if SIDES == 3:
        is_corner = (row == m)[:, None] & (column == n)[None, :]
        if (tl.program_id(0) % blocks == m // BLOCK_M) & (tl.program_id(1) == n // BLOCK_N):
            tl.store(corner + item, tl.sum(tl.sum(tl.where(is_corner, slope, 0.0), 1), 0))
