# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Posed images with depth: 3D points of their pixels, and how two of them see each other.

Labels of correspondents follow NeurHal (Germain et al., ICLR 2022; thesis, appendix C.3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import as_camera
from pyloc_core.pose import as_cam_from_world, inverse_pose, transform_points

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

IDENTIFIED, INPAINTED, OUTPAINTED, UNKNOWN = 0, 1, 2, 255
LABEL_NAMES = {IDENTIFIED: "identified", INPAINTED: "inpainted", OUTPAINTED: "outpainted"}

# The thesis gives no numbers for "a cyclic projection" and "local depth gradient too high".
MAX_CYCLE_ERROR = 3.0  # pixels of the source
MAX_DEPTH_STEP = 0.1  # relative change of depth from one depth pixel to the next


@dataclass(frozen=True)
class DepthView:
    """A posed image with depth.

    Attributes:
        depth: (h, w) along the optical axis, in units of the world; 0 or not finite where unknown. It may
            have another resolution than the image.
        camera: of the image, in its pixels.
        cam_from_world: (3, 4).
        depth_camera: of the depth image; None for `camera` resized to it. Centre and axes are those of
            `camera`.

    Raises ValueError or TypeError for arrays of another form.
    """

    depth: Any
    camera: Any
    cam_from_world: Any
    depth_camera: Any = None

    def __post_init__(self) -> None:
        depth = np.asarray(self.depth)
        if depth.ndim != 2 or 0 in depth.shape:
            raise ValueError(f"depth must be (h, w) and not empty, got shape {depth.shape}")
        if depth.dtype.kind not in "fiu":
            raise TypeError(f"depth must hold real numbers, got {depth.dtype}")
        camera = as_camera(self.camera)
        own = self.depth_camera
        own = camera.resized(depth.shape) if own is None else as_camera(own)
        if own.size != depth.shape:
            raise ValueError(f"depth is {depth.shape} and its camera {own.size}")
        pose = as_cam_from_world(self.cam_from_world)
        fields = {"depth": depth, "camera": camera, "cam_from_world": pose, "depth_camera": own}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def read_depth(self, xy: Array) -> Array:
        """Depths (N,) at image points (N, 2) of the nearest depth pixel; NaN outside or where unknown."""
        column, row, inside = self._pixels(xy)
        found = np.where(inside, self.depth[row, column], 0).astype(np.float64)
        return np.where(np.isfinite(found) & (found > 0), found, np.nan)

    def lift(self, xy: Array) -> Array:
        """World points (N, 3) of image points (N, 2); NaN where the depth is unknown."""
        depth = self.read_depth(xy)
        rays = np.asarray(self.camera.unproject(_finite(xy)))
        with np.errstate(divide="ignore", invalid="ignore"):
            local = rays / rays[:, 2:] * depth[:, None]
        world_from_cam = np.asarray(inverse_pose(self.cam_from_world))
        return np.asarray(local @ world_from_cam[:, :3].T + world_from_cam[:, 3])

    def project(self, points: Array) -> tuple[Array, Array]:
        """Image points (N, 2) and depths (N,) of world points; NaN points for depth <= 0."""
        known = np.isfinite(points).all(1)
        local = np.asarray(transform_points(self.cam_from_world, _finite(points)))
        xy, front = self.camera.project(local)
        there = known & front & np.isfinite(xy).all(1)
        return np.where(there[:, None], xy, np.nan), np.where(known, local[:, 2], np.nan)

    def steep(self, xy: Array, max_step: float = MAX_DEPTH_STEP) -> Mask:
        """Where (N,) the depth within one pixel of an image point is unknown or changes by more than
        `max_step` of itself: reprojections from there are not reliable."""
        column, row, inside = self._pixels(xy)
        height, width = self.depth.shape
        middle = self.depth[row, column].astype(np.float64)
        bad = ~inside | ~(middle > 0)
        with np.errstate(invalid="ignore"):
            for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                r, c = np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)
                bad |= ~(np.abs(self.depth[r, c] - middle) <= max_step * middle)
        return bad

    def _pixels(self, xy: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Mask]:
        """Columns and rows of the depth image, clipped, and which points lie in it."""
        rays = np.asarray(
            self.camera.unproject(np.nan_to_num(np.asarray(xy, np.float64), nan=-1e6))
        )
        there, front = self.depth_camera.project(rays)
        height, width = self.depth.shape
        inside = front & (there >= 0).all(1) & (there[:, 0] < width) & (there[:, 1] < height)
        inside &= np.isfinite(np.asarray(xy)).all(1)
        cell = np.where(inside[:, None], np.floor(there), 0).astype(np.int64)
        return cell[:, 0], cell[:, 1], inside


