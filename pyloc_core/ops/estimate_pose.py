# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Initial poses from loss maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyloc_core import _arrays, _dispatch, _library, _native, _problems, _tensors
from pyloc_core.camera import camera_native_args
from pyloc_core.maps import LossMaps
from pyloc_core.maps_device import DeviceLossMaps
from pyloc_core.pose import PoseEstimate, PoseEstimates
from pyloc_core.sampling import (
    batch_starting_poses,
    estimate_from,
    reason_messages,
    sampling_options,
    starting_poses,
)

_STAGES = ("prepare", "solve", "score", "finish")
_VOTERS = "usable maps"


def estimate_pose(
    maps: LossMaps | DeviceLossMaps,
    points3d: Any,
    camera: Any,
    *,
    problem_ptr: Any = None,
    iterations: int | None = None,
    confidence: float = 0.9999,
    top_fraction: float = 0.25,
    seed: int = 0,
    initial: Any = None,
    num_threads: int | None = None,
    check_finite: bool = False,
    implementation: str | None = None,
) -> Any:
    """Pose that explains loss maps, found without a start and without an inlier threshold.

    M-estimator sample consensus over P3P hypotheses: three maps are drawn from the most peaked ones,
    P3P on their best cells gives up to four poses (Eq. 4.8), each scored by its summed bilinear gain
    (Eq. 4.6) over the most peaked maps. The four best are ranked once more over all usable maps, in
    float64. A map is usable when its peak gain is more than 1 nat above a flat map's. Hypotheses are
    given up early only where the peaks of the unvisited maps prove that they cannot win.

    The pose is the best hypothesis, not an optimum: pass it to `refine_pose`. Its covariance is
    therefore infinite.

    Args:
        maps: N loss maps, one per point; full maps, padded ones or windows; LossMaps, or
            DeviceLossMaps.
        points3d: (N, 3) points in the world.
        camera: a Camera in image pixels (or what `as_camera` takes), or a (3, 3) K in map coordinates.
            For a batch also a list of B cameras, or (B, 13) float64 in map coordinates: kind (0
            pinhole, 1 with OpenCV's distortion k1 k2 p1 p2 k3 k4 k5 k6, 2 fisheye with k1 k2 k3 k4),
            fx, fy, cx, cy and the 8 distortion values, as `camera_rows` makes them.
        problem_ptr: (B + 1,) integers that rise from 0 to N: B problems of their own, problem b with
            the maps and points `problem_ptr[b]:problem_ptr[b + 1]`. The poses have the bits of B calls.
        iterations: triplets to draw; None stops when, with `confidence`, one triplet of maps that
            agree with the best pose has been drawn (between 128 and 20000 triplets). A map agrees
            when its bilinear gain is at least half its peak.
        confidence: in (0, 1).
        top_fraction: share of the usable maps, most peaked first, to sample and score (at least 16).
        seed: of the counter-based generator; the same seed gives the same bits on any thread count.
            Every problem draws the triplets of this seed.
        initial: (3, 4), or (K, 3, 4): poses to score as hypotheses too. For a batch (B, 3, 4), or
            (B, K, 3, 4).
        num_threads: None for the default of the process.
        check_finite: refuse NaN and infinity in tensors on a device too, which waits for it. Without
            it a point that holds them has gain 0 there.
        implementation: "native" (the CPU's), "cuda" (the default on a GPU) or "reference".

    Returns:
        PoseEstimate with cam_from_world (3, 4) float64 (world to camera). `cost` and `gain` are
        Eq. 4.6 over all N maps in nats; `inlier_probability` is 1 - exp(-gain_n). `success` is False,
        with the reason, when fewer than 4 maps are usable, when every triplet is degenerate, and when
        so few maps agree that a wrong pose could have done as well (csrc/include/pyloc/consensus.h).
        With `problem_ptr`, and always for DeviceLossMaps, PoseEstimates: B of them as arrays. On a
        GPU nothing waits for the device; the calls can be captured in a CUDA graph when every argument
        that is an array lies there. It draws the CPU's triplets, stops where the CPU stops and chooses
        what the CPU chooses, unless float64 sums taken in another order tell two hypotheses apart.

    Raises:
        ValueError, TypeError: arguments that do not fit, by name.

    Source: Germain et al., "Neural Reprojection Error", CVPR 2021, section 3.3 and the thesis'
    section 4.4.1; Torr and Zisserman, "MLESAC", CVIU 2000. The published program draws with weights
    and repetition; here the triplets are uniform and distinct.
    """
    _problems.check_maps(maps)
    count, stop, seed = sampling_options(iterations, confidence, seed)
    if not 0.0 < top_fraction <= 1.0:
        raise ValueError(f"top_fraction must lie in (0, 1], got {top_fraction}")
    options = (count, stop, float(top_fraction), seed, _arrays.thread_count(num_threads))
    arrays = {"points3d": points3d, "problem_ptr": problem_ptr, "initial": initial}
    if isinstance(maps, DeviceLossMaps) or _dispatch.on_tensors(
        "estimate_pose", implementation, arrays
    ):
        return _on_tensors(maps, camera, arrays, options, check_finite, implementation or "")
    points = _arrays.as_array(points3d, "points3d", shape=("N", 3))
    _arrays.check_equal_length(len(maps), "maps", len(points.data), "points3d")
    by_reference = _dispatch.use_reference("estimate_pose", implementation)
    if problem_ptr is None:
        return _single(maps, points, camera, initial, options, by_reference)
    offsets = _problems.problem_offsets(problem_ptr, len(maps))
    cameras = _problems.camera_rows(camera, maps, len(offsets) - 1)
    starts = batch_starting_poses(initial, len(offsets) - 1)
    maps = maps.without_origin()
    found = _batch(maps, points.data, cameras, starts, offsets, options, by_reference)
    return _estimates([_arrays.like(each, points) for each in (*found, offsets)])


