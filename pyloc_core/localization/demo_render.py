# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A small ray caster for textured rectangles: pictures with exactly known geometry.

The demo and its tests need images of a scene of which every depth is known. Rectangles are
enough for that: for a camera at ``C`` looking along ``d``, a rectangle with corner ``c`` and
edges ``a``, ``b`` is hit at ``c + u a + v b`` with ``(u, v, 1) / depth = [a b c-C]^-1 d``, so one
3x3 matrix per rectangle gives the texture coordinates and the depth of every pixel at once.

Lengths are metres, z points up, poses and pixels follow docs/conventions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyloc_core._extras import require
from pyloc_core.camera import Camera

cv2 = require("cv2", "rendering the demo scene")

Array = NDArray[np.float64]

SUN = np.array([-0.45, -0.62, 0.64]) / np.linalg.norm([-0.45, -0.62, 0.64])
SUPERSAMPLE = 2


@dataclass(frozen=True)
class Block:
    """An upright box on the ground: centre and size in the plan, height, yaw in degrees."""

    centre: tuple[float, float]
    size: tuple[float, float]
    height: float
    yaw: float
    textures: tuple[str, ...]
    base: float = 0.0

    def local(self, points: Array) -> Array:
        """World points (..., 3) in the axes of the box, origin in the middle of it."""
        c, s = np.cos(np.radians(self.yaw)), np.sin(np.radians(self.yaw))
        middle = np.array([*self.centre, self.base + self.height / 2])
        rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        return np.asarray((points - middle) @ rotation)

    @property
    def half(self) -> Array:
        return np.array([self.size[0] / 2, self.size[1] / 2, self.height / 2])


@dataclass(frozen=True)
class Face:
    """A rectangle ``corner + u * edge_u + v * edge_v`` (u to the right, v down its picture)."""

    corner: Array
    edge_u: Array
    edge_v: Array
    albedo: NDArray[np.float32]  # (h, w, 3) RGB in [0, 1]
    block: Block | None = None
    levels: list[NDArray[np.float32]] = field(default_factory=list)  # lit mip levels

    @cached_property
    def normal(self) -> Array:
        """Unit normal that points to the side from which the picture is not mirrored."""
        n = np.cross(self.edge_v, self.edge_u)
        return np.asarray(n / np.linalg.norm(n))

    def points(self, uv: Array) -> Array:
        """World points (..., 3) of texture coordinates (..., 2) in [0, 1]."""
        return np.asarray(self.corner + uv[..., :1] * self.edge_u + uv[..., 1:] * self.edge_v)


