# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Robust reprojection refinement against torch, SciPy, PoseLib and pycolmap."""

from __future__ import annotations

import numpy as np
import pytest
from pose_problems import CAMERAS, camera, normalized_error, reprojection_problem, rotation

import pyloc_core as pl
from pyloc_core.robust import LOSSES, as_robust_loss

LOSS_OPTIONS = [
    {"loss": "squared"},
    {"loss": "huber", "scale": 1.5},
    {"loss": "cauchy", "scale": 1.0},
    {"loss": "geman_mcclure", "scale": 3.0},
    {"loss": "tukey", "scale": 12.0},
    {"loss": "welsch", "scale": 5.0},
    {"loss": "barron", "scale": 2.0, "alpha": 1.0},
    {"loss": "barron", "scale": 2.0},
    {"loss": "barron", "scale": 3.0, "alpha": -2.0},
    {"loss": "barron", "scale": 5.0, "alpha": -np.inf},
]


def refine(problem, **options):
    return pl.refine_pose_reprojection(
        problem.points2d, problem.points3d, problem.camera, problem.start, **options
    )


def relative_pose(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("options", LOSS_OPTIONS, ids=str)
def test_matches_the_reference(options) -> None:
    pytest.importorskip("torch")
    problem = reprojection_problem(60, 1, outliers=0.2, noise=0.7)
    options = {**options, "tolerance": 1e-15}
    native = refine(problem, **options)
    oracle = refine(problem, **options, implementation="reference")
    assert native.success and oracle.success
    assert native.cost == pytest.approx(oracle.cost, rel=1e-9)
    assert relative_pose(native.cam_from_world, oracle.cam_from_world) < 1e-6
    np.testing.assert_allclose(native.inlier_probability, oracle.inlier_probability, atol=1e-5)
    np.testing.assert_allclose(native.covariance, oracle.covariance, rtol=1e-3, atol=1e-12)
    assert native.gain == pytest.approx(oracle.gain, rel=1e-5)
    assert (native.num_usable, native.num_consistent) == (oracle.num_usable, oracle.num_consistent)


@pytest.mark.parametrize("model", CAMERAS)
def test_every_camera_model_matches_the_reference(model) -> None:
    pytest.importorskip("torch")
    problem = reprojection_problem(40, 2, model=model, outliers=0.1)
    native = refine(problem, tolerance=1e-15)
    oracle = refine(problem, tolerance=1e-15, implementation="reference")
    assert native.success
    assert relative_pose(native.cam_from_world, oracle.cam_from_world) < 1e-7
    assert pl.pose_error(native.cam_from_world, problem.cam_from_world)[0] < 0.2


@pytest.mark.parametrize("model", CAMERAS)
def test_exact_points_give_the_exact_pose(model) -> None:
    problem = reprojection_problem(12, 3, model=model, noise=0.0, start=0.02)
    found = refine(problem, loss="squared")
    degrees, centre = pl.pose_error(found.cam_from_world, problem.cam_from_world)
    assert found.success and degrees < 1e-7 and centre < 1e-8
    assert found.cost < 1e-12


@pytest.mark.parametrize("model", CAMERAS)
def test_projection_jacobian_against_automatic_differentiation(model) -> None:
    """One step without robustness from the truth is -(J^T J)^-1 J^T r: any error in J shows in it."""
    torch = pytest.importorskip("torch")
    from pyloc_core.camera import camera_native_args
    from pyloc_core.reference.camera import left_update, project, transform

    problem = reprojection_problem(30, 4, model=model, noise=0.3, start=0.001)
    found = refine(problem, loss="squared", max_iterations=1)
    center = problem.points3d.mean(0)
    points = torch.from_numpy(problem.points3d - center)
    start = problem.start.copy()
    start[:, 3] += start[:, :3] @ center
    pose = torch.from_numpy(start)

    def residual(delta):
        xy = project(
            camera_native_args(problem.camera), transform(left_update(pose, delta), points)
        )
        return (xy[0] - torch.from_numpy(problem.points2d)).reshape(-1)

    zero = torch.zeros(6, dtype=torch.float64)
    J, r = torch.func.jacfwd(residual)(zero), residual(zero)
    A = J.T @ J
    step = -torch.linalg.solve(A + 1e-4 * torch.diag(torch.diag(A)), J.T @ r)
    expected = left_update(pose, step).numpy()
    expected[:, 3] -= expected[:, :3] @ center
    assert relative_pose(found.cam_from_world, expected) < 1e-11


@pytest.mark.parametrize("loss,scipy_loss", [("squared", "linear"), ("cauchy", "cauchy")])
def test_minimum_is_that_of_scipy(loss, scipy_loss) -> None:
    """Independent solver on the same cost. SciPy's kernels work per coordinate, so the residual handed
    to it is the distance."""
    optimize = pytest.importorskip("scipy.optimize")
    problem = reprojection_problem(50, 5, outliers=0.2)

    def distance(d):
        R = rotation(d[:3]) @ problem.start[:, :3]
        xy, _ = problem.camera.project(problem.points3d @ R.T + problem.start[:, 3] + d[3:])
        return np.linalg.norm(xy - problem.points2d, axis=1)

    solved = optimize.least_squares(
        distance, np.zeros(6), loss=scipy_loss, f_scale=2.0, xtol=1e-14, ftol=1e-14, gtol=1e-14,
        x_scale="jac", max_nfev=500,
    )  # fmt: skip
    found = refine(problem, loss=loss, scale=2.0, tolerance=1e-14)
    assert found.cost == pytest.approx(2 * solved.cost, rel=1e-6)


def test_minimum_is_that_of_poselib() -> None:
    poselib = pytest.importorskip("poselib")
    for model in ("PINHOLE", "OPENCV", "OPENCV_FISHEYE"):
        problem = reprojection_problem(200, 6, model=model, outliers=0.3)
        start = poselib.CameraPose()
        start.R, start.t = problem.start[:, :3], problem.start[:, 3]
        theirs, _ = poselib.refine_absolute_pose(
            problem.points2d, problem.points3d, start, problem.camera.to_dict(),
            {"loss_type": "CAUCHY", "loss_scale": 1.5},
        )  # fmt: skip
        ours = refine(problem, scale=1.5)
        assert relative_pose(ours.cam_from_world, np.c_[theirs.R, theirs.t]) < 2e-5


def test_minimum_is_that_of_pycolmap() -> None:
    pycolmap = pytest.importorskip("pycolmap")
    problem = reprojection_problem(200, 7, model="SIMPLE_RADIAL", outliers=0.2)
    cam = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=1024, height=768, params=list(problem.camera.params)
    )
    options = pycolmap.AbsolutePoseRefinementOptions()
    options.gradient_tolerance = 1e-8
    options.loss_function_scale = 1.5
    theirs = pycolmap.refine_absolute_pose(
        pycolmap.Rigid3d(problem.start), problem.points2d, problem.points3d,
        np.ones(200, dtype=bool), cam, options,
    )["cam_from_world"]  # fmt: skip
    ours = refine(problem, scale=1.5)
    assert relative_pose(ours.cam_from_world, theirs.matrix()) < 2e-4  # it stops early
    problem.start = theirs.matrix()
    there = refine(problem, scale=1.5, max_iterations=0).cost
    assert ours.cost <= there <= ours.cost * (1 + 1e-5)


