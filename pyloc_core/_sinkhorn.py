# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of the assignment operators, checked, and the native kernels on NumPy arrays.

What `sinkhorn`, `salad_assign` and SuperGlue's layer share: scores (..., m, n), to which a dustbin row
(dustbin_sides 1) or a dustbin row and column (3) may be appended, so that masses have M = m or m + 1 and
N = n or n + 1 entries, a dustbin's last.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyloc_core import _arrays, _native

NO_DUSTBIN, DUSTBIN_ROW, DUSTBINS = 0, 1, 3
# Twin of SinkhornStatus in csrc/cpu/sinkhorn.h.
_OUT_OF_MEMORY, _SCORES, _ROW_MASS, _COLUMN_MASS, _DUSTBIN, _BALANCE = 1, 2, 3, 4, 5, 6
_BAD_VALUES = {_SCORES: "scores", _ROW_MASS: "log_row_mass", _COLUMN_MASS: "log_column_mass",
               _DUSTBIN: "dustbin"}  # fmt: skip
BALANCE = 1e-3  # twin of kBalance in csrc/cpu/sinkhorn_item.h
_MAX_SIZE = 1 << 24


@dataclass(frozen=True)
class Options:
    """Checked options of a call."""

    iterations: int = 100
    tolerance: float = 0.0  # 0: none
    implicit: bool = False
    threads: int = 0
    implementation: str | None = None
    check_finite: bool = False


def as_options(
    iterations: Any, tolerance: Any = None, gradient: Any = "unrolled", num_threads: Any = None,
    implementation: str | None = None, check_finite: bool = False,
) -> Options:  # fmt: skip
    if isinstance(iterations, bool) or not isinstance(iterations, (int, np.integer)):
        raise TypeError(f"iterations must be an int, got {iterations!r}")
    if not 1 <= iterations < 1 << 20:
        raise ValueError(f"iterations must be at least 1 (and below 2^20), got {iterations}")
    if tolerance is not None:
        try:
            tolerance = float(tolerance)
        except (TypeError, ValueError):
            raise TypeError(f"tolerance must be a number or None, got {tolerance!r}") from None
        if not (tolerance > 0 and math.isfinite(tolerance)):
            raise ValueError(f"tolerance must be positive and finite, or None, got {tolerance}")
    if gradient not in ("unrolled", "implicit"):
        close = difflib.get_close_matches(str(gradient), ("unrolled", "implicit"), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"gradient must be 'unrolled' or 'implicit', got {gradient!r}{hint}")
    threads = _arrays.thread_count(num_threads)
    return Options(
        int(iterations), tolerance or 0.0, gradient == "implicit", threads, implementation, check_finite
    )  # fmt: skip


def check_shapes(
    scores: tuple[int, ...], row_mass: tuple[int, ...], column_mass: tuple[int, ...], sides: int
) -> tuple[int, int, int]:
    """(B, m, n), or an error that names the argument."""
    if len(scores) < 2:
        raise ValueError(f"scores must have shape (..., m, n), got {scores}")
    m, n = scores[-2:]
    if m == 0 or n == 0:
        raise ValueError(f"scores must have at least one row and one column, got shape {scores}")
    if max(m, n) >= _MAX_SIZE:
        raise ValueError(f"scores must have fewer than {_MAX_SIZE} rows and columns, got {scores}")
    sizes = (m + (sides & 1), n + (sides >> 1))
    names = ("log_row_mass", "log_column_mass")
    for name, found, size in zip(names, (row_mass, column_mass), sizes):
        if found not in ((size,), (*scores[:-2], size)):
            wanted = " or ".join(str(s) for s in dict.fromkeys(((size,), (*scores[:-2], size))))
            raise ValueError(f"{name} must have shape {wanted} for scores {scores}, got {found}")
    return math.prod(scores[:-2]), m, n


def split_valid(num_valid: Any) -> tuple[Any, Any]:
    """num_valid as its two halves, rows and columns."""
    if num_valid is None:
        return None, None
    if not isinstance(num_valid, (tuple, list)) or len(num_valid) != 2:
        raise TypeError(f"num_valid must be a pair (rows, columns), got {num_valid!r}")
    return num_valid[0], num_valid[1]


@dataclass(frozen=True)
class Problem:
    """Checked arguments as NumPy arrays; masses (B, M) or (M,), (B, N) or (N,) for all items."""

    scores: _arrays.ArrayIn
    row_mass: np.ndarray
    column_mass: np.ndarray
    dustbin: np.ndarray | None
    sides: int
    num_rows: np.ndarray | None
    num_columns: np.ndarray | None
    shape: tuple[int, int, int]
    options: Options

    @property
    def full(self) -> tuple[int, int, int]:
        """(B, M, N)."""
        b, m, n = self.shape
        return b, m + (self.sides & 1), n + (self.sides >> 1)

    def native(self) -> tuple[Any, ...]:
        """The form of bindings/sinkhorn.cpp; strides in elements."""

        def pointer(array: np.ndarray | None) -> int:
            return 0 if array is None else _arrays.pointer(array)

        return (
            _arrays.pointer(self.scores.data), self.scores.code, *self.shape, self.sides,
            pointer(self.dustbin), *_with_stride(self.row_mass), *_with_stride(self.column_mass),
            pointer(self.num_rows), pointer(self.num_columns),
            self.options.iterations, self.options.tolerance, self.options.threads,
        )  # fmt: skip


