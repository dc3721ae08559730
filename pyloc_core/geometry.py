# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The one place that converts between image and map coordinates.

Image coordinates follow COLMAP: the centre of the top-left pixel is (0.5, 0.5). Map coordinates put
the centre of cell [row, col] at the integer point (col, row). Hence, per axis,
`x_map = x_image * W_map / W_image - 0.5`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays

Size = tuple[int, int]


def check_size(size: Any, name: str = "size") -> Size:
    """(H, W) as two positive ints."""
    try:
        height, width = (int(v) for v in size)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (height, width), got {size!r}") from None
    if height < 1 or width < 1:
        raise ValueError(f"{name} must be positive, got {(height, width)}")
    return height, width


def _scales(image_size: Size, map_size: Size) -> npt.NDArray[np.float64]:
    image_h, image_w = check_size(image_size, "image_size")
    map_h, map_w = check_size(map_size, "map_size")
    return np.array([map_w / image_w, map_h / image_h])


def map_from_image(xy: Any, image_size: Size, map_size: Size) -> Any:
    """Image pixels (..., 2) to map cells (..., 2). Sizes are (H, W). float64.

    Raises ValueError for sizes that are not positive and for arrays whose last axis is not 2.
    """
    points = _arrays.as_array(xy, "xy", finite=False)
    _check_xy(points)
    return _arrays.like(points.data * _scales(image_size, map_size) - 0.5, points)


def image_from_map(xy: Any, image_size: Size, map_size: Size) -> Any:
    """Map cells (..., 2) to image pixels (..., 2): the inverse of `map_from_image`."""
    points = _arrays.as_array(xy, "xy", finite=False)
    _check_xy(points)
    return _arrays.like((points.data + 0.5) / _scales(image_size, map_size), points)


def _check_xy(points: _arrays.ArrayIn) -> None:
    if points.data.ndim == 0 or points.shape[-1] != 2:
        raise ValueError(f"xy must have shape (..., 2), got {points.shape}")


def scale_intrinsics(K: Any, image_size: Size, map_size: Size) -> Any:
    """Intrinsics (3, 3) of image pixels to those of map cells (zero skew kept as it is)."""
    matrix = _arrays.as_array(K, "K", shape=(3, 3))
    sx, sy = _scales(image_size, map_size)
    to_map = np.array([[sx, 0.0, -0.5], [0.0, sy, -0.5], [0.0, 0.0, 1.0]])
    return _arrays.like(to_map @ matrix.data, matrix)
