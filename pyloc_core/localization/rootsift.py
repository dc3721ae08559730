# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dense upright RootSIFT at a coarse and a fine stride: the default descriptor, which needs no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.geometry import map_from_image
from pyloc_core.localization.features import Features, Float32
from pyloc_core.localization.gradient_histograms import (
    SiftLevel,
    dense_histograms,
    patch_histograms,
    sampled_histograms,
)
from pyloc_core.localization.identity import plain
from pyloc_core.localization.images import to_gray
from pyloc_core.localization.patches import sample_patches

_PATCHES_AT_ONCE = 256  # bounds the memory, and keeps a block in the cache
# One set for every scene; chosen on two of the three in benchmarks/results/leave_one_out.md.
_COARSE = SiftLevel(bin=8, stride=8, sigma=1.6, orientations=8, beta=40.0)
_FINE = SiftLevel(bin=4, stride=2, sigma=1.0, orientations=8, beta=100.0)


@dataclass(frozen=True)
class DenseRootSIFT:
    """Dense upright RootSIFT: unit vectors with entries that are not negative.

    Lowe (2004) for the gradient histograms, Arandjelovic and Zisserman (2012) for the square root.
    There is neither a dominant orientation nor a scale search, so all cells of an image share their
    filtered orientation maps, and a photo takes about as long as a few dozen filters.

    Attributes:
        coarse: level matched over the whole image; bins of 8 pixels see 40 x 40 pixels.
        fine: level matched in windows; smaller bins localize better.

    Needs OpenCV (extra `localization`) when it is used.
    """

    coarse: SiftLevel = _COARSE
    fine: SiftLevel = _FINE

    @property
    def beta(self) -> tuple[float, float]:
        return self.coarse.beta, self.fine.beta

    def to_dict(self) -> dict[str, Any]:
        return {"name": "DenseRootSIFT", **asdict(self)}

    def dense(self, image: npt.NDArray[Any]) -> tuple[Features, Features]:
        """Coarse and fine features of an image (H, W) or (H, W, 3), uint8 or float32."""
        gray = to_gray(image)
        return _dense(gray, self.coarse), _dense(gray, self.fine)

    def dense_coarse(self, image: npt.NDArray[Any]) -> Features:
        """The first level of `dense` alone."""
        return _dense(to_gray(image), self.coarse)

    def describe(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], scales: Sequence[float]
    ) -> tuple[Float32, Float32]:
        """(N, S, D) of both levels at points (N, 2), image pixels, for S scales."""
        gray = to_gray(image)
        return _at_scales(gray, xy, scales, self.coarse), _at_scales(gray, xy, scales, self.fine)

    def describe_coarse(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], scales: Sequence[float]
    ) -> Float32:
        """The first level of `describe` alone: all that a map stores of this descriptor."""
        return _at_scales(to_gray(image), xy, scales, self.coarse)

    def describe_warped(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], affine: npt.NDArray[Any]
    ) -> Float32:
        """(N, D) of the fine level for the warped surroundings of points (N, 2), image pixels.

        `affine` (N, 2, 2) maps an offset in the query's pixels to an offset in this image's pixels:
        the patch is described as the query would see it.
        """
        level, gray = self.fine, to_gray(image)
        out = np.empty((len(xy), level.channels), np.float32)
        for start in range(0, len(xy), _PATCHES_AT_ONCE):
            part = slice(start, start + _PATCHES_AT_ONCE)
            half = level.reach + level.margin
            out[part] = patch_histograms(sample_patches(gray, xy[part], affine[part], half), level)
        return out


def _dense(gray: Float32, level: SiftLevel) -> Features:
    values = dense_histograms(gray, level)
    covers = (values.shape[1] * level.stride, values.shape[2] * level.stride)
    return Features(values, covers)


def _at_scales(
    gray: Float32, xy: npt.NDArray[Any], scales: Sequence[float], level: SiftLevel
) -> Float32:
    cv2 = require("cv2", "DenseRootSIFT")
    out = np.empty((len(xy), len(scales), level.channels), np.float32)
    for i, scale in enumerate(scales):
        height, width = (max(1, round(side / scale)) for side in gray.shape)
        image = gray
        if (height, width) != gray.shape:
            how = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
            image = cv2.resize(gray, (width, height), interpolation=how)
        # A pixel of the resized image is a cell of a map: its centre is an integer point.
        at = map_from_image(np.asarray(xy, np.float64), gray.shape, (height, width))
        out[:, i] = sampled_histograms(image, at, level)
    return out


def descriptor_from(descriptor: Any, built_with: Mapping[str, Any]) -> Any:
    """The descriptor for a map: the given one, checked against the map's, or the one it names.

    Raises ValueError when they differ, or when the map's descriptor cannot be made from its name.
    """
    if descriptor is not None:
        if hasattr(descriptor, "to_dict") and plain(descriptor.to_dict()) != plain(built_with):
            raise ValueError(
                f"the map was built with {dict(built_with)}, not with {descriptor.to_dict()}"
            )
        return descriptor
    if built_with.get("name") == "LearnedDescriptor":
        return _shipped_network(built_with)
    if built_with.get("name") != "DenseRootSIFT":
        raise ValueError(
            f"the map was built with {built_with.get('name')!r}: pass that descriptor as `descriptor`"
        )
    try:
        return DenseRootSIFT(SiftLevel(**built_with["coarse"]), SiftLevel(**built_with["fine"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"the map's descriptor cannot be made again: {error}") from None


def _shipped_network(built_with: Mapping[str, Any]) -> Any:
    """The learned descriptor with the package's weights, where the map was built with these."""
    require("torch", "a map of the learned descriptor")
    from pyloc_core.models.gradnet.descriptor import LearnedDescriptor

    return descriptor_from(LearnedDescriptor(), built_with)
