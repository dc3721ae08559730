# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A scene for tests of maps: two textured walls, known cameras, exact points. Needs OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from pyloc_core import Camera
from pyloc_core.localization import Map

CAMERA = Camera("SIMPLE_RADIAL", 320, 240, (300.0, 160.0, 120.0, -0.02))


def texture(seed: int) -> np.ndarray:
    """Noise with structure at every size, (256, 256) float32 in 0 .. 255."""
    rng = np.random.default_rng(seed)
    out = np.zeros((256, 256), np.float32)
    for cells in (8, 16, 32, 64, 128):
        noise = rng.normal(size=(cells, cells)).astype(np.float32)
        out += cv2.resize(noise, (256, 256), interpolation=cv2.INTER_CUBIC) * (8 / cells) ** 0.4
    return np.clip(127 + 55 * (out - out.mean()) / out.std(), 0, 255)


def textures(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Of both walls; every seed is another place."""
    return texture(seed), texture(seed + 1)


TEXTURES = textures()


def look(centre: tuple[float, float, float], target: tuple[float, float, float]) -> np.ndarray:
    z = np.subtract(target, centre)
    z = z / np.linalg.norm(z)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    R = np.stack([x, np.cross(z, x), z])
    return np.column_stack([R, -R @ np.asarray(centre, float)])


def render(pose: np.ndarray, walls: tuple[np.ndarray, np.ndarray] = TEXTURES) -> np.ndarray:
    """Image of the walls z = 4 and x = 2, textured over [-2, 2] x [-2, 2] and z in [0, 4]."""
    v, u = np.mgrid[0 : CAMERA.height, 0 : CAMERA.width] + 0.5
    rays = np.asarray(CAMERA.unproject(np.stack([u.ravel(), v.ravel()], 1))) @ pose[:, :3]
    centre = -pose[:, :3].T @ pose[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        back, side = (4 - centre[2]) / rays[:, 2], (2 - centre[0]) / rays[:, 0]
    back, side = (np.where(s > 0, s, np.inf) for s in (back, side))
    points = centre + np.minimum(back, side)[:, None] * rays
    is_back = back < side
    across = np.where(is_back, points[:, 0] + 2, points[:, 2])
    at = np.stack([across, points[:, 1] + 2], 1).reshape(CAMERA.height, CAMERA.width, 2) * 64 - 0.5
    at = at.astype(np.float32)
    views = [cv2.remap(t, at[..., 0], at[..., 1], cv2.INTER_LINEAR) for t in walls]
    chosen = np.where(is_back.reshape(CAMERA.size), views[0], views[1])
    return chosen.round().clip(0, 255).astype(np.uint8)


POSES = np.array(
    [look((-0.6 + 0.4 * i, 0.15 * (-1) ** i, -0.3 + 0.1 * i), (0.5, 0.0, 4.0)) for i in range(4)]
)
QUERY = look((0.1, 0.05, -0.35), (0.6, 0.1, 4.0))


def points() -> np.ndarray:
    rng = np.random.default_rng(3)
    back = np.column_stack(
        [rng.uniform(-1.6, 1.9, 200), rng.uniform(-1.3, 1.3, 200), np.full(200, 4)]
    )
    side = np.column_stack(
        [np.full(120, 2.0), rng.uniform(-1.2, 1.2, 120), rng.uniform(2, 3.9, 120)]
    )
    return np.concatenate([back, side])


def build(
    xyz: np.ndarray | None = None,
    walls: tuple[np.ndarray, np.ndarray] = TEXTURES,
    names: Sequence[str] = "abcd",
    **kw: Any,
) -> Map:
    """A map of the walls from the four POSES, each of which sees every point."""
    xyz = points() if xyz is None else xyz
    count = len(xyz)
    return Map.from_arrays(
        xyz, np.arange(count + 1) * 4, np.tile(np.arange(4), count), image_names=list(names),
        cameras=[CAMERA] * 4, cam_from_world=POSES, images=[render(p, walls) for p in POSES], **kw,
    )  # fmt: skip
