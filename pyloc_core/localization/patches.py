# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Reference patches as another camera would see them.

The surface around a 3D point is taken as a small plane that faces the reference camera. Between the
two images it is an affine map, `A = (J_ref B) (J_query B)^-1`: B (3, 2) spans the plane, J (2, 3) are
the Jacobians of the projections. It carries the change of scale, the rotation about the viewing
direction and the foreshortening that follow from the poses; the slant of the surface is not known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.camera import Camera
from pyloc_core.localization.features import Float32
from pyloc_core.localization.gradient_histograms import remap
from pyloc_core.pose import camera_center, transform_points

Array = npt.NDArray[np.float64]
# Beyond these the patch is a sliver or a blow-up that no descriptor survives.
_MIN_SCALE, _MAX_SCALE = 0.1, 10.0


def affine_between(
    points: Array, camera: Camera, cam_from_world: Array, query: Camera, query_from_world: Array
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Affine maps (N, 2, 2) from offsets in the query to offsets in the reference image, in pixels.

    Returns them with a mask (N,) of those that are usable; the others are the identity.
    """
    normal = camera_center(cam_from_world) - points
    basis = _plane_basis(normal)
    reference = _projection_jacobian(points, camera, cam_from_world) @ basis
    seen = _projection_jacobian(points, query, query_from_world) @ basis
    det = seen[:, 0, 0] * seen[:, 1, 1] - seen[:, 0, 1] * seen[:, 1, 0]
    with np.errstate(all="ignore"):
        inverse = np.stack(
            [np.stack([seen[:, 1, 1], -seen[:, 0, 1]], -1),
             np.stack([-seen[:, 1, 0], seen[:, 0, 0]], -1)], -2,
        ) / det[:, None, None]  # fmt: skip
        affine = reference @ inverse
        stretch = np.linalg.norm(affine, axis=(1, 2)) / np.sqrt(2)
        area = np.sqrt(np.abs(np.linalg.det(np.where(np.isfinite(affine), affine, 0.0))))
    usable = np.isfinite(affine).all((1, 2)) & (area > _MIN_SCALE) & (stretch < _MAX_SCALE)
    return np.where(usable[:, None, None], affine, np.eye(2)), usable


def sample_patches(image: Float32, xy: Array, affine: Array, half: int) -> Float32:
    """Patches (N, S, S), S = 2 half + 1, around points (N, 2) in image pixels, through affine maps.

    Where a map shrinks, the patch is read from a level of the image pyramid, against aliasing.
    """
    side = 2 * half + 1
    grid = np.arange(-half, half + 1, dtype=np.float32)
    scale = np.sqrt(np.abs(np.linalg.det(affine)))
    level = np.clip(np.floor(np.log2(np.maximum(scale, 1e-6)) + 0.3), 0, 4).astype(int)
    out = np.empty((len(xy), side, side), np.float32)
    for at_level in np.unique(level):
        rows = np.flatnonzero(level == at_level)
        shrunk = _halved(image, int(at_level))
        factor = np.array([shrunk.shape[1] / image.shape[1], shrunk.shape[0] / image.shape[0]])
        a = (affine[rows] * factor[:, None]).astype(np.float32)
        start = (xy[rows] * factor - 0.5).astype(np.float32)
        along_row = a[:, :, 0, None, None] * grid  # (n, 2, 1, S)
        along_column = a[:, :, 1, None, None] * grid[:, None]  # (n, 2, S, 1)
        at = start[:, :, None, None] + along_row + along_column
        x, y = at[:, 0].reshape(-1, side), at[:, 1].reshape(-1, side)
        out[rows] = remap(shrunk, x, y).reshape(-1, side, side)
    return out


def _halved(image: Float32, times: int) -> Float32:
    cv2 = require("cv2", "DenseRootSIFT")
    for _ in range(times):
        width, height = max(1, image.shape[1] // 2), max(1, image.shape[0] // 2)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return image


def _plane_basis(normal: Array) -> Array:
    """(N, 3, 2) orthonormal vectors perpendicular to normals (N, 3)."""
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    away = np.where(np.abs(normal[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(normal, away)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, np.cross(normal, first)], -1)


def _projection_jacobian(points: Array, camera: Camera, cam_from_world: Array) -> Array:
    """(N, 2, 3) d(image pixel) / d(world point), by central differences of the camera's projection.

    Differences serve every camera model; their error, 1e-8 of a pixel per pixel, is nothing to a patch.
    """
    local = transform_points(cam_from_world, points)
    step = 1e-5 * np.maximum(np.abs(local[:, 2]), 1e-12)
    moves = np.concatenate([np.eye(3), -np.eye(3)])
    moved = local[:, None, :] + step[:, None, None] * moves
    xy, _ = camera.project(moved.reshape(-1, 3))
    xy = np.asarray(xy).reshape(-1, 2, 3, 2)
    in_camera = np.swapaxes((xy[:, 0] - xy[:, 1]) / (2 * step[:, None, None]), 1, 2)
    return np.asarray(in_camera @ cam_from_world[:, :3])
