# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Featuremetric refinement against torch and against itself in every layout and precision."""

from __future__ import annotations

import numpy as np
import pytest
from pose_problems import CAMERAS, bilinear, feature_problem, normalized_error, smooth_features

import pyloc_core as pl

LOSS_OPTIONS = [
    {"loss": "squared"},
    {"loss": "huber", "scale": 0.2},
    {"loss": "cauchy", "scale": 0.3},
    {"loss": "geman_mcclure", "scale": 0.8},
    {"loss": "barron"},
    {"loss": "barron", "scale": 0.6, "alpha": -1.0},
    {"normalize": True},
]


def refine(problem, **options):
    features = options.pop("features", problem.features)
    return pl.refine_pose_featuremetric(
        problem.descriptors, features, problem.points3d, problem.camera, problem.start, **options
    )


def channels_last(features):
    return np.ascontiguousarray(features.transpose(1, 2, 0)).transpose(2, 0, 1)


@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
@pytest.mark.parametrize("options", LOSS_OPTIONS, ids=str)
def test_matches_the_reference(options, last) -> None:
    pytest.importorskip("torch")
    problem = feature_problem(60, 1, outliers=0.15)
    features = channels_last(problem.features) if last else problem.features
    native = refine(problem, **options, features=features, tolerance=1e-12)
    oracle = refine(problem, **options, tolerance=1e-13, implementation="reference")
    assert native.success and oracle.success
    assert native.cost == pytest.approx(oracle.cost, rel=1e-5)
    assert np.abs(native.cam_from_world - oracle.cam_from_world).max() < 2e-5
    np.testing.assert_allclose(native.inlier_probability, oracle.inlier_probability, atol=2e-4)
    np.testing.assert_allclose(native.covariance, oracle.covariance, rtol=0.02, atol=1e-9)
    assert native.num_usable == oracle.num_usable


@pytest.mark.parametrize("model", CAMERAS)
def test_finds_the_pose_with_every_camera_model(model) -> None:
    problem = feature_problem(80, 2, model=model, noise=0.0)
    found = refine(problem)
    before = pl.pose_error(problem.start, problem.cam_from_world)[0]
    after = pl.pose_error(found.cam_from_world, problem.cam_from_world)[0]
    assert found.success and after < 1e-3 < before
    assert found.num_consistent == found.num_usable == 80


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
def test_first_step_against_automatic_differentiation(last, normalize) -> None:
    """The first step is a function of the cost, of the interpolant's gradient and of J^T J."""
    torch = pytest.importorskip("torch")
    from pyloc_core.camera import camera_native_args
    from pyloc_core.reference.camera import left_update
    from pyloc_core.reference.refine_pose_featuremetric import feature_residuals

    problem = feature_problem(40, 3, noise=0.05, start=0.001)
    features = channels_last(problem.features) if last else problem.features
    found = refine(
        problem, loss="squared", max_iterations=1, features=features, normalize=normalize
    )
    center = problem.points3d.mean(0)
    start = problem.start.copy()
    start[:, 3] += start[:, :3] @ center
    pose = torch.from_numpy(start)
    h = problem.descriptors.astype(np.float64)
    if normalize:
        h = h / np.linalg.norm(h, axis=1, keepdims=True)
    residuals = feature_residuals(
        torch.from_numpy(h), torch.from_numpy(problem.features.astype(np.float64)),
        torch.from_numpy(problem.points3d - center),
        camera_native_args(problem.camera, problem.features.shape[1:]), normalize,
    )  # fmt: skip

    def flat(delta):
        return residuals(left_update(pose, delta))[0].reshape(-1)

    zero = torch.zeros(6, dtype=torch.float64)
    J, r = torch.func.jacfwd(flat)(zero), flat(zero)
    A = J.T @ J
    step = -torch.linalg.solve(A + 1e-4 * torch.diag(torch.diag(A)), J.T @ r)
    expected = left_update(pose, step).numpy()
    expected[:, 3] -= expected[:, :3] @ center
    assert np.abs(found.cam_from_world - expected).max() < 1e-6 * np.abs(step.numpy()).max() + 1e-7


