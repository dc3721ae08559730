# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of pose operators that hold many problems one after the other, on the host and on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _tensors
from pyloc_core.camera import Camera, camera_native_args
from pyloc_core.maps import LossMaps
from pyloc_core.maps_device import DeviceLossMaps

_KINDS = (0.0, 1.0, 2.0)  # pyloc::CameraKind


def problem_offsets(problem_ptr: Any, count: int) -> npt.NDArray[np.int64]:
    """(B + 1,) int64, checked to rise from 0 to `count`; None is one problem."""
    if problem_ptr is None:
        return np.array([0, count], np.int64)
    given = _arrays.as_array(
        problem_ptr, "problem_ptr", shape=("B + 1",), dtype=("int64", "int32", "float64")
    ).data
    if len(given) and given.dtype.kind != "i":
        raise TypeError("problem_ptr must hold integers")
    if not len(given) or given[0] != 0 or given[-1] != count or (np.diff(given) < 0).any():
        raise ValueError(f"problem_ptr must rise from 0 to the number of maps, {count}")
    return np.ascontiguousarray(given, np.int64)


def problem_tensor(problem_ptr: Any, count: int, device: Any) -> Any:
    """(B + 1,) int64 on the device, or None. Values of a tensor on a GPU are not looked at."""
    torch = _arrays.torch_module()
    if problem_ptr is None:
        return None
    if not isinstance(problem_ptr, torch.Tensor):
        offsets = problem_offsets(problem_ptr, count)
        return _tensors.on_device(offsets, "problem_ptr", device)
    if problem_ptr.is_floating_point() or problem_ptr.dtype == torch.bool:
        raise TypeError("problem_ptr must hold integers")
    ptr = _tensors.check(problem_ptr, "problem_ptr", shape=("B + 1",), dtype="int64", device=device)
    if ptr.shape[0] < 1:
        raise ValueError("problem_ptr must hold B + 1 values, got none")
    return ptr.contiguous()


def is_camera_list(camera: Any) -> bool:
    """One camera per problem, not one camera or the rows of a matrix."""
    return isinstance(camera, (list, tuple)) and all(
        isinstance(each, (Camera, Mapping)) or hasattr(each, "params") for each in camera
    )


def _is_rows(camera: Any) -> bool:
    if isinstance(camera, (Camera, Mapping)) or hasattr(camera, "params"):
        return False
    shape = np.shape(camera) if not _arrays.is_torch(camera) else tuple(camera.shape)
    return len(shape) == 2 and shape[1] == 13


def _frame(maps: LossMaps | DeviceLossMaps) -> tuple[tuple[int, int], tuple[int, int]]:
    """(H, W) in cells that the image covers, and the map point of the array's first cell."""
    return maps.image_cells or maps.size, maps.origin


def camera_rows(
    camera: Any, maps: LossMaps | DeviceLossMaps, problems: int
) -> npt.NDArray[np.float64]:
    """(1, 13) or (B, 13): one camera for all problems, a list of B, or rows in map coordinates. They
    project to the maps' array, whose first cell is (0, 0)."""
    size, origin = _frame(maps)
    if is_camera_list(camera):
        rows = np.array([camera_native_args(each, size, origin) for each in camera]).reshape(-1, 13)
    elif _is_rows(camera):
        rows = _arrays.as_array(camera, "camera").data.copy()
        if not np.isin(rows[:, 0], _KINDS).all() or not (rows[:, 1:3] > 0).all():
            raise ValueError("camera: rows begin with kind 0, 1 or 2 and positive focal lengths")
        rows[:, 3:5] -= origin
    else:
        return np.array([camera_native_args(camera, size, origin)])
    if len(rows) not in (1, problems):
        raise ValueError(f"camera must be one or {problems}, one per problem, got {len(rows)}")
    return np.ascontiguousarray(rows, np.float64)


def camera_tensors(camera: Any, maps: DeviceLossMaps, problems: int) -> tuple[list[float], Any]:
    """(13 numbers for all problems, None), or ([], (B, 13) float64 tensor on the maps' device)."""
    torch = _arrays.torch_module()
    if _arrays.is_torch(camera) and camera.device.type != "cpu" and not _is_rows(camera):
        camera = _matrix_row(camera, maps.device)
    if isinstance(camera, torch.Tensor) and _is_rows(camera):
        rows = _tensors.check(camera, "camera", dtype="float64", device=maps.device).detach()
        if rows.shape[0] not in (1, problems):
            raise ValueError(
                f"camera must be one or {problems}, one per problem, got {rows.shape[0]}"
            )
        x0, y0 = maps.origin
        if x0 or y0:
            parts = (rows[:, :3], rows[:, 3:4] - x0, rows[:, 4:5] - y0, rows[:, 5:])
            rows = torch.cat(parts, 1)
        return [], rows.expand(problems, 13).contiguous()
    if not is_camera_list(camera) and not _is_rows(camera):
        return [float(v) for v in camera_native_args(camera, *_frame(maps))], None
    values = np.broadcast_to(camera_rows(camera, maps, problems), (problems, 13))
    return [], _tensors.on_device(np.ascontiguousarray(values), "camera", maps.device)


def _matrix_row(K: Any, device: Any) -> Any:
    """(1, 13) of a (3, 3) matrix on the device, whose values are not looked at."""
    K = _tensors.check(K, "camera", shape=(3, 3), dtype="float64", device=device)
    kind, distortion = K.new_zeros((1,)), K.new_zeros((8,))
    return _arrays.torch_module().cat([kind, K.diagonal()[:2], K[:2, 2], distortion])[None]


