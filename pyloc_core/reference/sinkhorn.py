# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Entropic optimal transport in the log domain, in the dtype of its arguments (float64 in the tests).

With scores A (B, M, N) and masses a, b:
    u_i = log a_i - LSE_j(A_ij + v_j),   v_j = log b_j - LSE_i(A_ij + u_i),   log P = A + u + v,
v = 0 at first. `sinkhorn` is differentiable; `sinkhorn_backward` is the gradient written out, as the kernels
compute it. Rows and columns without mass or without a finite score carry nothing: u, v and log P are -inf.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DUSTBIN_ROW, DUSTBIN_COLUMN = 1, 2  # bits of dustbin_sides


class Transport(NamedTuple):
    """log P (B, M, N); u (T, B, M), v (T, B, N) per iteration, or T = 1: the last; iterations run (B,).

    Iterations after an item has met its tolerance repeat its last potentials.
    """

    log_assignment: Tensor
    u: Tensor
    v: Tensor
    num_iterations: Tensor


class Problem(NamedTuple):
    """scores (B, M, N) with dustbins, masses (B, M) and (B, N); what is masked holds -inf."""

    scores: Tensor
    log_row_mass: Tensor
    log_column_mass: Tensor


def beyond(size: int, full: int, valid: Tensor | None, device: torch.device) -> Tensor:
    """(B or 1, full) bool: entries from `valid` on; a dustbin, at index `size`, is never among them."""
    index = torch.arange(full, device=device)
    if valid is None:
        return torch.zeros(1, full, dtype=torch.bool, device=device)
    return (index >= valid[:, None]) & (index < size)


def assemble(
    scores: Tensor,
    log_row_mass: Tensor,
    log_column_mass: Tensor,
    dustbin: Tensor | None,
    dustbin_sides: int,
    num_rows: Tensor | None,
    num_columns: Tensor | None,
) -> Problem:
    """Scores (B, m, n) with the dustbins appended, and everything beyond the valid sizes masked."""
    _, m, n = scores.shape
    device = scores.device
    if dustbin is not None:
        fill = dustbin.to(scores.dtype)[:, None, None]
        if dustbin_sides & DUSTBIN_ROW:
            scores = torch.cat([scores, fill.expand(-1, 1, n)], 1)
        if dustbin_sides & DUSTBIN_COLUMN:
            scores = torch.cat([scores, fill.expand(-1, scores.shape[1], 1)], 2)
    rows = beyond(m, scores.shape[1], num_rows, device)
    columns = beyond(n, scores.shape[2], num_columns, device)
    return Problem(
        scores.masked_fill(rows[:, :, None] | columns[:, None, :], -torch.inf),
        log_row_mass.to(scores.dtype).masked_fill(rows, -torch.inf),
        log_column_mass.to(scores.dtype).masked_fill(columns, -torch.inf),
    )


def potential(log_mass: Tensor, scores: Tensor, other: Tensor, dim: int) -> Tensor:
    """log mass - LSE over `dim` of scores + other; -inf, without a gradient, for what carries nothing."""
    terms = scores + other.unsqueeze(3 - dim)
    dead = (log_mass == -torch.inf) | (terms.amax(dim) == -torch.inf)
    total = torch.logsumexp(terms.masked_fill(dead.unsqueeze(dim), 0.0), dim)
    return (log_mass.masked_fill(dead, 0.0) - total).masked_fill(dead, -torch.inf)


def first_columns(log_column_mass: Tensor) -> Tensor:
    """v before the first iteration: 0, and -inf for columns without mass."""
    return torch.zeros_like(log_column_mass).masked_fill(log_column_mass == -torch.inf, -torch.inf)


