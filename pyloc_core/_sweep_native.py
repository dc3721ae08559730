# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The native plane sweep on NumPy arrays; bfloat16 is held as uint16."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyloc_core import _arrays, _native, _sweep

# The order is that of SweepReduce in csrc/cpu/plane_sweep.h.
REDUCTIONS = ("mean", "valid_mean", "none")


class Geometry(NamedTuple):
    """projection (B, V, 3, 4) and depths (B, D) or (B, D, H, W) in float32, num_views (B,) int64 or None."""

    projection: np.ndarray
    depths: np.ndarray
    num_views: np.ndarray | None
    shape: _sweep.SweepShape

    def volume_shape(self, per_view: bool) -> tuple[int, ...]:
        s = self.shape
        return (s.batch, *((s.views,) if per_view else ()), s.planes, s.height, s.width)


def geometry_of(sweep: _sweep.Sweep) -> Geometry:
    """Of arguments that `_sweep.check_arrays` checked."""
    with np.errstate(over="ignore", invalid="ignore"):  # what leaves float32 is refused
        projection = sweep.rounded(sweep.cameras.projection())
    return Geometry(_finite(projection), sweep.depths, sweep.num_views, sweep.shape)


def _finite(projection: Any) -> np.ndarray:
    name = "K_reference, K_sources or source_from_reference"
    return _arrays.as_array(projection, name, dtype="float32").data


def geometry_from_tensors(
    projection: Any, depths: Any, num_views: Any, size: Any, source_size: Any, channels: int
) -> Geometry:
    """Of an operator's CPU tensors, whose values nobody may have looked at."""
    b, v = projection.shape[:2]
    shape = _sweep.SweepShape(b, v, channels, depths.shape[1], *size, *source_size)
    wide = _arrays.as_array(depths, "depths", dtype="float32", finite=False).data
    _sweep.check_depths(wide)
    return Geometry(_finite(projection), wide, counts_from_tensor(num_views, v), shape)


def counts_from_tensor(num_views: Any, views: int) -> np.ndarray | None:
    """An operator's num_views, which kernels follow into memory, as int64 within 1 and `views`."""
    if num_views is None:
        return None
    counts = np.ascontiguousarray(num_views.numpy(), np.int64)
    if counts.size and not (counts.min() >= 1 and counts.max() <= views):
        raise ValueError(f"num_valid must lie within 1 and {views}, got {counts}")
    return counts


def features_of(*tensors: Any) -> list[_arrays.ArrayIn]:
    """An operator's features, reference and sources."""
    names = ("reference", "sources")
    kinds = _arrays.FEATURE_DTYPES
    return [_arrays.as_array(x, name, dtype=kinds) for x, name in zip(tensors, names)]


def run(features: list[_arrays.ArrayIn], at: Geometry, reduce: str, threads: int) -> np.ndarray:
    """The volume in the dtype of the features."""
    volume = np.empty(at.volume_shape(reduce == "none"), features[0].data.dtype)
    from_python = _problem(features, at, reduce, threads)
    _raise(_native.plane_sweep(from_python, _arrays.pointer(volume)))
    return volume


def run_backward(
    features: list[_arrays.ArrayIn], at: Geometry, d_volume: np.ndarray, reduce: str, threads: int
) -> list[np.ndarray]:
    """Gradients of reference and sources in their dtype; d_volume is float32 and C-contiguous."""
    found = [np.empty_like(x.data) for x in features]
    from_python = _problem(features, at, reduce, threads)
    _raise(_native.plane_sweep_backward(from_python, *map(_arrays.pointer, (d_volume, *found))))
    return found


def run_mask(at: Geometry, per_view: bool, threads: int) -> np.ndarray:
    mask = np.empty(at.volume_shape(per_view), np.bool_)
    from_python = _problem(None, at, "none" if per_view else "mean", threads)
    _raise(_native.plane_sweep_mask(from_python, _arrays.pointer(mask)))
    return mask


def _problem(
    features: list[_arrays.ArrayIn] | None, at: Geometry, reduce: str, threads: int
) -> tuple[Any, ...]:
    pointer, counts = _arrays.pointer, at.num_views
    maps = (0, 0, 0)
    if features is not None:
        maps = (pointer(features[0].data), pointer(features[1].data), features[0].code)
    return (
        *maps, pointer(at.projection), pointer(at.depths), at.depths.ndim == 4,
        0 if counts is None else pointer(counts), *at.shape, REDUCTIONS.index(reduce), threads,
    )  # fmt: skip


def _raise(done: bool) -> None:
    if not done:
        raise MemoryError("plane_sweep: out of memory")