def map_tensors(maps: DeviceLossMaps) -> tuple[Any, Any, Any, Any, Any, list[int], float]:
    """The maps as the arguments of an operator torch knows: row_ptr, xy, gain, origins, flat_gain,
    [H, W, h, w], ln|O|."""
    sizes = [*maps.size, *maps.window]
    return (
        maps.row_ptr, maps.xy, maps.gain, maps.origins, maps.flat_gain, sizes, maps.log_cardinality
    )  # fmt: skip


def maps_on_host(map_args: Any) -> LossMaps:
    """Of the CPU tensors of `map_tensors`, checked."""
    row_ptr, xy, gain, origins, flat_gain, sizes, cardinality = map_args
    count = int(row_ptr[-1]) if len(row_ptr) else 0
    if not 0 <= count <= len(gain):
        raise ValueError(f"row_ptr must rise from 0 to the number of entries, {len(gain)}")
    return LossMaps(
        row_ptr.numpy(), xy[:count].numpy(), gain[:count].numpy(),
        size=(sizes[0], sizes[1]), window=(sizes[2], sizes[3]), log_cardinality=cardinality,
        origins=None if origins is None else origins.numpy(), flat_gain=flat_gain.numpy(),
    )  # fmt: skip


def device_map_args(map_args: Any) -> tuple[Any, ...]:
    """`LossMaps.native_args` of `map_tensors`, which must be contiguous and outlive the launch."""
    row_ptr, xy, gain, origins, flat_gain, sizes, cardinality = map_args
    h, w = sizes[2], sizes[3]
    return (
        row_ptr.shape[0] - 1, row_ptr.data_ptr(), xy.data_ptr(), gain.data_ptr(),
        0 if origins is None else origins.data_ptr(), w, h, sizes[1], sizes[0], cardinality,
        flat_gain.data_ptr(),
    )  # fmt: skip


def check_maps(maps: Any) -> None:
    if not isinstance(maps, (LossMaps, DeviceLossMaps)):
        raise TypeError(f"maps must be LossMaps, got {type(maps).__name__}")


def check_device_maps(maps: Any) -> None:
    """The tensors of DeviceLossMaps fit together as far as shapes and dtypes tell."""
    if not isinstance(maps, DeviceLossMaps):
        raise ValueError("maps are on the host and other arguments are tensors: maps.to(device)")
    if maps.origins is None and maps.window != maps.size:
        raise ValueError(f"maps: window {maps.window} differs from size {maps.size}: no origins")
    n, nnz = maps.row_ptr.shape[0] - 1, maps.gain.shape[0]
    if n < 0:
        raise ValueError("row_ptr must hold N + 1 values, got none")
    for name, shape, dtype in (
        ("row_ptr", (n + 1,), "int64"), ("xy", (nnz, 2), "int16"), ("gain", (nnz,), "float32"),
        ("origins", (n, 2), "int32"), ("flat_gain", (n,), "float32"),
    ):  # fmt: skip
        tensor = getattr(maps, name)
        if tensor is None and name == "origins":
            continue
        if tuple(tensor.shape) != shape or str(tensor.dtype) != f"torch.{dtype}":
            raise ValueError(
                f"maps.{name} must be {dtype} of shape {shape}, got {tensor.dtype} {tuple(tensor.shape)}"
            )
        if tensor.device != maps.row_ptr.device:
            raise ValueError(f"maps.{name} is on {tensor.device}, maps.row_ptr on {maps.device}")


@dataclass(frozen=True)
class DeviceProblems:
    """B problems on a device, checked as far as shapes and dtypes tell: what pose operators share."""

    maps: tuple[Any, ...]  # `map_tensors`
    points: Any  # (N, 3) float64, contiguous, without a gradient
    numbers: list[float]  # the one camera's 13 numbers, or
    cameras: Any  # (B, 13) float64 on the device
    problem_ptr: Any  # (B + 1,) int64, or None for one problem
    count: int  # B

    @property
    def offsets(self) -> Any:
        """(B + 1,) int64, made on the device for one problem: a copy from the host would wait."""
        if self.problem_ptr is not None:
            return self.problem_ptr
        return _arrays.torch_module().arange(2, device=self.points.device) * self.points.shape[0]

    def check_finite(self, **others: Any) -> None:
        """Look at the values of points, cameras and `others` (name -> tensor or None)."""
        given = {"points3d": self.points, "camera": self.cameras, **others}
        _tensors.check_finite(**{k: v for k, v in given.items() if v is not None})


def device_problems(maps: Any, camera: Any, points3d: Any, problem_ptr: Any) -> DeviceProblems:
    """The arguments that pose operators share, of DeviceLossMaps and tensors of their device."""
    check_device_maps(maps)
    device, N = maps.device, len(maps)
    points = _tensors.check(points3d, "points3d", shape=("N", 3), device=device)
    _arrays.check_equal_length(N, "maps", points.shape[0], "points3d")
    ptr = problem_tensor(problem_ptr, N, device)
    B = 1 if ptr is None else ptr.shape[0] - 1
    numbers, cameras = camera_tensors(camera, maps, B)
    return DeviceProblems(map_tensors(maps), points.detach().contiguous(), numbers, cameras, ptr, B)
