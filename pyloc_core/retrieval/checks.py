# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of what evaluations of retrieval are given: ranked lists, positions, lists of indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _checks

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# Squares of coordinates stay finite below the first, sums of numbers of frames exact below the second.
_FARTHEST = 1e150
_LARGEST = 2**62


def checked_ranks(ranked: Any) -> Indices:
    """(Q, k) database indices, -1 for what is missing."""
    array = _integers("ranked", ranked)
    if array.ndim != 2:
        raise ValueError(f"ranked must be (Q, k), got shape {array.shape}")
    if array.size and array.min() < -1:
        raise ValueError(f"ranked has index {array.min()}; -1 marks what is missing")
    # `recall` numbers pairs of a query and an index.
    if array.size and int(array.max()) >= _LARGEST // len(array):
        raise ValueError(f"ranked has index {array.max()}: no database is as large")
    return array.astype(np.int64)


def checked_ks(ks: Sequence[int], ranked: Indices) -> tuple[int, ...]:
    """Different k, rising, of which no one is beyond the lists `ranked` (Q, k)."""
    if isinstance(ks, (str, bytes)) or not np.iterable(ks):
        raise TypeError(f"ks must be a sequence of integers, got {ks!r}")
    values = sorted({_checks.integer("ks", k, 1) for k in ks})
    if not values:
        raise ValueError("ks must be positive integers, got none")
    if values[-1] > ranked.shape[1]:
        raise ValueError(
            f"ks asks for recall@{values[-1]}, ranked holds {ranked.shape[1]} per query"
        )
    return tuple(values)


def checked_points(name: str, value: Any, *, frames: bool = False) -> Floats:
    """(n, 2) or (n, 3) coordinates; with `frames` also (n,) numbers, which become (n, 1)."""
    array = _arrays.as_array(value, name, finite=False).data
    if frames and array.ndim == 1:
        array = array[:, None]
    elif array.ndim != 2 or array.shape[1] not in (2, 3):
        raise ValueError(f"{name} must be (n, 2) or (n, 3), got shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise ValueError(f"{name} has {len(bad)} rows that are not finite, first row {bad[0]}")
    if array.size and np.abs(array).max() > _FARTHEST:
        raise ValueError(f"{name} must be below {_FARTHEST:g}, got {np.abs(array).max():g}")
    return array


def check_same_dimension(queries: Floats, database: Floats) -> None:
    """ValueError unless both are of as many coordinates."""
    if queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"query_positions has {queries.shape[1]} coordinates, database_positions "
            f"{database.shape[1]}"
        )


def checked_integers(name: str, value: Any) -> Indices:
    """(n,) integers, such as frame numbers and indices."""
    array = _integers(name, value)
    if array.ndim != 1:
        raise ValueError(f"{name} must be a list of integers, got shape {array.shape}")
    if array.size and not -_LARGEST < int(array.min()) <= int(array.max()) < _LARGEST:
        raise ValueError(f"{name} must be integers below 2 ** 62")
    return array.astype(np.int64)


def _integers(name: str, value: Any) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value.detach().cpu() if _arrays.is_torch(value) else value)
    except ValueError:
        raise ValueError(f"{name} must be an array, got rows of different lengths") from None
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    return array
