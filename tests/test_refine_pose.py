# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Refinement over loss maps: against the float64 reference, the truth, and bad input."""

from __future__ import annotations

import importlib.util
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyloc_core as pl

SIZE = (75, 100)
HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="the reference runs on torch")


@dataclass
class Problem:
    maps: pl.LossMaps
    points: np.ndarray
    K: np.ndarray
    truth: np.ndarray
    start: np.ndarray


def turn(pose: np.ndarray, degrees: float, shift: float, rng: np.random.Generator) -> np.ndarray:
    """The pose after a rotation about the camera's centre and a move of that centre."""
    axis = rng.standard_normal(3)
    half = math.radians(degrees) / 2
    quaternion = np.r_[math.cos(half), math.sin(half) * axis / np.linalg.norm(axis)]
    R = pl.rotation_from_quaternion(quaternion) @ pose[:, :3]
    direction = rng.standard_normal(3)
    centre = pl.camera_center(pose) + shift * direction / np.linalg.norm(direction)
    return np.hstack([R, -(R @ centre)[:, None]])


def make(
    seed: int, count: int = 200, outliers: float = 0.3, camera: Any = None, degrees: float = 2.0
) -> Problem:
    """Gaussian peaks (standard deviation 1 cell, votes scattered by 0.3 cells) near the projections,
    or anywhere for outliers, on a floor of weak random cells; 13 x 13 cells per map are live."""
    rng = np.random.default_rng(seed)
    K = np.array([[75.0, 0, 49.5], [0, 75.0, 37], [0, 0, 1]])
    truth = np.hstack(
        [pl.rotation_from_quaternion(rng.standard_normal(4)), rng.normal(0, 3, (3, 1))]
    )
    xy = rng.uniform([4, 4], [SIZE[1] - 5, SIZE[0] - 5], (count, 2))
    if camera is None:
        rays = np.hstack([(xy - K[:2, 2]) / 75.0, np.ones((count, 1))])
    else:
        image = pl.image_from_map(xy, camera.size, SIZE)
        rays = camera.unproject(image)
        rays = rays / rays[:, 2:]
    points = (rays * rng.uniform(4, 20, (count, 1)) - truth[:, 3]) @ truth[:, :3]
    vote = xy + 0.3 * rng.standard_normal((count, 2))
    wrong = rng.random(count) < outliers
    vote[wrong] = rng.uniform([0, 0], [SIZE[1] - 1, SIZE[0] - 1], (int(wrong.sum()), 2))
    dense = np.full((count, *SIZE), math.log(1 + SIZE[0] * SIZE[1]), np.float32)
    for n, (x, y) in enumerate(vote):
        rows = np.arange(max(0, round(y) - 6), min(SIZE[0], round(y) + 7))
        columns = np.arange(max(0, round(x) - 6), min(SIZE[1], round(x) + 7))
        peak = np.exp(-0.5 * ((rows[:, None] - y) ** 2 + (columns - x) ** 2))
        noise = 0.3 * np.abs(rng.standard_normal(peak.shape))
        dense[n, rows[:, None], columns] -= (7.5 * peak + noise).astype(np.float32)
    start = turn(truth, degrees, 0.1 * degrees, rng)
    return Problem(pl.LossMaps.from_dense(dense), points, K, truth, start)


