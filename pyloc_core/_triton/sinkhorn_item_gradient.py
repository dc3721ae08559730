# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""The gradient of Sinkhorn's iterations, all of an item in one program (sinkhorn_item.py goes forward).

Per iteration, the last first: d_v = [last] sum_i G - sum_i R d_u (of the later iteration), then
d_u = [last] sum_j G - sum_j Q d_v, with Q = exp(S + u + v - log b) and R = exp(S + u + v before - log a);
then dS = G - sum over the iterations of Q d_v + R d_u. One pass over S per iteration, and one more for dS.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.assignment_tiles import count_of, exp, finite_or_zero, relative, share
from pyloc_core._triton.sinkhorn_item import blocks, column_masses, row_masses, tile_of

# Of the logarithm of 1 / sum_j P_ij; more comes only of scores that float32 does not tell apart.
MOST = tl.constexpr(60.0)


@triton.jit
def _slopes(slope, row, column, m, n, p, p_bin, BIN: tl.constexpr):
    """dL / d log P of a tile and of its dustbin row; 0 where log P is -inf."""
    inside = (row[:, None] < m) & (column[None, :] < n)
    g = tl.load(slope + row[:, None] * n + column[None, :], mask=inside, other=0.0)
    g = tl.where(p == float("-inf"), 0.0, g.to(tl.float32))
    g_bin = tl.zeros_like(p_bin)
    if BIN:
        g_bin = tl.load(slope + m * n + column, mask=column < n, other=0.0).to(tl.float32)
        g_bin = tl.where(p_bin == float("-inf"), 0.0, g_bin)
    return g, g_bin


@triton.jit
def _row_potential(u, log_a, log_bin, place, row, m):
    """u_i and u_i - log a_i of an item's rows; the same of its dustbin."""
    u_i = tl.load(u + place + row, mask=row < m, other=float("-inf"))
    u_bin = tl.load(u + place + m)
    return u_i, relative(u_i, log_a), u_bin, relative(u_bin, log_bin)


@triton.jit
def _shares(s, u_i, r_i, v_j, log_b, SALAD: tl.constexpr):
    """Q of an iteration, and R of the one after it, whose v before is the v of this one.

    With SALAD's masses both are exp(S + u + v) but for a factor: b = 1, and R / Q is the reciprocal of a row
    sum of P, which the masses keep within bounds.
    """
    if SALAD:
        q = share(s + u_i[:, None] + v_j[None, :])
        log_ratio = r_i - finite_or_zero(u_i)
        ratio = exp(tl.where(log_ratio > MOST, MOST, log_ratio))
        r = q * ratio[:, None]
    else:
        q = share(s + u_i[:, None] + relative(v_j, log_b)[None, :])
        r = share(s + r_i[:, None] + v_j[None, :])
    return q, r


