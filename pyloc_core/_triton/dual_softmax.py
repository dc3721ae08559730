# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""Dual softmax on a GPU: log P_ij = 2 S_ij / T - LSE_j(S / T) - LSE_i(S / T), in three launches.

`line_kernel` owns a block of rows (or columns) and streams over the others, for the log-sum-exps and for the
sums of the slope; `assignment_kernel` and `gradient_kernel` own tiles. Nothing is added atomically.

Run in Triton's interpreter and compiled for sm_80, sm_86 and sm_90 only: never yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.assignment_tiles import (
    check_scores,
    count_of,
    exp,
    finite_or_zero,
    join,
    score_tile,
)  # fmt: skip

_ROWS = {"BLOCK_M": 4, "BLOCK_N": 1024, "num_warps": 4}  # of a program that owns rows
_COLUMNS = {"BLOCK_M": 512, "BLOCK_N": 8, "num_warps": 4}
_TILE = {"BLOCK_M": 16, "BLOCK_N": 128, "num_warps": 4}


@triton.jit
def _tile(
    scores, row, column, item, m, n, scale, num_rows, num_columns, HAS_ROWS: tl.constexpr,
    HAS_COLUMNS: tl.constexpr,
):  # fmt: skip
    """S / T of an item in float32; -inf outside."""
    rows = count_of(num_rows, item, m, HAS_ROWS)
    columns = count_of(num_columns, item, n, HAS_COLUMNS)
    s = score_tile(scores + item * m * n, 0.0, row, column, m, n, rows, columns, 0)
    return tl.where(s == float("-inf"), s, s * scale)


@triton.jit
def _slope(d_out, s, row, column, item, m, n):
    inside = (row < m)[:, None] & (column < n)[None, :]
    place = d_out + item * m * n + row[:, None] * n + column[None, :]
    g = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    return tl.where(s == float("-inf"), 0.0, g)


