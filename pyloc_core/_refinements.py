# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Many refinements over loss maps at once: on the host, and as an operator that torch knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _dispatch, _library, _native, _problems, _tensors
from pyloc_core.maps import LossMaps
from pyloc_core.pose import PoseEstimates, as_cam_from_world

# Twin of pyloc::GncReason.
_REASONS = (
    "converged",
    "stalled: five damped steps in a row did not lower the energy",
    "stopped at max_iterations",
    "no live cell lies near any projection",
    "not refined",
)
_STALLED = 1
MIN_USABLE = 4  # pyloc::kMinUsable
# Twin of pyloc::GncVerdict; a status is verdict * len(_REASONS) + reason.
FOUND, NO_POINTS, FEW_USABLE, CHANCE, UNDETERMINED, BAD_START = range(6)

# (sigma_max, sigma_min, max_iterations, gain_ratio, min_decrease, published)
Options = tuple[float, float, int, float, float, int]


def status_of(verdict: int, reason: int) -> int:
    return verdict * len(_REASONS) + reason


def messages(published: bool) -> tuple[str, ...]:
    """What every status means; as PoseEstimates holds them."""
    found = []
    for verdict in range(6):
        for reason, stopped in enumerate(_REASONS):
            if published and reason == _STALLED:
                stopped = "stopped when the damping reached 1e7"
            found.append(
                (
                    stopped,
                    "no points",
                    f"{{num_usable}} of {{num_points}} maps are usable, {MIN_USABLE} are needed",
                    "{num_consistent} of {num_usable} usable maps agree with the pose, which chance "
                    f"explains ({stopped})",
                    f"the maps do not fix all six degrees of freedom ({stopped})",
                    "cam_from_world is not a rotation and a finite translation",
                )[verdict]
            )
    return tuple(found)


# cam_from_world (B, 3, 4), scores (B, 3): cost, gain and energy, covariance (B, 6, 6) float64,
# counts (B, 4) int32: status, iterations, usable and consistent maps, success (B,) bool and
# inlier_probability (N,) float64.
Outcome = tuple[Any, Any, Any, Any, Any, Any]


def estimates(found: Outcome, problem_ptr: Any, published: bool = False) -> PoseEstimates:
    poses, scores, covariance, counts, success, inlier = found
    return PoseEstimates(
        cam_from_world=poses,
        success=success,
        status=counts[:, 0],
        cost=scores[:, 0],
        gain=scores[:, 1],
        energy=scores[:, 2],
        covariance=covariance,
        iterations=counts[:, 1],
        num_usable=counts[:, 2],
        num_consistent=counts[:, 3],
        inlier_probability=inlier,
        problem_ptr=problem_ptr,
        messages=messages(published),
    )


def starting_poses(poses: Any, problems: int) -> npt.NDArray[np.float64]:
    """(B, 3, 4) with exactly orthonormal rotations, of (B, 3, 4) or (B, 4, 4)."""
    given = _arrays.as_array(poses, "cam_from_world").data
    if given.ndim != 3 or given.shape[0] != problems or given.shape[1:] not in ((3, 4), (4, 4)):
        raise ValueError(f"cam_from_world must have shape ({problems}, 3, 4), got {given.shape}")
    cleaned = np.empty((problems, 3, 4))
    for b, pose in enumerate(given):
        cleaned[b] = as_cam_from_world(pose, f"cam_from_world[{b}]")
    if not np.isfinite(cleaned).all():
        raise ValueError("cam_from_world holds values too large to be a pose")
    return cleaned


def on_host(
    maps: LossMaps,
    points: npt.NDArray[np.float64],
    cameras: npt.NDArray[np.float64],
    starts: npt.NDArray[np.float64],
    offsets: npt.NDArray[np.int64],
    options: Options,
    threads: int,
) -> Outcome:
    """Every problem as a call of its own would do it, with the same bits."""
    B, pointer = len(starts), _arrays.pointer
    poses, scores, covariance = np.empty((B, 3, 4)), np.empty((B, 3)), np.empty((B, 6, 6))
    counts, success, gains = np.empty((B, 4), np.int32), np.empty(B, bool), np.empty(len(maps))
    _native.refine_pose_batch(
        maps.native_args(), pointer(points), pointer(cameras), len(cameras) == 1, pointer(offsets),
        B, pointer(starts), options, threads,
        tuple(pointer(each) for each in (poses, scores, covariance, counts, success, gains)),
    )  # fmt: skip
    return poses, scores, covariance, counts, success, -np.expm1(-gains)