@triton.jit
def gradient_kernel(
    scores, log_row_mass, log_column_mass, dustbin, num_columns, u, v, num_iterations, slope,
    d_u, d_v, d_scores, batch, m, n, iterations, dustbin_stride,
    HAS_COLUMNS: tl.constexpr, SALAD: tl.constexpr, BIN: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """d_u (T, B, m + 1), d_v (T, B, n) and dS (B, m, n) of the slope G of log P."""
    item = tl.program_id(0).to(tl.int64)
    columns = count_of(num_columns, item, n, HAS_COLUMNS)
    z = tl.load(dustbin + item * dustbin_stride).to(tl.float32)
    row = tl.arange(0, BLOCK_M)
    log_a, log_bin = row_masses(log_row_mass, item, row, m, columns, SALAD)
    steps = iterations
    if SALAD == 0:
        steps = tl.load(num_iterations + item)
    bins = m + 1 if BIN else m
    s_item, g_item = scores + item * m * n, slope + item * bins * n
    later, later_bin = tl.zeros([BLOCK_M], tl.float32), 0.0  # d_u of the later iteration
    for back in range(steps):
        step = steps - 1 - back
        place = step * batch + item
        u_i, _r, u_bin, _r_bin = _row_potential(u, log_a, log_bin, place * (m + 1), row, m)
        above = (place + tl.where(back == 0, 0, batch)) * (m + 1)
        _u, r_i, _u_bin, r_bin = _row_potential(u, log_a, log_bin, above, row, m)
        sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        bin_sum = 0.0
        for first in range(0, n, BLOCK_N):
            column = first + tl.arange(0, BLOCK_N)
            log_b = column_masses(log_column_mass, item, column, n, columns, SALAD)
            v_j = tl.load(v + place * n + column, mask=column < n, other=float("-inf"))
            s = tile_of(s_item, row, column, m, n, columns)
            d_v_j = tl.zeros([BLOCK_N], tl.float32)
            if back == 0:
                p = s + u_i[:, None] + v_j[None, :]
                g, g_bin = _slopes(g_item, row, column, m, n, p, z + u_bin + v_j, BIN)
                d_v_j = tl.sum(g, 0) + g_bin
                sums += g
                bin_sum += tl.sum(g_bin, 0)
            q, r = _shares(s, u_i, r_i, v_j, log_b, SALAD)
            if back > 0:
                d_v_j = -tl.sum(r * later[:, None], 0) - share(z + r_bin + v_j) * later_bin
            tl.store(d_v + place * n + column, d_v_j, mask=column < n)
            sums -= q * d_v_j[None, :]
            bin_sum -= tl.sum(share(z + u_bin + relative(v_j, log_b)) * d_v_j, 0)
        later, later_bin = tl.sum(sums, 1), bin_sum
        tl.store(d_u + place * (m + 1) + row, later, mask=row < m)
        tl.store(d_u + place * (m + 1) + m, later_bin)
    tl.debug_barrier()  # the slopes are read by other threads than those that wrote them
    for first in range(0, n, BLOCK_N):
        column = first + tl.arange(0, BLOCK_N)
        log_b = column_masses(log_column_mass, item, column, n, columns, SALAD)
        s = tile_of(s_item, row, column, m, n, columns)
        g = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for back in range(steps):
            place = (steps - 1 - back) * batch + item
            above = (place + tl.where(back == 0, 0, batch)) * (m + 1)
            u_i, _r, u_bin, _r_bin = _row_potential(u, log_a, log_bin, place * (m + 1), row, m)
            _u, r_i, _u_bin, _r_bin2 = _row_potential(u, log_a, log_bin, above, row, m)
            v_j = tl.load(v + place * n + column, mask=column < n, other=float("-inf"))
            d_v_j = tl.load(d_v + place * n + column, mask=column < n, other=0.0)
            d_u_i = tl.load(d_u + above + row, mask=row < m, other=0.0)
            d_u_i = tl.where(back == 0, 0.0, d_u_i)
            if back == 0:
                p = s + u_i[:, None] + v_j[None, :]
                slopes, _g_bin = _slopes(g_item, row, column, m, n, p, z + u_bin + v_j, BIN)
                g += slopes
            q, r = _shares(s, u_i, r_i, v_j, log_b, SALAD)
            g -= q * d_v_j[None, :] + r * d_u_i[:, None]
        _u1, first_r, _u1_bin, _r1_bin = _row_potential(u, log_a, log_bin, item * (m + 1), row, m)
        first_d_u = tl.load(d_u + item * (m + 1) + row, mask=row < m, other=0.0)
        start = tl.where(log_b == float("-inf"), float("-inf"), 0.0)
        g -= share(s + first_r[:, None] + start[None, :]) * first_d_u[:, None]
        inside = (row[:, None] < m) & (column[None, :] < n)
        place = d_scores + item * m * n + row[:, None] * n + column[None, :]
        tl.store(place, g.to(d_scores.dtype.element_ty), mask=inside)


def item_gradient(
    scores: Tensor, masses: tuple[Tensor, Tensor] | None, dustbin: Tensor,
    num_columns: Tensor | None, u: Tensor, v: Tensor, num_iterations: Tensor | None,
    slope: Tensor, d_scores: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Fills dS; d_u (T, B, m + 1) and d_v (T, B, n), which add up to the gradients of the masses. That of
    the dustbin is 0: a constant on a row of scores is taken up by its u at once."""
    batch, m, n = scores.shape
    a, b = masses or (scores, scores)
    # Iterations that an item did not run are not written.
    d_u, d_v = (torch.empty_like(x) if masses is None else torch.zeros_like(x) for x in (u, v))
    gradient_kernel[(batch,)](
        scores, a, b, dustbin, scores if num_columns is None else num_columns, u, v,
        u if num_iterations is None else num_iterations, slope, d_u, d_v, d_scores, batch, m, n,
        len(u), min(1, dustbin.dim()), HAS_COLUMNS=int(num_columns is not None),
        SALAD=int(masses is None), BIN=int(slope.shape[1] == m + 1), **blocks(m, False),
    )  # fmt: skip
    return d_u, d_v
