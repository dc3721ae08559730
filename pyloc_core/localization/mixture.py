# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""One loss map per point from the maps of its several reference views."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyloc_core.maps import LossMaps


def mix(maps: LossMaps, owner: npt.NDArray[np.int64], count: int) -> LossMaps:
    """The mixture of each owner's maps: `L = min(ln|O|, -ln mean_k exp(-L_k))`.

    Any one of the views may be the one that looks like the query, so their probabilities are averaged,
    dead cells counting as probability 0. Unlike a sum of the maps this keeps one vote per 3D point.

    Args:
        maps: K windows; windows of one owner share their origin.
        owner: (K,) point of each map, ascending, below `count`.
        count: number of points; those without a map get an empty one.
    """
    number = np.bincount(owner, minlength=count)
    origins = np.zeros((count, 2), np.int32)
    if maps.origins is not None:
        origins[owner] = maps.origins
    flat = np.zeros(count)
    np.add.at(flat, owner, np.exp(maps.flat_gain.astype(np.float64)))
    row = np.repeat(owner, maps.entries_per_map)
    key = row << 32 | maps.xy[:, 1].astype(np.int64) << 16 | maps.xy[:, 0]
    cells, at = np.unique(key, return_inverse=True)
    ratio = np.bincount(at, weights=np.exp(maps.gain.astype(np.float64)), minlength=len(cells))
    row = cells >> 32
    gain = np.log(ratio / number[row])
    live = gain > 0
    cells, row, gain = cells[live], row[live], gain[live]
    xy = np.stack([cells & 0xFFFF, cells >> 16 & 0xFFFF], 1)
    row_ptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=count))])
    with np.errstate(divide="ignore"):
        flat = np.maximum(np.log(flat / np.maximum(number, 1)), 0.0)
    gain32 = gain.astype(np.float32)
    return LossMaps(
        row_ptr.astype(np.int64), xy.astype(np.int16), np.maximum(gain32, np.finfo(np.float32).tiny),
        size=maps.size, window=maps.window, log_cardinality=maps.log_cardinality,
        origins=None if maps.origins is None else origins, flat_gain=flat.astype(np.float32),
    )  # fmt: skip