@pytest.mark.parametrize("shape", [(1, 20, 30), (3, 7, 5), (15, 12, 2), (17, 2, 40), (40, 30, 31)])
def test_cost_at_the_start_for_odd_shapes(shape) -> None:
    """Channels that fill no vector, maps of two rows or columns; K in map coordinates."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=shape).astype(np.float32)
    K = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1]])
    xy = rng.uniform(0, 1, (50, 2)) * [shape[2] - 1.001, shape[1] - 1.001]
    xy[0], xy[1] = (shape[2] - 1, shape[1] - 1), (0, 0)  # the last and first points with a feature
    xy[2], xy[3] = (-0.001, 0), (0, shape[1] - 0.999)  # and the first two without
    points3d = np.c_[xy, np.ones(50)]
    descriptors = rng.normal(size=(50, shape[0])).astype(np.float32)
    padded = np.pad(features, ((0, 0), (0, 1), (0, 1)), mode="edge").astype(np.float64)
    squared = ((bilinear(padded, np.maximum(xy, 0)) - descriptors) ** 2).sum(1)
    squared[2:4] = 2 * (descriptors[2:4].astype(np.float64) ** 2).sum(1)
    for maps in (features, channels_last(features)):
        found = pl.refine_pose_featuremetric(
            descriptors, maps, points3d, K, np.eye(3, 4), loss="squared", max_iterations=0
        )
        assert found.cost == pytest.approx(squared.sum(), rel=1e-5)
        assert found.num_usable == 48


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
def test_other_precisions_give_what_their_values_give(dtype, last) -> None:
    torch = pytest.importorskip("torch")
    problem = feature_problem(60, 6)
    low = torch.from_numpy(problem.features).to(getattr(torch, dtype))
    features = low.permute(1, 2, 0).contiguous().permute(2, 0, 1) if last else low
    found = refine(problem, features=features, tolerance=1e-12)
    widened = refine(problem, features=low.float().numpy(), tolerance=1e-12)
    assert found.cost == pytest.approx(widened.cost, rel=1e-5)
    assert np.abs(np.asarray(found.cam_from_world) - widened.cam_from_world).max() < 1e-5


def test_coarse_to_fine_reaches_further() -> None:
    """A coarse level widens the basin; the result is that of the fine level."""
    problem = feature_problem(150, 7, size=(96, 128), start=0.012, noise=0.01)
    fine = problem.features
    coarse = fine.reshape(16, 24, 4, 32, 4).mean((2, 4))
    coarse_h = bilinear(
        coarse, np.clip(pl.map_from_image(problem.points2d, (768, 1024), (24, 32)), 0, 22.9)
    )
    levels = pl.refine_pose_featuremetric(
        [coarse_h, problem.descriptors],
        [coarse, fine],
        problem.points3d,
        problem.camera,
        problem.start,
    )
    alone = refine(problem)
    errors = [pl.pose_error(x.cam_from_world, problem.cam_from_world)[0] for x in (levels, alone)]
    assert levels.success and errors[0] < 0.02
    assert errors[0] <= errors[1] + 1e-3 and levels.iterations > 0


def test_covariance_by_monte_carlo() -> None:
    errors = []
    for seed in range(60):
        problem = feature_problem(120, 100 + seed, noise=0.03, outliers=0.1, start=0.001)
        found = refine(problem, loss="cauchy", scale=0.2)
        errors.append(normalized_error(found, problem.cam_from_world))
    assert 4.0 < np.mean(errors) < 9.0


def test_points_without_a_feature_pull_nowhere() -> None:
    problem = feature_problem(60, 8)
    clean = refine(problem, tolerance=1e-12)
    R, t = problem.cam_from_world[:, :3], problem.cam_from_world[:, 3]
    away = (np.array([[0.3, 0.1, -4.0], [9.0, 0, 1.0]]) - t) @ R
    problem.points3d = np.vstack([problem.points3d, away])
    problem.descriptors = np.vstack([problem.descriptors, problem.descriptors[:2]])
    found = refine(problem, tolerance=1e-12)
    assert np.abs(found.cam_from_world - clean.cam_from_world).max() < 1e-5
    np.testing.assert_array_equal(found.inlier_probability[60:], 0)
    assert found.num_usable == 60


def test_flat_features_and_few_points_are_no_success() -> None:
    problem = feature_problem(30, 9)
    flat = np.ones_like(problem.features)
    for features in (flat, problem.features[:, :1, :1]):
        found = refine(problem, features=features)
        assert not found.success and found.reason
        np.testing.assert_allclose(found.cam_from_world, problem.start, atol=1e-12)
    none = pl.refine_pose_featuremetric(
        problem.descriptors[:0],
        problem.features,
        problem.points3d[:0],
        problem.camera,
        problem.start,
    )
    assert not none.success and none.reason == "no points"


def test_no_thread_count_changes_a_bit() -> None:
    problem = feature_problem(3000, 10, outliers=0.2)
    for features in (problem.features, channels_last(problem.features)):
        one, two, eight = (refine(problem, features=features, num_threads=k) for k in (1, 2, 8))
        for other in (two, eight):
            np.testing.assert_array_equal(one.cam_from_world, other.cam_from_world)
            np.testing.assert_array_equal(one.covariance, other.covariance)
            np.testing.assert_array_equal(one.inlier_probability, other.inlier_probability)


@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_features_that_are_not_finite_where_they_are_read(value, last) -> None:
    problem = feature_problem(40, 11)
    features = problem.features.copy()
    features[3] = value
    if last:
        features = channels_last(features)
    with pytest.raises(ValueError, match="features"):
        refine(problem, features=features)


@pytest.mark.parametrize(
    "change,error,message",
    [
        ({"features": np.zeros((16, 0, 5))}, ValueError, "at least one"),
        ({"features": np.zeros((0, 4, 5))}, ValueError, "at least one"),
        ({"features": np.ones((4, 5))}, ValueError, "shape"),
        ({"features": np.ones((15, 4, 5))}, ValueError, "same channels"),
        ({"features": np.ones((16, 4, 5), dtype=complex)}, TypeError, "real"),
        ({"features": [np.ones((16, 4, 5))]}, ValueError, "levels"),
        ({"weights": np.ones(3)}, ValueError, "weights"),
        ({"loss": "welch"}, ValueError, "did you mean 'welsch'"),
        ({"scale": -1.0}, ValueError, "scale"),
        ({"num_threads": 1.5}, TypeError, "num_threads"),
    ],
    ids=str,
)
def test_bad_arguments(change, error, message) -> None:
    problem = feature_problem(10, 12)
    with pytest.raises(error, match=message):
        refine(problem, **change)


def test_zero_descriptors_cannot_be_normalised() -> None:
    problem = feature_problem(10, 13)
    problem.descriptors[4] = 0
    with pytest.raises(ValueError, match="zero vector"):
        refine(problem, normalize=True)
    assert refine(problem, normalize=False).success


def test_several_levels_need_a_camera_in_pixels() -> None:
    problem = feature_problem(10, 14)
    twice = [problem.descriptors] * 2, [problem.features] * 2
    with pytest.raises(ValueError, match="Camera"):
        pl.refine_pose_featuremetric(*twice, problem.points3d, np.eye(3), problem.start)


def test_smooth_features_are_smooth() -> None:
    features = smooth_features(np.random.default_rng(0), 8, (20, 30))
    assert np.abs(np.diff(features, axis=1)).max() < 0.9 and np.abs(features).max() <= 1