def _single(
    maps: LossMaps,
    points: _arrays.ArrayIn,
    camera: Any,
    initial: Any,
    options: tuple[Any, ...],
    by_reference: bool,
) -> PoseEstimate:
    intrinsics = camera_native_args(camera, maps.image_cells, maps.origin)
    maps = maps.without_origin()
    starts = starting_poses(initial)
    gain = np.zeros(len(maps))
    if by_reference:
        reference = _dispatch.reference_module("estimate_pose")
        found = reference.estimate_pose(maps, points.data, intrinsics, starts, options[:4], gain)
    else:
        found = _native.estimate_pose(
            maps.native_args(),
            _arrays.pointer(points.data),
            intrinsics,
            _arrays.pointer(starts),
            len(starts),
            options,
            _arrays.pointer(gain),
        )
    nothing_known = np.full((6, 6), np.inf)  # a hypothesis is no optimum
    estimate = estimate_from(found, _VOTERS, _STAGES, -np.expm1(-gain), nothing_known, starts)
    return estimate.like(points)


_Outputs = tuple[Any, Any, Any, Any, Any, Any, Any, Any]


def _batch(
    maps: LossMaps,
    points: np.ndarray,
    cameras: np.ndarray,
    starts: np.ndarray,
    offsets: np.ndarray,
    options: tuple[Any, ...],
    by_reference: bool,
) -> _Outputs:
    """cam_from_world (B, 3, 4), status, cost, gain, iterations, num_usable, num_consistent (B,) and
    inlier_probability (N,)."""
    B, pointer = len(offsets) - 1, _arrays.pointer
    status, iterations, usable, consistent = (np.zeros(B, np.int32) for _ in range(4))
    poses, cost, total, gain = np.zeros((B, 3, 4)), np.zeros(B), np.zeros(B), np.zeros(len(maps))
    out = (poses, status, cost, total, iterations, usable, consistent, gain)
    if by_reference:
        _batch_by_reference(maps, points, cameras, starts, offsets, options, out)
    else:
        _native.estimate_pose_batch(
            maps.native_args(), pointer(points), pointer(cameras), len(cameras), pointer(starts),
            starts.shape[1], pointer(offsets), B, options, tuple(pointer(each) for each in out),
        )  # fmt: skip
    np.negative(np.expm1(np.negative(gain, out=gain), out=gain), out=gain)
    return out


def _batch_by_reference(
    maps: LossMaps,
    points: np.ndarray,
    cameras: np.ndarray,
    starts: np.ndarray,
    offsets: np.ndarray,
    options: tuple[Any, ...],
    out: _Outputs,
) -> None:
    reference = _dispatch.reference_module("estimate_pose")
    poses, status, cost, total, iterations, usable, consistent, gain = out
    for b in range(len(offsets) - 1):
        part = slice(offsets[b], offsets[b + 1])
        camera = tuple(cameras[0 if len(cameras) == 1 else b].tolist())
        found = reference.estimate_pose(
            maps[part], points[part], camera, starts[b], options[:4], gain[part]
        )
        nothing = starts[b, 0] if starts.shape[1] else np.eye(3, 4)
        poses[b] = np.reshape(found.get("cam_from_world", nothing), (3, 4))
        status[b], cost[b], total[b] = found["status"], found["cost"], found["gain"]
        iterations[b], usable[b] = found["iterations"], found["num_usable"]
        consistent[b] = found["num_consistent"]


