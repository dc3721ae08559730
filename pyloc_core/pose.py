# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Poses: world to camera, `X_cam = R @ X_world + t`, arrays (..., 3, 4) = [R | t], float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays

# How far R R^T may be from the identity before a matrix is refused rather than cleaned up.
_ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class PoseEstimate:
    """What every pose operator returns.

    Attributes:
        cam_from_world: (3, 4) float64. Finite even without success (the start, or the identity).
        success: whether the pose can be used.
        reason: why the operator stopped, or why there is no pose.
        cost: what the operator minimised at `cam_from_world`. Over loss maps: Eq. 4.6 in nats.
        gain: sum over points of `ln|O| - L_n` in nats; compares poses over different point sets.
        inlier_probability: (N,) float64, `1 - exp(-gain_n)` over loss maps.
        covariance: (6, 6) float64 of the left update (rotation in radians first, then translation in
            units of the points); infinite where it is not known.
        iterations: hypotheses drawn, or steps taken.
        timings: seconds per stage.
        energy: the smoothed energy (Eq. 4.9) that graduated non-convexity reached; 0 elsewhere.
        num_usable: points whose map or match carried information.
        num_consistent: of those, the ones that agree with the pose.
        scene: of a map of several scenes, the one whose frame of reference the pose is in.
    """

    cam_from_world: Any
    success: bool
    reason: str
    cost: float
    gain: float
    inlier_probability: Any
    covariance: Any
    iterations: int
    timings: Mapping[str, float] = field(default_factory=dict)
    energy: float = 0.0
    num_usable: int = 0
    num_consistent: int = 0
    scene: str = ""

    def like(self, *sources: _arrays.ArrayIn) -> PoseEstimate:
        """The estimate with arrays of the caller's kind: torch if any of the sources was torch."""
        if not any(source.is_torch for source in sources):
            return self
        return replace(
            self,
            cam_from_world=_arrays.like(self.cam_from_world, *sources),
            inlier_probability=_arrays.like(self.inlier_probability, *sources),
            covariance=_arrays.like(self.covariance, *sources),
        )

    @classmethod
    def failed(
        cls,
        reason: str,
        num_points: int,
        *,
        cam_from_world: Any = None,
        cost: float = 0.0,
        timings: Mapping[str, float] | None = None,
        num_usable: int = 0,
        num_consistent: int = 0,
        iterations: int = 0,
    ) -> PoseEstimate:
        """No answer: a finite placeholder pose, infinite covariance, and the reason."""
        pose = identity_pose() if cam_from_world is None else cam_from_world
        return cls(
            cam_from_world=pose,
            success=False,
            reason=reason,
            cost=cost,
            gain=0.0,
            inlier_probability=np.zeros(num_points),
            covariance=np.full((6, 6), np.inf),
            iterations=iterations,
            timings=dict(timings or {}),
            num_usable=num_usable,
            num_consistent=num_consistent,
        )


