# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sinkhorn's iteration on a GPU: two launches per iteration, no atomics, no synchronisation.

Items with a dustbin row alone and few rows (SALAD) take a shorter way: all iterations in one launch, a
program per item (sinkhorn_item.py). Which way is taken depends on nothing that padding changes, so that
`num_rows` and `num_columns` give the bits of the call without the padding.

Run in Triton's interpreter and compiled for sm_80, sm_86 and sm_90 only: never yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from pyloc_core._triton.assignment_tiles import check_scores
from pyloc_core._triton.sinkhorn_fixed_point import adjoint
from pyloc_core._triton.sinkhorn_item import fits_a_program, item_forward
from pyloc_core._triton.sinkhorn_item_gradient import item_gradient
from pyloc_core._triton.sinkhorn_pass import (
    assignment_kernel,
    column_gradient_kernel,
    column_kernel,
    column_slope_kernel,
    row_gradient_kernel,
    row_kernel,
    score_gradient_kernel,
)

_ROWS = {"BLOCK_M": 4, "BLOCK_N": 1024, "num_warps": 4}  # of a program that owns rows
_COLUMNS = {"BLOCK_M": 512, "BLOCK_N": 8, "num_warps": 4}
_TILE = {"BLOCK_M": 16, "BLOCK_N": 128, "num_warps": 4}


class _Problem:
    """The operator's arguments, contiguous, and what every launch takes of them."""

    def __init__(
        self, scores: Tensor, log_row_mass: Tensor, log_column_mass: Tensor,
        dustbin: Tensor | None, dustbin_sides: int, num_rows: Tensor | None,
        num_columns: Tensor | None,
    ) -> None:  # fmt: skip
        check_scores("sinkhorn", scores)
        self.scores = scores.contiguous()
        self.a, self.b = log_row_mass.contiguous(), log_column_mass.contiguous()
        bins = scores if dustbin is None else dustbin.contiguous()
        counts = [scores if x is None else x.contiguous() for x in (num_rows, num_columns)]
        self.given = (bins, *counts)
        self.batch, self.m, self.n = scores.shape
        self.full_m, self.full_n = log_row_mass.shape[1], log_column_mass.shape[1]
        self.sizes = (self.m, self.n, self.full_m, self.full_n)
        self.constants: dict[str, Any] = {
            "SIDES": dustbin_sides,
            "HAS_ROWS": int(num_rows is not None),
            "HAS_COLUMNS": int(num_columns is not None),
        }

    def row_grid(self) -> tuple[int, ...]:
        return (self.batch * triton.cdiv(self.full_m, _ROWS["BLOCK_M"]),)

    def column_grid(self) -> tuple[int, ...]:
        return (self.batch * triton.cdiv(self.full_n, _COLUMNS["BLOCK_N"]),)

    def tile_grid(self) -> tuple[int, ...]:
        rows = self.batch * triton.cdiv(self.full_m, _TILE["BLOCK_M"])
        return rows, triton.cdiv(self.full_n, _TILE["BLOCK_N"])

    def new(self, *shape: int) -> Tensor:
        return self.scores.new_empty(shape, dtype=torch.float32)

    def first_columns(self) -> Tensor:
        """v (B, N) before the first iteration: 0, and -inf for columns without mass."""
        nothing = self.b == -torch.inf
        return torch.zeros_like(self.b, dtype=torch.float32).masked_fill(nothing, -torch.inf)

    def counted(self) -> Tensor | None:
        return self.given[2] if self.constants["HAS_COLUMNS"] else None

    def in_one_program(self) -> bool:
        rows_padded = self.constants["HAS_ROWS"]
        return self.constants["SIDES"] == 1 and not rows_padded and fits_a_program(self.m)


