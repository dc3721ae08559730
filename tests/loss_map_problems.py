# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Random pose problems over loss maps, full maps or windows, for tests and benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import pyloc_core as pl


class Scene(NamedTuple):
    points: np.ndarray  # (N, 3) world
    xy: np.ndarray  # (N, 2) true projections, image pixels
    camera: pl.Camera
    truth: np.ndarray  # (3, 4)
    wrong: np.ndarray  # (N,) points whose maps vote for another place


def make_scene(seed: int, count: int, camera: pl.Camera, outliers: float) -> Scene:
    """Points all over the image, 4 to 20 units away, seen from a random pose."""
    rng = np.random.default_rng(seed)
    R = pl.rotation_from_quaternion(rng.standard_normal(4))
    truth = np.hstack([R, rng.uniform(-5, 5, (3, 1))])
    xy = rng.uniform([0.05, 0.05], [0.95, 0.95], (count, 2)) * [camera.width, camera.height]
    rays = camera.unproject(xy)
    in_camera = rays / rays[:, 2:] * rng.uniform(4, 20, (count, 1))
    points = (in_camera - truth[:, 3]) @ R
    return Scene(points, xy, camera, truth, rng.random(count) < outliers)


def make_maps(
    scene: Scene,
    size: tuple[int, int],
    seed: int,
    *,
    window: int | None = None,
    mode_std: float = 1.0,
    max_entries: int | str | None = None,
) -> pl.LossMaps:
    """Gaussian logits of height 10 at the true projections (0.3 cells of jitter), for half of the
    wrong points at a random cell, for the other half nowhere; noise of 0.3. `window`: windows of
    that side, a few cells off the projections, in place of full maps."""
    rng = np.random.default_rng(seed)
    H, W = size
    count = len(scene.xy)
    xy = pl.map_from_image(scene.xy, scene.camera.size, size)
    h, w = (H, W) if window is None else (window, window)
    origins = np.zeros((count, 2), np.int32)
    if window is not None:
        origins = (np.floor(xy) - window // 2 + rng.integers(-3, 4, (count, 2))).astype(np.int32)
    centre = xy + 0.3 * rng.standard_normal((count, 2))
    centre[scene.wrong] = (origins + rng.uniform(0, [w, h], (count, 2)))[scene.wrong]
    flat = scene.wrong & (rng.random(count) < 0.5)
    gx = np.exp(-0.5 * ((origins[:, :1] + np.arange(w) - centre[:, :1]) / mode_std) ** 2)
    gy = np.exp(-0.5 * ((origins[:, 1:] + np.arange(h) - centre[:, 1:]) / mode_std) ** 2)
    dense = np.empty((count, h, w), np.float32)
    for n in range(count):
        height = 0 if flat[n] else 10
        logits = height * np.outer(gy[n], gx[n]) + 0.3 * rng.standard_normal((h, w))
        dense[n] = np.log(1 + np.exp(logits).sum()) - logits
    np.minimum(dense, np.float32(np.log(1 + H * W)), out=dense)
    options = {"max_entries": "all" if max_entries is None else max_entries}
    if window is not None:
        options |= {"origins": origins, "size": size}
    return pl.LossMaps.from_dense(dense, **options)
