# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Refinement of camera poses over loss maps."""

from __future__ import annotations

import math
import time
from typing import Any, Literal, overload

import numpy as np

from pyloc_core import _arrays, _dispatch, _native, _problems, _refinements
from pyloc_core.camera import camera_native_args
from pyloc_core.maps import LossMaps
from pyloc_core.maps_device import DeviceLossMaps
from pyloc_core.pose import PoseEstimate, PoseEstimates, as_cam_from_world

_FISHEYE, _AFTER_P2 = 2.0, 9  # of the camera's 13 numbers: its kind, where k3 begins


@overload
def refine_pose(
    maps: LossMaps,
    points3d: Any,
    camera: Any,
    cam_from_world: Any,
    *,
    problem_ptr: None = ...,
    sigma_max: float = ...,
    sigma_min: float = ...,
    max_iterations: int = ...,
    gain_ratio: float = ...,
    min_decrease: float = ...,
    compat: Literal["published"] | None = ...,
    num_threads: int | None = ...,
    check_finite: bool = ...,
    implementation: str | None = ...,
) -> PoseEstimate: ...


@overload
def refine_pose(
    maps: LossMaps | DeviceLossMaps,
    points3d: Any,
    camera: Any,
    cam_from_world: Any,
    *,
    problem_ptr: Any = ...,
    sigma_max: float = ...,
    sigma_min: float = ...,
    max_iterations: int = ...,
    gain_ratio: float = ...,
    min_decrease: float = ...,
    compat: Literal["published"] | None = ...,
    num_threads: int | None = ...,
    check_finite: bool = ...,
    implementation: str | None = ...,
) -> PoseEstimates: ...


