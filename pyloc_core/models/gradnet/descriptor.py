# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""GradNet as a descriptor of maps and localizers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from pyloc_core._extras import require
from pyloc_core.localization.features import Features, Float32
from pyloc_core.localization.images import to_gray
from pyloc_core.localization.patches import sample_patches
from pyloc_core.models.gradnet.network import (
    COARSE_STRIDE,
    FINE_STRIDE,
    PATCH,
    GradNet,
)
from pyloc_core.models.gradnet.weights import load_network

_PATCHES_AT_ONCE = 64  # their intermediate maps stay in the cache


class LearnedDescriptor:
    """The project's own small network: unit vectors at strides 8 (coarse) and 2 (fine), on the CPU.

    A `Descriptor`: pass it to `Map.build` and `Localizer`. Trained with the neural reprojection error
    by `pyloc_core.training`; data, figures and licence are in the model card beside the weights. It
    works on grey values and shares `DenseRootSIFT`'s strides.

    Args:
        weights: a file of `pyloc_core.training` (safetensors); None for the weights that come with the
            package.

    Raises ValueError for a file that is no such network. Thread-safe: calls keep no state.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        self.network = load_network(weights)
        self.network.eval().requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def of_network(cls, network: GradNet) -> LearnedDescriptor:
        """A descriptor that uses (not copies) a network, such as one in training."""
        made = cls.__new__(cls)
        made.network = network
        return made

    @cached_property
    def beta(self) -> tuple[float, float]:
        coarse, fine = self.network.beta.tolist()
        return coarse, fine

    def to_dict(self) -> dict[str, Any]:
        """Name, sizes and a digest of the weights: a map knows what it was built with."""
        return {**self.network.to_dict(), "name": "LearnedDescriptor"}

    def dense(self, image: npt.NDArray[Any]) -> tuple[Features, Features]:
        """Coarse and fine features of an image (H, W) or (H, W, 3), uint8 or float32 in [0, 255]."""
        gray = to_gray(image)
        with torch.inference_mode():
            coarse, fine = self.network.both_levels(self.network.preprocess(gray))
        return _features(coarse, gray, COARSE_STRIDE), _features(fine, gray, FINE_STRIDE)

    def dense_coarse(self, image: npt.NDArray[Any]) -> Features:
        """The first level of `dense` alone."""
        gray = to_gray(image)
        with torch.inference_mode():
            return _features(
                self.network.coarse(self.network.preprocess(gray)), gray, COARSE_STRIDE
            )

    def describe(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], scales: Sequence[float]
    ) -> tuple[Float32, Float32]:
        """(N, S, D) of both levels at points (N, 2), image pixels, for S scales."""
        at = np.asarray(xy, np.float64)
        affine = np.asarray(scales, np.float64)[:, None, None] * np.eye(2)
        fine = [
            self.describe_warped(image, at, np.broadcast_to(a, (len(at), 2, 2))) for a in affine
        ]
        return self.describe_coarse(image, xy, scales), np.stack(fine, 1)

    def describe_coarse(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], scales: Sequence[float]
    ) -> Float32:
        """The first level of `describe` alone: all that a map stores of this descriptor."""
        cv2 = require("cv2", "LearnedDescriptor")
        gray, at = to_gray(image), np.asarray(xy, np.float64)
        out = np.empty((len(at), len(scales), self.network.config()["coarse_channels"]), np.float32)
        for i, scale in enumerate(scales):
            height, width = (max(1, round(side / scale)) for side in gray.shape)
            resized = gray
            if (height, width) != gray.shape:
                how = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
                resized = cv2.resize(gray, (width, height), interpolation=how)
            scaled = at * [width / gray.shape[1], height / gray.shape[0]]
            level = self.dense_coarse(resized)
            out[:, i] = sample(level, scaled)
        return out

    def describe_warped(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], affine: npt.NDArray[Any]
    ) -> Float32:
        """(N, D) of the fine level for the warped surroundings of points (N, 2), image pixels.

        `affine` (N, 2, 2) maps an offset in the query's pixels to an offset in this image's pixels:
        the patch is described as the query would see it.
        """
        gray = to_gray(image)
        out = np.empty((len(xy), self.network.config()["fine_channels"]), np.float32)
        for start in range(0, len(xy), _PATCHES_AT_ONCE):
            part = slice(start, start + _PATCHES_AT_ONCE)
            patches = centred_patches(gray, np.asarray(xy[part]), np.asarray(affine[part]), PATCH)
            with torch.inference_mode():
                found = self.network.patches(torch.from_numpy(patches[:, None] / np.float32(255)))
            out[part] = found.numpy()
        return out


def centred_patches(
    image: Float32, xy: npt.NDArray[np.float64], affine: npt.NDArray[np.float64], side: int
) -> Float32:
    """(N, side, side) patches around points (N, 2) through affine maps, for an even side.

    The point lies between the four middle pixels. `sample_patches` has odd sides, so its centre goes
    half a pixel of the patch further and its last row and column are left out.
    """
    shifted = xy + 0.5 * affine.sum(2)
    return np.ascontiguousarray(sample_patches(image, shifted, affine, side // 2)[:, :-1, :-1])


def sample(level: Features, xy: npt.NDArray[np.float64]) -> Float32:
    """(N, D) unit descriptors at image points (N, 2), bilinear between cells, border repeated."""
    h, w = level.size
    at = level.cells(xy).astype(np.float32)
    grid = torch.from_numpy(2 * (at + np.float32(0.5)) / np.array([w, h], np.float32) - 1)
    values = torch.from_numpy(np.ascontiguousarray(level.values))[None]
    with torch.inference_mode():
        read = F.grid_sample(values, grid[None, None], padding_mode="border", align_corners=False)
        return F.normalize(read[0, :, 0].T, dim=1).numpy()


def _features(values: torch.Tensor, gray: Float32, stride: int) -> Features:
    """One image's level, less the cells that lie wholly outside the image."""
    h, w = (-(-side // stride) for side in gray.shape)
    kept = values[0, :, :h, :w].contiguous().numpy()
    return Features(kept, (h * stride, w * stride))
