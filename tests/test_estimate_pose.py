# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""estimate_pose: against the float64 reference, for any thread count, and on input without an answer."""

from __future__ import annotations

import threading
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
from loss_map_problems import make_maps, make_scene

import pyloc_core as pl


class Problem(NamedTuple):
    maps: pl.LossMaps
    points: np.ndarray  # (N, 3)
    camera: pl.Camera
    truth: np.ndarray  # (3, 4)


def make_problem(
    seed: int,
    *,
    count: int = 120,
    size: tuple[int, int] = (45, 60),
    outliers: float = 0.3,
    camera: pl.Camera | None = None,
    window: int | None = None,
) -> Problem:
    H, W = size
    if camera is None:
        camera = pl.Camera("PINHOLE", W * 16, H * 16, (W * 12.0, W * 12.0, W * 8.0, H * 8.0))
    scene = make_scene(seed, count, camera, outliers)
    maps = make_maps(scene, size, seed, window=window)
    return Problem(maps, scene.points, camera, scene.truth)


FISHEYE = pl.Camera(
    "OPENCV_FISHEYE", 960, 720, (500.0, 510.0, 480.0, 360.0, -0.03, 0.01, -2e-3, 4e-4)
)
OPENCV = pl.Camera("OPENCV", 960, 720, (720.0, 730.0, 470.0, 350.0, -0.15, 0.05, 1e-3, -2e-3))


def map_gains(problem: Problem, pose: np.ndarray) -> np.ndarray:
    """Bilinear gains (N,) at a pose, through the public pieces."""
    image, ahead = problem.camera.project(pl.transform_points(pose, problem.points))
    xy = pl.map_from_image(image, problem.camera.size, problem.maps.size)
    return np.where(ahead, problem.maps.log_cardinality - problem.maps.evaluate(xy), 0.0)


@pytest.mark.parametrize("camera", [None, OPENCV, FISHEYE], ids=["pinhole", "opencv", "fisheye"])
@pytest.mark.parametrize("outliers", [0.0, 0.3, 0.6])
def test_finds_the_pose(camera: pl.Camera | None, outliers: float) -> None:
    problem = make_problem(1, outliers=outliers, camera=camera)
    found = pl.estimate_pose(problem.maps, problem.points, problem.camera)
    angle, centre = pl.pose_error(found.cam_from_world, problem.truth)
    assert found.success, found.reason
    assert angle < 2.0 and centre < 0.5
    assert found.num_consistent > 0.5 * (1 - outliers) * found.num_usable
    assert found.iterations >= 128


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_finds_the_same(isa: str) -> None:
    problem = make_problem(3, camera=OPENCV)
    before = pl.build_info()["isa"]
    expected = pl.estimate_pose(problem.maps, problem.points, problem.camera, seed=5)
    try:
        pl.set_isa(isa)
    except (ValueError, RuntimeError):
        pytest.skip(f"{isa} does not run here")
    try:
        found = pl.estimate_pose(problem.maps, problem.points, problem.camera, seed=5)
    finally:
        pl.set_isa(before)
    np.testing.assert_allclose(found.cam_from_world, expected.cam_from_world, atol=1e-8)
    assert found.iterations == expected.iterations


@pytest.mark.parametrize("iterations", [None, 1, 100])
@pytest.mark.parametrize("camera", [None, FISHEYE], ids=["pinhole", "fisheye"])
@pytest.mark.parametrize("window", [None, 20])
def test_chooses_what_the_reference_chooses(
    iterations: int | None, camera: pl.Camera | None, window: int | None
) -> None:
    pytest.importorskip("torch")
    for seed in range(2 if iterations == 1 else 1):
        problem = make_problem(10 + seed, count=60, outliers=0.2, camera=camera, window=window)
        kw = {"iterations": iterations, "seed": seed}
        ours = pl.estimate_pose(problem.maps, problem.points, problem.camera, **kw)
        theirs = pl.estimate_pose(
            problem.maps, problem.points, problem.camera, implementation="reference", **kw
        )
        np.testing.assert_allclose(ours.cam_from_world, theirs.cam_from_world, atol=1e-7)
        assert (ours.success, ours.iterations) == (theirs.success, theirs.iterations)
        np.testing.assert_allclose(ours.gain, theirs.gain, rtol=1e-7)
        np.testing.assert_allclose(ours.cost, theirs.cost, rtol=1e-7)
        np.testing.assert_allclose(ours.inlier_probability, theirs.inlier_probability, atol=1e-5)
        assert ours.num_consistent == theirs.num_consistent


