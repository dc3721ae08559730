# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth from four views of a drawn scene, by nothing but a plane sweep over grey values.

    python examples/plane_sweep.py

Half of the picture shows a plane at 2 units, half one at 4. Small windows of the pictures, brought to unit
length, serve as features; the sweep compares them at 48 depths, and the best of these is the answer.
"""

from __future__ import annotations

import numpy as np

import pyloc_core as pl

SIZE = (60, 96)
DEPTHS = (2.0, 4.0)  # left and right half of the reference
SHIFTS = ((0.3, 0.0), (-0.3, 0.05), (0.0, 0.3))  # of the source cameras, in units of the scene


def texture(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """A sum of waves over a plane of the scene."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(60, 2)) * 20
    phases = rng.uniform(0, 6.3, 60)
    return sum(np.sin(a * x + b * y + p) for (a, b), p in zip(waves, phases))


def draw(K: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """What a camera at (shift, 0) that looks along z sees of the two planes."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ray_x, ray_y = (x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]
    points = [(shift[0] + d * ray_x, shift[1] + d * ray_y) for d in DEPTHS]
    near, far = (texture(px, py, seed) for seed, (px, py) in enumerate(points))
    return np.where(points[0][0] < 0, near, far)  # the near plane ends at x = 0


def features(image: np.ndarray) -> np.ndarray:
    """Windows of 5 x 5 without their mean, of unit length: (25, H, W)."""
    padded = np.pad(image, 2, mode="edge")
    rows, columns = image.shape
    window = np.stack([padded[i : i + rows, j : j + columns] for i in range(5) for j in range(5)])
    window = window - window.mean(0)
    return (window / np.linalg.norm(window, axis=0)).astype(np.float32)


def main() -> float:
    """Share of the cells whose best plane is within 5 % of the depth; border and edge left out."""
    K_image = np.array([[2 * SIZE[1], 0, SIZE[1]], [0, 2 * SIZE[1], SIZE[0]], [0, 0, 1.0]])
    K = pl.scale_intrinsics(K_image, (2 * SIZE[0], 2 * SIZE[1]), SIZE)
    reference = features(draw(K, (0.0, 0.0)))
    sources = np.stack([features(draw(K, shift)) for shift in SHIFTS])
    poses = np.stack([np.eye(3, 4) for _ in SHIFTS])
    poses[:, :2, 3] = -np.array(SHIFTS)
    planes = pl.log_depth_planes(1.5, 6.0, 48)
    volume = pl.plane_sweep(
        reference, sources, K, np.stack([K] * len(SHIFTS)), poses, planes, reduce="valid_mean"
    )
    found = planes[volume.argmax(0)]
    x = np.arange(SIZE[1])
    truth = np.where(x < K[0, 2], DEPTHS[0], DEPTHS[1])[None]
    inner = (abs(x - K[0, 2]) > 12) & (x > 8) & (x < SIZE[1] - 8)
    good = (abs(found / truth - 1) < 0.05)[8:-8, inner].mean()
    print(f"{100 * good:.1f} % of the cells are within 5 % of their depth")
    return float(good)


if __name__ == "__main__":
    main()