@dataclass(frozen=True, eq=False)
class PoseEstimates:
    """The poses of B problems, as arrays: what a batch returns.

    Tensors on a device stay there: nothing but `[i]`, iteration, `reasons` and `cpu()` waits for it.

    Attributes:
        cam_from_world: (B, 3, 4) float64, finite even without success.
        success: (B,) bool, whether the pose can be used.
        status: (B,) int32, why the operator stopped; 0 is the good end. `reasons` says it in words.
        cost, gain, energy: (B,) float64, as in PoseEstimate.
        covariance: (B, 6, 6) float64, infinite where it is not known.
        iterations, num_usable, num_consistent: (B,) int32.
        inlier_probability: (N,) float64, of the points of all problems.
        problem_ptr: (B + 1,) int64; points problem_ptr[b]:problem_ptr[b + 1] belong to problem b.
        messages: the reason for every status, with the names of the numbers above in braces;
            {num_points} is the number of points of the problem.
    """

    cam_from_world: Any
    success: Any
    status: Any
    cost: Any
    gain: Any
    energy: Any
    covariance: Any
    iterations: Any
    num_usable: Any
    num_consistent: Any
    inlier_probability: Any
    problem_ptr: Any
    messages: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.cam_from_world.shape[0])

    def __getitem__(self, index: int) -> PoseEstimate:
        """Problem `index`, on the host. Waits for the device."""
        b = range(len(self))[index]
        begin, end = (int(v) for v in self.problem_ptr[b : b + 2])
        return PoseEstimate(
            cam_from_world=_on_host(self.cam_from_world[b]),
            success=bool(self.success[b]),
            reason=self._reason(b, end - begin),
            cost=float(self.cost[b]),
            gain=float(self.gain[b]),
            inlier_probability=_on_host(self.inlier_probability[begin:end]),
            covariance=_on_host(self.covariance[b]),
            iterations=int(self.iterations[b]),
            energy=float(self.energy[b]),
            num_usable=int(self.num_usable[b]),
            num_consistent=int(self.num_consistent[b]),
        )

    def __iter__(self) -> Iterator[PoseEstimate]:
        host = self.cpu()
        return (host[b] for b in range(len(host)))

    @property
    def reasons(self) -> list[str]:
        """Why every problem stopped. Waits for the device."""
        host = self.cpu()
        points = np.diff(np.asarray(host.problem_ptr))
        return [host._reason(b, int(points[b])) for b in range(len(host))]

    def cpu(self) -> PoseEstimates:
        """The same in host memory; tensors stay tensors. Waits for the device."""
        arrays = {k: v for k, v in self.__dict__.items() if k != "messages"}
        return replace(self, **{k: _on_host(v) for k, v in arrays.items()})

    def _reason(self, b: int, num_points: int) -> str:
        numbers = {
            k: int(getattr(self, k)[b]) for k in ("iterations", "num_usable", "num_consistent")
        }
        return self.messages[int(self.status[b])].format(num_points=num_points, **numbers)


def _on_host(array: Any) -> Any:
    return array if isinstance(array, np.ndarray) else array.cpu()


def identity_pose() -> npt.NDArray[np.float64]:
    """(3, 4) [I | 0]."""
    return np.eye(3, 4)


def as_cam_from_world(pose: Any, name: str = "cam_from_world") -> npt.NDArray[np.float64]:
    """(3, 4) float64 with an exactly orthonormal rotation.

    Takes (3, 4), (4, 4) or an object with `matrix()` (pycolmap.Rigid3d). A rotation within 1e-3 of
    orthonormal is cleaned up by its polar factor; anything else raises ValueError.
    """
    if not isinstance(pose, np.ndarray) and callable(getattr(pose, "matrix", None)):
        pose = pose.matrix()
    values = _arrays.as_array(pose, name).data
    if values.shape == (4, 4):
        if not np.allclose(values[3], (0, 0, 0, 1)):
            raise ValueError(f"{name}'s last row must be (0, 0, 0, 1), got {values[3].tolist()}")
        values = values[:3]
    if values.shape != (3, 4):
        raise ValueError(f"{name} must have shape (3, 4) or (4, 4), got {values.shape}")
    R = values[:, :3]
    # The bound on the entries comes first: products of huge ones overflow.
    near = np.abs(R).max() < 2 and np.abs(R @ R.T - np.eye(3)).max() <= _ROTATION_TOLERANCE
    if not near or np.linalg.det(R) < 0:
        raise ValueError(f"{name}'s left 3 x 3 block is not a rotation: {R.tolist()}")
    U, _, Vt = np.linalg.svd(R)
    return np.hstack([U @ Vt, values[:, 3:]])


def inverse_pose(pose: Any) -> Any:
    """(..., 3, 4): world_from_cam of cam_from_world, and the other way round."""
    values, source = _poses(pose, "pose")
    Rt = np.swapaxes(values[..., :3], -1, -2)
    return _arrays.like(np.concatenate([Rt, -Rt @ values[..., 3:]], axis=-1), source)


def compose_poses(a_from_b: Any, b_from_c: Any) -> Any:
    """(..., 3, 4) a_from_c."""
    a, source_a = _poses(a_from_b, "a_from_b")
    b, source_b = _poses(b_from_c, "b_from_c")
    R = a[..., :3] @ b[..., :3]
    t = a[..., :3] @ b[..., 3:] + a[..., 3:]
    return _arrays.like(np.concatenate([R, t], axis=-1), source_a, source_b)


