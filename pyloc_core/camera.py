# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Cameras with COLMAP's model names and parameter order."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _native
from pyloc_core.geometry import Size, check_size

# Model -> parameter names, in COLMAP's order.
CAMERA_MODELS: dict[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "SIMPLE_RADIAL_FISHEYE": ("f", "cx", "cy", "k1"),
    "RADIAL_FISHEYE": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
}
# Order of the distortion slots in pyloc::Camera::d.
_OPENCV_SLOTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_FISHEYE_SLOTS = ("k1", "k2", "k3", "k4")
_PINHOLE, _OPENCV, _FISHEYE = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class Camera:
    """A calibrated camera in image pixels.

    Attributes:
        model: COLMAP's name, one of `CAMERA_MODELS`.
        width, height: image size in pixels.
        params: parameters in COLMAP's order; focal lengths and principal point in pixels, with the
            centre of the top-left pixel at (0.5, 0.5).

    Raises ValueError for an unknown model, a wrong number of parameters, a size or focal length that
    is not positive, and values that are not finite.
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.model not in CAMERA_MODELS:
            close = difflib.get_close_matches(str(self.model).upper(), CAMERA_MODELS, n=1)
            hint = (
                f"; did you mean {close[0]}?" if close else f"; known: {', '.join(CAMERA_MODELS)}"
            )
            raise ValueError(f"unknown camera model {self.model!r}{hint}")
        names = CAMERA_MODELS[self.model]
        values = tuple(float(v) for v in np.ravel(np.asarray(self.params, dtype=np.float64)))
        if len(values) != len(names):
            raise ValueError(
                f"{self.model} takes {len(names)} parameters ({', '.join(names)}), got {len(values)}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"camera parameters must be finite, got {values}")
        check_size((self.height, self.width), "camera size (height, width)")
        object.__setattr__(self, "params", values)
        object.__setattr__(self, "width", int(self.width))
        object.__setattr__(self, "height", int(self.height))
        if self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"focal lengths must be positive, got {self.fx} and {self.fy}")

    def _named(self) -> dict[str, float]:
        return dict(zip(CAMERA_MODELS[self.model], self.params))

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.height, self.width

    @property
    def fx(self) -> float:
        named = self._named()
        return named["f"] if "f" in named else named["fx"]

    @property
    def fy(self) -> float:
        named = self._named()
        return named["f"] if "f" in named else named["fy"]

    @property
    def K(self) -> npt.NDArray[np.float64]:
        """Intrinsics (3, 3) in image pixels, distortion left out."""
        named = self._named()
        return np.array([[self.fx, 0, named["cx"]], [0, self.fy, named["cy"]], [0, 0, 1.0]])

    @classmethod
    def from_matrix(cls, K: Any, width: int, height: int) -> Camera:
        """PINHOLE camera of a (3, 3) matrix without skew."""
        fx, fy, cx, cy = _pinhole_values(K)
        return cls("PINHOLE", width, height, (fx, fy, cx, cy))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Camera:
        """From {"model", "width", "height", "params"}, the form of hloc and PoseLib too."""
        missing = [key for key in ("model", "width", "height", "params") if key not in values]
        if missing:
            raise ValueError(f"a camera dictionary needs {', '.join(missing)}")
        return cls(str(values["model"]), values["width"], values["height"], tuple(values["params"]))

    @classmethod
    def from_pycolmap(cls, camera: Any) -> Camera:
        """From a `pycolmap.Camera`."""
        model = getattr(camera, "model_name", None) or camera.model.name
        return cls(str(model), camera.width, camera.height, tuple(camera.params))

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "width": self.width,
            "height": self.height,
            "params": list(self.params),
        }

    def resized(self, size: Size) -> Camera:
        """The camera of the image resampled to (height, width)."""
        height, width = check_size(size)
        sx, sy = width / self.width, height / self.height
        named = self._named()
        if "f" in named and sx != sy:  # a single focal length cannot hold two scales
            return self._two_focal().resized(size)
        scale = {"f": sx, "fx": sx, "cx": sx, "fy": sy, "cy": sy}
        params = tuple(value * scale.get(name, 1.0) for name, value in named.items())
        return Camera(self.model, width, height, params)

    def _two_focal(self) -> Camera:
        target = {
            "SIMPLE_PINHOLE": "PINHOLE",
            "SIMPLE_RADIAL": "OPENCV",
            "RADIAL": "OPENCV",
            "SIMPLE_RADIAL_FISHEYE": "OPENCV_FISHEYE",
            "RADIAL_FISHEYE": "OPENCV_FISHEYE",
        }[self.model]
        named = {**self._named(), "fx": self.fx, "fy": self.fy}
        return Camera(
            target, self.width, self.height, tuple(named.get(n, 0.0) for n in CAMERA_MODELS[target])
        )

    def project(self, points_cam: Any) -> tuple[Any, Any]:
        """Points (N, 3) in the camera frame to image pixels (N, 2) and a mask (N,) of depth > 0.

        float64. Points that cannot be projected get NaN coordinates and a False mask.
        """
        points = _arrays.as_array(points_cam, "points_cam", shape=("N", 3))
        xy = np.empty((len(points.data), 2))
        valid = np.empty(len(points.data), dtype=bool)
        _native.camera_project(
            camera_native_args(self), _arrays.pointer(points.data), len(xy), _arrays.pointer(xy),
            _arrays.pointer(valid),
        )  # fmt: skip
        return _arrays.like(xy, points), _arrays.like(valid, points)

    def unproject(self, xy: Any) -> Any:
        """Image pixels (N, 2) to unit bearings (N, 3) in the camera frame, distortion removed."""
        points = _arrays.as_array(xy, "xy", shape=("N", 2))
        bearings = np.empty((len(points.data), 3))
        _native.camera_unproject(
            camera_native_args(self), _arrays.pointer(points.data), len(bearings),
            _arrays.pointer(bearings),
        )  # fmt: skip
        return _arrays.like(bearings, points)


def _pinhole_values(K: Any) -> tuple[float, float, float, float]:
    matrix = _arrays.as_array(K, "camera", shape=(3, 3)).data
    fits = matrix[0, 1] == 0 and matrix[1, 0] == 0 and (matrix[2] == (0, 0, 1)).all()
    if not fits or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise ValueError(
            "camera matrix must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive focal "
            f"lengths, got {matrix.tolist()}"
        )
    return float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2])


def as_camera(camera: Any) -> Camera:
    """A `Camera` from a Camera, a pycolmap camera or a dictionary."""
    if isinstance(camera, Camera):
        return camera
    if isinstance(camera, Mapping):
        return Camera.from_dict(camera)
    if hasattr(camera, "params") and hasattr(camera, "width"):
        return Camera.from_pycolmap(camera)
    raise TypeError(
        "camera must be a Camera, a pycolmap.Camera or a dictionary with model, width, height and "
        f"params, got {type(camera).__name__}"
    )


def camera_native_args(
    camera: Any, size: Size | None = None, origin: tuple[int, int] = (0, 0)
) -> tuple[float, ...]:
    """The 13 numbers of pyloc::Camera: kind, fx, fy, cx, cy, and 8 distortion slots.

    Args:
        camera: anything `as_camera` takes, in image pixels, or a (3, 3) K in map coordinates, which
            is used as it is.
        size: (H, W) in cells that the image covers on the map; None keeps image pixels.
        origin: map point (x0, y0) of the array's first cell: projections come out relative to it.
    """
    x0, y0 = origin
    if not isinstance(camera, (Camera, Mapping)) and not hasattr(camera, "params"):
        fx, fy, cx, cy = _pinhole_values(camera)
        return (_PINHOLE, fx, fy, cx - x0, cy - y0) + (0.0,) * 8
    camera = as_camera(camera)
    named = camera._named()
    fisheye = "FISHEYE" in camera.model
    kind = _FISHEYE if fisheye else _OPENCV
    slots = _FISHEYE_SLOTS if fisheye else _OPENCV_SLOTS
    distortion = tuple(named.get(slot, 0.0) for slot in slots)
    if kind == _OPENCV and not any(distortion):
        kind = _PINHOLE
    fx, fy, cx, cy = camera.fx, camera.fy, named["cx"], named["cy"]
    if size is not None:
        height, width = check_size(size)
        sx, sy = width / camera.width, height / camera.height
        fx, fy, cx, cy = fx * sx, fy * sy, cx * sx - 0.5, cy * sy - 0.5
    return (kind, fx, fy, cx - x0, cy - y0) + distortion + (0.0,) * (8 - len(distortion))


def camera_rows(cameras: Any, size: Size | None = None) -> npt.NDArray[np.float64]:
    """Cameras as the numbers that batches of problems take: (B, 13) float64.

    `torch.tensor(camera_rows(cameras, size), device="cuda")` puts them beside the maps once, instead of
    with every call.

    Args:
        cameras: a sequence of B cameras, each as `as_camera` takes it or a (3, 3) K in map coordinates.
        size: (H, W) in cells that the image covers on the maps; None keeps image pixels.

    Returns:
        Rows of kind (0 pinhole, 1 with OpenCV's distortion, 2 OpenCV's fisheye), fx, fy, cx, cy, then k1,
        k2, p1, p2, k3, k4, k5, k6 (kind 1) or k1, k2, k3, k4 and zeros (kind 2).
    """
    rows = [camera_native_args(camera, size) for camera in cameras]
    return np.array(rows, np.float64).reshape(-1, 13)
