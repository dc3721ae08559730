# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The NRE training loss in float64, from whole correlation maps; differentiable by autograd, twice."""

from __future__ import annotations

import torch
from torch import Tensor


def inside_map(targets: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 2) map points -> (...) bool: between the centres of the outermost cells. NaN is not."""
    x, y = targets.unbind(-1)
    return (x >= 0) & (x <= size[1] - 1) & (y >= 0) & (y <= size[0] - 1)


def nre_loss(
    descriptors: Tensor,
    features: Tensor,
    targets: Tensor,
    temperature: float,
    counted: Tensor,
) -> Tensor:
    """(B, N) nats: logsumexp of the correlation map minus its bilinear value at the target (Eq. 4.10).

    Args:
        descriptors: (B, N, D).
        features: (B, D, H, W).
        targets: (B, N, 2) map points (x, y), relative to the map's origin.
        counted: (B, N) bool: elsewhere loss and gradients are 0. A counted target outside the map
            gives NaN.
    """
    height, width = features.shape[2:]
    inside = inside_map(targets, (height, width)) & counted
    # Points that do not count are taken out before anything is computed from them.
    h = torch.where(inside[..., None], descriptors, 0.0)
    xy = torch.where(inside[..., None], targets, 0.0)
    maps = torch.einsum("bnd,bdhw->bnhw", h, features).flatten(2) / temperature  # (B, N, HW)
    # On the last row or column the pair of cells below it: the derivative is the one from inside.
    last = xy.new_tensor([max(width - 2, 0), max(height - 2, 0)])
    corner = torch.minimum(xy.detach().floor(), last)
    fx, fy = (xy - corner).unbind(-1)
    x0, y0 = corner.long().unbind(-1)
    value = torch.zeros_like(fx)
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = (x0 + dx).clamp(max=width - 1), (y0 + dy).clamp(max=height - 1)
            weight = (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
            cell = (row * width + column)[..., None]
            value = value + weight * maps.gather(2, cell)[..., 0]
    loss = maps.logsumexp(2) - value
    outside = torch.where(counted, torch.nan, 0.0).to(loss)
    return torch.where(inside, loss, outside)