def row_error(problem: Problem, u: Tensor, v: Tensor) -> Tensor:
    """(B,): largest |row sum of P - row mass| over rows that carry mass, by the largest row mass."""
    sums = (problem.scores + u[:, :, None] + v[:, None, :]).exp().sum(2)
    mass = problem.log_row_mass.exp()
    error = torch.where(u == -torch.inf, 0.0, (sums - mass).abs()).amax(1)
    return error / mass.amax(1).clamp_min(torch.finfo(mass.dtype).tiny)


def sinkhorn(
    scores: Tensor,
    log_row_mass: Tensor,
    log_column_mass: Tensor,
    dustbin: Tensor | None = None,
    dustbin_sides: int = 0,
    num_rows: Tensor | None = None,
    num_columns: Tensor | None = None,
    iterations: int = 100,
    tolerance: float = 0.0,
    keep_history: bool = False,
) -> Transport:
    """The iterations on scores (B, m, n), as the operator `torch.ops.pyloc_core.sinkhorn` takes them."""
    problem = assemble(
        scores, log_row_mass, log_column_mass, dustbin, dustbin_sides, num_rows, num_columns
    )
    u = torch.zeros_like(problem.log_row_mass)
    v = first_columns(problem.log_column_mass)
    running = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    count = torch.zeros(len(scores), dtype=torch.int32, device=scores.device)
    history = []
    for _ in range(iterations):
        next_u = potential(problem.log_row_mass, problem.scores, v, 2)
        next_v = potential(problem.log_column_mass, problem.scores, next_u, 1)
        u = torch.where(running[:, None], next_u, u)
        v = torch.where(running[:, None], next_v, v)
        count = count + running
        history.append((u, v))
        if tolerance > 0:
            running = running & (row_error(problem, u.detach(), v.detach()) > tolerance)
    kept = history if keep_history else history[-1:]
    nothing = _nothing(problem.scores, u, v)
    log_p = problem.scores.masked_fill(nothing, 0.0) + _finite(u)[:, :, None] + _finite(v)[:, None]
    return Transport(
        log_p.masked_fill(nothing, -torch.inf),
        torch.stack([each[0] for each in kept]),
        torch.stack([each[1] for each in kept]),
        count,
    )


def _nothing(scores: Tensor, u: Tensor, v: Tensor) -> Tensor:
    dead = (u == -torch.inf)[:, :, None] | (v == -torch.inf)[:, None, :]
    return dead | (scores == -torch.inf)


def _finite(potential: Tensor) -> Tensor:
    return potential.masked_fill(potential == -torch.inf, 0.0)


class Gradients(NamedTuple):
    """By scores (B, m, n), log row mass (B, M), log column mass (B, N) and dustbin (B,)."""

    scores: Tensor
    log_row_mass: Tensor
    log_column_mass: Tensor
    dustbin: Tensor


def sinkhorn_backward(
    scores: Tensor,
    log_row_mass: Tensor,
    log_column_mass: Tensor,
    dustbin: Tensor | None,
    dustbin_sides: int,
    num_rows: Tensor | None,
    num_columns: Tensor | None,
    log_assignment: Tensor,
    u: Tensor,
    v: Tensor,
    num_iterations: Tensor,
    d_log_assignment: Tensor,
    implicit: bool,
) -> Gradients:
    """From the slope of log P; u and v with history unless `implicit`."""
    problem = assemble(
        scores, log_row_mass, log_column_mass, dustbin, dustbin_sides, num_rows, num_columns
    )
    u, v = u.to(scores.dtype), v.to(scores.dtype)
    slope = d_log_assignment.masked_fill(log_assignment == -torch.inf, 0.0)
    step = _implicit if implicit else _unrolled
    d_problem = step(problem, u, v, num_iterations, slope)
    m, n = scores.shape[1:]
    d_scores = d_problem.scores[:, :m, :n]
    return Gradients(
        d_scores,
        d_problem.log_row_mass,
        d_problem.log_column_mass,
        d_problem.scores.sum((1, 2)) - d_scores.sum((1, 2)),
    )


