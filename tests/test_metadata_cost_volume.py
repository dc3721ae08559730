# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The metadata cost volume on NumPy arrays: every one of its values by hand, sizes, invariances, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sweep_problems import metadata_problem

import pyloc_core as pl

SLOPE = 0.01


def volume(problem: dict[str, Any], **changes: Any) -> np.ndarray:
    return pl.metadata_cost_volume(**{**problem, **changes})


def read(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Features (C, H, W) at a point, bilinear, zero outside."""
    out = np.zeros(len(image))
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)):
        if 0 <= x0 + i < image.shape[2] and 0 <= y0 + j < image.shape[1]:
            weight = (x - x0 if i else 1 - x + x0) * (y - y0 if j else 1 - y + y0)
            out += weight * image[:, y0 + j, x0 + i]
    return out


def by_hand(p: dict[str, Any], item: int, plane: int, y: int, x: int) -> np.ndarray:
    """The values (V, 2 C + 14) of one cell and plane, written out with vectors and norms."""
    poses = np.asarray(p["source_from_reference"])[item]
    depth, low, high = p["depths"][plane], min(p["depths"]), max(p["depths"])
    point = depth * np.linalg.inv(p["K_reference"][item]) @ (x, y, 1)
    lengths = [np.linalg.norm(t) for t in poses[:, :, 3]]
    angles = [np.sqrt(2 * (1 - min(3, np.trace(r)) / 3)) for r in poses[:, :, :3]]
    far = max(np.hypot(t, r) for t, r in zip(lengths, angles)) or 1.0
    rows = []
    for v, pose in enumerate(poses):
        seen = pose[:, :3] @ point + pose[:, 3]
        u, w, z = p["K_sources"][item, v] @ seen
        f, own = read(p["sources"][item, v], u / z, w / z), p["reference"][item, :, y, x]
        ray = point / np.linalg.norm(point)
        centre = -pose[:, :3].T @ pose[:, 3]
        other = (point - centre) / np.linalg.norm(point - centre)
        scalars = [z > 0, (z - low) / high, (depth - low) / high, (z > 0) * (f @ own), ray @ other]
        last = [np.hypot(lengths[v], angles[v]) / far, angles[v], lengths[v] / (max(lengths) or 1)]
        rows.append(np.concatenate([f, own, scalars, ray, other, last]))
    return np.array(rows)


def one_value(channel: int, values: int) -> tuple[np.ndarray, ...]:
    """Weights whose score is one channel, and whose logits are equal."""
    w1 = np.zeros((2, values))
    w1[0, channel], w1[1, channel] = 1, -1  # x = (leaky(x) - leaky(-x)) / (1 + slope)
    w3 = np.zeros((2, 2))
    w3[0] = np.array([1, -1]) / (1 + SLOPE) ** 2
    w2 = np.array([[1.0, -1.0], [-1.0, 1.0]])
    return w1, np.zeros(2), w2, np.zeros(2), w3, np.zeros(2)


@pytest.mark.parametrize("channel", range(46))
def test_channel_order(channel: int) -> None:
    """The 46 values in the published order: a network that lets one of them through, mean over the views."""
    p = metadata_problem(batch=1, seed=3)
    found = volume(p, mlp_weights=one_value(channel, 46))
    for plane, y, x in ((0, 0, 0), (1, 4, 19), (2, 8, 7), (3, 5, 16)):
        expected = by_hand(p, 0, plane, y, x)[:, channel].mean()
        assert found[0, plane, y, x] == pytest.approx(expected, rel=2e-5, abs=2e-5)
    assert np.ptp(found) > 0 or channel in (32, 43, 44, 45)