@pytest.mark.parametrize(
    "options,noise,outliers",
    [
        ({"loss": "squared"}, 1.0, 0.0),
        ({"loss": "huber", "scale": 1.5}, 1.0, 0.0),
        ({"loss": "cauchy", "scale": 1.0}, 0.5, 0.0),
        ({"loss": "cauchy", "scale": 1.0}, 1.0, 0.3),
        ({"loss": "geman_mcclure", "scale": 3.0}, 1.0, 0.4),
        ({"loss": "barron", "scale": 2.0, "alpha": -2.0}, 1.0, 0.3),
    ],
    ids=str,
)
def test_covariance_by_monte_carlo(options, noise, outliers) -> None:
    """Mean normalised squared error of 6 degrees of freedom: 6 for a perfect covariance."""
    errors = []
    for seed in range(100):
        problem = reprojection_problem(80, 100 + seed, noise=noise, outliers=outliers, start=0.001)
        found = refine(problem, **options)
        errors.append(normalized_error(found, problem.cam_from_world))
    assert 4.0 < np.mean(errors) < 9.0


def test_covariance_follows_the_given_one() -> None:
    """Whitened residuals: a different noise per point, and the covariance still fits."""
    errors = []
    for seed in range(100):
        problem = reprojection_problem(60, 300 + seed, noise=0.0)
        rng = np.random.default_rng(seed)
        factors = rng.normal(size=(60, 2, 2)) * rng.uniform(0.2, 3.0, (60, 1, 1))
        covariances = factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(2)
        noise = np.einsum("nij,nj->ni", np.linalg.cholesky(covariances), rng.normal(size=(60, 2)))
        problem.points2d += noise
        found = refine(problem, loss="huber", scale=2.0, covariances2d=covariances)
        errors.append(normalized_error(found, problem.cam_from_world))
    assert 4.0 < np.mean(errors) < 9.0


