# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""estimate_pose_from_matches: against the float64 reference, PoseLib, and input without an answer."""

from __future__ import annotations

import threading

import hypothesis
import hypothesis.extra.numpy
import numpy as np
import pytest
from pose_problems import CAMERAS, Problem, normalized_error, perturbed, reprojection_problem

import pyloc_core as pl
from pyloc_core import _native
from pyloc_core.camera import camera_native_args


def estimate(problem: Problem, **options) -> pl.PoseEstimate:
    return pl.estimate_pose_from_matches(
        problem.points2d, problem.points3d, problem.camera, **options
    )


def squared_errors(problem: Problem, pose: np.ndarray) -> np.ndarray:
    """(N,) squared reprojection errors, inf behind the camera."""
    xy, ahead = problem.camera.project(pl.transform_points(pose, problem.points3d))
    return np.where(ahead, ((xy - problem.points2d) ** 2).sum(1), np.inf)


def native_gains(problem: Problem, poses: np.ndarray, error: float, single: bool) -> np.ndarray:
    gain = np.zeros(len(poses))
    arrays = [np.ascontiguousarray(a) for a in (problem.points2d, problem.points3d, poses)]
    _native.score_poses_on_matches(
        (arrays[0].ctypes.data, arrays[1].ctypes.data, 0), len(arrays[0]),
        camera_native_args(problem.camera), error, arrays[2].ctypes.data, len(poses), single,
        gain.ctypes.data,
    )  # fmt: skip
    return gain


@pytest.mark.parametrize("model", CAMERAS)
def test_finds_the_pose_with_every_camera(model: str) -> None:
    problem = reprojection_problem(300, 1, model=model, outliers=0.4)
    found = estimate(problem, max_error=4.0)
    assert found.success, found.reason
    angle, centre = pl.pose_error(found.cam_from_world, problem.cam_from_world)
    assert angle < 0.05 and centre < 0.01
    np.testing.assert_array_equal(found.inlier_probability[~problem.outlier] > 0, True)


@pytest.mark.parametrize("outliers", [0.0, 0.5, 0.85])
def test_many_outliers(outliers: float) -> None:
    problem = reprojection_problem(500, 2, outliers=outliers)
    found = estimate(problem, max_error=4.0)
    assert found.success
    assert pl.pose_error(found.cam_from_world, problem.cam_from_world)[0] < 0.1
    assert (found.iterations > 1000) == (outliers > 0.8)


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV", "OPENCV_FISHEYE"])
@pytest.mark.parametrize("single,tolerance", [(True, 1e-4), (False, 1e-9)])
def test_scoring_is_the_truncated_squared_error(
    model: str, single: bool, tolerance: float, rng: np.random.Generator
) -> None:
    problem = reprojection_problem(301, 3, model=model, outliers=0.2)
    truth = problem.cam_from_world
    poses = np.stack([truth, *(perturbed(truth, rng, size) for size in (1e-3, 1e-2, 0.3, 2.0))])
    expected = [np.maximum(64 - squared_errors(problem, pose), 0).sum() for pose in poses]
    found = native_gains(problem, poses, 8.0, single)
    np.testing.assert_allclose(found, expected, atol=tolerance * 64 * 301)


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV", "OPENCV_FISHEYE"])
@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_the_reference(model: str, weighted: bool) -> None:
    pytest.importorskip("torch")
    problem = reprojection_problem(40, 10, model=model, outliers=0.3)
    weights = np.random.default_rng(0).choice([0.0, 0.5, 2.0], 40) if weighted else None
    kw = {"max_error": 3.0, "seed": 1, "weights": weights, "iterations": None if weighted else 64}
    ours = estimate(problem, **kw)
    theirs = estimate(problem, implementation="reference", **kw)
    np.testing.assert_allclose(ours.cam_from_world, theirs.cam_from_world, atol=1e-6)
    assert (ours.success, ours.iterations) == (theirs.success, theirs.iterations)
    np.testing.assert_allclose(ours.cost, theirs.cost, rtol=1e-8)
    np.testing.assert_allclose(ours.gain, theirs.gain, rtol=1e-8)
    np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(ours.inlier_probability, theirs.inlier_probability, atol=1e-6)
    assert (ours.num_usable, ours.num_consistent) == (theirs.num_usable, theirs.num_consistent)


