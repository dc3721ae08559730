# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From tokens to log depth and sky at four scales: the dense prediction transformer's decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

NUM_SCALES = 4


class ResidualConvUnit(nn.Module):
    """Twice ReLU and convolution, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """A coarse path and, where there is one, the map of this level; enlarged to the next level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        self.resConfUnit1 = ResidualConvUnit(channels)
        self.resConfUnit2 = ResidualConvUnit(channels)

    def forward(self, x: Tensor, of_level: Tensor | None, size: Sequence[int]) -> Tensor:
        if of_level is not None:
            x = x + self.resConfUnit1(of_level)
        x = self.resConfUnit2(x)
        return self.out_conv(F.interpolate(x, list(size), mode="bilinear", align_corners=True))


class Enlarged(nn.Module):
    """Bilinear, corners on corners, by a factor that may be below 1."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        size = [max(1, int(side * self.factor)) for side in x.shape[2:]]
        return F.interpolate(x, size, mode="bilinear", align_corners=True)


class DepthDecoder(nn.Module):
    """Four maps (B, C, h, w) of tokens, h = H / 16, to logits of log depth and of sky.

    Args:
        channels: C.
        width: of the fused maps (published: 128).

    Source: Ranftl et al., "Vision transformers for dense prediction", ICCV 2021, in the form of Yang et
    al., "Depth Anything V2", 2024; sky heads as in the published program.
    """

    def __init__(self, channels: int, width: int = 128) -> None:
        super().__init__()
        widths = [3 * width // 4 * factor for factor in (1, 2, 4, 8)]
        self.projects = nn.ModuleList(nn.Conv2d(channels, out, 1) for out in widths)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        layers: dict[str, nn.Module] = {
            f"layer{level}_rn": nn.Conv2d(of_level, width, 3, padding=1, bias=False)
            for level, of_level in enumerate(widths, 1)
        }
        layers |= {f"refinenet{level}": Fusion(width) for level in range(1, 5)}
        self.scratch = nn.ModuleDict(layers)
        # In the published files, and without effect: nothing comes before the coarsest level.
        self.scratch["refinenet4"].resConfUnit1.requires_grad_(False)
        self.output_convs = nn.ModuleList(_head(width, scale) for scale in range(NUM_SCALES))
        self.sky_convs = nn.ModuleList(_head(width, scale) for scale in range(NUM_SCALES))

    def paths(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Fused maps, finest first: 1/2, 1/4, 1/8 and 1/16 of the image a side."""
        levels = [
            self.scratch[f"layer{i + 1}_rn"](self.resize_layers[i](self.projects[i](map_)))
            for i, map_ in enumerate(tokens)
        ]
        x = self.scratch["refinenet4"](levels[3], None, levels[2].shape[2:])
        found = [x]
        for i in (2, 1):
            x = self.scratch[f"refinenet{i + 1}"](x, levels[i], levels[i - 1].shape[2:])
            found.append(x)
        size = [2 * side for side in levels[0].shape[2:]]
        found.append(self.scratch["refinenet1"](x, levels[0], size))
        return found[::-1]

    def forward(
        self, tokens: Sequence[Tensor], scales: int = NUM_SCALES, *, sky: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of depth and of sky, each (B, 1, H_s, W_s) for the finest `scales` scales: H_s is H,
        H / 4, H / 16, H / 64. Without `sky` the second list is empty."""
        paths = self.paths(tokens)[:scales]
        depth = [head(x) for head, x in zip(self.output_convs, paths)]
        return depth, [head(x) for head, x in zip(self.sky_convs, paths)] if sky else []


def _head(width: int, scale: int) -> nn.Sequential:
    """Map of the path `scale` to a logit at 1 / 4^scale of the image; indices are published names."""
    return nn.Sequential(
        nn.Conv2d(width, width // 2, 3, padding=1),
        Enlarged(2.0 / 2**scale),
        nn.Conv2d(width // 2, width // 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width // 4, 1, 1),
    )