def refine_pose(
    maps: LossMaps | DeviceLossMaps,
    points3d: Any,
    camera: Any,
    cam_from_world: Any,
    *,
    problem_ptr: Any = None,
    sigma_max: float = 2.0,
    sigma_min: float = 0.6,
    max_iterations: int = 200,
    gain_ratio: float = 0.1,
    min_decrease: float = 1e-5,
    compat: Literal["published"] | None = None,
    num_threads: int | None = None,
    check_finite: bool = False,
    implementation: str | None = None,
) -> PoseEstimate | PoseEstimates:
    """Refine a pose on N loss maps by graduated non-convexity.

    Minimises `E_sigma = -sum_n sum_q gain_n(q) k_sigma(|q - p_n|)` over the pose, `p_n` the
    projection of point n and `k_sigma` the isotropic Gaussian density, for a falling sequence of
    sigma: `sigma_max`, the powers of two below it down to 1, 0.9, 0.8 ... `sigma_min`.

    Args:
        maps: N loss maps; windows and full maps alike, their cells are the unit of sigma. LossMaps,
            or DeviceLossMaps with the other arrays as tensors of that device.
        points3d: (N, 3) world points.
        camera: `Camera` (or pycolmap camera, or dictionary) in image pixels, or (3, 3) K in map
            cells. Distortion enters the projection and its Jacobian.
        cam_from_world: (3, 4) or (4, 4) start. A rotation within 1e-3 of orthonormal is cleaned up.
        problem_ptr: (B + 1,) integers that rise from 0 to N: B problems of their own, problem b with
            the maps and points `problem_ptr[b]:problem_ptr[b + 1]` and the start `cam_from_world[b]`
            of (B, 3, 4). `camera` is then one for all, a list of B, or (B, 13) float64 in map
            coordinates: kind (0 pinhole, 1 with OpenCV's distortion k1 k2 p1 p2 k3 k4 k5 k6, 2 fisheye
            with k1 k2 k3 k4), fx, fy, cx, cy and the 8 distortion values, as `camera_rows` makes them.
        sigma_max, sigma_min: cells; the thesis takes 2.0 and 0.6 for coarse maps, 8.0 and 0.6 for
            fine ones (appendix B.2.3).
        max_iterations: bound on steps over all sigmas.
        gain_ratio, min_decrease: sigma advances when a step's decrease is at most `gain_ratio` times
            the sum of the maps' absolute changes (Zach and Bourmaud 2018), or below `min_decrease`.
        compat: "published" reproduces the published program: sigma = 1 twice, energies of two sigmas
            compared when sigma changes, damping by the identity until 1e7 (give a large
            `max_iterations`, it has no bound), depths below 1e-4 left out, k1 alone in the distortion's
            derivative, a result that depends on the world's origin. For distortion by k1, k2, p1, p2.
            On the CPU only.
        num_threads: threads; the result does not depend on it.
        check_finite: refuse NaN and infinity in tensors on a device too, which waits for it. Without
            it a point that holds them takes no part there, and a start that is not finite, or no
            rotation, ends without success.
        implementation: "native" (the CPU's), "cuda" (the default on a GPU: one block of threads per
            problem, one launch for all) or "reference" (torch, float64; one problem).

    Returns:
        PoseEstimate. `cost` is Eq. 4.6 in nats at the returned pose and `gain` N ln|O| minus it;
        `energy` is E at the last sigma; `inlier_probability` (N,) is 1 - exp(-gain_n); `covariance`
        (6, 6) belongs to the left update, rotation (radians) first: the inverse curvature of E at the
        pose, scaled by the dispersion of the maps' votes. `success` needs 4 usable maps (peak gain
        more than 1 nat above a flat map's) and so many of them consistent with the pose (bilinear
        gain at least half the peak) that chance would be expected to reach as many in fewer than one
        of ten images (csrc/include/pyloc/consensus.h). Without success the covariance is
        infinite and the pose is the start, or, when the optimisation ran, where it ended.
        `inlier_probability` is of the kind (NumPy or torch) of `points3d`, pose and covariance of the
        kind of `cam_from_world`.
        With `problem_ptr`, and always for DeviceLossMaps, PoseEstimates: B of them as arrays of the kind
        of `points3d`, on the CPU with the bits of B calls. On a GPU nothing waits for the device, and the
        call can be captured in a CUDA graph when every argument that is an array lies there.

    Raises:
        ValueError, TypeError: wrong shapes or dtypes, NaN or infinite values, lengths that differ, a
            start that is no rotation, sigmas that are not positive or out of order.

    Source: H. Germain, thesis (2021), section 4.4.2, Eq. 4.6 and 4.9, appendix B.
    """
    _problems.check_maps(maps)
    threads = _arrays.thread_count(num_threads)
    options = _options(sigma_max, sigma_min, max_iterations, gain_ratio, min_decrease, compat)
    arrays = {"points3d": points3d, "cam_from_world": cam_from_world, "problem_ptr": problem_ptr}
    if isinstance(maps, DeviceLossMaps) or _dispatch.on_tensors(
        "refine_pose", implementation, arrays
    ):
        force = implementation or ""
        return _refinements.on_tensors(maps, camera, arrays, options, threads, check_finite, force)
    begin = time.perf_counter()
    points = _arrays.as_array(points3d, "points3d", shape=("N", 3))
    _arrays.check_equal_length(len(maps), "maps", len(points.data), "points3d")
    if problem_ptr is not None:
        by_reference = _dispatch.use_reference("refine_pose", implementation)
        return _batch(maps, points, camera, arrays, options, threads, by_reference)
    start = as_cam_from_world(cam_from_world)
    if not np.isfinite(start).all():
        raise ValueError("cam_from_world holds values too large to be a pose")
    args = camera_native_args(camera, maps.image_cells, maps.origin)
    _check_published(options, args)
    maps = maps.without_origin()
    run = _run_reference if _dispatch.use_reference("refine_pose", implementation) else _run_native
    pose, gains, covariance, found = run(maps, points.data, args, start, options, threads)
    estimate = _estimate(maps, pose, gains, covariance, found, bool(options[5]))
    is_torch = _arrays.is_torch(cam_from_world)
    return _finished(estimate, points, is_torch, time.perf_counter() - begin)


def _check_published(options: tuple[Any, ...], camera: Any) -> None:
    if options[5] and (camera[0] == _FISHEYE or any(camera[_AFTER_P2:])):
        raise ValueError('compat="published" knows distortion by k1, k2, p1 and p2 alone')


def _batch(
    maps: LossMaps,
    points: _arrays.ArrayIn,
    camera: Any,
    arrays: dict[str, Any],
    options: tuple[float, float, int, float, float, int],
    threads: int,
    by_reference: bool,
) -> PoseEstimates:
    if by_reference:
        raise ValueError('refine_pose: "reference" takes one problem, without problem_ptr')
    offsets = _problems.problem_offsets(arrays["problem_ptr"], len(maps))
    cameras = _problems.camera_rows(camera, maps, len(offsets) - 1)
    for row in cameras:
        _check_published(options, row)
    starts = _refinements.starting_poses(arrays["cam_from_world"], len(offsets) - 1)
    outcome = _refinements.on_host(
        maps.without_origin(), points.data, cameras, starts, offsets, options, threads
    )
    kept = tuple(_arrays.like(each, points) for each in outcome)
    return _refinements.estimates(kept, _arrays.like(offsets, points), bool(options[5]))