CAMERAS = {
    "pinhole": None,
    "radial": pl.Camera("RADIAL", 1600, 1200, (1150.0, 810.0, 590.0, -0.09, 0.02)),
    "opencv": pl.Camera("OPENCV", 1600, 1200, (1150.0, 1160.0, 810, 590, -0.09, 0.02, 1e-3, 2e-3)),
    "fisheye": pl.Camera(
        "OPENCV_FISHEYE", 1600, 1200, (1150.0, 1160.0, 810, 590, -0.03, 0.01, 0, 0)
    ),
}


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("seed", [0, 1])
@needs_torch
def test_matches_the_reference(name: str, seed: int) -> None:
    p = make(seed, count=80, camera=CAMERAS[name])
    camera = p.K if CAMERAS[name] is None else CAMERAS[name]
    ours = pl.refine_pose(p.maps, p.points, camera, p.start)
    theirs = pl.refine_pose(p.maps, p.points, camera, p.start, implementation="reference")
    degrees, centre = pl.pose_error(ours.cam_from_world, theirs.cam_from_world)
    assert degrees < 1e-5
    assert centre < 1e-5
    assert (ours.iterations, ours.reason) == (theirs.iterations, theirs.reason)
    assert ours.energy == pytest.approx(theirs.energy, rel=2e-4)  # cells beyond 4.5 sigma
    assert ours.cost == pytest.approx(theirs.cost, rel=1e-6)
    np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=0.02, atol=1e-12)
    np.testing.assert_allclose(ours.inlier_probability, theirs.inlier_probability, atol=1e-4)
    assert ours.num_consistent == theirs.num_consistent


@pytest.mark.parametrize("name", CAMERAS)
def test_finds_the_truth(name: str) -> None:
    p = make(7, camera=CAMERAS[name])
    camera = p.K if CAMERAS[name] is None else CAMERAS[name]
    found = pl.refine_pose(p.maps, p.points, camera, p.start)
    assert found.success, found.reason
    assert pl.pose_error(found.cam_from_world, p.truth)[0] < 0.15
    assert pl.pose_error(p.start, p.truth)[0] > 1.9
    assert found.iterations < 40


@needs_torch
def test_published_control_flow_matches_the_reference() -> None:
    p = make(3, count=60)
    few: dict[str, Any] = {"compat": "published", "max_iterations": 25}
    ours = pl.refine_pose(p.maps, p.points, p.K, p.start, **few)
    theirs = pl.refine_pose(p.maps, p.points, p.K, p.start, implementation="reference", **few)
    assert ours.iterations == theirs.iterations == 25
    assert pl.pose_error(ours.cam_from_world, theirs.cam_from_world)[0] < 1e-3
    whole = pl.refine_pose(p.maps, p.points, p.K, p.start, compat="published", max_iterations=400)
    plain = pl.refine_pose(p.maps, p.points, p.K, p.start)
    assert whole.iterations > 2 * plain.iterations  # it keeps trying until the damping reaches 1e7
    assert pl.pose_error(whole.cam_from_world, plain.cam_from_world)[0] < 0.05


@needs_torch
def test_schedule() -> None:
    from pyloc_core.reference.refine_pose import schedule

    tenths = [1.0, 0.9, 0.8, 0.7, 0.6]
    np.testing.assert_allclose(schedule(2.0, 0.6), [2.0, *tenths])
    np.testing.assert_allclose(schedule(8.0, 0.6), [8.0, 4.0, 2.0, *tenths])
    np.testing.assert_allclose(schedule(3.0, 0.65), [3.0, 2.0, 1.0, 0.9, 0.8, 0.7, 0.65])
    np.testing.assert_allclose(schedule(0.6, 0.6), [0.6])
    np.testing.assert_allclose(schedule(2.0, 0.6, published=True), [2.0, 1.0, *tenths])