def _unrolled(problem: Problem, u: Tensor, v: Tensor, count: Tensor, slope: Tensor) -> Problem:
    """Back through the iterations. With R_ij = exp(A_ij + v_j + u_i) / a_i (v of the iteration before) and
    Q_ij = exp(A_ij + u_i + v_j) / b_j, the weights of the two sums,
        u' += u's share of slope - Q v',   v'(before) = -R^T u',   A' -= Q v' + R u'.
    """
    b = _inverse(problem.log_column_mass)
    a = _inverse(problem.log_row_mass)
    d_scores = slope
    d_row_mass, d_column_mass = (torch.zeros_like(x) for x in problem[1:])
    d_u, d_v = slope.sum(2), slope.sum(1)
    for t in reversed(range(len(u))):
        runs = (t < count)[:, None]
        before = v[t - 1] if t else first_columns(problem.log_column_mass)
        by_column = _weights(problem.scores, u[t], v[t]) * b[:, None, :]
        by_row = _weights(problem.scores, u[t], before) * a[:, :, None]
        slope_v = torch.where(runs, d_v, 0.0)
        slope_u = torch.where(runs, d_u - (by_column * slope_v[:, None, :]).sum(2), 0.0)
        d_scores = d_scores - by_column * slope_v[:, None, :] - by_row * slope_u[:, :, None]
        d_row_mass, d_column_mass = d_row_mass + slope_u, d_column_mass + slope_v
        d_v = torch.where(runs, -(by_row * slope_u[:, :, None]).sum(1), d_v)
        d_u = torch.where(runs, 0.0, d_u)
    return Problem(d_scores, d_row_mass, d_column_mass)


def _weights(scores: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return (scores + u[:, :, None] + v[:, None, :]).exp()


def _inverse(log_mass: Tensor) -> Tensor:
    return (-log_mass).exp().masked_fill(log_mass == -torch.inf, 0.0)


def _implicit(problem: Problem, u: Tensor, v: Tensor, count: Tensor, slope: Tensor) -> Problem:
    """Adjoint of the fixed point, taken at the last u and v, whose P has the row sums r and column sums b:
        (diag(r) - P diag(1/b) P^T) x = u' - P (v' / b),   y = (v' - P^T x) / b,
        A' = slope - P (x_i + y_j),   (log a)' = r x,   (log b)' = b y.
    The matrix is singular along constants of x on what P connects. As in the unrolled sum, the gradient of
    log a adds up to 0 there: a common factor of the row masses changes nothing.
    """
    plan = _weights(problem.scores, u[-1], v[-1])
    rows, columns = plan.sum(2), plan.sum(1)
    root = rows.clamp_min(0.0).sqrt()
    inverse_root = torch.where(rows > 0, 1 / root, 0.0)
    inverse_columns = torch.where(columns > 0, 1 / columns, 0.0)
    d_u, d_v = slope.sum(2), slope.sum(1)
    balanced = plan * inverse_root[:, :, None] * inverse_columns.sqrt()[:, None, :]
    matrix = torch.diag_embed((rows > 0).to(plan.dtype)) - balanced @ balanced.transpose(1, 2)
    right = d_u - (plan * (d_v * inverse_columns)[:, None, :]).sum(2)
    smallest = 1e4 * torch.finfo(plan.dtype).eps  # eigenvalues lie within 0 and 1
    inverse = torch.linalg.pinv(matrix, hermitian=True, atol=smallest, rtol=0.0)
    x = inverse @ (inverse_root * right)[:, :, None]
    x = inverse_root * x[:, :, 0]
    y = inverse_columns * (d_v - (plan * x[:, :, None]).sum(1))
    return Problem(
        slope - plan * (x[:, :, None] + y[:, None, :]),
        (rows * x).masked_fill(problem.log_row_mass == -torch.inf, 0.0),
        (columns * y).masked_fill(problem.log_column_mass == -torch.inf, 0.0),
    )
