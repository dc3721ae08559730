# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From pixels to what networks take."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyloc_core._extras import require

# Channel means and standard deviations of ImageNet, for values in [0, 1]; RGB.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def as_rgb(image: Any) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 of an image (H, W, 3) RGB or (H, W) grey, uint8; floats in [0, 255] are rounded.

    Raises ValueError for another shape and for floats that lie in [0, 1], TypeError for another dtype.
    """
    array = np.asarray(image)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        raise ValueError(f"image must be (H, W, 3) or (H, W) and not empty, got {array.shape}")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError("image must be finite")
        if ((array > 0) & (array < 1)).any() and array.min() >= 0 and array.max() <= 1:
            raise ValueError("image holds floats in [0, 1]; those of [0, 255] are expected")
        array = array.round().clip(0, 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise TypeError(f"image must be uint8, got {array.dtype}")
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array


def normalised(image: Any) -> torch.Tensor:
    """(1, 3, H, W) float32 of an image: values / 255, less the mean, over the deviation of ImageNet."""
    rgb = np.ascontiguousarray(as_rgb(image).transpose(2, 0, 1))
    values = torch.from_numpy(rgb.copy()).float().div_(255)
    mean = torch.tensor(MEAN).view(3, 1, 1)
    return values.sub_(mean).div_(torch.tensor(STD).view(3, 1, 1))[None]


def thumbnail(image: Any, max_size: int) -> npt.NDArray[np.uint8]:
    """The image within max_size x max_size, ratio kept, never enlarged: Pillow's thumbnail, Lanczos.

    Pillow filters with 8-bit rounding between the two passes, which other resizers do not reproduce.
    """
    module = require("PIL.Image", "resizing as published")
    picture = module.fromarray(as_rgb(image))
    picture.thumbnail((max_size, max_size), module.Resampling.LANCZOS)
    return np.asarray(picture)


def squashed(image: Any, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The image at (height, width) whatever its ratio: Pillow's bilinear filter, which spans all pixels
    of a cell where it shrinks."""
    module = require("PIL.Image", "resizing as published")
    picture = module.fromarray(as_rgb(image))
    return np.asarray(picture.resize((size[1], size[0]), module.Resampling.BILINEAR))