def test_as_accurate_as_poselib() -> None:
    poselib = pytest.importorskip("poselib")
    ours, theirs = [], []
    for seed in range(20):
        problem = reprojection_problem(200, 100 + seed, outliers=0.4, noise=1.0)
        truth = problem.cam_from_world
        found = estimate(problem, max_error=5.0, seed=seed)
        ours.append(pl.pose_error(found.cam_from_world, truth)[0])
        pose, _ = poselib.estimate_absolute_pose(
            problem.points2d, problem.points3d, problem.camera.to_dict(),
            {"max_reproj_error": 5.0, "seed": seed}, {},
        )  # fmt: skip
        theirs.append(pl.pose_error(pose.Rt, truth)[0])
    assert np.median(ours) < 1.2 * np.median(theirs)
    assert max(ours) < 1.5 * max(theirs)


def test_cost_gain_and_probability() -> None:
    problem = reprojection_problem(150, 4, outliers=0.3)
    weights = np.random.default_rng(0).uniform(0.5, 2, 150)
    found = estimate(problem, max_error=5.0, weights=weights)
    squares = np.minimum(squared_errors(problem, found.cam_from_world), 25)
    np.testing.assert_allclose(found.cost, (weights * squares).sum(), rtol=1e-9)
    np.testing.assert_allclose(found.gain, (weights * (25 - squares)).sum(), rtol=1e-9)
    np.testing.assert_allclose(found.inlier_probability, 1 - squares / 25, atol=1e-9)
    assert found.num_consistent == (squares < 25).sum()
    # A minimum of the cost: refining it on its own inliers changes nothing.
    inliers = squares < 25
    refined = pl.refine_pose_reprojection(
        problem.points2d[inliers], problem.points3d[inliers], problem.camera, found.cam_from_world,
        loss="squared", weights=weights[inliers],
    )  # fmt: skip
    np.testing.assert_allclose(found.cam_from_world, refined.cam_from_world, atol=1e-6)


def test_covariance_is_calibrated() -> None:
    errors = []
    for seed in range(100):
        problem = reprojection_problem(80, 200 + seed, noise=0.7)
        found = estimate(problem, max_error=6.0)
        errors.append(normalized_error(found, problem.cam_from_world))
    assert 4 < np.mean(errors) < 9


def test_same_bits_for_any_number_of_threads() -> None:
    problem = reprojection_problem(400, 5, outliers=0.8)
    runs = [estimate(problem, max_error=4.0, iterations=2000, num_threads=n) for n in (1, 2, 8)]
    for run in runs[1:]:
        assert run.cam_from_world.tobytes() == runs[0].cam_from_world.tobytes()
        assert run.covariance.tobytes() == runs[0].covariance.tobytes()


def test_eight_python_threads_agree() -> None:
    problem = reprojection_problem(300, 6, outliers=0.5)
    results: list[bytes] = [b""] * 8

    def work(i: int) -> None:
        for _ in range(5):
            results[i] = estimate(problem, num_threads=2).cam_from_world.tobytes()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1 and results[0]


def test_initial_pose_competes() -> None:
    problem = reprojection_problem(100, 7, outliers=0.6, noise=0.1)
    without = estimate(problem, iterations=1, max_error=12.0)
    found = estimate(problem, iterations=1, max_error=12.0, initial=problem.start)
    assert pl.pose_error(found.cam_from_world, problem.cam_from_world)[0] < 0.1
    assert found.gain > without.gain


def test_far_from_the_origin() -> None:
    problem = reprojection_problem(100, 8, outliers=0.3)
    offset = np.array([5e6, -2e6, 1e6])
    near = estimate(problem)
    far = pl.estimate_pose_from_matches(problem.points2d, problem.points3d + offset, problem.camera)
    expected = near.cam_from_world.copy()
    expected[:, 3] -= expected[:, :3] @ offset
    assert far.success
    assert pl.pose_error(far.cam_from_world, expected)[0] < 1e-5


def test_matrix_camera_and_torch() -> None:
    torch = pytest.importorskip("torch")
    problem = reprojection_problem(100, 9, outliers=0.3)
    expected = estimate(problem)
    found = pl.estimate_pose_from_matches(
        torch.from_numpy(problem.points2d), torch.from_numpy(problem.points3d), problem.camera.K
    )
    assert isinstance(found.cam_from_world, torch.Tensor)
    assert isinstance(found.covariance, torch.Tensor)
    np.testing.assert_allclose(found.cam_from_world.numpy(), expected.cam_from_world, atol=1e-9)


