# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Random changes of posed images with depth: mirroring with the geometry, colours, and the known range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.training.rendered_scenes import DepthScene

Random = np.random.Generator
Colours = npt.NDArray[np.float32]

# Luma of ITU-R BT.601, and two axes of the plane of colours of equal luma (YIQ).
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)


def mirrored(scene: DepthScene) -> DepthScene:
    """The scene in a mirror: left and right change places in every picture, and in the world.

    With S = diag(-1, 1, 1) a pose [R | t] becomes [S R S | S t], a camera's principal point W - cx; depths
    go with their pixels. Projections and depths agree as they did.
    """
    sign = np.array([-1.0, 1.0, 1.0])
    poses = scene.cam_from_world * sign[:, None]
    poses[:, :, :3] *= sign
    return replace(
        scene,
        images=np.ascontiguousarray(scene.images[:, :, ::-1]),
        depth=np.ascontiguousarray(scene.depth[:, :, ::-1]),
        sky=None if scene.sky is None else np.ascontiguousarray(scene.sky[:, :, ::-1]),
        cam_from_world=poses,
        cameras=tuple(_mirrored_camera(camera) for camera in scene.cameras),
    )


def _mirrored_camera(camera: Camera) -> Camera:
    if camera.model not in ("SIMPLE_PINHOLE", "PINHOLE"):
        raise ValueError(f"cameras must be without distortion, got {camera.model}")
    at = len(camera.params) - 2  # cx comes before cy, the last
    params = [float(value) for value in camera.params]
    params[at] = camera.width - params[at]
    return Camera(camera.model, camera.width, camera.height, tuple(params))


def jittered(rng: Random, images: npt.NDArray[np.uint8], strength: float) -> Colours:
    """Images (V, H, W, 3) in [0, 1] with brightness, contrast, saturation and hue changed alike in all."""
    rgb = images.astype(np.float32) / np.float32(255)
    if not strength:
        return rgb
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    turn = 2 * np.pi * rng.uniform(-strength, strength)
    rgb = np.clip(rgb * np.float32(brightness), 0, 1)
    grey = float((rgb @ _YIQ[0].astype(np.float32)).mean())
    rgb = np.clip(grey + np.float32(contrast) * (rgb - np.float32(grey)), 0, 1)
    c, s = saturation * np.cos(turn), saturation * np.sin(turn)
    matrix = _RGB @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ _YIQ
    return np.asarray(np.clip(rgb @ matrix.T.astype(np.float32), 0, 1), np.float32)


def has_depth(depth: npt.NDArray[np.float32]) -> bool:
    """Whether any pixel of a map is known."""
    return bool((np.isfinite(depth) & (depth > 0)).any())


def known_range(depth: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Smallest and largest known depth, apart by a thousandth at least. ValueError where none is known."""
    values = depth[np.isfinite(depth) & (depth > 0)]
    if not len(values):
        raise ValueError("a reference image has no pixel of known depth")
    near, far = float(values.min()), float(values.max())
    return near, max(far, 1.001 * near)


def widened(
    rng: Random, near: float, far: float, near_noise: float, far_noise: float
) -> tuple[float, float]:
    """near x U(1 - near_noise, 1), far x U(1, 1 + far_noise)."""
    return near * rng.uniform(1 - near_noise, 1), far * rng.uniform(1, 1 + far_noise)
