# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Surface normals of a depth map: the cross product of the steps between neighbouring 3D points."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyloc_core import _array_kinds
from pyloc_core._array_kinds import Kind

_FLOATS = ("float32", "float64")


def backproject_depth(depth: Any, K: Any) -> Any:
    """Points (..., 3, H, W) of a depth map (..., H, W) in the camera's frame.

    Args:
        depth: (..., H, W) along the optical axis.
        K: (..., 3, 3) intrinsics in map coordinates (the centre of cell [row, col] is (col, row); see
            `scale_intrinsics`), one per item or one for all.

    Returns:
        The kind and dtype of `depth` (halves: float32). Gradients flow to the depth.

    Raises:
        ValueError: shapes; intrinsics that are not finite or singular.
    """
    _, depth, rays = _rays(depth, K)
    return depth[..., None, :, :] * rays


def normals_from_depth(depth: Any, K: Any, *, valid: Any = None) -> tuple[Any, Any]:
    """Unit normals of the surface that a depth map shows, turned towards the camera.

    Differences of the left and right, upper and lower neighbour's 3D points (one-sided at the border),
    crossed: exact on a plane, seen from anywhere.

    Args:
        depth: (..., H, W) along the optical axis, H and W >= 2; 0, negative or not finite where unknown.
        K: (..., 3, 3) intrinsics in map coordinates; see `backproject_depth`.
        valid: (..., H, W) bool, pixels whose depth counts besides; None for all.

    Returns:
        (normals, known): (..., 3, H, W) of the kind and dtype of `depth` (halves: float32), in the
        camera's frame, with a negative z where the surface faces the camera, 0 where not known; and
        (..., H, W) bool, true where the pixel and all its neighbours (up to 4) have a depth. Gradients
        flow to the depth, finite everywhere.

    Raises:
        ValueError: shapes; intrinsics that are not finite or singular.
    """
    kind, depth, rays = _rays(depth, K)
    if min(depth.shape[-2:]) < 2:
        raise ValueError(f"depth must be at least 2 x 2, got {tuple(depth.shape)}")
    xp = kind.xp
    has = (depth > 0) & (depth < float("inf"))
    if valid is not None:
        mask = kind.take(valid, "valid", ("bool",))
        if tuple(mask.shape) != tuple(depth.shape):
            raise ValueError(
                f"valid must have the shape {tuple(depth.shape)} of depth, got {tuple(mask.shape)}"
            )
        has = has & mask
    safe = xp.where(has, depth, xp.ones_like(depth))
    points = safe[..., None, :, :] * rays
    before_x, after_x = _neighbours(points, -1, kind)
    before_y, after_y = _neighbours(points, -2, kind)
    normal = _cross(after_y - before_y, after_x - before_x, kind)
    known = has
    for axis in (-1, -2):
        before, after = _neighbours(has, axis, kind)
        known = known & before & after
    # Scaled before squaring: the cross product of small steps has squares below float32's range.
    largest = xp.amax(abs(normal), axis=-3, keepdims=True)
    known = known & (largest[..., 0, :, :] > 0)
    whole = known[..., None, :, :]
    scaled = xp.where(whole, normal, xp.ones_like(normal)) / xp.where(
        whole, largest.detach() if kind.is_torch else largest, xp.ones_like(largest)
    )
    unit = scaled / (scaled**2).sum(-3, keepdims=True) ** 0.5
    return xp.where(whole, unit, xp.zeros_like(unit)), known


def _rays(depth: Any, K: Any) -> tuple[Kind, Any, Any]:
    """The depth as an array, and K^-1 (x, y, 1) of each cell: (..., 3, H, W)."""
    kind = _array_kinds.kind_of(depth)
    depth = kind.take(depth, "depth", _FLOATS, finite=False)
    if depth.ndim < 2 or 0 in depth.shape[-2:]:
        raise ValueError(f"depth must have shape (..., H, W), got {tuple(depth.shape)}")
    matrix = kind.take(K, "K", ("float64",))
    lead = tuple(depth.shape[:-2])
    if (
        matrix.ndim < 2
        or tuple(matrix.shape[-2:]) != (3, 3)
        or tuple(matrix.shape[:-2]) not in ((), lead)
    ):
        raise ValueError(f"K must have shape (3, 3) or {(*lead, 3, 3)}, got {tuple(matrix.shape)}")
    inverse = _inverse(kind, matrix)
    height, width = depth.shape[-2:]
    x, y = (
        kind.cast(kind.arange(width), "float64"),
        kind.cast(kind.arange(height), "float64")[:, None],
    )
    column = inverse[..., None, None]  # (..., 3, 3, 1, 1): row of the ray, column of (x, y, 1)
    rays = column[..., 0, :, :] * x + column[..., 1, :, :] * y + column[..., 2, :, :]
    return kind, depth, kind.cast(rays, _array_kinds.dtype_name(depth))


def _inverse(kind: Kind, K: Any) -> Any:
    """On a GPU nothing waits: what is singular spoils its own item."""
    singular = "K is singular"
    if kind.is_torch:
        found, info = kind.xp.linalg.inv_ex(K)
        kind.refuse(info != 0, singular)
        return found
    try:
        return np.linalg.inv(K)
    except np.linalg.LinAlgError:
        raise ValueError(singular) from None


def _neighbours(array: Any, axis: int, kind: Kind) -> tuple[Any, Any]:
    """The array moved by one cell either way along an axis; at the border the cell itself."""
    first, last = _cut(array, axis, slice(0, 1)), _cut(array, axis, slice(-1, None))
    rest, start = _cut(array, axis, slice(1, None)), _cut(array, axis, slice(0, -1))
    join = kind.xp.concatenate
    return join([first, start], axis), join([rest, last], axis)


def _cut(array: Any, axis: int, part: slice) -> Any:
    return array[..., part] if axis == -1 else array[..., part, :]


def _cross(a: Any, b: Any, kind: Kind) -> Any:
    """Cross product over axis -3."""
    (ax, ay, az), (bx, by, bz) = ([v[..., i, :, :] for i in range(3)] for v in (a, b))
    parts = [ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx]
    return kind.xp.stack(parts, -3)