def _estimates(found: Any) -> PoseEstimates:
    """Of the arrays of `_batch` and problem_ptr."""
    poses, status, cost, gain, iterations, usable, consistent, probability, problem_ptr = found
    B = poses.shape[0]
    if isinstance(poses, np.ndarray):
        energy, covariance = np.zeros(B), np.full((B, 6, 6), np.inf)
    else:
        energy, covariance = poses.new_zeros((B,)), poses.new_full((B, 6, 6), float("inf"))
    return PoseEstimates(
        cam_from_world=poses,
        success=status == 0,
        status=status,
        cost=cost,
        gain=gain,
        energy=energy,
        covariance=covariance,
        iterations=iterations,
        num_usable=usable,
        num_consistent=consistent,
        inlier_probability=probability,
        problem_ptr=problem_ptr,
        messages=reason_messages(_VOTERS),
    )


# ---------------------------------------------------------------------- torch.ops.pyloc_core


def _on_tensors(
    maps: Any,
    camera: Any,
    arrays: dict[str, Any],
    options: tuple[Any, ...],
    check_finite: bool,
    implementation: str,
) -> PoseEstimates:
    torch = _arrays.torch_module()
    _library.ensure()
    given = _problems.device_problems(maps, camera, arrays["points3d"], arrays["problem_ptr"])
    single = given.problem_ptr is None
    starts = _initial_tensor(arrays["initial"], given.count, single, maps.device)
    if check_finite:
        given.check_finite(initial=starts)
    count, stop, top_fraction, seed, threads = options
    found = torch.ops.pyloc_core.estimate_pose(
        *given.maps, given.points, given.numbers, given.cameras, starts, given.problem_ptr, count,
        stop, top_fraction, seed - 2**64 if seed >= 2**63 else seed, threads, implementation,
    )  # fmt: skip
    return _estimates((*found, given.offsets))


def _initial_tensor(initial: Any, problems: int, single: bool, device: Any) -> Any:
    """(B, K, 3, 4) float64 on the device, or None. Of tensors nothing but the shape is looked at."""
    torch = _arrays.torch_module()
    if initial is None:
        return None
    if not isinstance(initial, torch.Tensor):
        starts = (
            starting_poses(initial)[None] if single else batch_starting_poses(initial, problems)
        )
        return _tensors.on_device(starts, "initial", device)
    starts = _tensors.check(initial, "initial", dtype="float64", device=device).detach()
    if single and starts.ndim in (2, 3):
        starts = starts[None] if starts.ndim == 3 else starts[None, None]
    elif starts.ndim == 3:
        starts = starts[:, None]
    if starts.ndim != 4 or starts.shape[0] != problems or starts.shape[2:] != (3, 4):
        raise ValueError(
            f"initial must be poses (3, 4) of {problems} problems, got {tuple(initial.shape)}"
        )
    return starts.contiguous()


def _run(*args: Any) -> tuple[Any, ...]:
    map_args, (points, numbers, cameras, starts, problem_ptr) = args[:7], args[7:12]
    count, stop, top_fraction, seed, threads, implementation = args[12:]
    name = _dispatch.select("estimate_pose", implementation, {"points3d": points})
    options = (count, stop, top_fraction, seed % 2**64, threads)
    if name == "cuda":
        found = _fake(*args)
        _dispatch.device_module("estimate_pose", name).estimate_pose(
            map_args, points, numbers, cameras, starts, problem_ptr, options, found
        )
        return found
    torch = _arrays.torch_module()
    maps = _problems.maps_on_host(map_args)
    offsets = _problems.problem_offsets(problem_ptr, len(maps))
    rows = np.array([numbers]) if cameras is None else _problems.camera_rows(
        cameras, maps, len(offsets) - 1
    )  # fmt: skip
    initial = np.empty((len(offsets) - 1, 0, 3, 4))
    if starts is not None:
        initial = batch_starting_poses(starts, len(offsets) - 1)
    xyz = _arrays.as_array(points, "points3d").data
    found = _batch(maps, xyz, rows, initial, offsets, options, name == "reference")
    return tuple(torch.from_numpy(each) for each in found)


def _fake(*args: Any) -> tuple[Any, ...]:
    torch = _arrays.torch_module()
    points, problem_ptr = args[7], args[11]
    B = 1 if problem_ptr is None else problem_ptr.shape[0] - 1

    def number(dtype: Any) -> Any:
        return points.new_empty((B,), dtype=dtype)

    i32, f64 = torch.int32, torch.float64
    return (
        points.new_empty((B, 3, 4)), number(i32), number(f64), number(f64), number(i32), number(i32),
        number(i32), points.new_empty((points.shape[0],)),
    )  # fmt: skip


_library.define(
    "estimate_pose",
    "(Tensor row_ptr, Tensor xy, Tensor gain, Tensor? origins, Tensor flat_gain, SymInt[] sizes, "
    "float log_cardinality, Tensor points3d, float[] camera, Tensor? cameras, Tensor? initial, "
    "Tensor? problem_ptr, int iterations, float confidence, float top_fraction, int seed, "
    "int num_threads, str implementation) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    run=_run,
    fake=_fake,
)
