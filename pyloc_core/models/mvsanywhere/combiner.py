# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Cost volume and features of the reference image become tokens together (thesis, section 9.1.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyloc_core.models.dinov2 import DINOv2, ViTSize

# What the image encoder gives for one of its blocks: patches (B, C, h, w) and class token (B, C).
Tokens = tuple[Tensor, Tensor]


class Residual(nn.Module):
    """Two 3 x 3 convolutions without normalisation, added to their input."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 3, stride=stride, padding=1))
        elif channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.leaky_relu(self.conv1(x), 0.2))
        return F.leaky_relu(y + self.downsample(x), 0.2)


class Patchifier(nn.Module):
    """A volume (B, D, h, w), a quarter of the image a side, to tokens (B, C, h / 4, w / 4).

    Each halving is preceded by features of the image at that resolution: shallow blocks of its encoder,
    enlarged by transposed convolutions.

    Args:
        num_depths: D.
        channels: C of the transformers.
        width: of the first level (published: 128); the other sizes follow from it.
    """

    def __init__(self, num_depths: int, channels: int, width: int) -> None:
        super().__init__()
        fine, coarse = 3 * width // 4, 3 * width // 2
        self.convs = nn.ModuleDict(
            {
                "ds_conv_0": Residual(num_depths, width),
                "conv_0": nn.Sequential(Residual(width + fine, width), Residual(width, width)),
                "ds_conv_1": Residual(width, 2 * width, 2),
                "conv_1": nn.Sequential(
                    Residual(2 * width + coarse, 2 * width), Residual(2 * width, 2 * width)
                ),
                "ds_conv_2": Residual(2 * width, channels, 2),
            }
        )
        self.projects = nn.ModuleList(nn.Conv2d(channels, out, 1) for out in (fine, coarse))
        self.resize_layers = nn.ModuleList(
            nn.ConvTranspose2d(out, out, step, stride=step)
            for out, step in ((fine, 4), (coarse, 2))
        )

    def forward(self, volume: Tensor, shallow: Sequence[Tensor]) -> Tensor:
        """shallow: patches (B, C, h / 4, w / 4) of two blocks."""
        x = self.convs["ds_conv_0"](volume)
        for level, patches in enumerate(shallow):
            of_image = self.resize_layers[level](self.projects[level](patches))
            x = self.convs[f"conv_{level}"](torch.cat([x, of_image], 1))
            x = self.convs[f"ds_conv_{level + 1}"](x)
        return x


class CueCombiner(nn.Module):
    """A volume and tokens of the reference image to tokens at four depths of a transformer.

    Args:
        num_depths: D of the volume.
        backbone: size of the transformer, as of `DINOv2`.
        width: of the patchifier.
        seed: of the random weights of the transformer.
    """

    def __init__(self, num_depths: int, backbone: str | ViTSize, width: int, seed: int) -> None:
        super().__init__()
        self.model = DINOv2(backbone, seed=seed)
        for unused in (self.model.patch_embed, self.model.norm):  # in the published files
            unused.requires_grad_(False)
        self.model.mask_token.requires_grad_(False)
        channels = self.model.channels
        self.taps = taps(self.model.size.depth)
        self.cv_feat_fusers = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, channels), nn.ReLU()) for _ in self.taps
        )
        self.patch_embed = Patchifier(num_depths, channels, width)

    def forward(self, volume: Tensor, mono: Sequence[Tokens]) -> list[Tensor]:
        """Maps (B, C, h / 4, w / 4) after the blocks `taps`, without a final norm.

        mono: two blocks for the patchifier and four to add, as `mono_taps` lists them.
        """
        embedded = self.patch_embed(volume, [patches for patches, _ in mono[:2]])
        return self.transformed(embedded, mono[2:])

    def transformed(self, embedded: Tensor, mono: Sequence[Tokens]) -> list[Tensor]:
        """The transformer, for tokens (B, C, rows, columns) of the patchifier."""
        rows, columns = embedded.shape[2:]
        patches = embedded.flatten(2).transpose(1, 2)
        token = self.model.cls_token.expand(len(patches), -1, -1)
        x = torch.cat([token, patches.to(token.dtype)], 1)
        x = x + self.model.position(rows, columns).to(x.dtype)
        found: list[Tensor] = []
        for index, block in enumerate(self.model.blocks):
            if index in self.taps:
                of_image, cls = mono[len(found)]
                both = torch.cat([cls[:, None], of_image.flatten(2).transpose(1, 2)], 1)
                x = x + self.cv_feat_fusers[len(found)](both)
            x = block(x)
            if index in self.taps:
                found.append(x[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)))
        return found


def taps(depth: int) -> tuple[int, ...]:
    """Blocks of the combiner that get cues of the image and are handed to the decoder: 2, 5, 8, 11 of 12
    (the thesis says 2, 5, 9, 11)."""
    return tuple(quarter * depth // 4 - 1 for quarter in (1, 2, 3, 4))


def mono_taps(depth: int) -> tuple[int, ...]:
    """Blocks of the image encoder that are used: 0 and 2 by the patchifier, 4, 5, 8, 11 by the
    transformer, of 12."""
    _, second, third, last = taps(depth)
    return (0, taps(depth)[0], depth // 3, second, third, last)
