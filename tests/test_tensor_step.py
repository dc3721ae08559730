# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The localization step on tensors: from descriptors and features to a pose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pose_problems import SIZE, bilinear, reprojection_problem, smooth_features

import pyloc_core as pl

torch = pytest.importorskip("torch")

from pyloc_core.localization.tensor_step import CapturedStep, Stage, pose_from_features  # noqa: E402


def scene(count: int = 60, channels: int = 16) -> tuple[Any, Stage, Stage]:
    """Points whose descriptors are the features where they project; a fifth are given another's."""
    rng = np.random.default_rng(7)
    problem = reprojection_problem(count, 11, noise=0.0)
    stages = []
    wrong = rng.permutation(count)[: count // 5]
    for size, temperature in (((48, 64), 0.05), ((192, 256), 0.05)):
        features = smooth_features(rng, channels, size)
        features /= np.linalg.norm(features, axis=0)
        xy = pl.map_from_image(problem.points2d, problem.camera.size, size)
        descriptors = bilinear(features, np.clip(xy, 0, np.array(size[::-1]) - 1.01))
        descriptors[wrong] = rng.normal(size=(len(wrong), channels))
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        tensors = (torch.tensor(a, dtype=torch.float32) for a in (descriptors, features))
        stages.append(Stage(*tensors, temperature=temperature, stride=SIZE[0] / size[0]))
    return problem, stages[0], stages[1]


def test_both_stages_find_the_pose() -> None:
    problem, coarse, fine = scene()
    points = torch.tensor(problem.points3d)
    first = pose_from_features(points, problem.camera, coarse)
    both = pose_from_features(points, problem.camera, coarse, fine)
    errors = [
        pl.pose_error(np.asarray(each.cam_from_world[0]), problem.cam_from_world)[0]
        for each in (first, both)
    ]
    assert bool(first.success[0]) and bool(both.success[0]), both.reasons
    assert errors[0] < 1.0 and errors[1] < 0.1 and errors[1] < errors[0], errors
    assert isinstance(both.covariance, torch.Tensor)


def test_it_is_the_operators_one_by_one() -> None:
    problem, coarse, _ = scene()
    points = torch.tensor(problem.points3d)
    found = pose_from_features(points, problem.camera, coarse, iterations=200, seed=3)
    maps = pl.loss_maps(coarse.descriptors, coarse.features, temperature=coarse.temperature)
    start = pl.estimate_pose(maps, points, problem.camera, iterations=200, seed=3)
    by_hand = pl.refine_pose(maps, points, problem.camera, start.cam_from_world)
    assert torch.equal(found.cam_from_world[0], torch.as_tensor(by_hand.cam_from_world))


def test_a_start_takes_part() -> None:
    problem, coarse, _ = scene()
    truth = torch.tensor(problem.cam_from_world)
    found = pose_from_features(
        torch.tensor(problem.points3d), problem.camera, coarse, iterations=1, initial=truth
    )
    assert bool(found.success[0])


def test_arguments_are_named() -> None:
    problem, coarse, _ = scene()
    with pytest.raises(TypeError, match=r"points3d must be a torch tensor, got ndarray"):
        pose_from_features(problem.points3d, problem.camera, coarse)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA device"):
            CapturedStep(torch.tensor(problem.points3d), problem.camera, coarse)


def test_the_whole_step_traces() -> None:
    """torch.compile of both stages, without a graph break, gives the poses of the step."""
    problem, coarse, fine = scene()
    points = torch.tensor(problem.points3d)

    def step(points, c_descriptors, c_features, f_descriptors, f_features):  # type: ignore[no-untyped-def]
        found = pose_from_features(
            points, problem.camera, Stage(c_descriptors, c_features, 0.05, 16.0),
            Stage(f_descriptors, f_features, 0.05, 4.0), iterations=128,
        )  # fmt: skip
        return found.cam_from_world, found.success

    arguments = (points, coarse.descriptors, coarse.features, fine.descriptors, fine.features)
    pose, success = torch.compile(step, fullgraph=True, backend="aot_eager")(*arguments)
    expected, _ = step(*arguments)
    assert bool(success[0])
    assert pl.pose_error(pose[0], expected[0])[0] < 1e-6
