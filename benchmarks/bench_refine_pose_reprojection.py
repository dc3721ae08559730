# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Robust reprojection refinement against PoseLib and pycolmap: 1000 matches, 30 % wrong, Cauchy kernel."""

from __future__ import annotations

import numpy as np
import pytest
from pose_problems import reprojection_problem

import pyloc_core as pl

SCALE = 1.5


@pytest.fixture(scope="module", params=["PINHOLE", "OPENCV", "OPENCV_FISHEYE"])
def problem(request):
    return reprojection_problem(1000, 0, model=request.param, outliers=0.3)


@pytest.fixture(scope="module")
def minimum(problem):
    return run_pyloc(problem).cam_from_world


def run_pyloc(problem):
    return pl.refine_pose_reprojection(
        problem.points2d,
        problem.points3d,
        problem.camera,
        problem.start,
        scale=SCALE,
        num_threads=1,
    )


@pytest.mark.benchmark(group="refine_pose_reprojection, N 1000, 1 thread")
def test_pyloc(benchmark, problem, minimum):
    found = benchmark.pedantic(run_pyloc, (problem,), rounds=200, warmup_rounds=5)
    assert found.success and np.array_equal(found.cam_from_world, minimum)


@pytest.mark.benchmark(group="refine_pose_reprojection, N 1000, 1 thread")
def test_poselib(benchmark, problem, minimum):
    poselib = pytest.importorskip("poselib")
    start = poselib.CameraPose()
    start.R, start.t = problem.start[:, :3], problem.start[:, 3]
    options = {"loss_type": "CAUCHY", "loss_scale": SCALE}
    args = (problem.points2d, problem.points3d, start, problem.camera.to_dict(), options)
    found, _ = benchmark.pedantic(poselib.refine_absolute_pose, args, rounds=50, warmup_rounds=2)
    assert np.abs(np.c_[found.R, found.t] - minimum).max() < 1e-4


@pytest.mark.benchmark(group="refine_pose_reprojection, N 1000, 1 thread")
def test_pycolmap(benchmark, problem, minimum):
    pycolmap = pytest.importorskip("pycolmap")
    camera = pycolmap.Camera(**problem.camera.to_dict())
    options = pycolmap.AbsolutePoseRefinementOptions()
    options.loss_function_scale = SCALE
    args = (
        pycolmap.Rigid3d(problem.start), problem.points2d, problem.points3d,
        np.ones(len(problem.points2d), dtype=bool), camera, options,
    )  # fmt: skip
    found = benchmark.pedantic(pycolmap.refine_absolute_pose, args, rounds=20, warmup_rounds=1)
    assert (
        np.abs(found["cam_from_world"].matrix() - minimum).max() < 1e-3
    )  # its tolerance is looser