@triton.jit
def line_kernel(
    scores, d_out, num_rows, num_columns, log_sums, slopes, m, n, scale,
    HAS_ROWS: tl.constexpr, HAS_COLUMNS: tl.constexpr, ROWS: tl.constexpr, SLOPES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """LSE of S / T over a row (ROWS) or a column, -inf for empty ones; SLOPES: sums of d_out instead."""
    LINES: tl.constexpr = BLOCK_M if ROWS else BLOCK_N
    STEP: tl.constexpr = BLOCK_N if ROWS else BLOCK_M
    AXIS: tl.constexpr = 1 if ROWS else 0
    lines, length = m, n
    if ROWS == 0:
        lines, length = n, m
    blocks = tl.cdiv(lines, LINES)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    line = (tl.program_id(0) % blocks) * LINES + tl.arange(0, LINES)
    peak = tl.full([LINES], float("-inf"), tl.float32)
    total = tl.zeros([LINES], tl.float32)
    for first in range(0, length, STEP):
        across = first + tl.arange(0, STEP)
        if ROWS:
            row, column = line, across
        else:
            row, column = across, line
        s = _tile(
            scores, row, column, item, m, n, scale, num_rows, num_columns, HAS_ROWS, HAS_COLUMNS
        )
        if SLOPES:
            total += tl.sum(_slope(d_out, s, row, column, item, m, n), AXIS)
        else:
            peak, total = join(peak, total, s, AXIS)
    place = item * lines + line
    if SLOPES:
        tl.store(slopes + place, total, mask=line < lines)
    else:
        found = finite_or_zero(peak) + tl.log(tl.where(total == 0.0, 1.0, total))
        found = tl.where(total == 0.0, float("-inf"), found)
        tl.store(log_sums + place, found, mask=line < lines)


@triton.jit
def _line(values, item, line, lines):
    return finite_or_zero(tl.load(values + item * lines + line, mask=line < lines, other=0.0))


@triton.jit
def assignment_kernel(
    scores, num_rows, num_columns, row_log_sum, column_log_sum, out, m, n, scale,
    HAS_ROWS: tl.constexpr, HAS_COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(m, BLOCK_M)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    s = _tile(scores, row, column, item, m, n, scale, num_rows, num_columns, HAS_ROWS, HAS_COLUMNS)
    value = (s - _line(row_log_sum, item, row, m)[:, None]) + (
        s - _line(column_log_sum, item, column, n)[None, :]
    )
    inside = (row < m)[:, None] & (column < n)[None, :]
    place = out + item * m * n + row[:, None] * n + column[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gradient_kernel(
    scores, d_out, num_rows, num_columns, row_log_sum, column_log_sum, row_slope, column_slope,
    d_scores, m, n, scale, HAS_ROWS: tl.constexpr, HAS_COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dS = (2 G - softmax over the row sum_j G - softmax over the column sum_i G) / T."""
    blocks = tl.cdiv(m, BLOCK_M)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    s = _tile(scores, row, column, item, m, n, scale, num_rows, num_columns, HAS_ROWS, HAS_COLUMNS)
    g = _slope(d_out, s, row, column, item, m, n)
    inside = (row < m)[:, None] & (column < n)[None, :]
    by_row = tl.load(row_slope + item * m + row, mask=row < m, other=0.0)
    by_column = tl.load(column_slope + item * n + column, mask=column < n, other=0.0)
    value = 2.0 * g
    value -= exp(s - _line(row_log_sum, item, row, m)[:, None]) * by_row[:, None]
    value -= exp(s - _line(column_log_sum, item, column, n)[None, :]) * by_column[None, :]
    place = d_scores + item * m * n + row[:, None] * n + column[None, :]
    tl.store(place, (value * scale).to(d_scores.dtype.element_ty), mask=inside)


# ---------------------------------------------------------------------------------------------- launchers


class _Problem:
    """Contiguous arguments, and what every launch takes of them."""

    def __init__(
        self,
        scores: Tensor,
        num_rows: Tensor | None,
        num_columns: Tensor | None,
        temperature: float,
    ) -> None:
        check_scores("dual_softmax", scores)
        self.scores = scores.contiguous()
        self.counts = [
            self.scores if x is None else x.contiguous() for x in (num_rows, num_columns)
        ]
        self.batch, m, n = scores.shape
        self.sizes = (m, n, 1.0 / temperature)
        self.constants: dict[str, Any] = {
            "HAS_ROWS": int(num_rows is not None),
            "HAS_COLUMNS": int(num_columns is not None),
        }
        self.tiles = (
            self.batch * triton.cdiv(m, _TILE["BLOCK_M"]), triton.cdiv(n, _TILE["BLOCK_N"]),
        )  # fmt: skip

    def lines(self, d_out: Tensor | None) -> tuple[Tensor, Tensor]:
        """Per row (B, m) and per column (B, n): log-sum-exps, or sums of d_out."""
        found = []
        for rows in (True, False):
            options = _ROWS if rows else _COLUMNS
            count = self.sizes[0] if rows else self.sizes[1]
            result = self.scores.new_empty(self.batch, count, dtype=torch.float32)
            block = options["BLOCK_M"] if rows else options["BLOCK_N"]
            line_kernel[(self.batch * triton.cdiv(int(count), block),)](
                self.scores, result if d_out is None else d_out, *self.counts, result, result,
                *self.sizes, ROWS=int(rows), SLOPES=int(d_out is not None), **self.constants,
                **options,
            )  # fmt: skip
            found.append(result)
        return found[0], found[1]


def forward(
    scores: Tensor, num_rows: Tensor | None, num_columns: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """log P (B, m, n) in the scores' dtype; LSEs of rows (B, m) and columns (B, n), float32."""
    problem = _Problem(scores, num_rows, num_columns, temperature)
    out = torch.empty_like(problem.scores)
    if problem.batch == 0:
        floats = torch.float32
        b, m, n = scores.shape
        return out, scores.new_empty(b, m, dtype=floats), scores.new_empty(b, n, dtype=floats)
    with torch.cuda.device_of(scores):
        log_sums = problem.lines(None)
        assignment_kernel[problem.tiles](
            problem.scores, *problem.counts, *log_sums, out, *problem.sizes, **problem.constants,
            **_TILE,
        )  # fmt: skip
    return out, *log_sums


def backward(
    scores: Tensor, num_rows: Tensor | None, num_columns: Tensor | None, row_log_sum: Tensor,
    column_log_sum: Tensor, d_out: Tensor, temperature: float,
) -> Tensor:  # fmt: skip
    """Gradient of the scores (B, m, n), in their dtype."""
    problem = _Problem(scores, num_rows, num_columns, temperature)
    d_scores = torch.empty_like(problem.scores)
    if problem.batch == 0:
        return d_scores
    d_out = d_out.contiguous()
    with torch.cuda.device_of(scores):
        slopes = problem.lines(d_out)
        gradient_kernel[problem.tiles](
            problem.scores, d_out, *problem.counts, row_log_sum.contiguous(),
            column_log_sum.contiguous(), *slopes, d_scores, *problem.sizes, **problem.constants,
            **_TILE,
        )  # fmt: skip
    return d_scores