def forward(
    scores: Tensor, log_row_mass: Tensor, log_column_mass: Tensor, dustbin: Tensor | None,
    dustbin_sides: int, num_rows: Tensor | None, num_columns: Tensor | None, iterations: int,
    tolerance: float, keep_history: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """log P (B, M, N), u (T, B, M), v (T, B, N), num_iterations (B,); T = 1 without history."""
    problem = _Problem(
        scores, log_row_mass, log_column_mass, dustbin, dustbin_sides, num_rows, num_columns
    )
    count = torch.full((problem.batch,), iterations, dtype=torch.int32, device=scores.device)
    out = scores.new_empty(problem.batch, problem.full_m, problem.full_n)
    slots = iterations if keep_history else 1 + (tolerance > 0)
    u = problem.new(slots, problem.batch, problem.full_m)
    v = problem.new(slots, problem.batch, problem.full_n)
    if problem.batch == 0:
        return out, u[: slots if keep_history else 1], v[: slots if keep_history else 1], count
    with torch.cuda.device_of(scores):
        if problem.in_one_program() and not tolerance > 0:
            item_forward(
                problem.scores, (problem.a, problem.b), problem.given[0], problem.counted(),
                iterations, u, v, out,
            )  # fmt: skip
            return out, u, v, count
        _iterate(problem, u, v, count, iterations, tolerance)
        if tolerance > 0:
            u, v = (_settled(x, count, iterations, keep_history) for x in (u, v))
        assignment_kernel[problem.tile_grid()](
            problem.scores, *problem.given, u[-1], v[-1], out, *problem.sizes, **problem.constants,
            **_TILE,
        )  # fmt: skip
    return out, u, v, count


def _iterate(
    problem: _Problem, u: Tensor, v: Tensor, count: Tensor, iterations: int, tolerance: float
) -> None:
    """`iterations` launches for rows and as many for columns, slot by slot."""
    slots = len(u)
    sizes = (problem.batch, *problem.sizes, iterations)
    constants = problem.constants | {"HAS_TOLERANCE": int(tolerance > 0)}
    start = problem.first_columns()
    for step in range(iterations):
        slot, last = step % slots, max(step - 1, 0) % slots
        source, before = (v, last) if step else (start, 0)
        row_kernel[problem.row_grid()](
            problem.scores, problem.a, *problem.given, u, source, count, slot, before, *sizes,
            **constants, **_ROWS,
        )  # fmt: skip
        column_kernel[problem.column_grid()](
            problem.scores, problem.a, problem.b, *problem.given, u, v, count, slot, last, step,
            float(tolerance), *sizes, **constants, **_COLUMNS,
        )  # fmt: skip


def _settled(slots: Tensor, count: Tensor, iterations: int, keep_history: bool) -> Tensor:
    """Potentials (T, B, ...) of iterations 1 to T, the last of an item from its end on; or (1, B, ...)."""
    steps = torch.arange(iterations if keep_history else 1, device=count.device)
    wanted = count.long()[None] - 1
    if keep_history:
        wanted = torch.minimum(steps[:, None], wanted)
    wanted = (wanted % len(slots))[:, :, None].expand(-1, -1, slots.shape[2])
    return slots.gather(0, wanted)


def backward(
    scores: Tensor, log_row_mass: Tensor, log_column_mass: Tensor, dustbin: Tensor | None,
    dustbin_sides: int, num_rows: Tensor | None, num_columns: Tensor | None,
    log_assignment: Tensor, u: Tensor, v: Tensor, num_iterations: Tensor, d_log_assignment: Tensor,
    implicit: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of scores (B, m, n), masses (B, M) and (B, N), and dustbin (B,)."""
    problem = _Problem(
        scores, log_row_mass, log_column_mass, dustbin, dustbin_sides, num_rows, num_columns
    )
    d_scores = torch.empty_like(problem.scores)
    if problem.batch == 0:
        d_a, d_b = torch.empty_like(log_row_mass), torch.empty_like(log_column_mass)
        return d_scores, d_a, d_b, problem.new(0)
    slope, log_p = d_log_assignment.contiguous(), log_assignment.contiguous()
    u, v = u.contiguous(), v.contiguous()
    with torch.cuda.device_of(scores):
        if implicit:
            return _at_the_fixed_point(problem, log_p, u, v, slope)
        if problem.in_one_program():
            d_u, d_v = item_gradient(
                problem.scores, (problem.a, problem.b), problem.given[0], problem.counted(), u, v,
                num_iterations, slope, d_scores,
            )  # fmt: skip
            d_a, d_b = d_u.sum(0).to(problem.a.dtype), d_v.sum(0).to(problem.b.dtype)
            return d_scores, d_a, d_b, problem.new(problem.batch).zero_()
        before = torch.cat([problem.first_columns()[None], v[:-1]])
        return _unrolled(problem, log_p, u, v, before, num_iterations, slope, d_scores)


def _unrolled(
    problem: _Problem, log_p: Tensor, u: Tensor, v: Tensor, before: Tensor, count: Tensor,
    slope: Tensor, d_scores: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Back through the iterations, the last first; slot t of d_v belongs to the v after t iterations."""
    batch, (m, n, full_m, full_n) = problem.batch, problem.sizes
    steps = len(u)
    d_u = torch.zeros_like(u)
    d_v = u.new_zeros(steps + 1, batch, full_n)
    column_slope_kernel[problem.column_grid()](
        log_p, slope, count, d_v, batch, m, full_m, full_n,
        SIDES=problem.constants["SIDES"], **_COLUMNS,
    )  # fmt: skip
    sizes = (batch, m, n, full_m, full_n)
    for step in range(steps, 0, -1):
        row_gradient_kernel[problem.row_grid()](
            problem.scores, problem.b, *problem.given, log_p, slope, u, v, count, d_u, d_v, step,
            step - 1, *sizes, **problem.constants, **_ROWS,
        )  # fmt: skip
        column_gradient_kernel[problem.column_grid()](
            problem.scores, problem.a, *problem.given, u, before, count, d_u, d_v, step, step - 1,
            *sizes, **problem.constants, **_COLUMNS,
        )  # fmt: skip
    corner = problem.new(batch).zero_()
    score_gradient_kernel[problem.tile_grid()](
        problem.scores, problem.a, problem.b, *problem.given, log_p, slope, u, v, before, count,
        d_u, d_v, d_scores, corner, *sizes, **problem.constants, **_TILE,
    )  # fmt: skip
    # A constant on a row is taken up by u at once: the slopes of a row sum to 0, the dustbin's too. On a
    # column it is taken up by v from the first iteration on, as if v had begun there: the slope is d_v[0].
    d_dustbin = d_v[0, :, n] - corner if problem.constants["SIDES"] == 3 else corner
    d_a, d_b = d_u.sum(0), d_v[1:].sum(0)
    return d_scores, d_a.to(problem.a.dtype), d_b.to(problem.b.dtype), d_dustbin


def _at_the_fixed_point(
    problem: _Problem, log_p: Tensor, u: Tensor, v: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As if the last u and v were the limit: see sinkhorn_fixed_point.py."""
    plan = problem.new(problem.batch, problem.full_m, problem.full_n)
    assignment_kernel[problem.tile_grid()](
        problem.scores, *problem.given, u[-1], v[-1], plan, *problem.sizes, **problem.constants,
        **_TILE,
    )  # fmt: skip
    slope = slope.float().masked_fill(log_p == -torch.inf, 0.0)
    # At most the column's mass, also where float32 does not tell scores apart; and the gradient is the same
    # for any factor of P, so the largest entry is 1.
    most = (problem.b.float() + 1)[:, None]
    plan = torch.where(plan > most, most, plan)
    peak = plan.amax((1, 2), keepdim=True)
    plan = (plan - peak.masked_fill(peak == -torch.inf, 0.0)).exp()
    d_full, d_a, d_b = adjoint(plan, slope)
    d_a = d_a.masked_fill(problem.a == -torch.inf, 0.0)
    d_b = d_b.masked_fill(problem.b == -torch.inf, 0.0)
    m, n = problem.m, problem.n
    d_dustbin = d_full[:, m:].sum((1, 2)) + d_full[:, :m, n:].sum((1, 2))
    d_scores = d_full[:, :m, :n].to(problem.scores.dtype).contiguous()
    return d_scores, d_a.to(problem.a.dtype), d_b.to(problem.b.dtype), d_dustbin
