# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Costs of many poses on loss maps: the scoring loop of estimate_pose by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyloc_core import _arrays, _dispatch, _library, _native, _problems, _tensors
from pyloc_core.maps import LossMaps
from pyloc_core.maps_device import DeviceLossMaps


def score_poses(
    maps: LossMaps | DeviceLossMaps,
    points3d: Any,
    camera: Any,
    cam_from_world: Any,
    *,
    problem_ptr: Any = None,
    num_threads: int | None = None,
    check_finite: bool = False,
    implementation: str | None = None,
) -> Any:
    """Cost of poses on loss maps, Eq. 4.6: the sum over maps of the loss at the point's projection.

    Made for ranking many hypotheses: gains are read and summed in float32. That changes a cost by less
    than 2e-6 of the sum of the maps' peak gains in the tests' problems; what ranks by it should allow
    1.5e-5 + 2e-6 (H + W) of that sum, as estimate_pose does. `LossMaps.evaluate` gives losses in float64.

    Args:
        maps: N loss maps, one per point; LossMaps, or DeviceLossMaps.
        points3d: (N, 3) points in the world.
        camera: a Camera in image pixels (or what `as_camera` takes), a (3, 3) K in map coordinates, or
            one per problem as in `estimate_pose`.
        cam_from_world: (M, 3, 4) poses [R | t], world to camera, taken as they are; (B, M, 3, 4) with
            `problem_ptr`.
        problem_ptr: (B + 1,) integers that rise from 0 to N: problem b has the maps and points
            `problem_ptr[b]:problem_ptr[b + 1]`.
        num_threads: None for the default of the process; the result does not depend on it.
        check_finite: refuse NaN and infinity in tensors on a device too, which waits for it.
        implementation: "native" (the CPU's), "cuda" (the default on a GPU) or "reference".

    Returns:
        (M,) float64 costs in nats, or (B, M): `N ln|O|` minus the gains. A point behind the camera or
        outside its map counts as ln|O|. Of the kind (NumPy or torch) of `cam_from_world`.

    Raises:
        ValueError, TypeError: arguments that do not fit, by name.

    Source: Germain et al., "Neural Reprojection Error", CVPR 2021, Eq. 4.6 of the thesis.
    """
    _problems.check_maps(maps)
    threads = _arrays.thread_count(num_threads)
    arrays = {"points3d": points3d, "cam_from_world": cam_from_world, "problem_ptr": problem_ptr}
    if isinstance(maps, DeviceLossMaps) or _dispatch.on_tensors(
        "score_poses", implementation, arrays
    ):
        return _on_tensors(maps, camera, arrays, threads, check_finite, implementation or "")
    points = _arrays.as_array(points3d, "points3d", shape=("N", 3))
    _arrays.check_equal_length(len(maps), "maps", len(points.data), "points3d")
    leading = ("M",) if problem_ptr is None else ("B", "M")
    poses = _arrays.as_array(cam_from_world, "cam_from_world", shape=(*leading, 3, 4))
    offsets = _problems.problem_offsets(problem_ptr, len(maps))
    stacked = poses.data[None] if problem_ptr is None else poses.data
    _check_problems(stacked, len(offsets) - 1)
    cameras = _problems.camera_rows(camera, maps, len(offsets) - 1)
    maps = maps.without_origin()
    by_reference = _dispatch.use_reference("score_poses", implementation)
    cost = _on_host(maps, points.data, cameras, stacked, offsets, threads, by_reference)
    return _arrays.like(cost[0] if problem_ptr is None else cost, poses)


def _check_problems(poses: Any, problems: int) -> None:
    if poses.shape[0] != problems:
        raise ValueError(
            f"cam_from_world must hold poses of {problems} problems, got {poses.shape[0]}"
        )


def _on_host(
    maps: LossMaps,
    points: np.ndarray,
    cameras: np.ndarray,
    poses: np.ndarray,
    offsets: np.ndarray,
    threads: int,
    by_reference: bool,
) -> np.ndarray:
    """(B, M) costs."""
    pointer = _arrays.pointer
    cost = np.empty(poses.shape[:2])
    for b in range(len(poses)):
        whole = len(poses) == 1
        part = maps if whole else maps[slice(int(offsets[b]), int(offsets[b + 1]))]
        xyz = points[offsets[b] : offsets[b + 1]]
        camera = tuple(cameras[0 if len(cameras) == 1 else b].tolist())
        if by_reference:
            reference = _dispatch.reference_module("score_poses")
            cost[b] = reference.score_poses(part, xyz, camera, poses[b])
            continue
        gain = np.empty(poses.shape[1], np.float32)
        _native.score_poses(
            part.native_args(), pointer(xyz), camera, pointer(poses[b]), len(gain), threads,
            pointer(gain),
        )  # fmt: skip
        cost[b] = len(part) * part.log_cardinality - gain.astype(np.float64)
    return cost


# ---------------------------------------------------------------------- torch.ops.pyloc_core


def _on_tensors(
    maps: Any,
    camera: Any,
    arrays: dict[str, Any],
    threads: int,
    check_finite: bool,
    implementation: str,
) -> Any:
    torch = _arrays.torch_module()
    _library.ensure()
    given = _problems.device_problems(maps, camera, arrays["points3d"], arrays["problem_ptr"])
    single = given.problem_ptr is None
    shape = (*(("M",) if single else ("B", "M")), 3, 4)
    poses = _tensors.check(
        arrays["cam_from_world"], "cam_from_world", shape=shape, device=maps.device
    )
    poses = poses.detach().contiguous()
    poses = poses[None] if single else poses
    _check_problems(poses, given.count)
    if check_finite:
        given.check_finite(cam_from_world=poses)
    cost = torch.ops.pyloc_core.score_poses(
        *given.maps, given.points, given.numbers, given.cameras, poses, given.problem_ptr, threads,
        implementation,
    )  # fmt: skip
    return cost[0] if single else cost


def _run(*args: Any) -> Any:
    map_args, (points, numbers, cameras, poses, problem_ptr) = args[:7], args[7:12]
    threads, implementation = args[12:]
    name = _dispatch.select("score_poses", implementation, {"points3d": points})
    if name == "cuda":
        cost = _fake(*args)
        _dispatch.device_module("score_poses", name).score_poses(
            map_args, points, numbers, cameras, poses, problem_ptr, cost
        )
        return cost
    maps = _problems.maps_on_host(map_args)
    offsets = _problems.problem_offsets(problem_ptr, len(maps))
    rows = np.array([numbers]) if cameras is None else _problems.camera_rows(
        cameras, maps, len(offsets) - 1
    )  # fmt: skip
    xyz = _arrays.as_array(points, "points3d").data
    hypotheses = _arrays.as_array(poses, "cam_from_world").data
    cost = _on_host(maps, xyz, rows, hypotheses, offsets, threads, name == "reference")
    return _arrays.torch_module().from_numpy(cost)


def _fake(*args: Any) -> Any:
    points, poses = args[7], args[10]
    return points.new_empty((poses.shape[0], poses.shape[1]))


_library.define(
    "score_poses",
    "(Tensor row_ptr, Tensor xy, Tensor gain, Tensor? origins, Tensor flat_gain, SymInt[] sizes, "
    "float log_cardinality, Tensor points3d, float[] camera, Tensor? cameras, Tensor cam_from_world, "
    "Tensor? problem_ptr, int num_threads, str implementation) -> Tensor",
    run=_run,
    fake=_fake,
)
