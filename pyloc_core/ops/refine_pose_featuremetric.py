# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Refinement of a pose by the distance between descriptors and interpolated features."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _dispatch, _native
from pyloc_core.camera import camera_native_args
from pyloc_core.pose import PoseEstimate, as_cam_from_world
from pyloc_core.refinement import Refinement, as_weights, estimate_from
from pyloc_core.robust import RobustLoss, as_iterations, as_number, as_robust_loss


def refine_pose_featuremetric(
    descriptors: Any,
    features: Any,
    points3d: Any,
    camera: Any,
    cam_from_world: Any,
    *,
    loss: str = "barron",
    scale: float = 0.5,
    alpha: float | None = None,
    normalize: bool = False,
    weights: Any = None,
    max_iterations: int = 100,
    tolerance: float = 1e-8,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> PoseEstimate:
    """Refine a pose by the featuremetric error (FPR) of the thesis, Eq. 4.12.

    Minimises `sum_n weights_n scale^2 rho(|h_n - H_q(p_n)|^2 / scale^2)` over the pose, `p_n` the
    projection of point n and `H_q` the features read bilinearly, by Levenberg-Marquardt with the
    analytic derivative of the interpolant. Such a cost has a basin of a few cells: start it from a
    pose whose projections are that close.

    Args:
        descriptors: (N, D), or one such array per level.
        features: (D, H, W) float32, float16 or bfloat16, or one such array per level, coarse to fine:
            each level starts from the pose of the level before. Arrays whose channels lie last in memory
            (`hwd.transpose(2, 0, 1)`, `permute(2, 0, 1)`) are taken as they are and are the faster form;
            no other layout than these two is read without a copy.
        points3d: (N, 3) world points.
        camera: a Camera in image pixels (its image covers each level's whole map); or, for one level,
            a (3, 3) K in map coordinates.
        cam_from_world: (3, 4) pose to start from.
        loss: robust kernel: "squared", "huber", "cauchy", "geman_mcclure", "tukey", "welsch", "barron".
        scale: distance between descriptors at which the kernel turns.
        alpha: shape of "barron" (Barron 2019), at most 2; 0 by default.
        normalize: bring descriptors, and features after interpolation, to unit length.
        weights: (N,) non-negative factors of the points; 1 by default.
        max_iterations: steps tried at most, per level.
        tolerance: stop when the next step promises a smaller relative decrease of the cost.
        num_threads: results have the same bits with any number.
        implementation: "native" (default) or "reference" (torch, float64).

    Returns:
        PoseEstimate of the last level with, specific to this operator:
        `cost`: the sum above, in squared units of the descriptors. A point that is behind the camera or
        beyond the centres of the border cells has no feature; it counts as a feature as long as its
        descriptor at a right angle to it (`|h - H|^2 = 2 |h|^2`) and pulls nowhere.
        `inlier_probability`: rho' of each point (Black and Rangarajan 1996), 0 without a feature.
        `gain`: its sum over points of positive weight, the effective number of inliers.
        `num_usable`: points of positive weight with a feature; `num_consistent`: of those, the ones with
        rho' of at least 1/2.
        `covariance`: the sandwich of a misspecified model (Huber 1967, White 1980), `H^-1 S H^-1`, with H
        the curvature of the cost and S the spread of the points' gradients, times n / (n - 3).
        `success` False with a reason: no points, fewer than 3 with a feature, or a direction of the pose
        that the features do not determine (flat maps, collinear points).

    Raises:
        ValueError, TypeError: wrong shapes, lengths, dtypes or names; D, H or W of 0; NaN or infinite
        descriptors or points, or features that are so where a point reads them; negative weights; zero
        descriptors with `normalize`; a `cam_from_world` that is not a rigid transform.

    Source: thesis of H. Germain, Eq. 4.12; Tang and Tan 2019, von Stumberg et al. 2020 for the method.
    """
    levels = _as_levels(descriptors, features, normalize, camera)
    xyz = _arrays.as_array(points3d, "points3d", shape=("N", 3))
    count = len(xyz.data)
    for level in levels:
        _arrays.check_equal_length(len(level.descriptors), "descriptors", count, "points3d")
    start = as_cam_from_world(cam_from_world)
    options = _Options(
        as_robust_loss(loss, scale, alpha), bool(normalize), as_weights(weights, count),
        as_iterations(max_iterations), as_number(tolerance, "tolerance"),
        _arrays.thread_count(num_threads),
    )  # fmt: skip
    reference = _dispatch.use_reference("refine_pose_featuremetric", implementation)
    sources = [level.features for level in levels]
    if count == 0:
        return PoseEstimate.failed("no points", 0, cam_from_world=start).like(xyz, *sources)
    run = _run_reference if reference else _run_native
    begin = time.perf_counter()
    found = run(levels[0], xyz.data, start, options)
    iterations = found.iterations
    for level in levels[1:]:
        found = run(level, xyz.data, found.cam_from_world, options)
        iterations += found.iterations
    found = replace(found, iterations=iterations)
    return estimate_from(found, start, time.perf_counter() - begin).like(xyz, *sources)


@dataclass(frozen=True)
class _Level:
    descriptors: npt.NDArray[np.float32]  # (N, D)
    features: _arrays.ArrayIn  # (D, H, W), or (H, W, D) when channels_last
    channels_last: bool
    camera: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """D, H, W."""
        a, b, c = self.features.shape
        return (c, a, b) if self.channels_last else (a, b, c)


@dataclass(frozen=True)
class _Options:
    kernel: RobustLoss
    normalize: bool
    weights: npt.NDArray[np.float64] | None
    max_iterations: int
    tolerance: float
    num_threads: int


def _as_levels(descriptors: Any, features: Any, normalize: bool, camera: Any) -> list[_Level]:
    if isinstance(features, (list, tuple)):
        if not isinstance(descriptors, (list, tuple)) or len(descriptors) != len(features):
            raise ValueError("descriptors and features must hold the same number of levels")
        if not features:
            raise ValueError("features must hold at least one level")
        if len(features) > 1 and not hasattr(camera, "params") and not isinstance(camera, dict):
            raise ValueError(
                "several levels need a Camera in image pixels, not a K in map coordinates"
            )
        named = [(h, f, f"[{i}]") for i, (h, f) in enumerate(zip(descriptors, features))]
    else:
        named = [(descriptors, features, "")]
    return [_as_level(h, f, suffix, normalize, camera) for h, f, suffix in named]


def _as_level(descriptors: Any, features: Any, suffix: str, normalize: bool, camera: Any) -> _Level:
    name = f"features{suffix}"
    channels_last = _channels_lie_last(features)
    view = features
    if channels_last:
        view = (
            features.permute(1, 2, 0) if _arrays.is_torch(features) else features.transpose(1, 2, 0)
        )
    maps = _arrays.as_array(
        view, name, shape=("H", "W", "D") if channels_last else ("D", "H", "W"),
        dtype=_arrays.FEATURE_DTYPES, finite=False,
    )  # fmt: skip
    h = _arrays.as_array(
        descriptors, f"descriptors{suffix}", shape=("N", "D"), dtype="float32"
    ).data
    level = _Level(h, maps, channels_last, ())
    channels, height, width = level.shape
    if min(maps.shape) == 0:
        raise ValueError(f"{name} must have at least one channel and one cell, got {maps.shape}")
    if h.shape[1] != channels:
        raise ValueError(
            f"descriptors{suffix} and {name} must have the same channels, got {h.shape[1]} and {channels}"
        )
    if normalize:
        length = np.linalg.norm(h.astype(np.float64), axis=1, keepdims=True)
        if (length == 0).any():
            raise ValueError(
                f"descriptors{suffix} holds a zero vector, which normalize cannot scale"
            )
        h = (h / length).astype(np.float32)
    return replace(level, descriptors=h, camera=camera_native_args(camera, (height, width)))


def _channels_lie_last(features: Any) -> bool:
    if _arrays.is_torch(features):
        return (
            features.ndim == 3
            and not features.is_contiguous()
            and features.permute(1, 2, 0).is_contiguous()
        )
    if isinstance(features, np.ndarray) and features.ndim == 3:
        return not features.flags.c_contiguous and features.transpose(1, 2, 0).flags.c_contiguous
    return False


def _run_native(
    level: _Level,
    points3d: npt.NDArray[np.float64],
    start: npt.NDArray[np.float64],
    options: _Options,
) -> Refinement:
    channels, height, width = level.shape
    found = Refinement.allocate(start, len(points3d))
    found.fill(
        _native.refine_pose_featuremetric(
            _arrays.pointer(level.descriptors), _arrays.pointer(points3d),
            0 if options.weights is None else _arrays.pointer(options.weights), len(points3d),
            _arrays.pointer(level.features.data), level.features.code, level.channels_last,
            channels, height, width, options.normalize, level.camera, options.kernel.native_args,
            options.max_iterations, options.tolerance, options.num_threads,
            _arrays.pointer(found.cam_from_world), _arrays.pointer(found.covariance),
            _arrays.pointer(found.inlier_probability),
        )
    )  # fmt: skip
    if found.aborted:
        raise ValueError(
            "features holds NaN, infinite or overflowing values where a point reads it"
        )
    return found


def _run_reference(
    level: _Level,
    points3d: npt.NDArray[np.float64],
    start: npt.NDArray[np.float64],
    options: _Options,
) -> Refinement:
    import torch

    values = level.features.data
    if level.features.dtype == "bfloat16":
        values = _arrays.bfloat16_to_float32(values)
    maps = torch.from_numpy(values.astype(np.float64))
    weights = np.ones(len(points3d)) if options.weights is None else options.weights
    refined = _dispatch.reference_module("refine_pose_featuremetric").refine(
        torch.from_numpy(level.descriptors.astype(np.float64)),
        maps.permute(2, 0, 1) if level.channels_last else maps,
        torch.from_numpy(points3d), level.camera, torch.from_numpy(start), options.kernel,
        torch.from_numpy(weights), options.normalize, options.max_iterations, options.tolerance,
    )  # fmt: skip
    if not np.isfinite(refined.minimum.cost):
        raise ValueError("features holds NaN or infinite values where a point reads it")
    return Refinement.from_reference(refined, weights)
