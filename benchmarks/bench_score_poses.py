# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""score_poses beside plain NumPy and torch: 250 maps of 75 x 100 cells, one thread.

`poses_per_call` of 64 reads every map from memory for few poses (cold), 2048 for many (cached).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from loss_map_problems import make_maps, make_scene

import pyloc_core as pl

H, W = 75, 100
K = np.array([[75.0, 0, 49.5], [0, 75.0, 37], [0, 0, 1]])  # of a map cell
CAMERA = pl.Camera("PINHOLE", 1600, 1200, (1200.0, 1200.0, 800.0, 600.0))


class Problem(NamedTuple):
    maps: pl.LossMaps
    points: np.ndarray  # (N, 3)
    truth: np.ndarray  # (3, 4)


@pytest.fixture(scope="module")
def problem() -> Problem:
    scene = make_scene(7, 250, CAMERA, 0.3)
    return Problem(make_maps(scene, (H, W), 7, max_entries=256), scene.points, scene.truth)


def hypotheses(problem: Problem, count: int) -> np.ndarray:
    """Poses (count, 3, 4) like those a consensus loop meets: a few good ones, most of them wrong."""
    rng = np.random.default_rng(1)
    poses = np.empty((count, 3, 4))
    for i in range(count):
        size = 0.01 if i % 8 == 0 else 0.5
        turn = np.concatenate([[1.0], 0.5 * size * rng.standard_normal(3)])
        move = np.hstack([pl.rotation_from_quaternion(turn), size * rng.standard_normal((3, 1))])
        poses[i] = pl.compose_poses(move, problem.truth)
    return poses


def eager_scores(xp: Any, gain: Any, points: Any, poses: Any) -> Any:
    """Summed bilinear gains (M,): dense maps with a zero border, vectorised, in NumPy or torch."""
    in_camera = xp.einsum("mij,nj->mni", poses[:, :, :3], points) + poses[:, None, :, 3]
    z = in_camera[..., 2]
    ahead = z > 0
    z = xp.where(ahead, z, xp.ones_like(z))
    x = xp.clip(75 * in_camera[..., 0] / z + 50.5, 0, W + 1)
    y = xp.clip(75 * in_camera[..., 1] / z + 38, 0, H + 1)
    x0, y0 = xp.floor(x), xp.floor(y)
    ax, ay = x - x0, y - y0
    index = y0 * (W + 3) + x0
    index = index.astype(np.int32) if xp is np else index.to(xp.int64)
    n = np.arange(len(points)) if xp is np else xp.arange(len(points))
    tap = [gain[n, index + offset] for offset in (0, 1, W + 3, W + 4)]
    value = (1 - ay) * ((1 - ax) * tap[0] + ax * tap[1]) + ay * ((1 - ax) * tap[2] + ax * tap[3])
    return xp.where(ahead, value, xp.zeros_like(value)).sum(1)


@pytest.mark.parametrize("poses_per_call", [64, 2048])
@pytest.mark.parametrize("method", ["pyloc", "numpy", "torch"])
def test_scoring(benchmark: Any, problem: Problem, method: str, poses_per_call: int) -> None:
    benchmark.group = f"scoring, 250 maps x {poses_per_call} poses"
    maps, points = problem.maps, problem.points
    poses = hypotheses(problem, poses_per_call)
    gain = 250 * maps.log_cardinality - pl.score_poses(maps, points, K, poses, num_threads=1)
    bordered = np.zeros((250, H + 3, W + 3), np.float32)
    bordered[:, 1:-2, 1:-2] = np.float32(np.log(1 + H * W)) - maps.dense()
    flat = bordered.reshape(250, -1)
    expected = eager_scores(np, flat, points.astype(np.float32), poses.astype(np.float32))
    np.testing.assert_allclose(gain, expected, atol=1e-3 * float(maps.peak_gain.sum()))
    if method == "pyloc":
        benchmark(pl.score_poses, maps, points, K, poses, num_threads=1)
    elif method == "numpy":
        benchmark(eager_scores, np, flat, points.astype(np.float32), poses.astype(np.float32))
    else:
        torch = pytest.importorskip("torch")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        arrays = [torch.from_numpy(a.astype(np.float32)) for a in (flat, points, poses)]
        benchmark(eager_scores, torch, *arrays)
        torch.set_num_threads(threads)
    if benchmark.stats is not None:
        each = benchmark.stats.stats.median / (250 * len(poses))
        benchmark.extra_info["ns_per_point_and_pose"] = round(1e9 * each, 2)
