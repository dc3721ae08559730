# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""score_poses: against the maps themselves, the float64 reference and the phases that a GPU runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from loss_map_problems import make_maps, make_scene

import pyloc_core as pl
from pyloc_core import _native, _problems

PINHOLE = pl.Camera("PINHOLE", 960, 720, (720.0, 720.0, 480.0, 360.0))
OPENCV = pl.Camera("OPENCV", 960, 720, (720.0, 730.0, 470.0, 350.0, -0.15, 0.05, 1e-3, -2e-3))
FISHEYE = pl.Camera(
    "OPENCV_FISHEYE", 960, 720, (500.0, 510.0, 480.0, 360.0, -0.03, 0.01, -2e-3, 4e-4)
)


class Problem(NamedTuple):
    maps: pl.LossMaps
    points: np.ndarray  # (N, 3)
    camera: pl.Camera
    poses: np.ndarray  # (M, 3, 4), from the true one to wrong ones


def make_problem(
    seed: int,
    *,
    count: int = 120,
    size: tuple[int, int] = (45, 60),
    window: int | None = None,
    camera: pl.Camera = PINHOLE,
    each: int = 20,
) -> Problem:
    rng = np.random.default_rng(seed)
    scene = make_scene(seed, count, camera, 0.3)
    poses = []
    for angle in (0.0, 0.01, 0.1, 1.0):
        for _ in range(each):
            turn = pl.rotation_from_quaternion([1.0, *0.5 * angle * rng.standard_normal(3)])
            move = np.hstack([turn, angle * rng.standard_normal((3, 1))])
            poses.append(pl.compose_poses(move, scene.truth))
    return Problem(
        make_maps(scene, size, seed, window=window), scene.points, camera, np.stack(poses)
    )


def expected_costs(problem: Problem) -> np.ndarray:
    """Eq. 4.6 through the public pieces, float64."""
    costs = []
    for pose in problem.poses:
        image, ahead = problem.camera.project(pl.transform_points(pose, problem.points))
        xy = pl.map_from_image(image, problem.camera.size, problem.maps.size)
        loss = np.where(ahead, problem.maps.evaluate(xy), problem.maps.log_cardinality)
        costs.append(loss.sum())
    return np.array(costs)


def bound(problem: Problem) -> float:
    """What float32 may cost: a share of the sum of peaks."""
    return 1e-5 * float(problem.maps.peak_gain.sum())


def phases(problems: list[Problem], dense: bool) -> np.ndarray:
    """What cuda/score_poses.cu launches, run on the CPU: (B, M)."""
    maps = pl.LossMaps.concatenate([p.maps for p in problems])
    points = np.concatenate([p.points for p in problems])
    poses = np.ascontiguousarray(np.stack([p.poses for p in problems]))
    cameras = _problems.camera_rows([p.camera for p in problems], maps, len(problems))
    ptr = np.concatenate([[0], np.cumsum([len(p.maps) for p in problems])]).astype(np.int64)
    cost = np.full(poses.shape[:2], np.nan)
    _native.score_poses_phases(
        maps.native_args(), points.ctypes.data, cameras.ctypes.data, poses.ctypes.data,
        poses.shape[1], ptr.ctypes.data, len(problems), dense, cost.ctypes.data,
    )  # fmt: skip
    return cost


@pytest.mark.parametrize("size,window", [((45, 60), None), ((45, 60), 16), ((90, 121), 33)])
@pytest.mark.parametrize("camera", [PINHOLE, OPENCV, FISHEYE], ids=["pinhole", "opencv", "fisheye"])
def test_agrees_with_the_maps(size: tuple[int, int], window: int | None, camera: pl.Camera) -> None:
    problem = make_problem(2, size=size, window=window, camera=camera)
    expected = expected_costs(problem)
    assert np.ptp(expected) > 100 * bound(problem)
    found = pl.score_poses(problem.maps, problem.points, problem.camera, problem.poses)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=bound(problem))
    for dense in (True, False):
        np.testing.assert_allclose(phases([problem], dense)[0], expected, atol=bound(problem))


def test_reference_is_the_formula() -> None:
    pytest.importorskip("torch")
    problem = make_problem(3, camera=OPENCV)
    found = pl.score_poses(
        problem.maps, problem.points, problem.camera, problem.poses, implementation="reference"
    )
    np.testing.assert_allclose(found, expected_costs(problem), rtol=1e-10)


def test_batches() -> None:
    cameras = (PINHOLE, FISHEYE, OPENCV, PINHOLE)
    problems = [
        make_problem(10 + b, count=(30, 1, 77, 200)[b], camera=cameras[b]) for b in range(4)
    ]
    problems[1] = problems[1]._replace(maps=problems[1].maps[:0], points=problems[1].points[:0])
    maps = pl.LossMaps.concatenate([p.maps for p in problems])
    points = np.concatenate([p.points for p in problems])
    ptr = np.concatenate([[0], np.cumsum([len(p.maps) for p in problems])])
    poses = np.stack([p.poses for p in problems])
    found = pl.score_poses(maps, points, list(cameras), poses, problem_ptr=ptr)
    assert found.shape == poses.shape[:2]
    on_gpu = phases(problems, True)
    for b, problem in enumerate(problems):
        alone = pl.score_poses(problem.maps, problem.points, problem.camera, problem.poses)
        assert found[b].tobytes() == alone.tobytes()
        np.testing.assert_allclose(on_gpu[b], alone, atol=2 * bound(problem))
    assert (found[1] == 0).all()


def test_many_poses_few_maps_and_huge_windows() -> None:
    problem = make_problem(4, count=5, each=600)  # more than two tiles
    expected = expected_costs(problem)
    call = (problem.points, problem.camera, problem.poses)
    np.testing.assert_allclose(pl.score_poses(problem.maps, *call), expected, atol=bound(problem))
    np.testing.assert_allclose(phases([problem], True)[0], expected, atol=bound(problem))
    few = problem._replace(poses=problem.poses[:7])
    maps = pl.LossMaps(
        few.maps.row_ptr, few.maps.xy + np.array([9000, 7000], np.int16), few.maps.gain,
        size=(20000, 30000), log_cardinality=few.maps.log_cardinality,
    )  # fmt: skip
    K = np.array([[45.0, 0, 29.5 + 9000], [0, 45.0, 22 + 7000], [0, 0, 1]])
    far = pl.score_poses(maps, few.points, K, few.poses)
    np.testing.assert_allclose(far, expected[:7], atol=1e-3)


def test_empty_and_errors() -> None:
    problem = make_problem(5, count=10, each=1)
    assert pl.score_poses(*problem[:3], problem.poses[:0]).shape == (0,)
    none = pl.score_poses(problem.maps[:0], problem.points[:0], problem.camera, problem.poses)
    np.testing.assert_array_equal(none, np.zeros(4))
    with pytest.raises(ValueError, match="cam_from_world"):
        pl.score_poses(*problem[:3], problem.poses[0])
    with pytest.raises(ValueError, match="cam_from_world"):
        pl.score_poses(*problem[:3], problem.poses[None], problem_ptr=[0, 5, 10])
    with pytest.raises(ValueError, match="problem_ptr"):
        pl.score_poses(*problem[:3], problem.poses[None], problem_ptr=[0, 9])
    behind = problem.poses[:1] * [[[1], [1], [-1]]]
    cost = pl.score_poses(*problem[:3], behind)
    np.testing.assert_allclose(cost, 10 * problem.maps.log_cardinality)
