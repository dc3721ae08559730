# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""estimate_pose beside PoseLib on the maps' best cells, and batches beside single calls.

Problem: 1000 points, maps of 75 x 100 cells with Gaussian modes, 30 % or 70 % of them false. One thread."""

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


@pytest.mark.parametrize("method", ["batch", "single_calls"])
def test_batch(benchmark: Any, method: str) -> None:
    """16 problems of 500 maps, one thread."""
    benchmark.group = "initial pose, 16 problems of 500 maps"
    problems = [make_problem(20 + b, 0.5, 500) for b in range(16)]
    maps = pl.LossMaps.concatenate([problem.maps for problem in problems])
    points = np.concatenate([problem.points for problem in problems])
    ptr = np.arange(17) * 500

    def batch() -> Any:
        return pl.estimate_pose(maps, points, K, problem_ptr=ptr, num_threads=1).cam_from_world

    def single_calls() -> Any:
        found = [pl.estimate_pose(p.maps, p.points, K, num_threads=1) for p in problems]
        return np.stack([each.cam_from_world for each in found])

    poses = benchmark({"batch": batch, "single_calls": single_calls}[method])
    assert all(pl.pose_error(pose, p.truth)[0] < 2.0 for pose, p in zip(poses, problems))
