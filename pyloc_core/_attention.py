# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of gated attention, checked, and the native kernels on NumPy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyloc_core import _arrays, _native

_MAX_KEYS = 1 << 24  # the native kernel counts keys in float32 lanes
_OUT_OF_MEMORY = 1  # twin of AttentionStatus in csrc/cpu/gated_attention.h


@dataclass(frozen=True)
class Problem:
    """Checked arguments; shape is (B, heads, N, M, d, dv)."""

    queries: _arrays.ArrayIn
    keys: _arrays.ArrayIn
    values: _arrays.ArrayIn
    num_valid: np.ndarray | None
    scale: float
    shape: tuple[int, ...]
    threads: int

    def native(self) -> tuple[Any, ...]:
        pointer = _arrays.pointer
        valid = 0 if self.num_valid is None else pointer(self.num_valid)
        data = (pointer(a.data) for a in (self.queries, self.keys, self.values))
        return (*data, self.queries.code, *self.shape, valid, self.scale, self.threads)


def check(arrays: dict[str, Any], num_valid: Any, scale: float, threads: int) -> Problem:
    checked = {n: _arrays.as_array(x, n, dtype=_arrays.FEATURE_DTYPES) for n, x in arrays.items()}
    if len({a.dtype for a in checked.values()}) > 1:
        checked = {n: as_float32(a) for n, a in checked.items()}
    shape = check_shapes({n: a.shape for n, a in checked.items()})
    valid = None
    if num_valid is not None:
        leading = checked["queries"].shape[:-3]
        valid = _arrays.as_array(num_valid, "num_valid", dtype="int64", finite=False).data
        exact = _arrays.as_array(num_valid, "num_valid").data
        if valid.shape not in ((), leading) or (valid != exact).any():
            raise ValueError(f"num_valid must be an int, or integers {leading}, got {num_valid!r}")
        valid = np.array(np.broadcast_to(valid, leading), np.int64).reshape(-1)
        if valid.size and not (valid.min() >= 1 and valid.max() <= shape[3]):
            raise ValueError(f"num_valid must lie within 1 and M = {shape[3]}, got {num_valid!r}")
    queries, keys, values = checked.values()
    return Problem(queries, keys, values, valid, scale, shape, threads)


def as_float32(array: _arrays.ArrayIn) -> _arrays.ArrayIn:
    data = array.data
    wide = (
        _arrays.bfloat16_to_float32(data) if array.dtype == "bfloat16" else data.astype(np.float32)
    )
    return _arrays.ArrayIn(wide, "float32", array.is_torch)


def check_shapes(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """(B, heads, N, M, d, dv), or an error that names the argument."""
    for name, shape in shapes.items():
        size, depth = ("N", "d") if name == "queries" else ("M", "d" if name == "keys" else "dv")
        if len(shape) < 3:
            raise ValueError(f"{name} must have shape (..., heads, {size}, {depth}), got {shape}")
        if shape[-1] == 0 or (name != "queries" and shape[-2] == 0):
            raise ValueError(f"{name} must not be empty, got shape {shape}")
    queries, keys, values = shapes["queries"], shapes["keys"], shapes["values"]
    if keys[:-2] != queries[:-2] or keys[-1] != queries[-1]:
        raise ValueError(
            f"queries and keys must agree in their leading dimensions and d, got {queries} and {keys}"
        )
    if values[:-1] != keys[:-1]:
        raise ValueError(
            f"keys and values must agree up to the last dimension, got {keys}, {values}"
        )
    if keys[-2] >= _MAX_KEYS:
        raise ValueError(f"keys must be fewer than {_MAX_KEYS}, got {keys[-2]}")
    batch = math.prod(queries[:-3])
    return batch, queries[-3], queries[-2], keys[-2], queries[-1], values[-1]


Forward = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def output_args(forward: Forward) -> tuple[int, ...]:
    return tuple(_arrays.pointer(a) for a in forward)


def run_forward(problem: Problem) -> Forward:
    """out (B, h, N, dv) float32; peak, log_sum float32 and best int32 (B, h, N)."""
    b, h, n, _, _, dv = problem.shape
    rows = (b, h, n)
    out, peak, log_sum = (np.empty(s, np.float32) for s in ((*rows, dv), rows, rows))
    best = np.empty(rows, np.int32)
    forward = (out, peak, log_sum, best)
    status = _native.gated_attention(problem.native(), output_args(forward))
    if status == _OUT_OF_MEMORY:
        raise MemoryError("gated_attention: out of memory")
    if not _arrays.all_finite(_arrays.ArrayIn(log_sum, "float32", False)) or not _arrays.all_finite(
        _arrays.ArrayIn(out, "float32", False)
    ):
        raise ValueError("queries, keys or values are too large: their products leave float32")
    return forward


def run_backward(
    problem: Problem, forward: Forward, d_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients (float32) of queries, keys and values; d_out (B, h, N, dv) float32."""
    b, h, n, m, d, dv = problem.shape
    gradients = tuple(np.empty(s, np.float32) for s in ((b, h, n, d), (b, h, m, d), (b, h, m, dv)))
    status = _native.gated_attention_backward(
        problem.native(), output_args(forward), *map(_arrays.pointer, (d_out, *gradients))
    )
    if status == _OUT_OF_MEMORY:
        raise MemoryError("gated_attention: out of memory")
    return gradients  # type: ignore[return-value]
