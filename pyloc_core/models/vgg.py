# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The VGG-16 trunk up to conv5_3, as S2DHM and S2DNet use it.

Source: Simonyan and Zisserman, "Very deep convolutional networks", ICLR 2015, configuration D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

# Output channels of the convolutions; 0 is a 2 x 2 max-pooling.
_LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)


def vgg16_trunk() -> nn.Sequential:
    """29 modules with the indices of the published checkpoints; the last one is conv5_3.

    The ReLUs are not in place, so a tensor stays what it was when it was taken out of the trunk.
    """
    modules: list[nn.Module] = []
    channels = 3
    for width in _LAYERS:
        if width == 0:
            modules.append(nn.MaxPool2d(2))
            continue
        modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*modules[:-1])


def taps(trunk: nn.Sequential, image: torch.Tensor, indices: Sequence[int]) -> list[torch.Tensor]:
    """Outputs of the modules `indices` (rising) for an image (B, 3, H, W)."""
    if min(image.shape[-2:]) < 16:
        raise ValueError(f"VGG-16 needs 16 x 16 pixels or more, got {tuple(image.shape[-2:])}")
    found = []
    values = image
    for index in range(indices[-1] + 1):
        values = trunk[index](values)
        if index in indices:
            found.append(values)
    return found
