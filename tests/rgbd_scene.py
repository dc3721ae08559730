# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A rendered scene with exact depth: a wall, a floor, and a board that hides a part of the wall."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import pyloc_core as pl
from pyloc_core.localization.demo_render import Face, light, render
from pyloc_core.localization.demo_scene import look_at
from pyloc_core.localization.depth_views import DepthView

WALL, BOARD = 5.0, 2.5  # y of the wall and of the board, metres
BOARD_X, BOARD_Z = (-0.5, 0.3), (0.7, 1.6)
CAMERA = pl.Camera("PINHOLE", 192, 144, (150.0, 152.0, 95.0, 73.0))


def _texture(rng: np.random.Generator, tint: tuple[float, float, float]) -> np.ndarray:
    import cv2

    picture = np.zeros((256, 256, 3), np.float32)
    for cells, strength in ((6, 0.35), (24, 0.3), (90, 0.2)):
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        picture += strength * cv2.resize(noise, (256, 256), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.array(tint, np.float32) * (0.6 + 0.4 * picture), 0.02, 1).astype(np.float32)


def faces(seed: int = 0) -> list[Face]:
    rng = np.random.default_rng(seed)
    x, y, z = np.eye(3)
    corner = np.array([BOARD_X[0], BOARD, BOARD_Z[1]])
    size = BOARD_X[1] - BOARD_X[0], BOARD_Z[1] - BOARD_Z[0]
    made = [
        Face(np.array([-6.0, WALL, 4.0]), 12 * x, -4 * z, _texture(rng, (0.9, 0.8, 0.7))),
        Face(np.array([-6.0, WALL, 0.0]), 12 * x, -8 * y, _texture(rng, (0.6, 0.8, 0.6))),
        Face(corner, size[0] * x, -size[1] * z, _texture(rng, (0.9, 0.5, 0.4))),
    ]
    for face in made:
        light(face, [], floor=False)
    return made


def pose(x: float, y: float = 0.0, z: float = 1.4, aim: float = 0.0) -> np.ndarray:
    """A camera at (x, y, z) that looks at the wall's point (aim, WALL, 1.3)."""
    return look_at(np.array([x, y, z]), np.array([aim, WALL, 1.3]))


def view(cam_from_world: np.ndarray, scene: list[Face]) -> tuple[np.ndarray, DepthView]:
    picture, depth = render(scene, CAMERA, cam_from_world)
    image = (255 * np.clip(picture, 0, 1)).astype(np.uint8)
    return image, DepthView(np.where(np.isfinite(depth), depth, 0), CAMERA, cam_from_world)


def write_folder(folder: Path, poses: list[np.ndarray]) -> None:
    """The layout of pyloc_core.localization.rgbd_folder."""
    from PIL import Image

    scene = faces()
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    K = CAMERA.K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # pixels counted from 0
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", np.block([[K, np.zeros((3, 1))],
                                                                      [np.zeros((1, 3)), 1]]))  # fmt: skip
    for i, cam_from_world in enumerate(poses):
        image, seen = view(cam_from_world, scene)
        Image.fromarray(image).save(folder / "color" / f"{i}.png")
        Image.fromarray(np.round(1000 * seen.depth).astype(np.uint16)).save(
            folder / "depth" / f"{i}.png"
        )
        world_from_cam = np.vstack([pl.inverse_pose(cam_from_world), [0, 0, 0, 1]])
        np.savetxt(folder / "pose" / f"{i}.txt", world_from_cam)
