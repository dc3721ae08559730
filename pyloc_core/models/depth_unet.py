# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A small network from one photo to depth, to try refinement on where no published network is at hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DepthUNet(nn.Module):
    """Encoder with BatchNorm, decoder with skips: (B, 3, H, W) RGB within [0, 1] -> (B, 1, H, W) depth.

    Depth is `near (far / near)^sigmoid(x)`. Weights are random, of `seed`; about 0.4 million with the
    default channels.

    Attributes:
        encoder, decoder: what SfM-TTR changes and what it leaves alone.

    Raises ValueError for images whose sides are no multiples of `stride`.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 32, 48, 64, 80),
        *,
        near: float = 1.0,
        far: float = 100.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < near < far:
            raise ValueError(f"near and far must rise from above zero, got {near} and {far}")
        self.near, self.far, self.stride = near, far, 2 ** (len(channels) - 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = Encoder(channels)
            self.decoder = Decoder(channels)

    def forward(self, image: Tensor) -> Tensor:
        if any(side % self.stride for side in image.shape[-2:]):
            raise ValueError(f"sides must be multiples of {self.stride}, got {image.shape[-2:]}")
        share = self.decoder(self.encoder(image)).sigmoid()
        return self.near * (self.far / self.near) ** share


class Encoder(nn.Module):
    """Features of all levels, from the image's resolution down."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        widths = (3, *channels)
        self.levels = nn.ModuleList(
            nn.Sequential(_normed(a, b, 1 + (i > 0)), _normed(b, b))
            for i, (a, b) in enumerate(zip(widths, channels))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        features = [(image - 0.45) / 0.225]
        for level in self.levels:
            features.append(level(features[-1]))
        return features[1:]


class Decoder(nn.Module):
    """One value (B, 1, H, W) per pixel from the features of all levels."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        pairs = list(zip(channels[1:], channels))[::-1]
        self.levels = nn.ModuleList(nn.Conv2d(a + b, b, 3, padding=1) for a, b in pairs)
        self.head = nn.Conv2d(channels[0], 1, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for level, skip in zip(self.levels, features[-2::-1]):
            x = F.interpolate(x, skip.shape[-2:], mode="nearest")
            x = F.elu(level(torch.cat([x, skip], 1)))
        return torch.as_tensor(self.head(x))


def _normed(before: int, after: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))
