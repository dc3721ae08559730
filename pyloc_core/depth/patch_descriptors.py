# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors without weights whose dot product is the normalised cross-correlation of two patches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require

Float32 = npt.NDArray[np.float32]

# Standard deviation of the noise of an 8-bit photo, on the scale 0 .. 1: below it a patch has no contrast
# to speak of, and its descriptor shrinks towards zero, similar to nothing.
NOISE = 0.005


def patch_descriptors(grey: Float32, radius: int = 2, noise: float = NOISE) -> Float32:
    """(C, H, W) float32, C = (2 radius + 1)^2, of a picture (H, W) on the scale 0 .. 1.

    Every cell holds its patch less the mean, divided by its norm, so that the dot product of two cells is
    the zero-mean normalised cross-correlation (ZNCC) of their patches, in [-1, 1]. Pixels of the patch
    weigh as a Gaussian of standard deviation (radius + 1) / 2 around its centre. The border is repeated.

    Raises ValueError for a picture of another form, or a radius below 1.
    """
    if grey.ndim != 2 or 0 in grey.shape:
        raise ValueError(f"grey must be (H, W) and not empty, got shape {grey.shape}")
    if radius < 1:
        raise ValueError(f"radius must be at least 1, got {radius}")
    cv2 = require("cv2", "describing patches")
    height, width = grey.shape
    offsets = np.arange(-radius, radius + 1)
    row = np.exp(-(offsets**2) / (2 * ((radius + 1) / 2) ** 2))
    weights = np.outer(row, row).ravel()
    weights = (weights / weights.sum()).astype(np.float32)
    padded = cv2.copyMakeBorder(
        grey.astype(np.float32, copy=False), radius, radius, radius, radius, cv2.BORDER_REPLICATE
    )
    patches = np.empty((len(weights), height, width), np.float32)
    for k in range(len(weights)):
        y, x = divmod(k, len(offsets))
        patches[k] = padded[y : y + height, x : x + width]
    mean = np.tensordot(weights, patches, 1)
    square = np.full((height, width), np.float32(noise**2))
    for patch, weight in zip(patches, weights):
        patch -= mean
        patch *= np.sqrt(weight)
        square += patch * patch
    patches /= np.sqrt(square)
    return patches


def grey_picture(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> Float32:
    """Luma (H, W) on the scale 0 .. 1 of an RGB image, shrunk to `size`."""
    cv2 = require("cv2", "resizing images")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    if grey.shape == size:
        return np.asarray(grey)
    return np.asarray(cv2.resize(grey, (size[1], size[0]), interpolation=cv2.INTER_AREA))
