# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The features that are matched between views: stem and first stage of an antialiased ResNet-18."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4  # image pixels a cell


class BlurPool(nn.Module):
    """Binomial low-pass [1, 3, 3, 1] per axis, then every second value; mirrored at the border.

    Source: Zhang, "Making convolutional networks shift-invariant again", ICML 2019.
    """

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = (row[:, None] * row / 64).expand(channels, 1, 4, 4).clone()
        self.register_buffer("filt", kernel, persistent=False)  # a constant: never read from a file

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 2, 1, 2), mode="reflect")
        return F.conv2d(x, self.filt, stride=2, groups=x.shape[1])


class LargestOfFour(nn.Module):
    """The largest value of every 2 x 2 cells, step 1: the max-pooling of the published network, in a
    quarter of the time that torch takes for overlapping windows on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.maximum(x[:, :, :-1], x[:, :, 1:])
        return torch.maximum(rows[..., :-1], rows[..., 1:])


class BasicBlock(nn.Module):
    """Two normalised 3 x 3 convolutions, added to their input (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(x + y)


class MatchingEncoder(nn.Module):
    """Images (N, 3, H, W) to features (N, channels, H / 4, W / 4), of mean 0 and variance 1 per channel.

    The last layer normalises over the image, so that the features of an image depend on all of it, but
    not on the rest of the batch (in evaluation mode).

    Args:
        channels: of the result (published: 16).
        width: of the ResNet (published: 64).
    """

    def __init__(self, channels: int = 16, width: int = 64) -> None:
        super().__init__()
        pool = nn.Sequential(LargestOfFour(), BlurPool(width))
        # The indices are those of the published names.
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            pool,
            nn.Sequential(BasicBlock(width), BasicBlock(width)),
            nn.Conv2d(width, 2 * width, 1),
            nn.InstanceNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, channels, 3, padding=1, padding_mode="replicate"),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)
