# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A backbone and a head make a network for place recognition; and a small backbone to start with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pyloc_core import _checks
from pyloc_core.models.network import initialise


class PlaceNetwork(nn.Module):
    """Images (B, 3, H, W), normalised as ImageNet's, to unit descriptors (B, D).

    Args:
        backbone: images -> (patches (B, C, h, w), token (B, C)), such as `SmallBackbone` or `DINOv2`.
        head: (patches, token) -> descriptors, such as `SALADHead` or `MixerHead`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def parameters_to_train(self) -> Iterator[nn.Parameter]:
        """Those that need gradients: the head's, and of the backbone what it has not frozen."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def forward(self, images: Tensor) -> Tensor:
        patches, token = self.backbone(images)
        return self.head(patches, token)


class SmallBackbone(nn.Module):
    """A few convolutions: patches (B, C, H / 4, W / 4) and, as token, their mean (B, C).

    For tests, examples and small cameras: no published weights fit it. A patch of stride 4 is followed by
    residual 3 x 3 convolutions with normalised groups, so that a picture's result does not depend on the
    rest of its batch.

    Args:
        widths: channels of the stages, multiples of 8.
        seed: of the random weights.
    """

    stride = 4

    def __init__(self, widths: Sequence[int] = (32, 64), *, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(widths, Sequence):
            raise TypeError(f"widths must be a sequence of integers, got {widths!r}")
        widths = [_checks.integer("widths", width, 8) for width in widths]
        if not widths or any(width % 8 for width in widths):
            raise ValueError(f"widths must be multiples of 8, got {tuple(widths)}")
        self.channels = widths[-1]
        self.first = nn.Conv2d(3, widths[0], 7, stride=4, padding=3)
        self.stages = nn.Sequential(*(_Stage(a, b) for a, b in zip([widths[0], *widths], widths)))
        initialise(self, _checks.integer("seed", seed, 0))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
            raise ValueError(
                f"images must be (B, 3, H, W) and have pixels, got {tuple(images.shape)}"
            )
        patches = self.stages(F.relu(self.first(images)))
        return patches, patches.mean((2, 3))


class _Stage(nn.Module):
    """Two normalised convolutions, added to their input."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(8, width), nn.GroupNorm(8, out)])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(width, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)]
        )
        self.skip = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for norm, convolution in zip(self.norms, self.convolutions):
            y = convolution(F.relu(norm(y)))
        return self.skip(x) + y
