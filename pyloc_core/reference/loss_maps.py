# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dense loss maps in float64; differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from pyloc_core.reference.correlation_maps import correlation_maps


def loss_maps(
    levels: list[tuple[Tensor, Tensor]],
    size: tuple[int, int],
    temperature: float,
    log_cardinality: float,
    epsilon: float,
) -> Tensor:
    """(N, H, W) in nats: min(ln|O|, -ln(C + epsilon)), C the softmax over all cells (Eq. 4.7)."""
    maps = correlation_maps(levels, size, temperature)
    log_c = torch.log_softmax(maps.flatten(1), dim=1).reshape(maps.shape)
    if epsilon:
        log_c = torch.log(log_c.exp() + epsilon)
    return torch.clamp(-log_c, max=log_cardinality)
