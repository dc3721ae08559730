# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""One point cloud of many depth maps, and normals of a depth map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyloc_core.depth.consistency import MAX_DEPTH_CHANGE, DepthMap, agreement

Float32 = npt.NDArray[np.float32]

# Neighbours whose depth differs by more, relative, for each pixel away lie on another surface.
_SAME_SURFACE = 0.02
_LEAST_NEIGHBOURS = 6  # of the 5 x 5 window, for a plane that noise does not turn


@dataclass(frozen=True)
class PointCloud:
    """`points` (N, 3) in the world, unit `normals` (N, 3) towards the cameras, `colours` (N, 3) RGB."""

    points: Float32
    normals: Float32
    colours: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.points)


def depth_normals(view: DepthMap, radius: int = 2) -> Float32:
    """Unit normals (H, W, 3) in the camera frame, towards the camera; 0 where too little is known.

    A plane is linear in inverse depth: 1 / z = a x + b y + c over the cells (x, y) means the plane
    (a, b, c) K . X = 1. It is fitted by least squares to the window's cells of the same surface.
    """
    depth = view.depth
    height, width = depth.shape
    known = depth > 0
    inverse = np.where(known, 1 / np.where(known, depth, 1), 0)
    padded = np.pad(inverse, radius)
    sums = np.zeros((9, height, width))  # n, x, y, xx, xy, yy, w, xw, yw
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            there = padded[radius + dy :, radius + dx :][:height, :width]
            most = _SAME_SURFACE * max(abs(dx), abs(dy), 1)
            same = known & (there > 0) & (np.abs(there - inverse) < most * inverse)
            value = np.where(same, there, 0)
            for k, factor in enumerate((1, dx, dy, dx * dx, dx * dy, dy * dy)):
                if factor:
                    sums[k] += factor * same
            for k, factor in enumerate((1, dx, dy)):
                if factor:
                    sums[6 + k] += factor * value
    slope, bent = _fit(sums)
    y, x = np.mgrid[0:height, 0:width]
    offset = inverse - slope[0] * x - slope[1] * y
    normals = -np.stack([slope[0], slope[1], offset], -1) @ view.K
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    good = (known & (sums[0] >= _LEAST_NEIGHBOURS) & ~bent)[..., None] & (length > 0)
    return np.where(good, normals / np.where(length > 0, length, 1), 0).astype(np.float32)


def _fit(sums: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Slopes (2, H, W) of the least-squares planes, and where the cells lie on one line."""
    n, x, y, xx, xy, yy, w, xw, yw = sums
    n = np.maximum(n, 1)
    sxx, sxy, syy = xx - x * x / n, xy - x * y / n, yy - y * y / n
    sxw, syw = xw - x * w / n, yw - y * w / n
    determinant = sxx * syy - sxy * sxy
    bent = determinant < 1e-6
    safe = np.where(bent, 1, determinant)
    slopes = np.stack([(syy * sxw - sxy * syw) / safe, (sxx * syw - sxy * sxw) / safe])
    return np.where(bent, 0, slopes), bent


def fuse_points(
    views: Sequence[DepthMap],
    neighbours: Sequence[Sequence[int]],
    picture: Callable[[int], npt.NDArray[np.uint8]],
    *,
    max_depth_change: float = MAX_DEPTH_CHANGE,
) -> PointCloud:
    """Every surface point once: the depths of the first view that has it, in the order given.

    Args:
        views: V depth maps, checked against each other already.
        neighbours: for each view the indices of those that may show the same points.
        picture: image (H, W, 3) RGB of a view by its index, of the size of its map.
        max_depth_change: depths that agree so well, relative, are of the same point.

    Where the normal is not known the point is left out.
    """
    taken = [np.zeros(view.depth.shape, bool) for view in views]
    parts: list[tuple[Float32, Float32, npt.NDArray[np.uint8]]] = []
    for index, view in enumerate(views):
        normals = depth_normals(view)
        use = (view.depth > 0) & ~taken[index] & normals.any(-1)
        for other in neighbours[index]:
            answer = agreement(view, views[other], max_depth_change=max_depth_change)
            at = np.rint(answer.at[use & answer.agrees]).astype(np.int64)
            size = views[other].camera.size
            inside = ((at >= 0) & (at < size[::-1])).all(1)
            taken[other][at[inside, 1], at[inside, 0]] = True
        points = view.world_points()[use].astype(np.float32)
        turned = (normals[use] @ view.cam_from_world[:, :3]).astype(np.float32)
        parts.append((points, turned, picture(index)[use]))
    empty = np.zeros((0, 3), np.float32)
    if not parts:
        return PointCloud(empty, empty, empty.astype(np.uint8))
    return PointCloud(*(np.concatenate([part[k] for part in parts]) for k in range(3)))  # type: ignore[arg-type]