def test_energy_and_normal_equations_follow_the_definition() -> None:
    """Gradient of the energy by finite differences against the assembled right-hand side."""
    from pyloc_core import _arrays, _native
    from pyloc_core.camera import camera_native_args

    p = make(11, count=40, outliers=0.0)
    args = camera_native_args(p.K, SIZE)
    pointer = _arrays.pointer

    def assemble(pose: np.ndarray) -> np.ndarray:
        sums, pose = np.empty(28), np.ascontiguousarray(pose)
        _native.gnc_assemble(
            p.maps.native_args(), pointer(p.points), args, pointer(pose), 1.5, 1, 1, pointer(sums)
        )
        return sums

    slow = 0.0  # Eq. 4.9 written out
    camera_points = pl.transform_points(p.start, p.points)
    xy = camera_points[:, :2] / camera_points[:, 2:] * 75.0 + p.K[:2, 2]
    for n in range(len(p.maps)):
        cells = slice(p.maps.row_ptr[n], p.maps.row_ptr[n + 1])
        r2 = ((p.maps.xy[cells] - xy[n]) ** 2).sum(1)
        slow -= float((p.maps.gain[cells] * np.exp(-r2 / 4.5)).sum() / (2 * np.pi * 2.25))
    at = assemble(p.start)
    assert at[0] == pytest.approx(slow, rel=1e-4)
    step = 1e-3
    for k in range(3):  # translation: dE / dt = -b
        ahead, behind = p.start.copy(), p.start.copy()
        ahead[k, 3] += step
        behind[k, 3] -= step
        slope = (assemble(ahead)[0] - assemble(behind)[0]) / (2 * step)
        assert slope == pytest.approx(-at[1 + 21 + 3 + k], rel=0.01, abs=0.02)


def test_same_bits_for_any_number_of_threads() -> None:
    p = make(5, count=500)
    results = [pl.refine_pose(p.maps, p.points, p.K, p.start, num_threads=n) for n in (1, 2, 8)]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].cam_from_world, other.cam_from_world)
        np.testing.assert_array_equal(results[0].covariance, other.covariance)
        assert results[0].cost == other.cost


def test_eight_callers_at_once_agree() -> None:
    p = make(6)
    alone = pl.refine_pose(p.maps, p.points, p.K, p.start).cam_from_world
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(pl.refine_pose, p.maps, p.points, p.K, p.start) for _ in range(16)]
    for job in jobs:
        np.testing.assert_array_equal(job.result().cam_from_world, alone)


def test_cost_is_equation_4_6_at_the_returned_pose() -> None:
    p = make(8)
    found = pl.refine_pose(p.maps, p.points, p.K, p.start)
    camera_points = pl.transform_points(found.cam_from_world, p.points)
    xy = camera_points[:, :2] / camera_points[:, 2:] * 75.0 + p.K[:2, 2]
    losses = p.maps.evaluate(xy)
    assert found.cost == pytest.approx(losses.sum(), rel=1e-9)
    gain = p.maps.log_cardinality - losses
    assert found.gain == pytest.approx(gain.sum(), rel=1e-9)
    np.testing.assert_allclose(found.inlier_probability, 1 - np.exp(-gain), atol=1e-9)


def squared_error(found: pl.PoseEstimate, truth: np.ndarray) -> float:
    """Normalised estimation error squared for the left update, 6 degrees of freedom."""
    dR = truth[:, :3] @ found.cam_from_world[:, :3].T
    rotation = np.array([dR[2, 1] - dR[1, 2], dR[0, 2] - dR[2, 0], dR[1, 0] - dR[0, 1]]) / 2
    d = np.r_[rotation, truth[:, 3] - found.cam_from_world[:, 3]]
    return float(d @ np.linalg.solve(found.covariance, d))


@pytest.mark.parametrize("outliers", [0.0, 0.4])
def test_covariance_is_calibrated(outliers: float) -> None:
    errors = []
    for seed in range(50):
        p = make(1000 + seed, count=80, outliers=outliers, degrees=1.0)
        found = pl.refine_pose(p.maps, p.points, p.K, p.start)
        assert found.success
        assert np.linalg.eigvalsh(found.covariance).min() > 0
        errors.append(squared_error(found, p.truth))
    assert 4 < np.mean(errors) < 9


