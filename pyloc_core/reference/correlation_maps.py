# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dense correlation and correspondence maps in torch; differentiable."""

from __future__ import annotations

import torch
from torch import Tensor


def correlation_maps(
    levels: list[tuple[Tensor, Tensor]], size: tuple[int, int], temperature: float
) -> Tensor:
    """(N, H, W): sum over levels of <h_n, F(p)> / T, each map resized bilinearly to `size` (Eq. 3.3)."""
    total: Tensor | None = None
    for descriptors, features in levels:  # (N, D), (D, h, w)
        maps = torch.einsum("nd,dhw->nhw", descriptors, features) / temperature
        if maps.shape[1:] != torch.Size(size):
            maps = torch.nn.functional.interpolate(
                maps[None], size=size, mode="bilinear", align_corners=False
            )[0]
        total = maps if total is None else total + maps
    assert total is not None
    return total


def correspondence_maps(
    levels: list[tuple[Tensor, Tensor]], size: tuple[int, int], temperature: float
) -> Tensor:
    """(N, H, W): softmax over all cells of the correlation maps (Eq. 3.2)."""
    maps = correlation_maps(levels, size, temperature)
    return torch.softmax(maps.flatten(1), dim=1).reshape(maps.shape)
