# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of metadata_cost_volume beyond those of a plane sweep, checked, and the native kernels on arrays.

Letters as in _sweep.py, and h1, h2 for the widths of the hidden layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pyloc_core import _arrays, _dispatch, _native, _sweep, _tensors

WEIGHTS = ("w1", "b1", "w2", "b2", "w3", "b3")
TENSORS = (
    "reference", "sources", *WEIGHTS, "projection", "rays", "centres", "pose_values", "depths",
    "depth_limits",
)  # fmt: skip
_EXTRA = 14  # values of a sample beside the two feature vectors
_MOST_FLOATS = 2**31 - 1  # of a view's projected map: taps are 32-bit offsets
_OUT_OF_MEMORY = 1  # of MetadataStatus in csrc/cpu/metadata_cost_volume.h


# ---------------------------------------------------------------------- weights


def check_weight_shapes(shapes: Sequence[tuple[int, ...]], channels: int) -> tuple[int, int]:
    """(h1, h2) of layers (h1, 2 C + 14), (h1), (h2, h1), (h2), (2, h2), (2), or an error that names
    mlp_weights."""
    hidden = [s[0] if len(s) == 2 else 0 for s in (shapes[0], shapes[2])]
    h1, h2 = hidden
    values = 2 * channels + _EXTRA
    wanted = ((h1, values), (h1,), (h2, h1), (h2,), (2, h2), (2,))
    for i, (found, right) in enumerate(zip(shapes, wanted)):
        if found != right or 0 in found:
            form = (
                (f"h1, 2 C + 14 = {values}", "h1", "h2, h1", "h2", "2, h2", "2")[i],
                f" with h1 = {h1}" if i else "",
                f", h2 = {h2}" if i > 2 else "",
            )
            raise ValueError(
                f"mlp_weights[{i}] ({WEIGHTS[i]}) must have shape ({form[0]}){form[1]}{form[2]}, got "
                f"{found}"
            )
    return h1, h2


def weight_list(mlp_weights: Any) -> list[Any]:
    """The six of them, or an error."""
    if not isinstance(mlp_weights, (tuple, list)) or len(mlp_weights) != len(WEIGHTS):
        found = f"{len(mlp_weights)} of them" if isinstance(mlp_weights, (tuple, list)) else ""
        raise ValueError(
            f"mlp_weights must be a tuple (w1, b1, w2, b2, w3, b3), got "
            f"{found or type(mlp_weights).__name__}"
        )
    return list(mlp_weights)


def weight_arrays(mlp_weights: Any, channels: int) -> list[np.ndarray]:
    arrays = [
        _arrays.as_array(x, f"mlp_weights[{i}]", dtype="float32").data
        for i, x in enumerate(weight_list(mlp_weights))
    ]
    check_weight_shapes([x.shape for x in arrays], channels)
    return arrays


def weight_tensors(mlp_weights: Any, channels: int, like: Any) -> list[Any]:
    """On the device of the features, float32, or float64 beside features of float64."""
    wide = str(like.dtype) == "torch.float64"
    found = []
    for i, x in enumerate(weight_list(mlp_weights)):
        tensor = _tensors.check(x, f"mlp_weights[{i}]", dtype=("float32", "float64"))
        if tensor.device != like.device:
            raise ValueError(f"mlp_weights[{i}] must be on {like.device}, it is on {tensor.device}")
        found.append(tensor.double() if wide else tensor.float())
    check_weight_shapes([tuple(x.shape) for x in found], channels)
    return found


# ---------------------------------------------------------------------- poses and depths


def pose_values(poses: Any, num_views: Any, scale_invariant: bool) -> Any:
    """Channels 2 C + 11 to 2 C + 13 (43 to 45 for C = 16) of poses (B, V, 3, 4) in float64: (B, V, 3).

    With R = sqrt(2 (1 - min(3, tr R) / 3)) the measure of the rotation: sqrt(|t|^2 + R^2) divided by its
    maximum over the views, R, and |t| divided by its maximum. A maximum of 0 divides by 1. Views from
    num_views (B,) on have no part in the maxima. scale_invariant divides t by the largest |t| first, as
    the thesis says; published programs mix lengths and rotations.
    """
    rotation, translation = poses[..., :3], poses[..., 3]
    trace = rotation[..., 0, 0] + rotation[..., 1, 1] + rotation[..., 2, 2]
    angle = (2 * (1 - trace.clip(max=3.0) / 3)) ** 0.5
    length = (translation * translation).sum(-1) ** 0.5
    most = _largest(length, num_views)
    if not isinstance(poses, np.ndarray):
        length, angle = length.to(most.device), angle.to(most.device)
    relative = length / most
    distance = ((relative if scale_invariant else length) ** 2 + angle**2) ** 0.5
    values = [distance / _largest(distance, num_views), angle, relative]
    if isinstance(poses, np.ndarray):
        return np.stack(values, -1)
    return _arrays.torch_module().stack(values, -1)


def _largest(x: Any, num_views: Any) -> Any:
    """Maximum of x (B, V) >= 0 over the views that count, (B, 1); 1 where it is 0."""
    if isinstance(x, np.ndarray):
        if num_views is not None:
            x = np.where(np.arange(x.shape[1]) < num_views[:, None], x, 0.0)
        top = x.max(1, keepdims=True)
    else:
        if num_views is not None:
            torch = _arrays.torch_module()
            x = x.to(num_views.device)  # cameras may be on the host; the way back would wait
            views = torch.arange(x.shape[1], device=x.device)
            x = torch.where(views < num_views[:, None], x, 0.0)
        top = x.amax(1, keepdim=True)
    return top + (top == 0)


