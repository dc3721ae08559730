# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the arrays of LossMaps must satisfy, and the checks of what callers say about them."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays

# Entries kept per map unless the caller says otherwise: the least informative go first.
DEFAULT_MAX_ENTRIES = 256
# The published program's ln(x) is ln(x + 2^-23).
PUBLISHED_EPSILON = 2.0**-23
MAX_SIDE = 32000  # coordinates are stored as int16

MaxEntries = int | Literal["all"] | None
Array = npt.NDArray[Any]


def default_log_cardinality(size: tuple[int, int]) -> float:
    """ln(1 + H W): the cells of the full map and "not seen"."""
    return math.log(1 + size[0] * size[1])


def entry_limit(max_entries: MaxEntries) -> int:
    """The bound as a number: None means the documented default, "all" means none."""
    if max_entries is None:
        return DEFAULT_MAX_ENTRIES
    if isinstance(max_entries, str) and max_entries == "all":
        return MAX_SIDE * MAX_SIDE
    if isinstance(max_entries, bool) or not isinstance(max_entries, (int, np.integer)):
        raise TypeError(f'max_entries must be a positive int, None or "all", got {max_entries!r}')
    if max_entries < 1:
        raise ValueError(f'max_entries must be positive ("all" keeps all), got {max_entries}')
    return min(int(max_entries), MAX_SIDE * MAX_SIDE)


def device_entry_limit(max_entries: MaxEntries, window: tuple[int, int]) -> int:
    """The bound where shapes must not depend on the data: at most the cells of a window."""
    if isinstance(max_entries, str) and max_entries == "all":
        raise ValueError(
            'max_entries="all" needs the number of live cells, which is not known before tensors on a '
            f"device, or traced ones, are allocated: give a number, at most {window[0] * window[1]}"
        )
    return min(entry_limit(max_entries), window[0] * window[1])


def check_size(value: Any, name: str) -> tuple[int, int]:
    """(H, W) of a map or a window, whole numbers."""
    try:
        h, w = (int(v) for v in value)
        whole = all(int(v) == v for v in value)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"{name} must be (H, W) in whole cells, got {value!r}")
    if not (1 <= h <= MAX_SIDE and 1 <= w <= MAX_SIDE):
        raise ValueError(f"{name} must be between 1 and {MAX_SIDE} on each side, got {(h, w)}")
    return h, w


def check_frame(
    origin: Any, image_cells: Any, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Origin (x0, y0) of an array of `size`, and the cells (H, W) that the image covers.

    By default the image lies in the middle of a padded array: H + 2 y0, W + 2 x0.
    """
    try:
        x0, y0 = (int(v) for v in origin)
        whole = all(int(v) == v for v in origin)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or max(abs(x0), abs(y0)) > MAX_SIDE:
        raise ValueError(
            f"origin must be (x0, y0) in whole cells, at most {MAX_SIDE} away, got {origin!r}"
        )
    if image_cells is not None:
        return (x0, y0), check_size(image_cells, "image_cells")
    height, width = size[0] + 2 * y0, size[1] + 2 * x0
    if height < 1 or width < 1:
        raise ValueError(f"origin {(x0, y0)} leaves no image in the middle of a map of size {size}")
    return (x0, y0), (height, width)


def check_log_cardinality(value: Any) -> float:
    value = float(value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"log_cardinality must be positive and finite, got {value}")
    return value


def exact(value: Any, name: str, dtype: str, shape: tuple[int | str, ...]) -> Array:
    """`value` as a contiguous array of `dtype`; an error where integers would change."""
    kept = ("float64", dtype, "int64", "int32", "int16", "float32")
    given = _arrays.as_array(value, name, shape=shape, dtype=kept)
    if given.dtype == dtype:
        return given.data
    if given.data.size and np.dtype(dtype).kind == "i":
        limits = np.iinfo(dtype)
        low, high = given.data.min(), given.data.max()
        if low < limits.min or high > limits.max or (given.data % 1 != 0).any():
            raise ValueError(f"{name} must hold {dtype} values, got {given.dtype} {low} to {high}")
    return given.data.astype(dtype)


def check_entries(
    row_ptr: Array,
    xy: Array,
    gain: Array,
    size: tuple[int, int],
    window: tuple[int, int],
    origins: Array | None,
) -> None:
    """Sorted cells inside map and window, positive finite gains; raises ValueError."""
    if row_ptr[0] != 0 or row_ptr[-1] != len(xy) or (np.diff(row_ptr) < 0).any():
        raise ValueError(f"row_ptr must rise from 0 to the number of entries, {len(xy)}")
    if not (np.isfinite(gain).all() and (gain > 0).all()):
        raise ValueError("gain must be positive and finite")
    n = np.repeat(np.arange(len(row_ptr) - 1), np.diff(row_ptr))
    cell = xy.astype(np.int64)
    if not ((cell >= 0) & (cell < [size[1], size[0]])).all():
        raise ValueError(f"xy must lie inside the map of size {size}")
    if origins is not None:
        local = cell - origins[n].astype(np.int64)
        if not ((local >= 0) & (local < [window[1], window[0]])).all():
            raise ValueError(f"xy must lie inside its window of {window} cells")
    if (np.diff(n << 32 | cell[:, 1] << 16 | cell[:, 0]) <= 0).any():
        raise ValueError("the cells of a map must be sorted by row, then column, none twice")


def row_index(index: Any, count: int) -> Array:
    """Row numbers (K,) int64 of a slice, integers or a mask."""
    if isinstance(index, slice):
        return np.arange(count, dtype=np.int64)[index]
    if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
        index = [int(index)]
    if isinstance(index, (list, tuple)) and not index:
        index = np.zeros(0, np.int64)
    rows = _arrays.as_array(index, "index", dtype=("int64", "bool", "float64")).data
    if isinstance(index, np.ndarray) and index.dtype.kind == "u":
        rows = index.astype(np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "bi":
        raise TypeError(f"index must be a slice, integers or a mask (K,), got {index!r}")
    if rows.dtype.kind == "b":
        if len(rows) != count:
            raise IndexError(f"the mask has {len(rows)} values for {count} maps")
        return np.flatnonzero(rows)
    if rows.size and (rows.min() < -count or rows.max() >= count):
        raise IndexError(f"index is out of range for {count} maps")
    return np.where(rows < 0, rows + count, rows)


def frozen(array: Array) -> Array:
    """A read-only view."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