# ---------------------------------------------------------------------- torch.ops.pyloc_core


def on_tensors(
    maps: Any,
    camera: Any,
    arrays: dict[str, Any],
    options: Options,
    threads: int,
    check_finite: bool,
    implementation: str,
) -> PoseEstimates:
    """`arrays`: points3d, cam_from_world, problem_ptr."""
    torch = _arrays.torch_module()
    _library.ensure()
    if options[5]:
        raise ValueError('compat="published" runs on the CPU, on LossMaps: maps.cpu()')
    given = _problems.device_problems(maps, camera, arrays["points3d"], arrays["problem_ptr"])
    single = given.problem_ptr is None
    starts = _starts(arrays["cam_from_world"], given.count, single, maps.device)
    if check_finite:
        given.check_finite(cam_from_world=starts)
    found = torch.ops.pyloc_core.refine_pose(
        *given.maps, given.points, given.numbers, given.cameras, starts.contiguous(),
        given.problem_ptr, *options[:5], threads, implementation,
    )  # fmt: skip
    return estimates(found, given.offsets)


def _starts(given: Any, problems: int, single: bool, device: Any) -> Any:
    """(B, 3, 4) on the device. Of tensors nothing but the shape is looked at."""
    torch = _arrays.torch_module()
    if not isinstance(given, torch.Tensor):
        start = as_cam_from_world(given)[None] if single else starting_poses(given, problems)
        return _tensors.on_device(start, "cam_from_world", device)
    starts = _tensors.check(given, "cam_from_world", device=device).detach()
    if single and starts.ndim == 2:
        starts = starts[None]
    if starts.ndim != 3 or starts.shape[0] != problems or starts.shape[1:] not in ((3, 4), (4, 4)):
        wanted = "(3, 4)" if single else f"({problems}, 3, 4)"
        raise ValueError(f"cam_from_world must have shape {wanted}, got {tuple(given.shape)}")
    return starts[:, :3]


def allocate(points: Any, starts: Any) -> Outcome:
    """Room for an outcome, beside the arguments."""
    torch = _arrays.torch_module()
    B, N = starts.shape[0], points.shape[0]
    poses, scores, covariance = ((B, 3, 4), (B, 3), (B, 6, 6))
    return (
        starts.new_empty(poses),
        starts.new_empty(scores),
        starts.new_empty(covariance),
        starts.new_empty((B, 4), dtype=torch.int32),
        starts.new_empty((B,), dtype=torch.bool),
        starts.new_empty((N,)),
    )


def _run(*args: Any) -> Outcome:
    map_args, (points, camera, cameras, starts, problem_ptr) = args[:7], args[7:12]
    options, threads, implementation = args[12:17], args[17], args[18]
    arrays = {"maps": map_args[0], "points3d": points, "cam_from_world": starts}
    name = _dispatch.select("refine_pose", implementation, arrays)
    if name == "cuda":
        found = allocate(points, starts)
        launcher = _dispatch.device_module("refine_pose", name)
        launcher.refine_pose(map_args, points, camera, cameras, starts, problem_ptr, options, found)
        return found
    if name != "native":
        raise ValueError(f"refine_pose: {name!r} takes LossMaps, not DeviceLossMaps: maps.cpu()")
    torch = _arrays.torch_module()
    maps = _problems.maps_on_host(map_args)
    rows = np.array([camera]) if cameras is None else cameras.numpy()
    ptr = None if problem_ptr is None else problem_ptr.numpy()
    offsets = _problems.problem_offsets(ptr, len(maps))
    cleaned = starting_poses(starts, len(starts))
    found = on_host(maps, points.numpy(), rows, cleaned, offsets, (*options, 0), threads)
    return tuple(torch.from_numpy(each) for each in found)  # type: ignore[return-value]


def _fake(*args: Any) -> Outcome:
    return allocate(args[7], args[10])


_library.define(
    "refine_pose",
    "(Tensor row_ptr, Tensor xy, Tensor gain, Tensor? origins, Tensor flat_gain, int[] sizes, "
    "float log_cardinality, Tensor points3d, float[] camera, Tensor? cameras, Tensor cam_from_world, "
    "Tensor? problem_ptr, float sigma_max, float sigma_min, int max_iterations, float gain_ratio, "
    "float min_decrease, int num_threads, str implementation) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    run=_run,
    fake=_fake,
)
