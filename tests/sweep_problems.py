# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Cameras, features and weights for the metadata cost volume."""

from __future__ import annotations

from typing import Any

import numpy as np


def rotation(w: np.ndarray) -> np.ndarray:
    """Rotation matrices of rotation vectors (..., 3), by Rodrigues' formula."""
    angle = np.linalg.norm(w, axis=-1)[..., None, None] + 1e-300
    x, y, z = np.moveaxis(w, -1, 0)
    zero = np.zeros_like(x)
    k = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*w.shape, 3) / angle
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def intrinsics(height: int, width: int) -> np.ndarray:
    """In map coordinates: cell centres at integers."""
    return np.array([[width, 0, width / 2 - 0.5], [0, 1.02 * width, height / 2 - 0.5], [0, 0, 1.0]])


def smooth(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random maps (..., H, W) whose neighbouring cells resemble each other."""
    x = rng.normal(size=shape)
    for axis in (-1, -2):
        x = (x + np.roll(x, 1, axis) + np.roll(x, 2, axis)) / 3**0.5
    return x


def metadata_problem(
    batch: int = 2,
    views: int = 3,
    channels: int = 16,
    planes: int = 4,
    size: tuple[int, int] = (9, 20),
    source_size: tuple[int, int] = (10, 17),
    hidden: tuple[int, int] = (32, 32),
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments of metadata_cost_volume by name, NumPy float64."""
    rng = np.random.default_rng(seed)
    turned = rotation(0.1 * rng.normal(size=(batch, views, 3)))
    moved = 0.15 * rng.normal(size=(batch, views, 3, 1))
    h1, h2 = hidden
    n = 2 * channels + 14
    layers = [(h1, n), (h1,), (h2, h1), (h2,), (2, h2), (2,)]
    gains = [2 / n**0.5, 0.2, 1.4 / h1**0.5, 0.2, 1.4 / h2**0.5, 0.2]
    return {
        "reference": smooth(rng, batch, channels, *size),
        "sources": smooth(rng, batch, views, channels, *source_size),
        "K_reference": np.tile(intrinsics(*size), (batch, 1, 1)),
        "K_sources": np.tile(intrinsics(*source_size), (batch, views, 1, 1)),
        "source_from_reference": np.concatenate([turned, moved], -1),
        "depths": np.geomspace(0.6, 8.0, planes),
        "mlp_weights": tuple(g * rng.normal(size=s) for g, s in zip(gains, layers)),
    }
