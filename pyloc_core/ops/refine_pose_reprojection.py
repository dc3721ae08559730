# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Refinement of a pose on 2D-3D matches by the robust reprojection error."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _dispatch, _native
from pyloc_core.camera import camera_native_args
from pyloc_core.pose import PoseEstimate, as_cam_from_world
from pyloc_core.refinement import Refinement, as_weights, estimate_from
from pyloc_core.robust import RobustLoss, as_iterations, as_number, as_robust_loss


def refine_pose_reprojection(
    points2d: Any,
    points3d: Any,
    camera: Any,
    cam_from_world: Any,
    *,
    loss: str = "cauchy",
    scale: float = 1.0,
    alpha: float | None = None,
    weights: Any = None,
    covariances2d: Any = None,
    max_iterations: int = 100,
    tolerance: float = 1e-10,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> PoseEstimate:
    """Refine a pose on 2D-3D matches: the reprojection error (RE) of the thesis, Eq. 4.1.

    Minimises `sum_n weights_n scale^2 rho(|x_n - project(R X_n + t)|^2 / scale^2)` over the pose by
    Levenberg-Marquardt, with the camera's distortion and its Jacobian.

    Args:
        points2d: (N, 2) matches (x, y), image pixels of `camera` (the centre of the top-left pixel at
            (0.5, 0.5)); for a (3, 3) K in map coordinates, map cells. Computed in float64.
        points3d: (N, 3) world points.
        camera: a Camera (any model), pycolmap camera or dictionary; or a (3, 3) K in the units of
            points2d.
        cam_from_world: (3, 4) pose to start from.
        loss: "squared", "huber", "cauchy", "geman_mcclure", "tukey", "welsch" (the negative Gaussian of
            Eq. 4.11) or "barron". All behave like the squared residual near zero.
        scale: residual, in units of points2d, at which the kernel turns. With `covariances2d`, in
            standard deviations.
        alpha: shape of "barron" (Barron 2019), at most 2; 0 by default, where it is Cauchy's kernel with
            a scale sqrt(2) times as large; -inf is allowed.
        weights: (N,) non-negative factors of the points; 1 by default.
        covariances2d: (N, 2, 2) covariances of points2d: residuals become Mahalanobis distances.
        max_iterations: steps tried at most.
        tolerance: stop when the next step promises a smaller relative decrease of the cost.
        num_threads: for large N; results have the same bits with any number.
        implementation: "native" (default) or "reference" (torch, float64).

    Returns:
        PoseEstimate with, specific to this operator:
        `cost`: the sum above, in squared units of points2d (of standard deviations with covariances2d).
        `inlier_probability`: rho' of each point, 1 for a perfect match and 0 behind the camera: the value
        of the outlier process that the kernel stands for (Black and Rangarajan 1996).
        `gain`: its sum over points of positive weight, the effective number of inliers.
        `num_usable`: points with a positive weight in front of the camera and within 10 focal lengths of
        their match (others cost the same as there and pull nowhere); `num_consistent`: of those, the
        ones with rho' of at least 1/2.
        `covariance`: asymptotic covariance of an M-estimator (Huber 1981, section 7.6) with the noise
        estimated from the residuals: `sigma^2 / kappa^2 (sum w J^T J)^-1`, `w = weights rho'`,
        `sigma^2 = sum w rho' r^2 / (2 sum w - 6)`, `kappa = sum weights (rho' + s rho'') / sum w`. Where
        there is no redundancy (`2 sum w < 7`), sigma is `scale`.
        `success` False with a reason: no points, fewer than 3 usable ones, or points that leave a
        direction of the pose undetermined (collinear, duplicates).

    Raises:
        ValueError, TypeError: wrong shapes, lengths, dtypes or names; NaN or infinite values; negative
        weights; covariances that are not symmetric positive definite; a `cam_from_world` that is not a
        rigid transform.

    Source: thesis of H. Germain, Eq. 4.1; Triggs et al. 1999 for robust steps.
    """
    xy = _arrays.as_array(points2d, "points2d", shape=("N", 2))
    xyz = _arrays.as_array(points3d, "points3d", shape=("N", 3))
    count = len(xy.data)
    _arrays.check_equal_length(count, "points2d", len(xyz.data), "points3d")
    start = as_cam_from_world(cam_from_world)
    kernel = as_robust_loss(loss, scale, alpha)
    native_camera = camera_native_args(camera)
    point_weights = as_weights(weights, count)
    whitening = _as_whitening(covariances2d, count)
    steps = as_iterations(max_iterations)
    limit = as_number(tolerance, "tolerance")
    threads = _arrays.thread_count(num_threads)
    reference = _dispatch.use_reference("refine_pose_reprojection", implementation)
    if count == 0:
        return PoseEstimate.failed("no points", 0, cam_from_world=start).like(xy, xyz)
    begin = time.perf_counter()
    if reference:
        found = _run_reference(
            xy.data, xyz.data, native_camera, start, kernel, point_weights, whitening, steps, limit
        )
    else:
        found = Refinement.allocate(start, count)
        found.fill(
            _native.refine_pose_reprojection(
                _arrays.pointer(xy.data), _arrays.pointer(xyz.data),
                0 if point_weights is None else _arrays.pointer(point_weights),
                0 if whitening is None else _arrays.pointer(whitening),
                count, native_camera, kernel.native_args, steps, limit, threads,
                _arrays.pointer(found.cam_from_world), _arrays.pointer(found.covariance),
                _arrays.pointer(found.inlier_probability),
            )
        )  # fmt: skip
    return estimate_from(found, start, time.perf_counter() - begin).like(xy, xyz)


def _as_whitening(covariances2d: Any, count: int) -> npt.NDArray[np.float64] | None:
    """(N, 3): the lower Cholesky factors l11, l21, l22 of the inverse covariances."""
    if covariances2d is None:
        return None
    values = _arrays.as_array(covariances2d, "covariances2d", shape=("N", 2, 2)).data
    _arrays.check_equal_length(len(values), "covariances2d", count, "points2d")
    a, b, c = values[:, 0, 0], values[:, 0, 1], values[:, 1, 1]
    with np.errstate(all="ignore"):
        symmetric = np.abs(b - values[:, 1, 0]) <= 1e-9 * np.sqrt(np.abs(a * c))
        determinant = a * c - b * b
        good = symmetric & (a > 0) & (c > 0) & (determinant > 0) & np.isfinite(1 / determinant)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"covariances2d must be symmetric positive definite, got {values[first].tolist()} at {first}"
        )
    # The inverse is [[c, -b], [-b, a]] / determinant.
    l11 = np.sqrt(c / determinant)
    return np.stack([l11, -b / determinant / l11, 1 / np.sqrt(c)], axis=1)


def _run_reference(
    points2d: npt.NDArray[np.float64],
    points3d: npt.NDArray[np.float64],
    camera: tuple[float, ...],
    start: npt.NDArray[np.float64],
    kernel: RobustLoss,
    weights: npt.NDArray[np.float64] | None,
    whitening: npt.NDArray[np.float64] | None,
    max_iterations: int,
    tolerance: float,
) -> Refinement:
    import torch

    count = len(points2d)
    factors = np.zeros((count, 2, 2))
    factors[:, 0, 0] = factors[:, 1, 1] = 1.0
    if whitening is not None:
        factors[:, 0, 0], factors[:, 1, 0], factors[:, 1, 1] = whitening.T
    point_weights = np.ones(count) if weights is None else weights
    refined = _dispatch.reference_module("refine_pose_reprojection").refine(
        torch.from_numpy(points2d), torch.from_numpy(points3d), camera, torch.from_numpy(start),
        kernel, torch.from_numpy(point_weights), torch.from_numpy(factors), max_iterations, tolerance,
    )  # fmt: skip
    return Refinement.from_reference(refined, point_weights)
