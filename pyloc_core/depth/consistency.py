# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which depths other views confirm.

The check of multi-view stereo pipelines (Schoenberger et al., ECCV 2016, section 4.6; Yao et al., MVSNet,
ECCV 2018, section 4.2): a pixel goes to the other view by its depth, comes back by the depth found there,
and must arrive near where it started, at nearly the depth it started with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.camera import Camera
from pyloc_core.geometry import scale_intrinsics
from pyloc_core.pose import as_cam_from_world

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Yao et al. 2018, section 4.2.
MAX_REPROJECTION = 1.0  # pixels of the depth map
MAX_DEPTH_CHANGE = 0.01  # relative
LEAST_VIEWS = 2  # besides the view itself; they ask for three views in all


@dataclass(frozen=True)
class DepthMap:
    """Depth of a view on its pixel grid.

    Attributes:
        depth: (H, W) float32 along the optical axis, 0 where unknown.
        confidence: (H, W) float32, 0 to 1.
        camera: PINHOLE of size (H, W).
        cam_from_world: (3, 4).
        name: of the image.

    Raises ValueError where shapes do not belong together or the camera has distortion.
    """

    depth: Float32
    confidence: Float32
    camera: Camera
    cam_from_world: Array
    name: str = ""

    def __post_init__(self) -> None:
        if self.depth.shape != self.camera.size or self.confidence.shape != self.camera.size:
            raise ValueError(
                f"depth {self.depth.shape} and confidence {self.confidence.shape} must have the "
                f"camera's size {self.camera.size}"
            )
        if self.camera.model not in ("PINHOLE", "SIMPLE_PINHOLE"):
            raise ValueError(f"a depth map's camera must be PINHOLE, got {self.camera.model}")
        as_cam_from_world(self.cam_from_world)

    @property
    def K(self) -> Array:
        """Intrinsics of the map: centres of its cells at integers."""
        return np.asarray(scale_intrinsics(self.camera.K, self.camera.size, self.camera.size))

    def world_points(self) -> Array:
        """(H, W, 3) points of all pixels; where the depth is 0 they are the camera centre."""
        height, width = self.depth.shape
        y, x = np.mgrid[0:height, 0:width]
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(self.K).T
        rotation, translation = self.cam_from_world[:, :3], self.cam_from_world[:, 3]
        return np.asarray((rays * self.depth[..., None] - translation) @ rotation)


class Agreement(NamedTuple):
    """What one other view says: whether it confirms the depth (H, W), the depth that its own surface has
    in the reference (H, W), and the pixel of the other view (H, W, 2) that was asked."""

    agrees: Mask
    depth: Float32
    at: Float32


def agreement(
    reference: DepthMap,
    other: DepthMap,
    *,
    max_reprojection: float = MAX_REPROJECTION,
    max_depth_change: float = MAX_DEPTH_CHANGE,
) -> Agreement:
    """Where `other` confirms the depths of `reference`; the other's depth is read bilinearly among known
    depths that lie on one surface, from the nearest pixel elsewhere."""
    cv2 = require("cv2", "checking depth maps against each other")
    known = reference.depth > 0
    there = _transformed(reference.world_points(), other.cam_from_world)
    at, front = _project(there, other.K)
    found = _read(cv2, other.depth, at)
    rays = np.concatenate([at, np.ones_like(at[..., :1])], -1) @ np.linalg.inv(other.K).T
    rotation, translation = other.cam_from_world[:, :3], other.cam_from_world[:, 3]
    back = _transformed(
        (rays * found[..., None] - translation) @ rotation, reference.cam_from_world
    )
    home, front_home = _project(back, reference.K)
    height, width = reference.depth.shape
    y, x = np.mgrid[0:height, 0:width]
    off = np.hypot(home[..., 0] - x, home[..., 1] - y)
    change = np.abs(back[..., 2] - reference.depth)
    agrees = known & front & front_home & (found > 0)
    agrees &= (off < max_reprojection) & (change < max_depth_change * reference.depth)
    return Agreement(agrees, back[..., 2].astype(np.float32), at.astype(np.float32))


