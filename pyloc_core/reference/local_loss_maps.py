# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Loss maps in windows of a fine map, torch float64 (thesis, section 4.4.3)."""

from __future__ import annotations

import math
from typing import Any

import torch


def window_logits(
    descriptor: torch.Tensor, features: torch.Tensor, origin: Any, window: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits <h, features> (h, w) of one window, 0 outside the map, and which cells lie in it."""
    _, height, width = features.shape
    y = int(origin[1]) + torch.arange(window[0])
    x = int(origin[0]) + torch.arange(window[1])
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    cells = features[:, y.clamp(0, height - 1)][:, :, x.clamp(0, width - 1)]  # (D, h, w)
    logits = torch.einsum("d,dhw->hw", descriptor, cells)
    return torch.where(inside, logits, torch.zeros_like(logits)), inside


def local_loss_maps(
    descriptors: Any,
    features: Any,
    origins: Any,
    window: tuple[int, int],
    log_weight: Any,
    temperature: float,
    log_cardinality: float,
    epsilon: float,
    zeros_outside: bool,
) -> torch.Tensor:
    """Dense loss maps (N, h, w) in nats: min(ln|O|, -ln(C * mass * scale + epsilon)).

    descriptors (N, D); features (D, H, W); origins (N, 2) first cells (x, y) of the windows;
    log_weight (N,): ln(mass * scale). The softmax C runs over the window's cells in the map, or
    over the whole window with logit 0 outside the map (`zeros_outside`, the published program).
    """
    h, f = (torch.as_tensor(a, dtype=torch.float64) for a in (descriptors, features))
    out = torch.full((len(h), *window), log_cardinality, dtype=torch.float64)
    for n in range(len(h)):
        if not math.isfinite(float(log_weight[n])):
            continue
        logits, inside = window_logits(h[n] / temperature, f, origins[n], window)
        if not inside.any():
            continue
        takes_part = torch.ones_like(inside) if zeros_outside else inside
        logits = logits.masked_fill(~takes_part, -math.inf)
        log_p = torch.log_softmax(logits.flatten(), 0).reshape(window) + float(log_weight[n])
        if epsilon:
            log_p = torch.log(torch.exp(log_p) + epsilon)
        out[n] = torch.clamp(-log_p, max=log_cardinality)
    return out
