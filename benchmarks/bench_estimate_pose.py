# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""estimate_pose beside PoseLib on the maps' best cells, and its scoring loop beside plain NumPy and torch.

Problem: 1000 points, maps of 75 x 100 cells with Gaussian modes, 30 % or 70 % of them false. One thread.
The scoring groups divide by points x hypotheses: 250 maps x 2048 poses. `poses_per_call` of 64 reads every
map from memory for few poses (cold), 2048 for many (cached).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from loss_map_problems import make_maps, make_scene

import pyloc_core as pl
from pyloc_core import _native
from pyloc_core.camera import camera_native_args

H, W = 75, 100
K = np.array([[75.0, 0, 49.5], [0, 75.0, 37], [0, 0, 1]])  # of a map cell


CAMERA = pl.Camera("PINHOLE", 1600, 1200, (1200.0, 1200.0, 800.0, 600.0))


class Problem(NamedTuple):
    maps: pl.LossMaps
    points: np.ndarray  # (N, 3)
    truth: np.ndarray  # (3, 4)


def make_problem(seed: int, outliers: float, count: int = 1000) -> Problem:
    scene = make_scene(seed, count, CAMERA, outliers)
    return Problem(make_maps(scene, (H, W), seed, max_entries=256), scene.points, scene.truth)


@pytest.fixture(scope="module")
def problems() -> dict[float, Problem]:
    return {outliers: make_problem(7, outliers) for outliers in (0.3, 0.7)}


@pytest.mark.parametrize("outliers", [0.3, 0.7])
@pytest.mark.parametrize("method", ["pyloc", "poselib"])
def test_pose(benchmark: Any, problems: dict[float, Problem], method: str, outliers: float) -> None:
    benchmark.group = f"initial pose, 1000 maps given, {outliers:.0%} outliers"
    problem = problems[outliers]
    if method == "pyloc":
        found = benchmark(pl.estimate_pose, problem.maps, problem.points, K, num_threads=1)
        pose = found.cam_from_world
        benchmark.extra_info["stages_us"] = {k: round(1e6 * v) for k, v in found.timings.items()}
        benchmark.extra_info["triplets"] = found.iterations
    else:
        poselib = pytest.importorskip("poselib")
        camera = {"model": "PINHOLE", "width": W, "height": H, "params": [75.0, 75.0, 49.5, 37.0]}
        cells = np.asarray(problem.maps.argmin().xy, np.float64)
        options = {"max_reproj_error": 1.5, "success_prob": 0.9999}
        found = benchmark(
            poselib.estimate_absolute_pose, cells, problem.points, camera, options, {}
        )
        pose = found[0].Rt
    angle, _ = pl.pose_error(pose, problem.truth)
    benchmark.extra_info["rotation_error_deg"] = round(angle, 3)
    assert angle < 2.0


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
def test_scoring(
    benchmark: Any, problems: dict[float, Problem], method: str, poses_per_call: int
) -> None:
    benchmark.group = f"scoring, 250 maps x {poses_per_call} poses"
    problem = problems[0.3]
    maps, points = problem.maps[:250], np.ascontiguousarray(problem.points[:250])
    poses = np.ascontiguousarray(hypotheses(problem, poses_per_call))
    gain = np.zeros(len(poses), np.float32)
    arguments = (
        maps.native_args(), points.ctypes.data, camera_native_args(K), poses.ctypes.data, len(poses),
        gain.ctypes.data,
    )  # fmt: skip
    _native.score_poses(*arguments)
    bordered = np.zeros((250, H + 3, W + 3), np.float32)
    bordered[:, 1:-2, 1:-2] = np.float32(np.log(1 + H * W)) - maps.dense()
    flat = bordered.reshape(250, -1)
    expected = eager_scores(np, flat, points.astype(np.float32), poses.astype(np.float32))
    np.testing.assert_allclose(gain, expected, atol=1e-3 * float(maps.peak_gain.sum()))
    if method == "pyloc":
        benchmark(_native.score_poses, *arguments)
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
