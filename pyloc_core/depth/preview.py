# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of depth maps: colours by inverse depth, a bar that says which is which."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require

# Depths outside these quantiles take the colour of the end.
_ENDS = (0.01, 0.99)
_BAR, _TEXT = 18, 64  # widths in pixels: of the bar, of the text beside it
_TICKS = 6


def depth_limits(depth: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Nearest and farthest depth that get colours of their own; (1, 2) for a map without any."""
    known = depth[np.isfinite(depth) & (depth > 0)]
    if not known.size:
        return 1.0, 2.0
    near, far = np.quantile(known, _ENDS)
    return float(near), float(max(far, near * 1.001))


def depth_colours(
    depth: npt.NDArray[np.floating], limits: tuple[float, float] | None = None
) -> npt.NDArray[np.uint8]:
    """(H, W, 3) RGB: near is red, far is blue (Turbo), even steps in inverse depth; unknown is black."""
    cv2 = require("cv2", "drawing depth maps")
    near, far = limits or depth_limits(depth)
    known = np.isfinite(depth) & (depth > 0)
    inverse = 1 / np.where(known, depth, far)
    level = np.clip((inverse - 1 / far) / (1 / near - 1 / far), 0, 1)
    colours = cv2.applyColorMap(np.round(255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)
    colours[~known] = 0
    return np.ascontiguousarray(colours[..., ::-1])


def depth_picture(
    depth: npt.NDArray[np.floating], limits: tuple[float, float] | None = None
) -> npt.NDArray[np.uint8]:
    """(H, W + 90, 3) RGB: the coloured map and beside it the bar of depths, in the map's units."""
    cv2 = require("cv2", "drawing depth maps")
    near, far = limits or depth_limits(depth)
    height = depth.shape[0]
    bar = np.full((height, 8 + _BAR + _TEXT, 3), 255, np.uint8)
    level = np.linspace(1 / near, 1 / far, height)[:, None]
    bar[:, 8 : 8 + _BAR] = depth_colours(np.repeat(1 / level, _BAR, 1), (near, far))
    for k in range(_TICKS):
        y = round(k * (height - 1) / (_TICKS - 1))
        value = 1 / level[y, 0]
        bar[y, 8 + _BAR : 12 + _BAR] = 0
        base = min(max(y + 4, 11), height - 2)
        cv2.putText(
            bar, f"{value:.3g}", (14 + _BAR, base), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1,
            cv2.LINE_AA,
        )  # fmt: skip
    return np.hstack([depth_colours(depth, (near, far)), bar])
