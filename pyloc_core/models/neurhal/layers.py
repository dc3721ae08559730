# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of NeurHal: positional encoding and the gated attention layer (thesis, appendix C.3.1)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from pyloc_core.ops.gated_attention import gated_attention

POSITION_WIDTHS = (2, 32, 64, 128, 256, 384)


def position_grid(
    size: tuple[int, int],
    origin: tuple[int, int],
    image_cells: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """(1, 2, H, W): x and y of every cell, -1 to 1 from border to border of the image, beyond it outside.

    `origin` (x0, y0) is the map point of cell [0, 0], `image_cells` (H, W) the cells of the image.
    """
    (height, width), (x0, y0), (rows, columns) = size, origin, image_cells
    x = (2 * (torch.arange(width, device=device) + (x0 + 0.5)) / columns) - 1
    y = (2 * (torch.arange(height, device=device) + (y0 + 0.5)) / rows) - 1
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return grid[None].float()


class PositionalEncoding(nn.Module):
    """1 x 1 convolutions 2-32-64-128-256-C of the cells' positions, added to the map; batch norm and ReLU
    between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (*POSITION_WIDTHS[:-1], channels)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            if i:
                layers += [nn.BatchNorm2d(before), nn.ReLU()]
            layers.append(nn.Conv2d(before, after, 1))
        self.mlp = nn.Sequential(*layers)

    def forward(
        self, features: Tensor, origin: tuple[int, int], image_cells: tuple[int, int]
    ) -> Tensor:
        """features (B, C, H, W) + the encoding of their cells."""
        size = (features.shape[2], features.shape[3])
        grid = position_grid(size, origin, image_cells, features.device)
        encoded: Tensor = self.mlp(grid.to(next(self.mlp.parameters()).dtype))
        return features + encoded.to(features.dtype)


class GatedAttentionLayer(nn.Module):
    """Tokens that look at a map: projections, gated attention, and an MLP on token and message.

    Keys and values are projected, then max-pooled 2 x 2 with stride 2 (sizes round up). The thesis gives
    the attention and the pooling. That the layer around it is that of SuperGlue (projections with bias;
    residual MLP of the concatenated token and message, with batch norm) is inferred, see `NeurHal`.
    """

    def __init__(self, channels: int, heads: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.query = nn.Linear(channels, channels)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.merge = nn.Linear(channels, channels)
        self.expand = nn.Linear(2 * channels, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.contract = nn.Linear(hidden, channels)

    def _keys(self, pooled: Tensor) -> Tensor:
        """(B, heads, M, d) of (B, C, h, w)."""
        batch, channels = pooled.shape[:2]
        return pooled.reshape(batch, self.heads, channels // self.heads, -1).transpose(2, 3)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens (B, N, C), context (B, C, H, W); (B, N, C)."""
        batch, count, channels = tokens.shape
        keys, values = (
            nn.functional.max_pool2d(part(context), 2, stride=2, ceil_mode=True)
            for part in (self.key, self.value)
        )
        queries = self.query(tokens).reshape(batch, count, self.heads, -1).transpose(1, 2)
        message = gated_attention(
            queries, self._keys(keys), self._keys(values), scale=self.scale
        )  # (B, heads, N, d)
        message = self.merge(message.transpose(1, 2).reshape(batch, count, channels))
        hidden = self.expand(torch.cat([tokens, message], -1))
        hidden = self.norm(hidden.reshape(batch * count, -1)).relu().reshape(batch, count, -1)
        return tokens + self.contract(hidden)


def map_tokens(features: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H W, C)."""
    return features.flatten(2).transpose(1, 2)


def sample(features: Tensor, xy: Tensor) -> Tensor:
    """(B, N, C) of features (B, C, H, W) at cells xy (B, N, 2), bilinear, clamped to the border.

    Positions are float32 whatever the features are: a bfloat16 has none between 64 and 64.5.
    """
    height, width = features.shape[2:]
    size = torch.tensor([width, height], dtype=torch.float32, device=xy.device)
    grid = (2 * xy.float() + 1) / size - 1
    read = nn.functional.grid_sample(
        features.float(),
        grid[:, :, None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return read[..., 0].transpose(1, 2).to(features.dtype)
