# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A rendered COLMAP model with exact depth, for tests of the depth pipeline: a board before a wall."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import rgbd_scene

import pyloc_core as pl
from pyloc_core.depth.consistency import DepthMap
from pyloc_core.localization.demo_data import _write_model, observe
from pyloc_core.localization.demo_render import Face, light, render, trace
from pyloc_core.localization.demo_scene import View

# Views of the wall at 5 m and the board at 2.5 m, about 0.4 m apart; one camera has distortion.
POSES = [rgbd_scene.pose(x, 0.0, 1.4 + 0.15 * z, 0.5 * x) for x, z in
         ((-0.8, 1), (-0.4, -1), (0.0, 0), (0.4, 1), (0.8, -1))]  # fmt: skip
PLAIN = rgbd_scene.CAMERA
BENT = pl.Camera("SIMPLE_RADIAL", 192, 144, (150.0, 95.0, 73.0, -0.06))


@dataclass(frozen=True)
class Shot:
    """A picture (H, W, 3) uint8 of a camera with the exact depth (H, W) of its PINHOLE twin."""

    view: View
    image: np.ndarray
    depth: np.ndarray


@lru_cache(1)
def faces() -> tuple[Face, ...]:
    """Wall, floor and board of rgbd_scene with textures that are sharp at a pixel's size."""
    rng = np.random.default_rng(0)
    made = []
    for face, cells in zip(rgbd_scene.faces(), (240, 240, 60)):
        height = round(cells * np.linalg.norm(face.edge_v) / np.linalg.norm(face.edge_u))
        coarse, fine = (rng.uniform(size=(height // k, cells // k, 3)) for k in (4, 1))
        size = (4 * cells, 4 * height)
        blend = [
            cv2.resize(p.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
            for p in (coarse, fine)
        ]
        albedo = np.clip(0.2 + 0.35 * (blend[0] + blend[1]), 0.02, 1).astype(np.float32)
        made.append(Face(face.corner, face.edge_u, face.edge_v, albedo))
        light(made[-1], [], floor=False)
    return tuple(made)


@lru_cache(1)
def shots() -> tuple[Shot, ...]:
    scene = faces()
    x, y = np.meshgrid(np.arange(192) + 0.5, np.arange(144) + 0.5)
    made = []
    for i, pose in enumerate(POSES):
        camera = BENT if i == 1 else PLAIN
        K = camera.K
        twin = pl.Camera("PINHOLE", 192, 144, (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
        picture, _ = render(scene, camera, pose)
        depth = trace(scene, twin, pose, np.stack([x, y], -1))[0]  # at the pixels' centres
        image = (255 * np.clip(picture, 0, 1)).astype(np.uint8)
        made.append(Shot(View(f"{i}.png", camera, pose, 1.0), image, depth))
    return tuple(made)


def exact_maps() -> list[DepthMap]:
    """The exact depths as maps, confidence 1."""
    maps = []
    for shot in shots():
        K = shot.view.camera.K
        camera = pl.Camera("PINHOLE", 192, 144, (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
        depth = np.where(np.isfinite(shot.depth), shot.depth, 0).astype(np.float32)
        maps.append(
            DepthMap(depth, np.ones_like(depth), camera, shot.view.cam_from_world, shot.view.name)
        )
    return maps


def write_model(folder: Path, points: int = 300) -> tuple[Path, Path]:
    """Folders of the model and of its images."""
    from PIL import Image

    (folder / "images").mkdir()
    (folder / "sparse").mkdir()
    views = [shot.view for shot in shots()]
    for shot in shots():
        Image.fromarray(shot.image).save(folder / "images" / shot.view.name)
    observed = observe(faces(), views, points, np.random.default_rng(0))
    _write_model(folder / "sparse", views, observed)
    return folder / "sparse", folder / "images"
