# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dual softmax in torch, in the dtype of its arguments (float64 in the tests); differentiable."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class DualSoftmax(NamedTuple):
    """log P (B, m, n); log-sum-exps of the rows (B, m) and columns (B, n) of S / T, -inf for empty ones."""

    log_assignment: Tensor
    row_log_sum: Tensor
    column_log_sum: Tensor


def scaled(
    scores: Tensor, num_rows: Tensor | None, num_columns: Tensor | None, temperature: float
) -> Tensor:
    """S / T (B, m, n), -inf beyond the valid sizes."""
    x = scores / temperature
    for dim, valid in ((1, num_rows), (2, num_columns)):
        if valid is not None:
            index = torch.arange(x.shape[dim], device=x.device)
            beyond = index >= valid[:, None]
            x = x.masked_fill(beyond.unsqueeze(3 - dim), -torch.inf)
    return x


def log_sum(x: Tensor, dim: int) -> Tensor:
    """LSE without a gradient where everything is -inf."""
    empty = x.amax(dim) == -torch.inf
    total = torch.logsumexp(x.masked_fill(empty.unsqueeze(dim), 0.0), dim)
    return total.masked_fill(empty, -torch.inf)


def dual_softmax(
    scores: Tensor, num_rows: Tensor | None, num_columns: Tensor | None, temperature: float
) -> DualSoftmax:
    """softmax over rows times softmax over columns, as a logarithm."""
    x = scaled(scores, num_rows, num_columns, temperature)
    rows, columns = log_sum(x, 2), log_sum(x, 1)
    gone = x == -torch.inf
    finite = [t.masked_fill(t == -torch.inf, 0.0) for t in (rows, columns)]
    log_p = 2 * x.masked_fill(gone, 0.0) - finite[0][:, :, None] - finite[1][:, None, :]
    return DualSoftmax(log_p.masked_fill(gone, -torch.inf), rows, columns)


def dual_softmax_backward(
    scores: Tensor,
    num_rows: Tensor | None,
    num_columns: Tensor | None,
    row_log_sum: Tensor,
    column_log_sum: Tensor,
    d_log_assignment: Tensor,
    temperature: float,
) -> Tensor:
    """dS = (2 G - softmax over the row sum_j G - softmax over the column sum_i G) / T."""
    x = scaled(scores, num_rows, num_columns, temperature)
    slope = d_log_assignment.masked_fill(x == -torch.inf, 0.0)
    rows, columns = (
        t.to(x.dtype).masked_fill(t == -torch.inf, 0.0) for t in (row_log_sum, column_log_sum)
    )
    by_row = (x - rows[:, :, None]).exp() * slope.sum(2, keepdim=True)
    by_column = (x - columns[:, None, :]).exp() * slope.sum(1, keepdim=True)
    return (2 * slope - by_row - by_column) / temperature
