# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The adjoint of Sinkhorn's fixed point by conjugate gradients, without looking at a value.

With P of row sums r and column sums c, and slopes u' = sum_j G, v' = sum_i G of G = dL / d log P:
    (diag(r) - P diag(1/c) P^T) x = u' - P (v' / c),   y = (v' - P^T x) / c,
    A' = G - P (x_i + y_j),   (log a)' = r x,   (log b)' = c y.
Scaled by 1 / sqrt(r) on both sides the matrix is I - B B^T, with eigenvalues within 0 and 1; it is singular
along sqrt(r) on what P connects, the right side is orthogonal to that, and conjugate gradients from 0 give
the solution of smallest norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 128  # at most; an item whose residual has fallen to rounding stands still from then on

_LEAST = 1e-32  # sums below count as none: their reciprocals would overflow


def adjoint(plan: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A' (B, M, N), (log a)' (B, M) and (log b)' (B, N) of P, at most 1, and G (B, M, N), float32."""
    rows, columns = plan.sum(2), plan.sum(1)
    root = rows.rsqrt().masked_fill(rows < _LEAST, 0.0)
    inverse = columns.reciprocal().masked_fill(columns < _LEAST, 0.0)
    d_u, d_v = slope.sum(2), slope.sum(1)
    right = root * (d_u - _times(plan, d_v * inverse))
    balanced = plan * root[:, :, None] * inverse.sqrt()[:, None, :]
    null = rows.sqrt().masked_fill(rows < _LEAST, 0.0)
    x = root * _least_norm(balanced, right, null)
    y = inverse * (d_v - _times(plan.transpose(1, 2), x))
    return slope - plan * (x[:, :, None] + y[:, None, :]), rows * x, columns * y


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.bmm(matrix, x[:, :, None])[:, :, 0]


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(1, keepdim=True)


def _least_norm(balanced: Tensor, right: Tensor, null: Tensor) -> Tensor:
    """x of smallest norm with (I - B B^T) x = right; rounding along the null vector is taken out."""
    null = null * _inner(null, null).clamp_min(1e-30).rsqrt()
    transposed = balanced.transpose(1, 2)
    alive = (null > 0).to(right.dtype)
    x = torch.zeros_like(right)
    residual = right - null * _inner(null, right)
    direction, size = residual, _inner(residual, residual)
    enough = size * 1e-14
    for _ in range(min(_STEPS, right.shape[1])):
        image = alive * direction - _times(balanced, _times(transposed, direction))
        bend = _inner(direction, image)
        # A direction that the matrix takes to rounding lies along a part of P of its own.
        going = (bend > 1e-6 * _inner(direction, direction)) & (size > enough)
        length = torch.where(going, size / torch.where(going, bend, 1.0), 0.0)
        x = x + length * direction
        residual = residual - length * image
        residual = residual - null * _inner(null, residual)
        before, size = size, torch.where(going, _inner(residual, residual), size)
        ratio = torch.where(going, size / torch.where(going, before, 1.0), 0.0)
        direction = torch.where(going, residual + ratio * direction, direction)
    return x - null * _inner(null, x)
