# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of what SALAD keeps of a photo (thesis, Fig. 4.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _checks
from pyloc_core._extras import require
from pyloc_core.models.pixels import as_rgb

# From nothing kept to most kept: near black, violet, red, orange, pale yellow.
_COLOURS = np.array(
    [[10, 8, 30], [88, 28, 118], [196, 52, 76], [246, 140, 32], [252, 246, 170]], np.float32
)
_PHOTO_SHARE = 0.2  # of the grey photo that shines through


def draw_heat_map(
    image: Any, weights: Any, *, hottest: float | None = None
) -> npt.NDArray[np.uint8]:
    """(H, 2 W, 3) RGB uint8: the photo, and beside it the weights over the photo in grey.

    Args:
        image: (H, W, 3) RGB or (H, W), uint8, of any size.
        weights: (h, w) of `SALAD.heat_map`: cells that cover the whole image.
        hottest: weight that gets the brightest colour; None takes the largest there is. Give 1 or a
            common value to compare pictures.

    Raises ValueError for other shapes, weights that are not finite or negative, `hottest` not above 0.
    """
    photo = as_rgb(image)
    values = _arrays.as_array(weights, "weights", dtype="float32", finite=False).data
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"weights must be (h, w) and not empty, got {values.shape}")
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("weights must be finite and not negative")
    if hottest is None:
        hottest = float(values.max())
    else:
        hottest = _checks.number("hottest", hottest, positive=True)
    pillow = require("PIL.Image", "drawing a heat map")
    height, width = photo.shape[:2]
    resized = pillow.fromarray(values).resize((width, height), pillow.Resampling.BILINEAR)
    level = (np.asarray(resized) / max(hottest, np.finfo(np.float32).tiny)).clip(0, 1)
    stops = np.linspace(0, 1, len(_COLOURS))
    colour = np.stack([np.interp(level, stops, _COLOURS[:, c]) for c in range(3)], -1)
    grey = photo.astype(np.float32).mean(2, keepdims=True)
    right = (1 - _PHOTO_SHARE) * colour + _PHOTO_SHARE * grey
    return np.concatenate([photo, right.round().clip(0, 255).astype(np.uint8)], axis=1)