def test_same_bits_for_any_number_of_threads() -> None:
    problem = make_problem(4, count=200, outliers=0.7)
    runs = [
        pl.estimate_pose(
            problem.maps, problem.points, problem.camera, iterations=3000, seed=9, num_threads=n
        )
        for n in (1, 2, 8)
    ]
    for run in runs[1:]:
        assert run.cam_from_world.tobytes() == runs[0].cam_from_world.tobytes()
        assert run.inlier_probability.tobytes() == runs[0].inlier_probability.tobytes()


def test_eight_python_threads_agree() -> None:
    problem = make_problem(5, count=200)
    results: list[np.ndarray | None] = [None] * 8

    def work(i: int) -> None:
        for _ in range(5):
            found = pl.estimate_pose(problem.maps, problem.points, problem.camera, num_threads=2)
        results[i] = found.cam_from_world

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(r is not None and r.tobytes() == results[0].tobytes() for r in results)


def test_giving_up_early_never_changes_the_winner() -> None:
    # An initial pose raises the bound from the first round on; the winner among the rest must stay.
    for seed in range(10):
        problem = make_problem(100 + seed, outliers=0.6)
        kw = {"iterations": 500, "seed": seed}
        alone = pl.estimate_pose(problem.maps, problem.points, problem.camera, **kw)
        again = pl.estimate_pose(
            problem.maps, problem.points, problem.camera, initial=alone.cam_from_world, **kw
        )
        np.testing.assert_allclose(again.cam_from_world, alone.cam_from_world, atol=1e-12)


def test_initial_poses_compete() -> None:
    problem = make_problem(6, outliers=0.5)
    flipped = pl.compose_poses(np.diag([1.0, -1, -1, 1])[:3], problem.truth)
    kw = {"iterations": 1, "seed": 3}
    helped = pl.estimate_pose(
        problem.maps,
        problem.points,
        problem.camera,
        initial=np.stack([flipped, problem.truth]),
        **kw,
    )
    np.testing.assert_allclose(helped.cam_from_world, problem.truth, atol=1e-12)
    single = pl.estimate_pose(
        problem.maps, problem.points, problem.camera, initial=problem.truth, **kw
    )
    assert helped.success and single.gain == helped.gain


def test_cost_and_gain_are_equation_4_6() -> None:
    problem = make_problem(7)
    found = pl.estimate_pose(problem.maps, problem.points, problem.camera)
    gain = map_gains(problem, found.cam_from_world)
    cost = (problem.maps.log_cardinality - gain).sum()
    np.testing.assert_allclose(found.cost, cost, rtol=1e-9)
    np.testing.assert_allclose(found.gain, gain.sum(), rtol=1e-9)
    np.testing.assert_allclose(found.inlier_probability, 1 - np.exp(-gain), atol=1e-9)
    assert np.isinf(found.covariance).all()
    assert set(found.timings) == {"prepare", "solve", "score", "finish"}


def test_far_from_the_origin() -> None:
    problem = make_problem(8)
    offset = np.array([5e6, -3e6, 1e5])
    near = pl.estimate_pose(problem.maps, problem.points, problem.camera)
    far = pl.estimate_pose(problem.maps, problem.points + offset, problem.camera)
    moved = near.cam_from_world.copy()
    moved[:, 3] -= near.cam_from_world[:, :3] @ offset
    assert far.success
    assert pl.pose_error(far.cam_from_world, moved)[0] < 1e-5


def test_torch_in_torch_out() -> None:
    torch = pytest.importorskip("torch")
    problem = make_problem(9)
    found = pl.estimate_pose(problem.maps, torch.from_numpy(problem.points), problem.camera)
    assert isinstance(found.cam_from_world, torch.Tensor)
    assert found.cam_from_world.dtype == torch.float64
    assert isinstance(found.inlier_probability, torch.Tensor)


def check_failure(found: pl.PoseEstimate, count: int, reason: str) -> None:
    assert not found.success
    assert reason in found.reason
    assert np.isfinite(found.cam_from_world).all()
    assert found.inlier_probability.shape == (count,)
    assert np.isfinite(found.inlier_probability).all()
    assert np.isfinite([found.cost, found.gain]).all()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_maps(count: int) -> None:
    problem = make_problem(11)
    found = pl.estimate_pose(problem.maps[:count], problem.points[:count], problem.camera)
    check_failure(found, count, "usable maps")
    start = pl.estimate_pose(
        problem.maps[:count], problem.points[:count], problem.camera, initial=problem.truth
    )
    np.testing.assert_allclose(start.cam_from_world, problem.truth)


def test_flat_maps() -> None:
    flat = np.full((20, 10, 12), np.log(121.0), np.float32)
    points = np.random.default_rng(0).standard_normal((20, 3))
    found = pl.estimate_pose(
        pl.LossMaps.from_dense(flat), points, 10 * np.eye(3) - 9 * np.diag([0, 0, 1])
    )
    check_failure(found, 20, "usable maps")