def test_isotropic_covariances_are_a_change_of_scale() -> None:
    problem = reprojection_problem(50, 8, outliers=0.2)
    plain = refine(problem, scale=3.0, tolerance=1e-14)
    covariances = np.broadcast_to(4.0 * np.eye(2), (50, 2, 2))
    whitened = refine(problem, scale=1.5, covariances2d=covariances, tolerance=1e-14)
    assert relative_pose(plain.cam_from_world, whitened.cam_from_world) < 1e-8
    assert whitened.cost == pytest.approx(plain.cost / 4)
    np.testing.assert_allclose(whitened.covariance, plain.covariance, rtol=1e-4)


def test_weights_zero_and_two_are_absence_and_repetition() -> None:
    problem = reprojection_problem(40, 9)
    weights = np.ones(40)
    weights[:5], weights[5:10] = 0.0, 2.0
    weighted = refine(problem, weights=weights, tolerance=1e-14)
    index = np.r_[5:40, 5:10]
    repeated = pl.refine_pose_reprojection(
        problem.points2d[index], problem.points3d[index], problem.camera, problem.start,
        tolerance=1e-14,
    )  # fmt: skip
    assert relative_pose(weighted.cam_from_world, repeated.cam_from_world) < 1e-9
    assert weighted.cost == pytest.approx(repeated.cost)
    assert weighted.num_usable == 35


def test_far_from_the_origin_of_the_world() -> None:
    """An offset of 5e6 units (UTM coordinates) must not cost the pose more than its rounding."""
    problem = reprojection_problem(60, 10)
    near = refine(problem)
    offset = np.array([5e6, -3e6, 1e3])
    problem.points3d += offset
    problem.start[:, 3] -= problem.start[:, :3] @ offset
    far = refine(problem)
    moved = far.cam_from_world.copy()
    moved[:, 3] += moved[:, :3] @ offset
    assert far.success and relative_pose(moved, near.cam_from_world) < 1e-6
    assert far.cost == pytest.approx(near.cost, rel=1e-6)


def test_matrix_camera_and_same_kind_of_input() -> None:
    torch = pytest.importorskip("torch")
    problem = reprojection_problem(30, 11)
    K = problem.camera.K
    by_matrix = pl.refine_pose_reprojection(problem.points2d, problem.points3d, K, problem.start)
    by_camera = refine(problem)
    np.testing.assert_array_equal(by_matrix.cam_from_world, by_camera.cam_from_world)
    tensors = pl.refine_pose_reprojection(
        torch.from_numpy(problem.points2d), torch.from_numpy(problem.points3d), K,
        torch.from_numpy(problem.start),
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(tensors.cam_from_world), by_camera.cam_from_world)


def test_points_behind_the_camera_pull_nowhere() -> None:
    problem = reprojection_problem(40, 12)
    clean = refine(problem, tolerance=1e-14)
    R, t = problem.cam_from_world[:, :3], problem.cam_from_world[:, 3]
    behind = (np.array([[0.3, 0.1, -4.0], [0, 0, 0], [1, 0, 0]]) - t) @ R
    problem.points3d = np.vstack([problem.points3d, behind])
    problem.points2d = np.vstack([problem.points2d, [[512.0, 384.0]] * 3])
    found = refine(problem, tolerance=1e-14)
    assert relative_pose(found.cam_from_world, clean.cam_from_world) < 1e-6
    np.testing.assert_array_equal(found.inlier_probability[40:], 0)
    assert found.num_usable == 40 and np.isfinite(found.cost)


@pytest.mark.parametrize("count,expected", [(0, "no points"), (1, "3 are"), (2, "3 are")])
def test_too_few_points(count, expected) -> None:
    problem = reprojection_problem(5, 13)
    found = pl.refine_pose_reprojection(
        problem.points2d[:count], problem.points3d[:count], problem.camera, problem.start
    )
    assert not found.success and expected in found.reason
    np.testing.assert_allclose(found.cam_from_world, problem.start, atol=1e-12)
    assert np.isinf(found.covariance).all() and len(found.inlier_probability) == count


def test_undetermined_poses_are_no_success() -> None:
    problem = reprojection_problem(20, 14, noise=0.0)
    line = np.linspace(0, 1, 20)[:, None] * (problem.points3d[1] - problem.points3d[0])
    line = line + problem.points3d[0]
    R, t = problem.cam_from_world[:, :3], problem.cam_from_world[:, 3]
    on_line, _ = problem.camera.project(line @ R.T + t)
    same = np.broadcast_to(problem.points3d[:1], (20, 3))
    for points2d, points3d in ((on_line, line), (problem.points2d, same)):
        found = pl.refine_pose_reprojection(points2d, points3d, problem.camera, problem.start)
        assert not found.success and "undetermined" in found.reason
        assert np.isfinite(found.cam_from_world).all()


def test_three_points_have_no_redundancy_but_a_pose() -> None:
    problem = reprojection_problem(3, 15, noise=0.0, start=0.001)
    found = refine(problem, loss="squared", scale=2.0)
    assert found.success and found.cost < 1e-12
    doubled = refine(problem, loss="squared", scale=4.0)
    np.testing.assert_allclose(doubled.covariance, 4 * found.covariance, rtol=1e-6)