def confirmed(
    reference: DepthMap,
    others: Sequence[DepthMap],
    *,
    least_views: int = LEAST_VIEWS,
    max_reprojection: float = MAX_REPROJECTION,
    max_depth_change: float = MAX_DEPTH_CHANGE,
) -> tuple[Float32, npt.NDArray[np.int32]]:
    """Depth (H, W) that at least `least_views` others confirm, averaged with theirs, 0 elsewhere; and how
    many others confirm each pixel (H, W).

    Raises ValueError for `least_views` below 1.
    """
    if least_views < 1:
        raise ValueError(f"least_views must be at least 1, got {least_views}")
    total = reference.depth.astype(np.float64)
    count = np.zeros(reference.depth.shape, np.int32)
    for other in others:
        answer = agreement(
            reference, other, max_reprojection=max_reprojection, max_depth_change=max_depth_change
        )
        total += np.where(answer.agrees, answer.depth, 0)
        count += answer.agrees
    mean = total / (count + 1)
    return np.where(count >= least_views, mean, 0).astype(np.float32), count


def without_speckles(depth: Float32, least: int, max_change: float = 0.02) -> Float32:
    """The depth without patches of fewer than `least` connected pixels, whose neighbours differ by at
    most `max_change`, relative: what a chance agreement leaves. `least` of 0 or 1 changes nothing."""
    cv2 = require("cv2", "removing speckles")
    known = depth > 0
    if least < 2 or not known.any():
        return depth
    unit = max_change / 20  # of the logarithm: 16 bits hold exp(-32) to exp(32) at 2 %
    level = np.clip(np.log(np.where(known, depth, 1)) / unit, -32000, 32000)
    level = np.where(known, level - np.median(level[known]), -32768).clip(-32768, 32767)
    marked = np.rint(level).astype(np.int16)
    cv2.filterSpeckles(marked, -32768, least - 1, 20)
    return np.where(marked > -32768, depth, 0).astype(np.float32)


def _transformed(points: Array, pose: Array) -> Array:
    return np.asarray(points @ pose[:, :3].T + pose[:, 3])


def _project(points: Array, K: Array) -> tuple[Array, Mask]:
    """Map points (H, W, 2), far outside the map behind the camera, and which are in front."""
    front = points[..., 2] > 0
    z = np.where(front, points[..., 2], 1.0)[..., None]
    at = points[..., :2] / z * (K[0, 0], K[1, 1]) + K[:2, 2]
    return np.where(front[..., None], np.clip(at, -1e6, 1e6), -1e6), front


def _read(cv2: object, depth: Float32, at: Array) -> Float32:
    """Depths (H, W) at map points: bilinear inverse depth where all four neighbours are known and within
    `MAX_DEPTH_CHANGE` of the nearest one, else the nearest; 0 outside."""
    x, y = (at[..., k].astype(np.float32) for k in (0, 1))
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": 0.0}  # type: ignore[attr-defined]
    near = cv2.remap(depth, x, y, cv2.INTER_NEAREST, **border)  # type: ignore[attr-defined]
    known = (depth > 0).astype(np.float32)
    inverse = np.where(depth > 0, 1 / np.where(depth > 0, depth, 1), 0).astype(np.float32)
    share = cv2.remap(known, x, y, cv2.INTER_LINEAR, **border)  # type: ignore[attr-defined]
    blend = cv2.remap(inverse, x, y, cv2.INTER_LINEAR, **border)  # type: ignore[attr-defined]
    smooth = (share > 0.999) & (np.abs(blend * near - 1) < MAX_DEPTH_CHANGE)
    return np.where(smooth, 1 / np.where(smooth, blend, 1), near).astype(np.float32)
