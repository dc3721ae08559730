# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which database images are correct answers to a query."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _checks
from pyloc_core._extras import require
from pyloc_core.retrieval.checks import (
    check_same_dimension,
    checked_integers,
    checked_points,
)

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
    limit = _checks.number("threshold", threshold)
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
    limit = int(_checks.number("tolerance", tolerance))
    order = np.argsort(database, kind="stable")
    ranked = database[order]
    low = np.searchsorted(ranked, queries - limit, "left")
    high = np.searchsorted(ranked, queries + limit, "right")
    return [np.sort(order[a:b]).astype(np.int64) for a, b in zip(low, high)]