def light(face: Face, blocks: Sequence[Block], floor: bool) -> None:
    """Bake sun, soft shadow and contact darkening into the texture of a face (its mip levels)."""
    h, w = face.albedo.shape[:2]
    coarse = 4 if max(h, w) < 1024 else 8
    rows, cols = max(2, h // coarse), max(2, w // coarse)
    v, u = np.meshgrid(
        (np.arange(rows) + 0.5) / rows, (np.arange(cols) + 0.5) / cols, indexing="ij"
    )
    points = face.points(np.stack([u, v], axis=-1))
    sun = max(0.0, float(face.normal @ SUN))
    lit = np.ones((rows, cols))
    contact = np.ones((rows, cols))
    for block in blocks:
        if block is face.block:
            continue
        start, step, half = block.local(points + 1e-3 * face.normal), block.local(SUN), block.half
        step = step - block.local(np.zeros(3))
        with np.errstate(divide="ignore", invalid="ignore"):
            near, far = (-half - start) / step, (half - start) / step
        enter, leave = np.minimum(near, far).max(-1), np.maximum(near, far).min(-1)
        lit[(leave > np.maximum(enter, 0.0))] = 0.0
        gap = np.linalg.norm(np.maximum(np.abs(start) - half, 0.0), axis=-1)
        contact *= 1.0 - 0.45 * np.exp(-gap / 0.25)
    if not floor:
        contact *= 1.0 - 0.4 * np.exp(-points[..., 2] / 0.3)
    lit = cv2.GaussianBlur(lit, (0, 0), 8.0 / coarse)
    warm, cool = np.array([1.0, 0.95, 0.86]), np.array([0.80, 0.88, 1.0])
    shade = 0.55 * contact[..., None] * cool + 0.75 * sun * lit[..., None] * warm
    shade = cv2.resize(shade.astype(np.float32), (w, h), interpolation=cv2.INTER_LINEAR)
    level = face.albedo * shade
    face.levels.append(level)
    while min(level.shape[:2]) > 8:
        level = cv2.resize(
            level, (level.shape[1] // 2, level.shape[0] // 2), interpolation=cv2.INTER_AREA
        )
        face.levels.append(level)


def sample(face: Face, u: Array, v: Array, detail: Array) -> NDArray[np.float32]:
    """Texture values (n, 3) at (n,) coordinates, blended between the two nearest mip levels."""
    detail = np.clip(detail, 0.0, len(face.levels) - 1.0)
    low, high = int(detail.min()), int(np.ceil(detail.max()))
    colour = np.zeros((u.size, 3), np.float32)
    for index in range(low, high + 1):
        weight = np.maximum(0.0, 1.0 - np.abs(detail - index)).astype(np.float32)
        use = np.flatnonzero(weight > 0)
        if use.size:
            level = face.levels[index]
            x = (u[use] * level.shape[1] - 0.5).astype(np.float32)
            y = (v[use] * level.shape[0] - 0.5).astype(np.float32)
            colour[use] += weight[use, None] * _remap(level, x, y)
    return colour


def _remap(level: NDArray[np.float32], x: NDArray, y: NDArray) -> NDArray[np.float32]:
    """Bilinear values at n positions; cv2.remap wants fewer than 32768 rows, so fold them."""
    width = 4096
    pad = -x.size % width
    x2 = np.pad(x, (0, pad)).reshape(-1, width)
    y2 = np.pad(y, (0, pad)).reshape(-1, width)
    out = cv2.remap(level, x2, y2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out.reshape(-1, 3)[: x.size])


def hits(face: Face, cam_from_world: Array, rays: Array) -> tuple[Array, Array, Array]:
    """Texture coordinates and depth (inf where missed) of a face along rays (..., 3) with z = 1."""
    rotation, translation = cam_from_world[:, :3], cam_from_world[:, 3]
    matrix = np.column_stack(
        [rotation @ face.edge_u, rotation @ face.edge_v, rotation @ face.corner + translation]
    )
    if abs(np.linalg.det(matrix)) < 1e-12:
        return (
            np.zeros(rays.shape[:-1]),
            np.zeros(rays.shape[:-1]),
            np.full(rays.shape[:-1], np.inf),
        )
    q = rays @ np.linalg.inv(matrix).T.astype(rays.dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = 1.0 / q[..., 2]
        u, v = q[..., 0] * depth, q[..., 1] * depth
    inside = (depth > 1e-3) & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    return u, v, np.where(inside, depth, np.inf)


def trace(
    faces: Sequence[Face], camera: Camera, cam_from_world: Array, xy: Array, dtype: Any = np.float64
) -> tuple[Array, NDArray[np.int16], Array, Array]:
    """First hit of the rays through pixels xy (..., 2): depth, face index (-1: none), u, v."""
    bearings = np.asarray(camera.unproject(xy.reshape(-1, 2))).reshape(*xy.shape[:-1], 3)
    rays = (bearings / bearings[..., 2:]).astype(dtype)
    shape = xy.shape[:-1]
    depth, owner = np.full(shape, np.inf, dtype), np.full(shape, -1, np.int16)
    u, v = np.zeros(shape, dtype), np.zeros(shape, dtype)
    centre = -cam_from_world[:, :3].T @ cam_from_world[:, 3]
    for index, face in enumerate(faces):
        if face.normal @ (centre - face.corner) <= 0:
            continue  # seen from behind
        part = _window(face, camera, cam_from_world, xy)
        if part is None:
            continue
        fu, fv, z = hits(face, cam_from_world, rays[part])
        closer = z < depth[part]
        np.copyto(depth[part], z, where=closer)
        np.copyto(owner[part], index, where=closer, casting="unsafe")
        np.copyto(u[part], fu, where=closer)
        np.copyto(v[part], fv, where=closer)
    return depth, owner, u, v


def _window(
    face: Face, camera: Camera, cam_from_world: Array, xy: Array
) -> tuple[slice, ...] | None:
    """Part of the pixel grid that the face can cover; everything when it reaches behind the camera."""
    everything = (slice(None),) * (xy.ndim - 1)
    if xy.ndim != 3:
        return everything
    corners = face.points(np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]))
    local = corners @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    # Far outside the picture a negative k1 folds points back into it, so do not trust those.
    if local[:, 2].min() < 0.05 or (np.abs(local[:, :2]) > 1.3 * local[:, 2:]).any():
        return everything
    seen, _ = camera.project(local)
    low, high = np.min(seen, axis=0) - 12.0, np.max(seen, axis=0) + 12.0
    columns = np.flatnonzero((xy[0, :, 0] >= low[0]) & (xy[0, :, 0] <= high[0]))
    rows = np.flatnonzero((xy[:, 0, 1] >= low[1]) & (xy[:, 0, 1] <= high[1]))
    if not columns.size or not rows.size:
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def render(
    faces: Sequence[Face], camera: Camera, cam_from_world: Array
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Picture (H, W, 3), RGB about [0, 1], and the nearest depth (H, W) inside each pixel (inf: sky)."""
    h, w, s = camera.height, camera.width, SUPERSAMPLE
    x, y = (np.arange(w * s) + 0.5) / s, (np.arange(h * s) + 0.5) / s
    xy = np.stack(np.meshgrid(x, y), axis=-1)
    depth, owner, u, v = trace(faces, camera, cam_from_world, xy, np.float32)
    colour = _sky(camera, cam_from_world, h * s, w * s)
    for index in np.flatnonzero(np.bincount(owner.ravel() + 1)[1:]).tolist():
        face = faces[index]
        mask = owner == index
        texels = np.prod(face.levels[0].shape[:2])
        # |d(u, v) / d(x, y)| = |det H| depth^3 / f^2 for a homography H = [a b c-C]^-1.
        edges = np.column_stack([face.edge_u, face.edge_v, face.corner])
        edges = cam_from_world[:, :3] @ edges
        edges[:, 2] += cam_from_world[:, 3]
        area = texels * depth[mask] ** 3 / abs(np.linalg.det(edges)) / (camera.fx * s) ** 2
        detail = 0.5 * np.log2(np.maximum(area, 1e-6))
        colour[mask] = sample(face, u[mask], v[mask], detail)
    picture = cv2.resize(colour, (w, h), interpolation=cv2.INTER_AREA)
    return picture, depth.reshape(h, s, w, s).min(axis=(1, 3)).astype(np.float32)


def _sky(camera: Camera, cam_from_world: Array, rows: int, columns: int) -> NDArray[np.float32]:
    """A gradient from haze at the horizon to blue, (rows, columns, 3)."""
    y = np.linspace(0.5, camera.height - 0.5, rows)
    xy = np.stack([np.full(rows, camera.width / 2), y], axis=-1)
    up = np.asarray(camera.unproject(xy)) @ cam_from_world[:, 2]  # world z of R^T ray
    blend = np.clip(up / 0.6, 0.0, 1.0)[:, None]
    column = (1 - blend) * np.array([0.80, 0.86, 0.90]) + blend * np.array([0.36, 0.56, 0.83])
    return np.repeat(column[:, None].astype(np.float32), columns, axis=1)
