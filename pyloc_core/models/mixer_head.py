# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A head that mixes all positions of a feature map, after MixVPR (Ali-bey et al., WACV 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyloc_core.models.network import initialise


class MixerHead(nn.Module):
    """Patches (B, C, h, w) of one fixed grid to unit descriptors (B, channels_out * rows_out).

    Each channel of the map is one row of n = h w values. `depth` blocks, which all channels share, add to
    every row a two-layer perceptron of itself, so that each position sees all others. A projection over
    channels and one over positions then shrink C x n to channels_out x rows_out, which is flattened,
    channels first, and normalised.

    Args:
        channels: C of the backbone.
        grid: (h, w); the head is bound to it, so images must have one size.
        channels_out, rows_out: of the two projections (published: 1024 and 4, for 4096 values).
        depth: blocks (published: 4).
        ratio: width of the hidden layer in n (published: 1).
        seed: of the random weights.

    Source: Ali-bey, Chaib-draa, Giguere, "MixVPR: feature mixing for visual place recognition", WACV 2023,
    section 3. Written from the paper; published weights are not read.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        *,
        channels_out: int = 1024,
        rows_out: int = 4,
        depth: int = 4,
        ratio: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("channels", channels), ("grid[0]", grid[0]), ("grid[1]", grid[1]),
            ("channels_out", channels_out), ("rows_out", rows_out), ("depth", depth),
        ):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of 1 or more, got {value!r}")
        if not ratio > 0:
            raise ValueError(f"ratio must be positive, got {ratio!r}")
        self.channels, self.grid = channels, (grid[0], grid[1])
        self.channels_out, self.rows_out = channels_out, rows_out
        n = grid[0] * grid[1]
        self.blocks = nn.Sequential(*(_Mixer(n, max(1, round(n * ratio))) for _ in range(depth)))
        self.project_channels = nn.Linear(channels, channels_out)
        self.project_rows = nn.Linear(n, rows_out)
        initialise(self, seed)

    @property
    def descriptor_size(self) -> int:
        return self.channels_out * self.rows_out

    def forward(self, patches: Tensor, token: Tensor | None = None) -> Tensor:
        """Unit descriptors; a token for the whole image, which some backbones give, is not used.

        Raises ValueError for a map with other channels or on another grid.
        """
        expected = (self.channels, *self.grid)
        if patches.dim() != 4 or tuple(patches.shape[1:]) != expected:
            raise ValueError(
                f"patches must be (B, {', '.join(map(str, expected))}): the head is bound to one "
                f"size of image, got {tuple(patches.shape)}"
            )
        rows = self.blocks(patches.flatten(2))  # (B, C, n)
        rows = self.project_channels(rows.transpose(1, 2)).transpose(1, 2)  # (B, channels_out, n)
        with torch.autocast(
            patches.device.type, enabled=False
        ):  # what is normalised: in full precision
            full = rows.to(self.project_rows.weight.dtype)
            return F.normalize(self.project_rows(full).flatten(1), dim=1)


class _Mixer(nn.Module):
    """X + W2 relu(W1 norm(X)) over the positions of each channel."""

    def __init__(self, positions: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(positions)
        self.widen = nn.Linear(positions, hidden)
        self.narrow = nn.Linear(hidden, positions)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.narrow(F.relu(self.widen(self.norm(rows))))