def check(
    scores: Any, log_row_mass: Any, log_column_mass: Any, dustbin: Any, sides: int, num_valid: Any,
    options: Options,
) -> Problem:  # fmt: skip
    """Everything but the values of scores and masses, which the kernel looks at."""
    s = _arrays.as_array(scores, "scores", dtype=_arrays.FEATURE_DTYPES, finite=False)
    masses = [
        _arrays.as_array(x, name, dtype="float32", finite=False).data
        for x, name in ((log_row_mass, "log_row_mass"), (log_column_mass, "log_column_mass"))
    ]
    shape = check_shapes(s.shape, masses[0].shape, masses[1].shape, sides)
    leading = s.shape[:-2]
    a, b = (x if x.ndim == 1 else x.reshape(shape[0], x.shape[-1]) for x in masses)
    fill = None
    if sides:
        fill = _arrays.as_array(dustbin, "dustbin", dtype="float32", finite=False).data
        if fill.shape not in ((), leading):
            raise ValueError(f"dustbin must be a scalar or have shape {leading}, got {fill.shape}")
        fill = np.ascontiguousarray(np.broadcast_to(fill, leading).reshape(-1))
    rows, columns = split_valid(num_valid)
    rows = valid_counts(rows, leading, shape[1], "rows")
    columns = valid_counts(columns, leading, shape[2], "columns")
    return Problem(s, a, b, fill, sides, rows, columns, shape, options)


def _with_stride(mass: np.ndarray) -> tuple[int, int]:
    """Address, and elements from one item to the next."""
    return _arrays.pointer(mass), 0 if mass.ndim == 1 else mass.shape[-1]


def valid_counts(x: Any, leading: tuple[int, ...], size: int, what: str) -> np.ndarray | None:
    """(B,) int64 within 0 and `size`, or None."""
    if x is None:
        return None
    counts = _arrays.as_array(x, "num_valid", dtype="int64", finite=False).data
    exact = _arrays.as_array(x, "num_valid").data
    if counts.shape not in ((), leading) or (counts != exact).any():
        raise ValueError(f"num_valid ({what}) must be an int, or integers {leading}, got {x!r}")
    counts = np.array(np.broadcast_to(counts, leading), np.int64).reshape(-1)
    if counts.size and not (counts.min() >= 0 and counts.max() <= size):
        raise ValueError(f"num_valid ({what}) must lie within 0 and {size}, got {x!r}")
    return counts


Forward = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def run_forward(problem: Problem, keep_history: bool) -> Forward:
    """log P (B, M, N) in the dtype of the scores (bfloat16 as uint16), u, v float32, iterations int32."""
    b, rows, columns = problem.full
    t = problem.options.iterations if keep_history else 1
    log_p = np.empty((b, rows, columns), problem.scores.data.dtype)
    u, v = np.empty((t, b, rows), np.float32), np.empty((t, b, columns), np.float32)
    count = np.empty(b, np.int32)
    out = (log_p, u, v, count)
    status = _native.sinkhorn(problem.native(), t, *(_arrays.pointer(x) for x in out))
    raise_status(status)
    return out


def run_plan(problem: Problem) -> np.ndarray:
    """log P (B, M, N) alone."""
    log_p = np.empty(problem.full, problem.scores.data.dtype)
    raise_status(_native.sinkhorn(problem.native(), 1, _arrays.pointer(log_p), 0, 0, 0))
    return log_p


def run_backward(
    problem: Problem, forward: Forward, slope: np.ndarray, implicit: bool
) -> tuple[np.ndarray, ...]:
    """Gradients (float32) by scores, masses and dustbin; log P and its slope (B, M, N) float32."""
    (b, m, n), (_, rows, columns) = problem.shape, problem.full
    shapes = ((b, m, n), (b, rows), (b, columns), (b,))
    gradients = tuple(np.empty(s, np.float32) for s in shapes)
    log_p, u, v, count, given = (_arrays.pointer(x) for x in (*forward, slope))
    status = _native.sinkhorn_backward(
        problem.native(), len(forward[1]), log_p, u, v, count, given, implicit,
        *(_arrays.pointer(x) for x in gradients),
    )  # fmt: skip
    raise_status(status)
    return gradients


def raise_status(status: int) -> None:
    """Raise what a kernel reported."""
    if status == 0:
        return
    if status == _OUT_OF_MEMORY:
        raise MemoryError("not enough memory for the kernel matrix")
    if status == _BALANCE:
        raise ValueError(unbalanced())
    raise ValueError(f"{_BAD_VALUES[status]} holds NaN or +infinity")


def unbalanced() -> str:
    return (
        "log_row_mass and log_column_mass must balance: the sums of their exponentials differ by more "
        f"than {BALANCE:g} of the larger"
    )
