# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse-to-dense matching in float64: the whole correlation maps, then what `match` keeps of them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyloc_core.reference.correlation_maps import correlation_maps


def match(
    levels: list[tuple[Tensor, Tensor]],
    size: tuple[int, int],
    temperature: float,
    rank: int,
    subcell: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """xy (N, 2), ln C at the peak (N), ratio of the best to the rank-th (N), entropy in nats (N).

    `rank` counts from 1, the largest; 0 leaves the ratio at 1.
    """
    width = size[1]
    raw = correlation_maps(levels, size, 1.0).flatten(1)  # (N, HW); the ratio does not depend on T
    cell = raw.argmax(dim=1)  # the first of equal ones
    log_probabilities = torch.log_softmax(raw / temperature, dim=1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
    xy = torch.stack([cell % width, cell // width], dim=1).to(torch.float64)
    best = raw.gather(1, cell[:, None])[:, 0]
    other = raw.topk(rank, dim=1).values[:, -1] if rank else best
    if subcell:
        xy = xy + torch.stack([_offset(m.reshape(size), int(c)) for m, c in zip(raw, cell)])
    peak = log_probabilities.gather(1, cell[:, None])[:, 0]
    return xy, peak, _ratio(best, other), entropy


def _ratio(best: Tensor, other: Tensor) -> Tensor:
    """Eq. 3.1; infinite where the best is positive and the other is not, 1 where they are equal."""
    ratio = torch.where(best == other, torch.ones_like(best), best / other)
    return torch.where((best > 0) & (other <= 0), torch.full_like(best, torch.inf), ratio)


def _vertex(low: Tensor, middle: Tensor, high: Tensor) -> Tensor:
    curvature = low - 2 * middle + high
    if not curvature < 0:
        return torch.zeros_like(middle)
    return (0.5 * (low - high) / curvature).clamp(-0.5, 0.5)


def _offset(c: Tensor, cell: int) -> Tensor:
    """Maximum of the quadratic through the 3 x 3 correlations around the peak, relative to it.

    On the border, or where the quadratic has no maximum within one cell, each axis by itself and
    within half a cell.
    """
    height, width = c.shape
    y, x = divmod(cell, width)
    dx = dy = torch.zeros_like(c[y, x])
    inner_x, inner_y = 0 < x < width - 1, 0 < y < height - 1
    if inner_x:
        dx = _vertex(c[y, x - 1], c[y, x], c[y, x + 1])
    if inner_y:
        dy = _vertex(c[y - 1, x], c[y, x], c[y + 1, x])
    separate = torch.stack([dx, dy])
    if not (inner_x and inner_y):
        return separate
    near = c[y - 1 : y + 2, x - 1 : x + 2]
    gradient = 0.5 * torch.stack([near[1, 2] - near[1, 0], near[2, 1] - near[0, 1]])
    hxx = near[1, 0] - 2 * near[1, 1] + near[1, 2]
    hyy = near[0, 1] - 2 * near[1, 1] + near[2, 1]
    hxy = 0.25 * (near[2, 2] - near[2, 0] - near[0, 2] + near[0, 0])
    det = hxx * hyy - hxy * hxy
    if not (hxx < 0 and det > 1e-3 * hxx * hyy):
        return separate
    inverse = torch.stack([torch.stack([hyy, -hxy]), torch.stack([-hxy, hxx])]) / det
    joint = -inverse @ gradient
    return joint if bool((joint.abs() <= 1).all()) else separate