def limits(depth_limits: Any, depths: Any, leading: tuple[int, ...], batch: int) -> Any:
    """dmin, dmax (B, 2): as given, or the smallest and the largest of depths (B, D) or (B, D, H, W)."""
    on_tensors = not isinstance(depths, np.ndarray)
    if depth_limits is None:
        flat = depths.reshape(batch, -1) if batch else depths.reshape(0, 1)
        if on_tensors:
            return _arrays.torch_module().stack([flat.amin(1), flat.amax(1)], -1)
        return np.stack([flat.min(1), flat.max(1)], -1)
    given = _given_limits(depth_limits, on_tensors)
    if tuple(given.shape) != (*leading, 2):
        raise ValueError(f"depth_limits must have shape {(*leading, 2)}, got {tuple(given.shape)}")
    return given.reshape(batch, 2)


def _given_limits(depth_limits: Any, on_tensors: bool) -> Any:
    if _arrays.is_torch(depth_limits) and _tensors.wants_gradient([depth_limits]):
        raise ValueError(
            "depth_limits requires a gradient, but the volume has none for it: detach it"
        )
    if not on_tensors:
        data = _arrays.as_array(depth_limits, "depth_limits").data
        check_limits(data)
        return data
    found = _tensors.check(depth_limits, "depth_limits")
    if not _dispatch.traced() and found.device.type == "cpu" and _sweep._has_memory(found):
        check_limits(_arrays.as_array(found, "depth_limits").data)
    return found.detach()


def check_limits(values: np.ndarray) -> None:
    if values.ndim and values.shape[-1] == 2:
        low, high = values[..., 0], values[..., 1]
        if not ((low >= 0) & (high >= low) & (high > 0)).all():
            raise ValueError("depth_limits must be 0 <= dmin <= dmax with dmax > 0")


# ---------------------------------------------------------------------- native kernels


def reshaped(array: _arrays.ArrayIn, shape: tuple[int, ...]) -> _arrays.ArrayIn:
    return replace(array, data=array.data.reshape(shape))


class Native:
    """The operator on arrays: reference and sources, then the others of TENSORS as float32."""

    def __init__(
        self,
        features: tuple[_arrays.ArrayIn, ...],
        others: Sequence[np.ndarray],
        num_views: np.ndarray | None,
        threads: int,
    ) -> None:
        self.reference, self.sources = features
        self.others, self.num_views, self.threads = others, num_views, threads
        b, _, h, w = self.reference.shape
        self.depths = others[-2]
        self.volume_shape = (b, self.depths.shape[1], h, w)
        _, _, c, hs, ws = self.sources.shape
        floats = hs * ws * (_padded(len(others[0]), 32) + _padded(c, 16))
        if floats > _MOST_FLOATS:
            raise ValueError(
                f"sources of {hs} x {ws} cells are too large for {len(others[0])} hidden units: a view "
                f"would take {floats} floats, at most {_MOST_FLOATS} can be addressed"
            )

    def arguments(self) -> tuple[Any, ...]:
        reference, sources, others = self.reference, self.sources, self.others
        b, v, c, hs, ws = sources.shape
        return (
            _arrays.pointer(reference.data), _arrays.pointer(sources.data),
            reference.code, sources.code, *map(_arrays.pointer, others),
            0 if self.num_views is None else _arrays.pointer(self.num_views),
            b, v, c, *self.volume_shape[1:], hs, ws, len(others[0]), len(others[2]),
            self.depths.ndim == 4, self.threads,
        )  # fmt: skip

    def forward(self, keep: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """The volume, float32, and with `keep` ln of the softmax's denominator."""
        volume = np.empty(self.volume_shape, np.float32)
        log_sum = np.empty(self.volume_shape, np.float32) if keep else None
        pointer = 0 if log_sum is None else _arrays.pointer(log_sum)
        if volume.size:
            status = _native.metadata_cost_volume(
                self.arguments(), _arrays.pointer(volume), pointer
            )
            _raise(status)
            self._check_range(volume)
        return volume, log_sum

    def _check_range(self, found: np.ndarray) -> None:
        """ValueError where finite arguments left float32 on the way."""
        if _native.all_finite(_arrays.pointer(found), found.size, 0):
            return
        if not all(np.isfinite(x).all() for x in self.others[6:]):
            names = "K_reference, K_sources, source_from_reference or depths"
        else:
            names = "reference, sources or mlp_weights"
        raise ValueError(f"{names} are too large: what is made of them leaves float32")

    def backward(
        self, kept: tuple[np.ndarray, np.ndarray] | None, d_volume: np.ndarray
    ) -> list[np.ndarray]:
        """Gradients of features and weights, float32. `kept` is the result of `forward`; None: it is found
        again."""
        shapes = (self.reference.shape, self.sources.shape, *(x.shape for x in self.others[:6]))
        found = [np.zeros(x, np.float32) for x in shapes]
        if d_volume.size:
            volume, log_sum = (0, 0) if kept is None else map(_arrays.pointer, kept)
            to = tuple(_arrays.pointer(x) for x in found)
            slope = _arrays.pointer(d_volume)
            status = _native.metadata_cost_volume_backward(
                self.arguments(), volume, log_sum, slope, to
            )
            _raise(status)
        return found


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _raise(status: int) -> None:
    if status == _OUT_OF_MEMORY:
        raise MemoryError("metadata_cost_volume: out of memory")
    assert status == 0
