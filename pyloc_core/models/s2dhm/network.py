# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The network of S2DHM: one VGG-16 for the retrieval descriptor and for the hypercolumns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from pyloc_core.localization.features import Features, Float32
from pyloc_core.models.interpolate import at_scales
from pyloc_core.models.network import Licence, Network, as_numpy, initialise
from pyloc_core.models.pixels import as_rgb, normalised, thumbnail
from pyloc_core.models.vgg import taps, vgg16_trunk
from pyloc_core.ops.netvlad_aggregate import netvlad_aggregate

# The published list is 14, 17, 21, 24, 28, and it names the layers whose *input* is kept: relu3_2, pool3,
# relu4_2, pool4, relu5_2. (The thesis names conv3_3, conv4_1, conv4_3, conv5_1, conv5_3.)
TAPS = (13, 16, 20, 23, 27)
CHANNELS = 2048
CLUSTERS, DEPTH = 64, 512


class NetVLAD(nn.Module):
    """NetVLAD pooling (Arandjelovic et al., CVPR 2016) of (B, 512, h, w) to (B, 32768)."""

    def __init__(self) -> None:
        super().__init__()
        self.centroids = nn.Parameter(torch.empty(CLUSTERS, DEPTH))
        self.conv = nn.Conv2d(DEPTH, CLUSTERS, 1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        unit = F.normalize(features, dim=1)
        return netvlad_aggregate(unit.flatten(2), self.conv(unit).flatten(2), self.centroids)


class S2DHM(Network):
    """Global descriptor and hypercolumns of S2DHM; a `Descriptor` with one level.

    Args:
        max_size: longer sides are shrunk to this many pixels (published: 512).
        beta: sharpness of the softmax over cosine similarities, for the `Localizer`. The published
            program has no softmax: it takes the argmax and a ratio test (`S2DHMLocalizer`).
        align_corners: how the taps are brought to one size. True is published; False keeps the centres
            of the cells of all taps in place.
        seed: of the random weights.

    Source: Germain, Bourmaud, Lepetit, "Sparse-to-dense hypercolumn matching for long-term visual
    localization", 3DV 2019.
    """

    model_name = "s2dhm"
    licence = Licence(
        code="none stated",
        weights="none stated; trained on RobotCar and CMU, whose terms are non-commercial",
        note="all rights reserved by default: not redistributable, ask the authors",
    )

    def __init__(
        self, *, max_size: int = 512, beta: float = 40.0, align_corners: bool = True, seed: int = 0
    ) -> None:
        super().__init__()
        if not isinstance(max_size, int) or max_size < 16:
            raise ValueError(f"max_size must be an int of 16 or more, got {max_size!r}")
        if not (np.isfinite(beta) and beta > 0):
            raise ValueError(f"beta must be positive and finite, got {beta!r}")
        self.max_size, self.align_corners = max_size, bool(align_corners)
        self.beta = (float(beta),)
        self.encoder = vgg16_trunk()
        self.pool = NetVLAD()
        initialise(self, seed)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(int(seed) + 1)
            self.pool.centroids.normal_(0.0, DEPTH**-0.5, generator=generator)

    def config(self) -> dict[str, Any]:
        return {
            "max_size": self.max_size,
            "beta": self.beta[0],
            "align_corners": self.align_corners,
        }

    def preprocess(self, image: Any) -> torch.Tensor:
        """(1, 3, h, w) of an image (H, W, 3) RGB or (H, W), uint8: shrunk to `max_size` as Pillow's
        thumbnail does (Lanczos, ratio kept, never enlarged), then ImageNet mean and deviation."""
        return normalised(thumbnail(image, self.max_size)).to(self.device)

    def netvlad(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 32768) unit descriptors of preprocessed images (B, 3, h, w)."""
        return self.pool(self.encoder(images))

    def hypercolumn(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 2048, h / 4, w / 4) unit vectors of preprocessed images (B, 3, h, w); where all taps are
        zero the vector is zero (the published program divides zero by zero there)."""
        levels = taps(self.encoder, images, TAPS)
        size = levels[0].shape[-2:]
        resized = [
            F.interpolate(level, size, mode="bilinear", align_corners=self.align_corners)
            for level in levels
        ]
        values = torch.cat(resized, dim=1)
        norm = values.norm(dim=1, keepdim=True)
        return values / norm.clamp_min(torch.finfo(values.dtype).tiny)

    forward = hypercolumn

    @torch.inference_mode()
    def global_descriptor(self, image: Any) -> Float32:
        """(32768,) unit vector of an image (H, W, 3) RGB or (H, W), uint8."""
        return as_numpy(self.netvlad(self.preprocess(image))[0])

    @torch.inference_mode()
    def dense(self, image: npt.NDArray[Any]) -> tuple[Features]:
        """One level: the hypercolumns of an image (H, W, 3) RGB or (H, W), uint8."""
        pixels = self.preprocess(image)
        values = as_numpy(self.hypercolumn(pixels)[0])
        # A cell is 4 x 4 pixels of the resized image; the last rows and columns of it have none.
        covers = [
            round(4 * cells * side / resized)
            for cells, side, resized in zip(
                values.shape[1:], np.shape(image)[:2], pixels.shape[-2:]
            )
        ]
        return (Features(values, (covers[0], covers[1])),)

    def describe(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], scales: Sequence[float]
    ) -> tuple[Float32]:
        """((N, S, 2048),): hypercolumns at points (N, 2), image pixels, interpolated, for S scales."""
        return (at_scales(self.dense, as_rgb(image), xy, scales)[0],)
