# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""estimate_pose_from_matches beside PoseLib's RANSAC, and its scoring loop beside plain NumPy. One thread.

1000 matches with 1 px of noise, 30, 60 or 80 % of them wrong. PoseLib runs with the same threshold,
confidence and smallest number of iterations; both end with a refinement on the inliers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyloc_core as pl
from pyloc_core import _native
from pyloc_core.camera import camera_native_args

CAMERA = pl.Camera("PINHOLE", 1024, 768, (800.0, 810.0, 512.0, 384.0))
ERROR = 6.0


def make_matches(seed: int, outliers: float, count: int = 1000) -> tuple[np.ndarray, ...]:
    """Image points (N, 2), world points (N, 3) and the true pose."""
    rng = np.random.default_rng(seed)
    truth = np.hstack(
        [pl.rotation_from_quaternion(rng.standard_normal(4)), rng.normal(size=(3, 1))]
    )
    xy = rng.uniform([20, 20], [1004, 748], (count, 2))
    rays = CAMERA.unproject(xy)
    in_camera = rays / rays[:, 2:] * rng.uniform(3, 9, (count, 1))
    xy = xy + rng.standard_normal(xy.shape)
    wrong = rng.random(count) < outliers
    xy[wrong] = rng.uniform([0, 0], [1024, 768], (wrong.sum(), 2))
    return xy, (in_camera - truth[:, 3]) @ truth[:, :3], truth


@pytest.mark.parametrize("outliers", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("method", ["pyloc", "poselib"])
def test_pose(benchmark: Any, method: str, outliers: float) -> None:
    benchmark.group = f"pose from 1000 matches, {outliers:.0%} outliers"
    xy, points, truth = make_matches(3, outliers)
    if method == "pyloc":
        found = benchmark(
            pl.estimate_pose_from_matches, xy, points, CAMERA, max_error=ERROR, num_threads=1
        )
        pose, iterations = found.cam_from_world, found.iterations
        benchmark.extra_info["stages_us"] = {k: round(1e6 * v) for k, v in found.timings.items()}
    else:
        poselib = pytest.importorskip("poselib")
        options = {"max_reproj_error": ERROR, "success_prob": 0.9999, "min_iterations": 128}
        estimate = poselib.estimate_absolute_pose
        result, report = benchmark(estimate, xy, points, CAMERA.to_dict(), options, {})
        pose, iterations = result.Rt, report["iterations"]
    angle, _ = pl.pose_error(pose, truth)
    benchmark.extra_info |= {"rotation_error_deg": round(angle, 4), "iterations": iterations}
    assert angle < 0.1


def numpy_gains(xy: np.ndarray, points: np.ndarray, poses: np.ndarray) -> np.ndarray:
    in_camera = np.einsum("mij,nj->mni", poses[:, :, :3], points) + poses[:, None, :, 3]
    z = in_camera[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        r = in_camera[..., :2] / z[..., None] * [800.0, 810.0] + [512.0, 384.0] - xy
        kept = ERROR**2 - (r * r).sum(-1)
    return np.where((z > 0) & (kept > 0), kept, 0.0).sum(1)


@pytest.mark.parametrize("method", ["pyloc_float32", "pyloc_float64", "numpy"])
def test_scoring(benchmark: Any, method: str) -> None:
    benchmark.group = "scoring, 1000 matches x 512 poses, nothing given up"
    xy, points, truth = make_matches(3, 0.3)
    rng = np.random.default_rng(1)
    poses = np.empty((512, 3, 4))
    for i in range(512):
        size = 0.001 if i % 8 == 0 else 0.5
        turn = np.concatenate([[1.0], 0.5 * size * rng.standard_normal(3)])
        move = np.hstack([pl.rotation_from_quaternion(turn), size * rng.standard_normal((3, 1))])
        poses[i] = pl.compose_poses(move, truth)
    points = np.ascontiguousarray(points)
    gain = np.zeros(len(poses))
    arguments = (
        (xy.ctypes.data, points.ctypes.data, 0), len(xy), camera_native_args(CAMERA), ERROR,
        poses.ctypes.data, len(poses), method == "pyloc_float32", gain.ctypes.data,
    )  # fmt: skip
    _native.score_poses_on_matches(*arguments)
    np.testing.assert_allclose(gain, numpy_gains(xy, points, poses), atol=1e-4 * 36 * 1000)
    if method == "numpy":
        benchmark(numpy_gains, xy, points, poses)
    else:
        benchmark(_native.score_poses_on_matches, *arguments)
    if benchmark.stats is not None:
        each = benchmark.stats.stats.median / (len(xy) * len(poses))
        benchmark.extra_info["ns_per_point_and_pose"] = round(1e9 * each, 3)
