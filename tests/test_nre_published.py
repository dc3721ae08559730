# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The steps of the released NRE program, and the bias that its window placement causes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import pyloc_core as pl

pytest.importorskip("torch")

from pyloc_core.camera import camera_native_args
from pyloc_core.models.nre import published
from pyloc_core.models.nre.published import PublishedOptions

# Geometry like that of the program's demonstration: 1600 x 1063 pixels, f 1790, fine stride 2.
SIZE, FINE = (1063, 1600), (532, 800)
CAMERA = pl.Camera("PINHOLE", 1600, 1063, (1790.0, 1790.0, 800.0, 531.5))
TRUTH = np.hstack([pl.rotation_from_quaternion([0.98, 0.05, -0.1, 0.12]), [[0.5], [-0.3], [2.0]]])


def perfect_fine_stage(count: int, seed: int) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Descriptors (N, 3) and features whose softmax is a Gaussian (1 cell) about the true projection:
    <h, F(p)> = -(|p - p_n|^2 - |p_n|^2) / 2, then points and priors (pixels counted from 0)."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform([40, 40], [1560, 1020], (count, 2))
    rays = CAMERA.unproject(xy)
    local = rays / rays[:, 2:] * rng.uniform(4, 12, (count, 1))
    points = (local - TRUTH[:, 3]) @ TRUTH[:, :3]
    middle = np.array([FINE[1] / 2, FINE[0] / 2])
    at = pl.map_from_image(xy, SIZE, FINE) - middle
    y, x = np.mgrid[: FINE[0], : FINE[1]]
    x, y = x - middle[0], y - middle[1]
    features = np.stack([x, y, -(x**2 + y**2) / 100]).astype(np.float32)
    descriptors = np.stack([at[:, 0], at[:, 1], np.full(count, 50.0)], 1).astype(np.float32)
    return descriptors, features, points, xy - 0.5


@pytest.mark.parametrize("sigma", [(2.0, 0.6), (8.0, 0.6)])
def test_perfect_fine_maps_drift_with_the_published_placement_alone(
    sigma: tuple[float, float],
) -> None:
    """Half a window, 8 fine cells in x and y, is 16 pixels each: 0.5 degrees at f 1790. The rotation
    that explains the displacement best is 0.63 degrees in the program's own demonstration."""
    h, features, points, priors = perfect_fine_stage(400, 1)
    errors = {}
    for displaced in (True, False):
        options = PublishedOptions(displaced=displaced, sigma_fine=sigma)
        fine = published.fine_stage(
            h, features, priors, np.ones(400), image_size=SIZE, options=options
        )
        assert len(fine.rows) == 400
        found = published.refined(fine.maps, points, CAMERA, TRUTH, sigma)
        errors[displaced] = pl.pose_error(found.cam_from_world, TRUTH)[0]
    assert 0.5 < errors[True] < 0.8
    assert errors[False] < 0.02
    fine = published.fine_stage(
        h, features, priors, np.ones(400), image_size=SIZE, options=PublishedOptions()
    )
    assert (fine.maps.argmin().xy - np.floor((priors + 0.5) / 2)).mean() == pytest.approx(8, abs=1)


def test_priors_near_the_border_are_left_out() -> None:
    h, features, _, _ = perfect_fine_stage(6, 2)
    priors = np.array([[8, 8], [7.9, 300], [1591.9, 8], [1592, 300], [300, 1055], [np.nan, 5.0]])
    fine = published.fine_stage(
        h, features, priors, np.ones(6), image_size=SIZE, options=PublishedOptions()
    )
    assert fine.rows.tolist() == [0, 2]


def test_norm_is_the_slice_of_the_program() -> None:
    probability = np.arange(1, 31, dtype=np.float32).reshape(1, 5, 6) / 1000
    map_ = probability[0]

    def norm(x: float, y: float, window: int = 16) -> float:
        return float(published.coarse_norms(probability, np.array([[x, y]]), window)[0])

    assert norm(2.4, 2.6) == pytest.approx(map_[2:4, 1:3].sum())  # about (2, 3): not symmetric
    assert norm(5, 4) == pytest.approx(map_[3:5, 4:6].sum())
    assert norm(0, 3) == 0 and norm(3, 0.2) == 0  # from -1 to 1: nothing
    assert norm(-2, 3) == pytest.approx(map_[2:4, 3:5].sum())  # from -3 to -1: the other border
    assert norm(7, 3) == 0 and norm(np.nan, 1) == 0 and norm(1e30, 1) == 0
    assert norm(3, 2, 32) == pytest.approx(map_[0:4, 1:5].sum())


def test_costs_read_the_border_and_the_back() -> None:
    rng = np.random.default_rng(3)
    loss = rng.uniform(1, 6, (2, 8, 9)).astype(np.float32)
    maps = pl.LossMaps.from_dense(loss)
    numbers = (0.0, 10.0, 10.0, 4.0, 4.0, *(0.0,) * 8)
    points = np.array([[0.0, 0, 2], [0, 0, 2]])
    left = np.hstack([np.eye(3), [[-50.0], [0], [0]]])  # both project far left of the map
    away = np.hstack([np.eye(3), [[0.0], [0], [-2 + 0.5e-4]]])  # nearer than 1e-4
    costs = published.dense_costs(maps, points, numbers, np.stack([np.eye(3, 4), left, away]))
    least = np.minimum(loss, np.float32(maps.log_cardinality))
    expected = [least[:, 4, 4].sum(), least[:, 4, 0].sum(), 2 * maps.log_cardinality]
    np.testing.assert_allclose(costs, expected, rtol=1e-5)


