# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The network of S2DNet: VGG-16 with an adaptation layer at three depths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from pyloc_core.geometry import map_from_image
from pyloc_core.localization.features import Features, Float32
from pyloc_core.models.checkpoint import Checkpoint
from pyloc_core.models.interpolate import at_scales, sample_bilinear
from pyloc_core.models.network import Licence, Network, as_numpy, initialise
from pyloc_core.models.pixels import as_rgb
from pyloc_core.models.vgg import taps, vgg16_trunk

LAYERS = ("conv1_2", "conv3_3", "conv5_3")
# The published program records the outputs of these convolutions, but the ReLU that follows works in
# place and changes what was recorded. So the first two levels come from relu1_2 and relu3_3; conv5_3 is
# the last module and keeps its sign. (The thesis says "after the ReLU" for all three.)
TAPS, TAP_CHANNELS = (3, 15, 28), (64, 256, 512)
STRIDES = (1, 4, 16)
DEPTH = 128


def _adaptation(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 64, 1), nn.ReLU(), nn.Conv2d(64, DEPTH, 5, padding=2),
        nn.BatchNorm2d(DEPTH),
    )  # fmt: skip


class S2DNet(Network):
    """Three maps of 128 channels at strides 1, 4 and 16; a `Descriptor` with two levels.

    The correlation of a point is the sum over the maps of raw dot products (no normalisation), each
    resized to the image. Resizing is linear, so the dot product with resized features is the same; the
    `Localizer`'s coarse level is `coarse_levels` at the stride of their first, the fine one
    `fine_levels`. `match(model.sparse(image, xy), model.levels(image))` takes all three at once.

    Args:
        coarse_levels, fine_levels: indices of the maps (0, 1, 2) behind the two levels of `dense`.
        seed: of the random weights.

    Source: Germain, Bourmaud, Lepetit, "S2DNet: learning image features for accurate sparse-to-dense
    matching", ECCV 2020.
    """

    model_name = "s2dnet"
    licence = Licence(
        code="MIT", weights="none stated; trained on MegaDepth",
        note="code is free to use; ask the authors before you redistribute the weights",
    )  # fmt: skip

    def __init__(
        self,
        *,
        coarse_levels: Sequence[int] = (1, 2),
        fine_levels: Sequence[int] = (0,),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.coarse_levels = _level_indices(coarse_levels, "coarse_levels")
        self.fine_levels = _level_indices(fine_levels, "fine_levels")
        self.beta = (1.0, 1.0)  # trained with a softmax over raw dot products
        self.encoder = vgg16_trunk()
        self.adaptation_layers = nn.ModuleDict(
            {f"adap_layer_{i}": _adaptation(c) for i, c in enumerate(TAP_CHANNELS)}
        )
        initialise(self, seed)

    def config(self) -> dict[str, Any]:
        return {"coarse_levels": list(self.coarse_levels), "fine_levels": list(self.fine_levels)}

    def adapt(self, checkpoint: Checkpoint) -> None:
        """ValueError for weights of other taps than the published ones."""
        layers = checkpoint.extra.get("hypercolumn_layers", LAYERS)
        if tuple(layers) != LAYERS:
            raise ValueError(
                f"{checkpoint.source} taps {', '.join(map(str, layers))}; known: {', '.join(LAYERS)}"
            )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Three maps (B, 128, H // s, W // s), s = 1, 4, 16, of preprocessed images (B, 3, H, W)."""
        levels = taps(self.encoder, images, TAPS)
        return [layer(level) for layer, level in zip(self.adaptation_layers.values(), levels)]

    @torch.inference_mode()
    def levels(self, image: Any) -> list[torch.Tensor]:
        """Three maps (128, h, w) of an image (H, W, 3) RGB or (H, W), uint8: what `match` takes."""
        return [level[0] for level in self(self.preprocess(image))]

    @torch.inference_mode()
    def sparse(self, image: Any, xy: Any) -> list[torch.Tensor]:
        """Per map (N, 128) descriptors at points (N, 2), pixels of the image, interpolated."""
        return self.read(self.levels(image), xy, np.shape(image)[:2])

    @staticmethod
    def read(
        levels: Sequence[torch.Tensor], xy: Any, image_size: tuple[int, int]
    ) -> list[torch.Tensor]:
        """Per map (N, D) of maps (D, h, w) over an image (H, W), at points (N, 2), pixels of the image.

        A map covers the image, as `match` assumes when it resizes the correlation.
        """
        points = np.asarray(xy, np.float64).reshape(-1, 2)
        return [
            sample_bilinear(level, torch.from_numpy(at).to(level.device))
            for level in levels
            for at in [map_from_image(points, image_size, (level.shape[1], level.shape[2]))]
        ]

    @torch.inference_mode()
    def sparse_descriptor(self, image: Any, xy: Any) -> Float32:
        """(N, 384) descriptors for matching points with points: those of the three maps, one after
        the other, at points (N, 2), pixels of an image (H, W, 3) RGB or (H, W), uint8."""
        return as_numpy(torch.cat(self.sparse(image, xy), dim=1))

    @torch.inference_mode()
    def dense(self, image: npt.NDArray[Any]) -> tuple[Features, Features]:
        """Coarse and fine features of an image (H, W, 3) RGB or (H, W), uint8.

        The border is continued to a multiple of 16 pixels, so that the cells of all maps line up.
        """
        rgb = as_rgb(image)
        height, width = ((side + 15) // 16 * 16 for side in rgb.shape[:2])
        bottom, right = height - rgb.shape[0], width - rgb.shape[1]
        padded = np.pad(rgb, ((0, bottom), (0, right), (0, 0)), mode="edge")
        maps = self(self.preprocess(padded))
        return (
            _stacked(maps, self.coarse_levels, (height, width)),
            _stacked(maps, self.fine_levels, (height, width)),
        )

    def describe(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], scales: Sequence[float]
    ) -> tuple[Float32, Float32]:
        """(N, S, D) of both levels at points (N, 2), image pixels, for S scales."""
        coarse, fine = at_scales(self.dense, as_rgb(image), xy, scales)
        return coarse, fine


def _stacked(
    maps: Sequence[torch.Tensor], indices: Sequence[int], covers: tuple[int, int]
) -> Features:
    """The maps `indices` at the size of the first of them, channels one after the other."""
    size = maps[indices[0]].shape[-2:]
    parts = [
        each if each.shape[-2:] == size else F.interpolate(each, size, mode="bilinear")
        for each in (maps[index] for index in indices)
    ]
    return Features(as_numpy(torch.cat(parts, dim=1)[0]), covers)


def _level_indices(indices: Any, name: str) -> tuple[int, ...]:
    chosen = tuple(indices)
    if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= {0, 1, 2}:
        raise ValueError(f"{name} must be one or more of 0, 1 and 2, got {indices!r}")
    return chosen