@pytest.mark.parametrize("kind", ["collinear", "duplicate", "huge", "behind", "one_ray"])
def test_degenerate_geometry(kind: str) -> None:
    problem = make_problem(12, outliers=0.0)
    points = problem.points.copy()
    if kind == "collinear":
        points = np.outer(np.linspace(0, 1, len(points)), [1.0, 2.0, 3.0])
    elif kind == "duplicate":
        points[:] = points[0]
    elif kind == "huge":
        points = 1e300 * points
    elif kind == "behind":
        points = -points[::-1]
    else:
        maps = problem.maps
        problem = problem._replace(maps=maps[np.zeros(len(maps), int)])
    found = pl.estimate_pose(problem.maps, points, problem.camera, iterations=200)
    assert np.isfinite(found.cam_from_world).all()
    assert np.isfinite([found.cost, found.gain]).all()
    assert found.reason
    # The scale of the world is free: coordinates of 1e300 may be answered or refused.
    assert kind == "huge" or not found.success, found.reason


def test_huge_maps_are_scored_without_a_dense_copy() -> None:
    problem = make_problem(13, count=40, outliers=0.2)
    maps = problem.maps
    H, W = 20000, 30000
    shifted = pl.LossMaps(
        maps.row_ptr, maps.xy + np.array([9000, 7000], np.int16), maps.gain, size=(H, W),
        log_cardinality=maps.log_cardinality,
    )  # fmt: skip
    K = np.array([[45.0, 0, 29.5 + 9000], [0, 45.0, 22 + 7000], [0, 0, 1]])
    found = pl.estimate_pose(shifted, problem.points, K)
    assert found.success
    assert pl.pose_error(found.cam_from_world, problem.truth)[0] < 2.0


@hypothesis.given(
    hypothesis.strategies.integers(0, 2**32),
    hypothesis.strategies.integers(1, 40),
    hypothesis.strategies.integers(1, 9),
    hypothesis.strategies.integers(1, 9),
    hypothesis.strategies.sampled_from([1e-300, 1e-6, 1.0, 1e6, 1e150, 1e300]),
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_never_crashes_nor_returns_nan(
    seed: int, count: int, height: int, width: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    loss = rng.uniform(0, 2 * np.log(1 + height * width), (count, height, width))
    points = scale * rng.integers(-3, 4, (count, 3)).astype(float)  # many coincide or line up
    K = np.array([[rng.uniform(0.1, 20), 0, 1], [0, rng.uniform(0.1, 20), 1], [0, 0, 1]])
    found = pl.estimate_pose(pl.LossMaps.from_dense(loss), points, K, iterations=50)
    assert np.isfinite(found.cam_from_world).all()
    assert np.isfinite(found.inlier_probability).all()
    assert np.isfinite([found.cost, found.gain]).all()


def test_errors_name_the_argument() -> None:
    problem = make_problem(14, count=20)
    call = pl.estimate_pose
    with pytest.raises(ValueError, match="maps and points3d"):
        call(problem.maps, problem.points[:-1], problem.camera)
    with pytest.raises(TypeError, match="maps"):
        call(np.zeros((3, 4, 5)), problem.points, problem.camera)
    with pytest.raises(ValueError, match="points3d"):
        call(
            problem.maps,
            np.where(np.arange(60).reshape(20, 3) == 7, np.nan, problem.points),
            problem.camera,
        )
    with pytest.raises(ValueError, match="points3d"):
        call(problem.maps, problem.points[:, :2], problem.camera)
    for name, value in [
        ("iterations", 0), ("iterations", -5), ("confidence", 1.0), ("confidence", np.nan),
        ("top_fraction", 0.0), ("top_fraction", 1.5), ("seed", -1), ("num_threads", 0),
        ("initial", np.eye(3)), ("initial", np.zeros((3, 4))), ("implementation", "gpu"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=name):
            call(problem.maps, problem.points, problem.camera, **{name: value})
    for name, value in [("iterations", 2.5), ("iterations", True), ("seed", 1.5)]:
        with pytest.raises(TypeError, match=name):
            call(problem.maps, problem.points, problem.camera, **{name: value})


def test_reads_any_layout_and_changes_nothing() -> None:
    problem = make_problem(15)
    expected = pl.estimate_pose(problem.maps, problem.points, problem.camera).cam_from_world
    backing = np.repeat(problem.points[::-1], 2, axis=0)
    strided = backing[::-2]
    assert not strided.flags.c_contiguous
    strided.flags.writeable = False
    before = strided.copy()
    found = pl.estimate_pose(problem.maps, strided, problem.camera)
    assert found.cam_from_world.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(strided, before)