def shared_problem(shared: Path) -> Any:
    path = shared / "problems" / "nre_problem.py"
    spec = importlib.util.spec_from_file_location("nre_problem", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["nre_problem"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sigma"), [("make_problem", 2.0), ("make_local_problem", 8.0)])
def test_covariance_on_the_shared_problems(kind: str, sigma: float, shared: Path) -> None:
    errors = []
    for seed in range(40):
        p = getattr(shared_problem(shared), kind)(seed, M=200)
        maps = pl.LossMaps.from_dense(
            p.maps,
            log_cardinality=math.log(p.cardinality),
            origins=p.origins,
            size=p.map_size,
            max_entries=256,
        )
        start = np.hstack([p.R_init, p.t_init[:, None]])
        found = pl.refine_pose(maps, p.points3d, p.K, start, sigma_max=sigma)
        truth = np.hstack([p.R_gt, p.t_gt[:, None]])
        assert found.success
        assert pl.pose_error(found.cam_from_world, truth)[0] < 0.5
        errors.append(squared_error(found, truth))
    assert 4 < np.mean(errors) < 9


def test_exact_votes_do_not_claim_an_exact_pose() -> None:
    """Peaks exactly at the projections of the start: no gradient anywhere, yet a finite covariance."""
    p = make(12, count=40, outliers=0.0)
    camera_points = pl.transform_points(p.truth, p.points)
    xy = np.round(camera_points[:, :2] / camera_points[:, 2:] * 75.0 + p.K[:2, 2])
    rays = np.hstack([(xy - p.K[:2, 2]) / 75.0, np.ones((40, 1))]) * camera_points[:, 2:]
    points = (rays - p.truth[:, 3]) @ p.truth[:, :3]
    hot = pl.LossMaps(
        np.arange(41),
        xy.astype(np.int16),
        np.full(40, p.maps.log_cardinality, np.float32),
        size=SIZE,
    )
    found = pl.refine_pose(hot, points, p.K, p.truth)
    assert found.success
    assert pl.pose_error(found.cam_from_world, p.truth)[0] < 1e-4
    assert np.linalg.eigvalsh(found.covariance).min() > 1e-9


def test_one_hot_maps_are_reprojection_error() -> None:
    """Eq. 4.11: the pose moves towards the cells, however far the loss map's other modes are."""
    p = make(9, outliers=0.2)
    peaks = p.maps.argmin()
    hot = pl.LossMaps(
        np.arange(len(p.maps) + 1),
        peaks.xy.astype(np.int16),
        np.full(len(p.maps), p.maps.log_cardinality, np.float32),
        size=SIZE,
    )
    found = pl.refine_pose(hot, p.points, p.K, p.start)
    assert found.success
    assert pl.pose_error(found.cam_from_world, p.truth)[0] < 0.4


# ---------------------------------------------------------------------- bad input


def test_problems_without_an_answer_say_so() -> None:
    p = make(2, count=12)
    none = pl.refine_pose(p.maps[:0], p.points[:0], p.K, p.start)
    assert not none.success and none.inlier_probability.shape == (0,)
    few = pl.refine_pose(p.maps[:2], p.points[:2], p.K, p.start)
    assert not few.success and "needed" in few.reason
    np.testing.assert_allclose(few.cam_from_world, p.start, atol=1e-12)
    assert np.isinf(few.covariance).all()
    flat = pl.LossMaps.from_dense(np.full((9, *SIZE), math.log(7501) - 0.2, np.float32))
    for maps in (flat, pl.LossMaps.from_dense(np.full((9, *SIZE), 20.0, np.float32))):
        found = pl.refine_pose(maps, p.points[:9], p.K, p.start)
        assert not found.success and "usable" in found.reason
        assert np.isfinite(found.cam_from_world).all()


def test_points_behind_the_camera_and_far_away() -> None:
    p = make(2, count=60)
    behind = p.start.copy()
    behind[:2] *= -1  # half a turn about the axis, then looking the other way
    behind[2] *= -1
    behind[0] *= -1
    found = pl.refine_pose(p.maps, p.points, p.K, behind)
    assert not found.success
    assert np.isfinite(found.cam_from_world).all()
    assert found.gain == 0
    for scale in (1e12, 1e200, 1e306):
        found = pl.refine_pose(p.maps, p.points * scale, p.K, p.start)
        assert not found.success and np.isfinite(found.cam_from_world).all()
        assert np.isfinite(found.cost) and np.isfinite(found.inlier_probability).all()


def test_wrong_maps_are_no_success() -> None:
    """Peaks that have nothing to do with the points: chance explains what agrees."""
    for seed in range(20):
        p = make(300 + seed, count=150, outliers=1.0)
        found = pl.refine_pose(p.maps, p.points, p.K, p.start)
        assert not found.success
        assert "agree" in found.reason


def test_duplicate_and_collinear_points_do_not_pass_for_a_pose() -> None:
    p = make(4, count=60, outliers=0.0)
    same = pl.refine_pose(p.maps[[0] * 30], p.points[[0] * 30], p.K, p.truth)
    assert not same.success and "degrees of freedom" in same.reason
    assert np.isfinite(same.cam_from_world).all()


@pytest.mark.parametrize("offset", [0.0, 5e6])
def test_a_world_offset_does_not_hurt(offset: float) -> None:
    p = make(10)
    move = np.array([offset, -offset, offset / 2])
    start, truth = p.start.copy(), p.truth.copy()
    start[:, 3] -= start[:, :3] @ move
    truth[:, 3] -= truth[:, :3] @ move
    found = pl.refine_pose(p.maps, p.points + move, p.K, start)
    assert found.success, found.reason
    assert pl.pose_error(found.cam_from_world, truth)[0] < 0.15


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"maps": np.zeros((3, 4, 5))}, TypeError, "maps must be LossMaps"),
        ({"points3d": np.zeros((3, 3))}, ValueError, "same length"),
        ({"points3d": np.zeros((30, 2))}, ValueError, "points3d"),
        ({"points3d": np.full((30, 3), np.nan)}, ValueError, "points3d"),
        ({"cam_from_world": np.eye(3)}, ValueError, "cam_from_world"),
        ({"cam_from_world": 2 * np.eye(3, 4)}, ValueError, "rotation"),
        ({"camera": np.eye(4)}, ValueError, "camera"),
        ({"sigma_max": 0.1}, ValueError, "sigma"),
        ({"sigma_min": -1.0}, ValueError, "sigma"),
        ({"sigma_max": np.nan}, ValueError, "sigma"),
        ({"max_iterations": 0}, ValueError, "max_iterations"),
        ({"max_iterations": 2.5}, TypeError, "max_iterations"),
        ({"gain_ratio": -1.0}, ValueError, "gain_ratio"),
        ({"compat": "old"}, ValueError, "compat"),
        ({"num_threads": 0}, ValueError, "num_threads"),
        ({"implementation": "fortran"}, ValueError, "implementation"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], error: type, message: str) -> None:
    p = make(0, count=30)
    arguments = {
        "maps": p.maps,
        "points3d": p.points,
        "camera": p.K,
        "cam_from_world": p.start,
    }
    with pytest.raises(error, match=message):
        pl.refine_pose(**(arguments | change))


def test_strides_and_read_only_arrays() -> None:
    p = make(1, count=64)
    plain = pl.refine_pose(p.maps, p.points, p.K, p.start).cam_from_world
    flipped = np.ascontiguousarray(p.points[::-1])[::-1]
    flipped.flags.writeable = False
    start = np.asfortranarray(p.start)
    again = pl.refine_pose(p.maps, flipped, p.K, start).cam_from_world
    np.testing.assert_array_equal(again, plain)


@needs_torch
def test_torch_in_torch_out() -> None:
    import torch

    p = make(1, count=64)
    found = pl.refine_pose(p.maps, torch.tensor(p.points), p.K, torch.tensor(p.start))
    assert isinstance(found.cam_from_world, torch.Tensor)
    assert isinstance(found.inlier_probability, torch.Tensor)
    plain = pl.refine_pose(p.maps, p.points, p.K, p.start)
    np.testing.assert_array_equal(found.cam_from_world.numpy(), plain.cam_from_world)