def test_weights_and_kept_maps() -> None:
    weights = published.sampling_weights(np.array([3.0, 1.0, 2.0]))
    np.testing.assert_allclose(weights, [0, 1, 0.5], atol=1e-6)
    assert published.sampling_weights(np.array([2.0, 2.0])).tolist() == [0, 0]
    loss = np.full((9, 4, 4), 2.5, np.float32)
    loss[np.arange(9), 1, 2] = [0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.4, 0.6, 0.8]
    maps = pl.LossMaps.from_dense(loss)
    assert published.kept_maps(maps, 0.25).tolist() == [1, 5]  # int(2.25) of them
    assert published.kept_maps(maps[:3], 0.25).tolist() == []


def coarse_problem(seed: int, count: int = 120) -> tuple[published.DenseStage, np.ndarray, Any]:
    """Orthogonal-like descriptors planted where the points project; a quarter planted elsewhere."""
    rng = np.random.default_rng(seed)
    size, camera = (30, 40), pl.Camera("PINHOLE", 640, 480, (600.0, 600, 320, 240))
    xy = rng.uniform([20, 20], [620, 460], (count, 2))
    rays = camera.unproject(xy)
    local = rays / rays[:, 2:] * rng.uniform(4, 12, (count, 1))
    points = (local - TRUTH[:, 3]) @ TRUTH[:, :3]
    descriptors = rng.normal(size=(count, 64)).astype(np.float32)
    features = 0.05 * rng.normal(size=(64, *size)).astype(np.float32)
    at = pl.map_from_image(xy, (480, 640), size)
    wrong = rng.random(count) < 0.25
    at[wrong] = rng.uniform([0, 0], [39, 29], (int(wrong.sum()), 2))
    cells = np.rint(at).astype(int)
    features[:, cells[:, 1], cells[:, 0]] += 0.3 * descriptors.T
    stage = published.dense_stage(descriptors, features)
    return stage, points, camera_native_args(camera, size)


def test_initial_pose_is_near_the_truth_and_the_same_for_a_seed() -> None:
    stage, points, numbers = coarse_problem(4)
    options = PublishedOptions(triplets=2000)
    first = published.initial_pose(stage, points, numbers, options, 7)
    again = published.initial_pose(stage, points, numbers, options, 7)
    other = published.initial_pose(stage, points, numbers, options, 8)
    assert first is not None and other is not None
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    for pose in (first, other):
        assert pl.pose_error(pose, TRUTH)[0] < 3
    assert published.initial_pose(_first(stage, 3), points[:3], numbers, options, 7) is None


def _first(stage: published.DenseStage, count: int) -> published.DenseStage:
    return published.DenseStage(
        stage.probability[:count], stage.maps[:count], stage.entropy[:count]
    )


def test_dense_stage_follows_the_formulas() -> None:
    rng = np.random.default_rng(5)
    h, f = rng.normal(size=(300, 8)), rng.normal(size=(8, 6, 7))
    h, f = h.astype(np.float32), f.astype(np.float32)
    stage = published.dense_stage(h, f)
    logits = (h.astype(np.float64) @ f.reshape(8, -1)).reshape(300, 6, 7)
    c = np.exp(logits - logits.max((1, 2), keepdims=True))
    c /= c.sum((1, 2), keepdims=True)
    log_c = np.log(c + 2.0**-23)
    np.testing.assert_allclose(stage.entropy, -(np.exp(log_c) * log_c).sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        stage.maps.dense(), np.minimum(-log_c, math.log(43)), rtol=1e-4, atol=1e-5
    )
    same = pl.loss_maps(h, f, compat="published", max_entries="all")
    assert abs(len(same.gain) - len(stage.maps.gain)) <= 2  # an entry at the truncation may differ
    one_hot = published.dense_stage(h, f, one_hot=True).maps
    assert (one_hot.entries_per_map == 1).all()
    assert np.array_equal(one_hot.argmin().xy, stage.maps.argmin().xy)
    np.testing.assert_allclose(one_hot.argmin().loss, 1e-3, atol=1e-6)


def test_one_hot_fine_maps() -> None:
    h, features, _, priors = perfect_fine_stage(20, 6)
    args = (h, features, priors, np.ones(20))
    full = published.fine_stage(*args, image_size=SIZE, options=PublishedOptions())
    one = published.fine_stage(*args, image_size=SIZE, options=PublishedOptions(one_hot=True))
    assert (one.maps.entries_per_map == 1).all()
    assert np.array_equal(one.maps.xy, full.maps.argmin().xy)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [({"window": 20}, "multiple of 16"), ({"window": 0}, "multiple of 16"),
     ({"top_fraction": 0.0}, "top_fraction"), ({"triplets": 0}, "triplets")],
)  # fmt: skip
def test_impossible_options(options: dict[str, Any], pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        PublishedOptions(**options)


def test_cameras_that_the_program_does_not_know() -> None:
    fisheye = pl.Camera("OPENCV_FISHEYE", 64, 48, (40.0, 40, 32, 24, 0.01, 0, 0, 0))
    with pytest.raises(ValueError, match="OPENCV_FISHEYE"):
        published.in_map(fisheye, (48, 64), (6, 8))
    _, numbers = published.in_map(CAMERA, (532, 800), (266, 400))
    # fx s, and s cx + (s - 1) / 2 for cx counted from 0: the half pixel of cameras.
    np.testing.assert_allclose(numbers[3], 0.25 * (800 - 0.5) + (0.25 - 1) / 2)
