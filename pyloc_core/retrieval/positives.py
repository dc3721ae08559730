# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which database images are correct answers to a query, and checks of such input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def positives_within(
    query_positions: Any, database_positions: Any, threshold: float = 25.0
) -> list[Indices]:
    """Database images at most `threshold` away from each query, through a spatial index.

    Args:
        query_positions: (Q, 2) or (Q, 3) metres, such as UTM easting and northing.
        database_positions: (N, 2) or (N, 3), as the queries.
        threshold: metres, inclusive.

    Returns:
        Q arrays of database indices, each rising, possibly empty.

    Raises:
        ValueError: other shapes, NaN or inf, a negative threshold.
        MissingExtra: scipy is not installed.
    """
    queries = checked_points("query_positions", query_positions)
    database = checked_points("database_positions", database_positions)
    check_same_dimension(queries, database)
    limit = checked_threshold("threshold", threshold)
    if not len(database):
        return [np.zeros(0, np.int64) for _ in queries]
    index = require("scipy.spatial", "positives within a distance").cKDTree(database)
    found = index.query_ball_point(queries, limit * (1 + 1e-9) + 1e-300) if len(queries) else []
    positives = []
    for query, near in zip(queries, found):
        rows = np.sort(np.array(near, np.int64))
        d = database[rows] - query
        positives.append(rows[np.sqrt((d * d).sum(1)) <= limit])
    return positives


def positives_by_frame(
    query_frames: Any, database_frames: Any, tolerance: int = 1
) -> list[Indices]:
    """Database images whose frame number differs from the query's by at most `tolerance`.

    Args:
        query_frames: (Q,) integers. database_frames: (N,) integers, in any order, repeated or not.
        tolerance: frames, inclusive; 1 for Nordland as in the thesis.

    Returns:
        Q arrays of database indices, each rising, possibly empty.
    """
    queries = checked_integers("query_frames", query_frames)
    database = checked_integers("database_frames", database_frames)
    limit = int(checked_threshold("tolerance", tolerance))
    order = np.argsort(database, kind="stable")
    ranked = database[order]
    low = np.searchsorted(ranked, queries - limit, "left")
    high = np.searchsorted(ranked, queries + limit, "right")
    return [np.sort(order[a:b]).astype(np.int64) for a, b in zip(low, high)]


def checked_ranks(ranked: Any) -> Indices:
    array = np.asarray(ranked)
    if array.ndim != 2:
        raise ValueError(f"ranked must be (Q, k), got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"ranked must be integers, got {array.dtype}")
    if array.size and array.min() < -1:
        raise ValueError(f"ranked has index {array.min()}; -1 marks what is missing")
    return array.astype(np.int64)


def checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    values = sorted({int(k) for k in ks})
    if not values or values[0] < 1:
        raise ValueError(f"ks must be positive integers, got {tuple(ks)}")
    return tuple(values)


def checked_points(name: str, value: Any, *, frames: bool = False) -> Floats:
    array = np.asarray(value)
    if frames and array.ndim == 1:
        array = array[:, None]
    elif array.ndim != 2 or array.shape[1] not in (2, 3):
        raise ValueError(f"{name} must be (n, 2) or (n, 3), got shape {array.shape}")
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise ValueError(f"{name} has {len(bad)} rows that are not finite, first row {bad[0]}")
    return array


def check_same_dimension(queries: Floats, database: Floats) -> None:
    if queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"query_positions has {queries.shape[1]} coordinates, database_positions "
            f"{database.shape[1]}"
        )


def checked_integers(name: str, value: Any) -> Indices:
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"{name} must be a list of integers, got shape {array.shape}")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    return array.astype(np.int64)


def checked_threshold(name: str, value: float) -> float:
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return float(value)