def test_max_iterations_zero_scores_the_start() -> None:
    problem = reprojection_problem(30, 16)
    found = refine(problem, loss="squared", max_iterations=0)
    R, t = problem.start[:, :3], problem.start[:, 3]
    xy, _ = problem.camera.project(problem.points3d @ R.T + t)
    assert found.iterations == 0 and found.reason == "reached max_iterations"
    assert found.cost == pytest.approx(((xy - problem.points2d) ** 2).sum(), rel=1e-9)


def test_large_problem_does_not_depend_on_threads() -> None:
    problem = reprojection_problem(20_000, 17, outliers=0.3)
    one, two, eight = (refine(problem, num_threads=k) for k in (1, 2, 8))
    for other in (two, eight):
        np.testing.assert_array_equal(one.cam_from_world, other.cam_from_world)
        np.testing.assert_array_equal(one.covariance, other.covariance)
        assert one.cost == other.cost


def test_every_instruction_set_agrees() -> None:
    problem = reprojection_problem(37, 18, model="OPENCV", outliers=0.2)
    best = pl.build_info()["isa_best"]
    found = {}
    try:
        for isa in ("baseline", "avx2", "avx512"):
            try:
                pl.set_isa(isa)
            except ValueError:
                continue
            for options in LOSS_OPTIONS:
                found[isa, str(options)] = refine(problem, **options, tolerance=1e-14)
    finally:
        pl.set_isa(best)
    for (_, options), each in found.items():
        reference = found["baseline", options]
        assert each.cost == pytest.approx(reference.cost, rel=1e-10)
        assert relative_pose(each.cam_from_world, reference.cam_from_world) < 1e-6


@pytest.mark.parametrize(
    "change,error,message",
    [
        ({"loss": "caucy"}, ValueError, "did you mean 'cauchy'"),
        ({"scale": 0.0}, ValueError, "scale"),
        ({"scale": np.nan}, ValueError, "scale"),
        ({"scale": "one"}, TypeError, "scale"),
        ({"alpha": 1.0}, ValueError, "alpha"),
        ({"loss": "barron", "alpha": 2.5}, ValueError, "alpha"),
        ({"weights": -np.ones(10)}, ValueError, "weights"),
        ({"weights": np.ones(9)}, ValueError, "weights"),
        ({"covariances2d": -np.ones((10, 2, 2))}, ValueError, "covariances2d"),
        ({"covariances2d": np.zeros((10, 2, 2))}, ValueError, "covariances2d"),
        ({"max_iterations": -1}, ValueError, "max_iterations"),
        ({"max_iterations": 1.5}, TypeError, "max_iterations"),
        ({"tolerance": np.inf}, ValueError, "tolerance"),
        ({"num_threads": 0}, ValueError, "num_threads"),
        ({"implementation": "cuda"}, ValueError, "implementation"),
    ],
    ids=str,
)
def test_bad_options(change, error, message) -> None:
    problem = reprojection_problem(10, 19)
    with pytest.raises(error, match=message):
        refine(problem, **change)


@pytest.mark.parametrize("kind", ["shape", "length", "nan", "complex", "pose"])
def test_bad_arrays(kind) -> None:
    problem = reprojection_problem(10, 20)
    points2d, points3d, start = problem.points2d, problem.points3d, problem.start
    if kind == "shape":
        points2d = points2d.T
    elif kind == "length":
        points3d = points3d[:9]
    elif kind == "nan":
        points3d = np.where(np.arange(10)[:, None] == 3, np.nan, points3d)
    elif kind == "complex":
        points2d = points2d.astype(complex)
    else:
        start = start * 2.0
    with pytest.raises((ValueError, TypeError)):
        pl.refine_pose_reprojection(points2d, points3d, problem.camera, start)


@pytest.mark.parametrize("name", LOSSES)
def test_kernels_start_with_slope_one_and_weights_fall(name) -> None:
    torch = pytest.importorskip("torch")
    from pyloc_core.reference import robust

    loss = as_robust_loss(name, 2.0, -1.0 if name == "barron" else None)
    squared = torch.linspace(1e-9, 100, 500, dtype=torch.float64)
    weight = robust.weight(squared, loss)
    assert float(weight[0]) == pytest.approx(1.0, abs=1e-6)
    assert (weight.diff() <= 1e-12).all() and (weight >= 0).all()
    assert (robust.rho(squared, loss).diff() > -1e-12).all()


def test_camera_helper_covers_every_model() -> None:
    assert set(CAMERAS) == set(pl.CAMERA_MODELS)
    assert camera("PINHOLE").fx == 800.0
