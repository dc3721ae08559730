# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the published NRE program does to an image, its camera and its keypoints before the networks.

The program counts pixels from 0 at the centre of the first one; here image points follow COLMAP, where
that centre is (0.5, 0.5). So its cx' = s cx + (s - 1) / 2 is plain scaling here, and its camera over
feature cells is `scale_intrinsics`, the conversion of this package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyloc_core.geometry import Size, check_size
from pyloc_core.models.inception import MIXED
from pyloc_core.models.pixels import normalised

FINE_LIMIT = 1600  # longest side of a fine image, "max_fine_imsize"


def coarse_limit(size: int, cut: str, no_maxpool: bool = False) -> int:
    """Longest side of a coarse image whose map has `size` cells along it ("image.resize").

    The program walks through the layers and turns a size n into 2 n - 1 at each of stride 2. It counts
    Mixed_7a as one of them, though its stride is 1 in this network.
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise ValueError(f"size must be a positive int, got {size!r}")
    depth = MIXED.index(cut)
    halvings = 2 + (not no_maxpool)  # the first convolution, one or two max-poolings
    halvings += (depth >= MIXED.index("Mixed_6a")) + (depth >= MIXED.index("Mixed_7a"))
    for _ in range(halvings):
        size = 2 * int(size) - 1
    return int(size)


def resized_size(image_size: Size, limit: int | None) -> Size:
    """(H, W) within `limit`: only images with a longer side are resized, each side rounded."""
    height, width = check_size(image_size, "image_size")
    longest = max(height, width)
    if limit is None or longest <= limit:
        return height, width
    # Half-way cases to the even number, as Python rounds.
    return max(1, round(height * limit / longest)), max(1, round(width * limit / longest))


def image_tensor(image: npt.NDArray[Any], limit: int | None = None) -> Tensor:
    """(1, 3, H, W) float32 of an RGB image (H, W, 3) or gray (H, W), uint8; see `normalised`.

    Larger images are brought to `resized_size`, bilinearly without smoothing: OpenCV's INTER_LINEAR on
    floating-point pixels, as the program does before the division by 255; the order makes no difference.
    """
    x = normalised(image)
    height, width = x.shape[2:]
    size = resized_size((height, width), limit)
    if size == (height, width):
        return x
    return torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def keypoints_to_features(
    xy: npt.NDArray[Any], image_size: Size, map_size: Size
) -> npt.NDArray[np.float64]:
    """Keypoints (..., 2) of the program, pixels counted from 0, to its feature coordinates.

    Scaled only: the half pixel that the camera's conversion has is missing here (published quirk). It
    puts a keypoint where the network's cells truly lie, as cell i sees around pixel i * stride.
    """
    (image_h, image_w), (map_h, map_w) = check_size(image_size), check_size(map_size)
    return np.asarray(xy, np.float64) * [map_w / image_w, map_h / image_h]


def interpolate_descriptors(features: Tensor, xy: Any) -> Tensor:
    """(N, D) of features (D, H, W) at cell coordinates (N, 2), bilinear; zeros lie around the map.

    A point less than a cell outside the map gets a part of the border's descriptor, so the descriptors
    of keypoints near the right and lower border are weakened (published quirk).
    """
    depth, height, width = features.shape
    points = torch.as_tensor(xy, dtype=features.dtype, device=features.device)
    last = torch.tensor([width - 1, height - 1], dtype=features.dtype, device=features.device)
    grid = torch.where(last > 0, 2 * points / last.clamp_min(1) - 1, points * 0)
    sampled = torch.nn.functional.grid_sample(
        features[None], grid.clamp(-2, 2)[None, None], mode="bilinear", padding_mode="zeros",
        align_corners=True,
    )  # fmt: skip
    return sampled.reshape(depth, -1).T