def _options(
    sigma_max: float,
    sigma_min: float,
    max_iterations: int,
    gain_ratio: float,
    min_decrease: float,
    compat: str | None,
) -> tuple[float, float, int, float, float, int]:
    """The fields of pyloc::GncOptions, checked."""
    sigmas = float(sigma_max), float(sigma_min)
    if not (all(map(math.isfinite, sigmas)) and 0 < sigmas[1] <= sigmas[0]):
        raise ValueError(f"sigma_max >= sigma_min > 0 must hold, got {sigma_max} and {sigma_min}")
    if sigmas[0] > 1e4 or sigmas[1] < 1e-2:
        raise ValueError(f"sigmas must lie between 0.01 and 10000 cells, got {sigmas}")
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, (int, np.integer)):
        raise TypeError(f"max_iterations must be an int, got {max_iterations!r}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    for name, value in (("gain_ratio", gain_ratio), ("min_decrease", min_decrease)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    if compat not in (None, "published"):
        raise ValueError(f'compat must be None or "published", got {compat!r}')
    steps = min(int(max_iterations), 1_000_000)
    return (*sigmas, steps, float(gain_ratio), float(min_decrease), int(compat is not None))


class _Found:
    """What either implementation reports beside the arrays."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.energy, self.iterations, self.reason = values[:3]
        self.usable, self.consistent, self.log_false_alarms, self.success = values[3:]


_Outcome = tuple[np.ndarray, np.ndarray, np.ndarray, _Found]


def _run_native(
    maps: LossMaps,
    points: np.ndarray,
    camera: tuple[float, ...],
    start: np.ndarray,
    options: tuple[Any, ...],
    threads: int,
) -> _Outcome:
    pose, covariance, gains = np.empty((3, 4)), np.empty((6, 6)), np.empty(len(maps))
    start = np.ascontiguousarray(start)
    pointer = _arrays.pointer
    _gain, energy, _c, iterations, _passes, reason, usable, consistent, _p, alarms, success = (
        _native.refine_pose(
            maps.native_args(),
            pointer(points),
            camera,
            pointer(start),
            options,
            threads,
            pointer(pose),
            pointer(covariance),
            pointer(gains),
        )
    )
    found = _Found((energy, iterations, reason, usable, consistent, alarms, success))
    return pose, gains, covariance, found


def _run_reference(
    maps: LossMaps,
    points: np.ndarray,
    camera: tuple[float, ...],
    start: np.ndarray,
    options: tuple[Any, ...],
    threads: int,
) -> _Outcome:
    import torch

    module = _dispatch.reference_module("refine_pose")
    settings = module.Options(*options[:5], published=bool(options[5]))
    tensor = torch.as_tensor
    with torch.no_grad():
        r = module.refine_pose(maps, tensor(points.copy()), camera, tensor(start), settings)
    c = r.consensus
    verdict = (c.usable, c.consistent, c.log_false_alarms, c.success)
    found = _Found((r.energy, r.iterations, r.reason, *verdict))
    return r.cam_from_world.numpy(), r.gains.numpy(), r.covariance.numpy(), found


def _estimate(
    maps: LossMaps,
    pose: np.ndarray,
    gains: np.ndarray,
    covariance: np.ndarray,
    found: _Found,
    published: bool,
) -> PoseEstimate:
    count, gain = len(maps), float(gains.sum())
    if count == 0:
        verdict = _refinements.NO_POINTS
    elif found.usable < _refinements.MIN_USABLE:
        verdict = _refinements.FEW_USABLE
    elif not found.success:
        verdict = _refinements.CHANCE
    elif not np.isfinite(covariance).all():
        verdict = _refinements.UNDETERMINED
    else:
        verdict = _refinements.FOUND
    success = verdict == _refinements.FOUND
    message = _refinements.messages(published)[_refinements.status_of(verdict, found.reason)]
    reason = message.format(
        num_points=count, num_usable=found.usable, num_consistent=found.consistent
    )
    if not success:
        covariance = np.full((6, 6), np.inf)
    return PoseEstimate(
        cam_from_world=pose,
        success=success,
        reason=reason,
        cost=count * maps.log_cardinality - gain,
        gain=gain,
        inlier_probability=-np.expm1(-gains),
        covariance=covariance,
        iterations=found.iterations,
        energy=found.energy,
        num_usable=found.usable,
        num_consistent=found.consistent,
    )


def _finished(
    estimate: PoseEstimate, points: _arrays.ArrayIn, torch_pose: bool, seconds: float
) -> PoseEstimate:
    """The same with arrays of the caller's kinds and the time taken."""
    from dataclasses import replace

    kind = _arrays.torch_module().from_numpy if torch_pose else np.asarray
    return replace(
        estimate,
        cam_from_world=kind(estimate.cam_from_world),
        covariance=kind(estimate.covariance),
        inlier_probability=_arrays.like(estimate.inlier_probability, points),
        timings={"refine_pose": seconds},
    )