def camera_center(cam_from_world: Any) -> Any:
    """(..., 3) world coordinates of the camera: -R^T t."""
    values, source = _poses(cam_from_world, "cam_from_world")
    centre = -np.einsum("...ji,...j->...i", values[..., :3], values[..., 3])
    return _arrays.like(centre, source)


def transform_points(pose: Any, points3d: Any) -> Any:
    """Points (N, 3) moved by one pose (3, 4)."""
    values, source = _poses(pose, "pose")
    points = _arrays.as_array(points3d, "points3d", shape=("N", 3))
    return _arrays.like(points.data @ values[:, :3].T + values[:, 3], points, source)


def pose_error(cam_from_world: Any, reference_cam_from_world: Any) -> tuple[float, float]:
    """Rotation error in degrees and distance between the camera centres in units of the points."""
    a, _ = _poses(cam_from_world, "cam_from_world")
    b, _ = _poses(reference_cam_from_world, "reference_cam_from_world")
    # |R_a - R_b| = 2 sqrt(2) sin(angle / 2): exact near zero, where arccos of a trace is not.
    chord = np.linalg.norm(a[:, :3] - b[:, :3]) / (2 * np.sqrt(2))
    angle = 2 * np.degrees(np.arcsin(min(1.0, float(chord))))
    centre = np.linalg.norm(a[:, :3].T @ a[:, 3] - b[:, :3].T @ b[:, 3])
    return float(angle), float(centre)


def rotation_from_quaternion(qvec: Any, *, order: str = "wxyz") -> Any:
    """(..., 4) quaternions, `order` "wxyz" (COLMAP's files) or "xyzw" (Eigen, SciPy), to (..., 3, 3)."""
    source = _arrays.as_array(qvec, "qvec")
    if source.data.ndim == 0 or source.shape[-1] != 4:
        raise ValueError(f"qvec must have shape (..., 4), got {source.shape}")
    _check_order(order)
    q = source.data if order == "wxyz" else np.roll(source.data, 1, axis=-1)
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    if (norm == 0).any():
        raise ValueError("qvec holds a zero quaternion")
    w, x, y, z = np.moveaxis(q / norm, -1, 0)
    R = np.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
         2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
         2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        axis=-1,
    )  # fmt: skip
    return _arrays.like(R.reshape(*q.shape[:-1], 3, 3), source)


def quaternion_from_rotation(rotation: Any, *, order: str = "wxyz") -> Any:
    """(..., 3, 3) rotations to unit quaternions (..., 4) with a non-negative scalar part.

    The quaternion is the dominant eigenvector of Bar-Itzhack's 4 x 4 matrix (2000), which has no
    branch and stays accurate at half turns.
    """
    source = _arrays.as_array(rotation, "rotation")
    if source.data.ndim < 2 or source.shape[-2:] != (3, 3):
        raise ValueError(f"rotation must have shape (..., 3, 3), got {source.shape}")
    _check_order(order)
    R = source.data
    M = np.empty((*R.shape[:-2], 4, 4))
    for i in range(3):
        for j in range(3):
            M[..., i, j] = R[..., i, j] + R[..., j, i]
    trace = np.trace(R, axis1=-2, axis2=-1)
    M[..., range(3), range(3)] -= trace[..., None]
    for i, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):
        M[..., 3, i] = M[..., i, 3] = R[..., k, j] - R[..., j, k]
    M[..., 3, 3] = trace
    xyzw = np.linalg.eigh(M)[1][..., -1]
    xyzw = np.where(xyzw[..., 3:] < 0, -xyzw, xyzw)
    return _arrays.like(np.roll(xyzw, 1, axis=-1) if order == "wxyz" else xyzw, source)


def _check_order(order: str) -> None:
    if order not in ("wxyz", "xyzw"):
        raise ValueError(f"order must be 'wxyz' or 'xyzw', got {order!r}")


def _poses(pose: Any, name: str) -> tuple[npt.NDArray[np.float64], _arrays.ArrayIn]:
    source = _arrays.as_array(pose, name, finite=False)
    if source.data.ndim < 2 or source.shape[-2:] != (3, 4):
        raise ValueError(f"{name} must have shape (..., 3, 4), got {source.shape}")
    return source.data, source