@pytest.mark.parametrize(
    "kind", ["none", "three", "collinear", "duplicate", "one_pixel", "behind", "random", "huge"]
)
def test_input_without_an_answer(kind: str) -> None:
    problem = reprojection_problem(40, 10)
    points2d, points3d = problem.points2d.copy(), problem.points3d.copy()
    if kind in ("none", "three"):
        n = 0 if kind == "none" else 3
        points2d, points3d = points2d[:n], points3d[:n]
    elif kind == "collinear":
        points3d = np.outer(np.linspace(0, 1, 40), [1.0, 2.0, 3.0])
    elif kind == "duplicate":
        points3d[:] = points3d[0]
    elif kind == "one_pixel":
        points2d[:] = points2d[0]
    elif kind == "behind":
        points3d = -points3d[::-1]
    elif kind == "random":
        points3d = np.random.default_rng(0).standard_normal((40, 3))
    else:
        points2d, points3d = 1e200 * points2d, 1e300 * points3d[::-1]
    found = pl.estimate_pose_from_matches(points2d, points3d, problem.camera, iterations=300)
    assert not found.success
    assert found.reason
    assert np.isfinite(found.cam_from_world).all()
    assert np.isfinite([found.cost, found.gain]).all()
    assert np.isfinite(found.inlier_probability).all()
    assert found.inlier_probability.shape == (len(points2d),)
    assert not np.isnan(found.covariance).any()


@hypothesis.given(
    hypothesis.extra.numpy.arrays(np.float64, hypothesis.strategies.tuples(
        hypothesis.strategies.integers(0, 12), hypothesis.strategies.just(6),
    ), elements=hypothesis.strategies.floats(width=64)),
    hypothesis.strategies.floats(1e-3, 1e6),
)  # fmt: skip
@hypothesis.settings(max_examples=150, deadline=None)
def test_never_crashes_nor_returns_nan(rows: np.ndarray, error: float) -> None:
    xy, points, weights = rows[:, :2], rows[:, 2:5], np.abs(rows[:, 5])
    kw = {"max_error": error, "iterations": 20, "weights": weights}
    camera = reprojection_problem(1, 0).camera
    if not np.isfinite(rows).all():
        with pytest.raises(ValueError, match="NaN or infinite"):
            pl.estimate_pose_from_matches(xy, points, camera, **kw)
        return
    found = pl.estimate_pose_from_matches(xy, points, camera, **kw)
    assert np.isfinite(found.cam_from_world).all()
    assert np.isfinite(found.inlier_probability).all()
    assert not np.isnan(found.covariance).any()
    assert not np.isnan([found.cost, found.gain]).any()


def test_a_threshold_as_large_as_the_image_proves_nothing() -> None:
    # A camera far away sends all points to the middle, within the threshold of random measurements.
    rng = np.random.default_rng(3)
    xy, points = rng.uniform(0, 100, (30, 2)), rng.standard_normal((30, 3)) + [0, 0, 5]
    K = np.array([[50.0, 0, 50], [0, 50.0, 50], [0, 0, 1]])
    found = pl.estimate_pose_from_matches(xy, points, K, max_error=50.0)
    assert not found.success and "chance" in found.reason
    assert found.num_consistent > 15


def test_errors_name_the_argument() -> None:
    problem = reprojection_problem(20, 11)
    xy, points, camera = problem.points2d, problem.points3d, problem.camera
    call = pl.estimate_pose_from_matches
    with pytest.raises(ValueError, match="points2d and points3d"):
        call(xy, points[:-1], camera)
    with pytest.raises(ValueError, match="points2d"):
        call(xy[:, :1], points, camera)
    with pytest.raises(ValueError, match="points3d"):
        call(xy, np.full_like(points, np.inf), camera)
    with pytest.raises(TypeError, match="camera"):
        call(xy, points, {"f": 3}.keys())
    for name, value in [
        ("iterations", 0), ("confidence", 0.0), ("seed", -1), ("max_error", 0.0),
        ("max_error", np.nan), ("max_error", -1.0), ("weights", np.ones(3)),
        ("weights", -np.ones(20)), ("weights", np.full(20, np.nan)), ("initial", np.zeros((2, 3))),
        ("num_threads", -1), ("implementation", "gpu"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=name):
            call(xy, points, camera, **{name: value})


def test_reads_any_layout_and_changes_nothing() -> None:
    problem = reprojection_problem(80, 12, outliers=0.2)
    expected = estimate(problem).cam_from_world
    xy = np.asfortranarray(problem.points2d)
    points = np.repeat(problem.points3d[::-1], 2, axis=0)[::-2]
    for array in (xy, points):
        array.flags.writeable = False
    found = pl.estimate_pose_from_matches(xy, points, problem.camera)
    assert found.cam_from_world.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(points, problem.points3d)
