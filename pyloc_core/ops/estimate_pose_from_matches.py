# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Pose from 2D-3D matches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _dispatch, _native
from pyloc_core.camera import camera_native_args
from pyloc_core.pose import PoseEstimate
from pyloc_core.sampling import estimate_from, sampling_options, starting_poses

_STAGES = ("prepare", "solve", "score", "refine")


def estimate_pose_from_matches(
    points2d: Any,
    points3d: Any,
    camera: Any,
    *,
    max_error: float = 12.0,
    iterations: int | None = None,
    confidence: float = 0.9999,
    seed: int = 0,
    initial: Any = None,
    weights: Any = None,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> PoseEstimate:
    """Pose from matches between image points and world points, some of them wrong.

    M-estimator sample consensus over P3P hypotheses: minimises `sum_n w_n min(r_n^2, max_error^2)`,
    r_n the reprojection error with distortion. The best hypotheses of every round are improved by a
    few Levenberg-Marquardt steps on that cost, the best of all until it converges. Hypotheses are given
    up early only where they provably cannot be among the best. For another robust kernel, or correlated
    errors, pass the pose on to `refine_pose_reprojection`.

    Args:
        points2d: (N, 2) image points, in the units of `camera` (pixels; centre of the first at 0.5).
        points3d: (N, 3) points in the world.
        camera: a Camera in image pixels (or what `as_camera` takes), or a (3, 3) K in the units of
            `points2d`.
        max_error: T, in the units of `points2d`; larger errors all cost the same.
        iterations: triplets to draw; None stops when a triplet of inliers has been drawn with
            `confidence` (between 128 and 20000 triplets).
        confidence: in (0, 1).
        seed: of the counter-based generator; the same seed gives the same bits on any thread count.
        initial: (3, 4), or (K, 3, 4): poses to score as hypotheses too.
        weights: (N,) not negative, of the squared errors; matches of weight 0 are left out.
        num_threads: None for the default of the process.
        implementation: "native" (default) or "reference".

    Returns:
        PoseEstimate with cam_from_world (3, 4) float64 (world to camera). `cost` is the sum above in
        squared units of `points2d`, `gain` is `sum_n w_n max_error^2` less the cost;
        `inlier_probability` is 1 - r^2 / max_error^2, and 0 beyond; `covariance` follows from the
        inliers' residuals. `success` is False, with the reason, when fewer than 4 matches have weight,
        when every triplet is degenerate, when the inliers do not fix the pose, and when so few agree
        that a wrong pose could have done as well (csrc/include/pyloc/consensus.h, with the share of
        the measurements' bounding box that a square of side 2 max_error covers).

    Raises:
        ValueError, TypeError: arguments that do not fit, by name.

    Source: Torr and Zisserman, "MLESAC", CVIU 2000; local optimisation after Chum, Matas and Kittler,
    "Locally optimized RANSAC", DAGM 2003.
    """
    image = _arrays.as_array(points2d, "points2d", shape=("N", 2))
    world = _arrays.as_array(points3d, "points3d", shape=("N", 3))
    count = len(image.data)
    _arrays.check_equal_length(count, "points2d", len(world.data), "points3d")
    weight = _weights(weights, count)
    if not (np.isfinite(max_error) and 1e-100 < max_error < 1e100):
        raise ValueError(f"max_error must be positive and finite, got {max_error}")
    intrinsics = camera_native_args(camera)
    starts = starting_poses(initial)
    options = (float(max_error), *sampling_options(iterations, confidence, seed))
    threads = _arrays.thread_count(num_threads)
    probability, covariance = np.zeros(count), np.full((6, 6), np.inf)
    if _dispatch.use_reference("estimate_pose_from_matches", implementation):
        reference = _dispatch.reference_module("estimate_pose_from_matches")
        found = reference.estimate_pose_from_matches(
            image.data, world.data, weight, intrinsics, starts, options, covariance, probability
        )
    else:
        found = _native.estimate_pose_from_matches(
            (
                _arrays.pointer(image.data),
                _arrays.pointer(world.data),
                0 if weight is None else _arrays.pointer(weight),
            ),
            count,
            intrinsics,
            _arrays.pointer(starts),
            len(starts),
            (*options, threads),
            _arrays.pointer(covariance),
            _arrays.pointer(probability),
        )
    return estimate_from(found, "matches", _STAGES, probability, covariance, starts).like(
        image, world
    )


def _weights(weights: Any, count: int) -> npt.NDArray[np.float64] | None:
    if weights is None:
        return None
    weight = _arrays.as_array(weights, "weights", shape=("N",)).data
    _arrays.check_equal_length(count, "points2d", len(weight), "weights")
    if (weight < 0).any():
        raise ValueError(f"weights must not be negative, got {weight.min()}")
    return weight
