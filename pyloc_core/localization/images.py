# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Reading photos and bringing them to the size that descriptors are made for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require

# ITU-R BT.601 luma, what OpenCV and Pillow use.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def read_image(path: str | Path) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, pixels as stored (EXIF orientation is not applied, like COLMAP).

    Raises ValueError naming the file when it is missing or no image.
    """
    image_module = require("PIL.Image", "reading images")
    try:
        with image_module.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise ValueError(f"no such image: {path}") from None
    except Exception as error:  # Pillow raises many types for damaged files
        raise ValueError(f"cannot read image {path}: {error}") from None


def read_gray(path: str | Path) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 luma of an image file; errors like `read_image`."""
    image_module = require("PIL.Image", "reading images")
    try:
        with image_module.open(path) as image:
            return np.asarray(image.convert("L"))
    except FileNotFoundError:
        raise ValueError(f"no such image: {path}") from None
    except Exception as error:  # Pillow raises many types for damaged files
        raise ValueError(f"cannot read image {path}: {error}") from None


def reader_for(descriptor: Any) -> Callable[[str | Path], npt.NDArray[np.uint8]]:
    """What reads photos for a descriptor: in colour where its `in_colour` is true, as luma otherwise."""
    return read_image if getattr(descriptor, "in_colour", False) else read_gray


def check_image(image: Any, name: str = "image") -> npt.NDArray[Any]:
    """(H, W) or (H, W, 3) uint8, or float with finite values; anything else raises."""
    array = np.asarray(image)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        raise ValueError(f"{name} must be (H, W) or (H, W, 3) and not empty, got {array.shape}")
    if array.dtype != np.uint8:
        if array.dtype.kind != "f":
            raise TypeError(f"{name} must be uint8 or floating point, got {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite")
    return array


def to_gray(image: Any) -> npt.NDArray[np.float32]:
    """(H, W) float32 of an image that `check_image` takes."""
    array = check_image(image)
    if array.ndim == 3:
        return np.ascontiguousarray(array.astype(np.float32) @ _LUMA)
    return np.ascontiguousarray(array, np.float32)


def to_luma(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 of an image that `check_image` takes; the array itself where it is that already."""
    if image.ndim == 2 and image.dtype == np.uint8:
        return image
    return to_gray(image).round().clip(0, 255).astype(np.uint8)


def fit_size(image: npt.NDArray[Any], max_size: int | None) -> npt.NDArray[Any]:
    """The image, shrunk so that no side exceeds `max_size` pixels."""
    longest = max(image.shape[:2])
    if max_size is None or longest <= max_size:
        return image
    cv2 = require("cv2", "resizing images")
    width, height = (
        max(1, round(s * max_size / longest)) for s in (image.shape[1], image.shape[0])
    )
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