def _finite(xy: Any) -> Array:
    """Points with zeros in place of what is not finite; callers know where that was."""
    return np.nan_to_num(np.asarray(xy, np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def keypoint_grid(size: tuple[int, int], spacing: int = 16) -> Array:
    """Centres (N, 2) of the cells of a regular grid over an image (H, W); the thesis takes 16 pixels."""
    if spacing < 1:
        raise ValueError(f"spacing must be at least 1 pixel, got {spacing}")
    y, x = np.mgrid[spacing / 2 : size[0] : spacing, spacing / 2 : size[1] : spacing]
    return np.stack([x.ravel(), y.ravel()], 1)


class Correspondents(NamedTuple):
    """Where N source keypoints lie in a target image.

    `label` (N,) uint8: `IDENTIFIED` (seen), `INPAINTED` (hidden behind something), `OUTPAINTED` (outside
    the image), `UNKNOWN`. `xy` (N, 2) pixels of the target, NaN where there is no correspondent;
    `points` (N, 3) in the world.
    """

    label: npt.NDArray[np.uint8]
    xy: Array
    points: Array


def correspondents(
    source: DepthView,
    target: DepthView,
    keypoints: Any,
    *,
    max_cycle_error: float = MAX_CYCLE_ERROR,
    strict: bool = False,
) -> Correspondents:
    """Correspondents of source keypoints (N, 2), pixels, and their labels.

    A point outside the target image is outpainted. Otherwise the target's depth there is projected back
    to the source: more than `max_cycle_error` pixels away from the keypoint, something else is seen, and
    the point is inpainted. Unknown are points without depth, points behind the target camera (which have
    no correspondent: the thesis does not treat them apart), and points where the target has no depth.
    With `strict`, points that float in front of the target's surface, which errors of depth or pose
    explain and occlusion does not, are unknown too.

    Raises ValueError for keypoints of another shape or a threshold that is not positive.
    """
    points2d = np.asarray(keypoints, np.float64)
    if points2d.ndim != 2 or points2d.shape[1] != 2:
        raise ValueError(f"keypoints must be (N, 2), got {points2d.shape}")
    if not max_cycle_error > 0:
        raise ValueError(f"max_cycle_error must be positive, got {max_cycle_error}")
    points = source.lift(points2d)
    xy, depth = target.project(points)
    label = np.full(len(points2d), UNKNOWN, np.uint8)
    height, width = target.camera.size
    exists = np.isfinite(xy).all(1)
    with np.errstate(invalid="ignore"):
        inside = exists & (xy >= 0).all(1) & (xy[:, 0] < width) & (xy[:, 1] < height)
        label[exists & ~inside] = OUTPAINTED
        back, _ = source.project(target.lift(xy))
        distance = np.linalg.norm(back - points2d, axis=1)
        surface = target.read_depth(xy)
        known = inside & np.isfinite(surface)
        # Seen by the target but behind the source camera: certainly another surface.
        label[known] = np.where(distance[known] <= max_cycle_error, IDENTIFIED, INPAINTED)
        if strict:
            label[known & (label == INPAINTED) & (surface > depth)] = UNKNOWN
    return Correspondents(label, xy, points)


def covisibility_ratio(
    source: DepthView, target: DepthView, *, spacing: int = 16, **options: Any
) -> float:
    """Share of the source's grid points with a label that the target sees; 0 where none has one."""
    grid = keypoint_grid(source.camera.size, spacing)
    label = correspondents(source, target, grid, **options).label
    known = label != UNKNOWN
    return float((label[known] == IDENTIFIED).mean()) if known.any() else 0.0


def visual_overlap(a: DepthView, b: DepthView, *, spacing: int = 16, **options: Any) -> float:
    """Overlap of two images: the smaller of the two covisibility ratios (appendix C.3.2)."""
    return min(
        covisibility_ratio(a, b, spacing=spacing, **options),
        covisibility_ratio(b, a, spacing=spacing, **options),
    )
