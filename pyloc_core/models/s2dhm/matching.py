# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Matching as S2DHM does it: argmax of the correlation with a ratio test against a rank."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core.geometry import Size, image_from_map
from pyloc_core.ops.match import match

# gin files of the published program: 0.9 and 0.006. The thesis names 0.12 for CMU.
RATIO, FACTOR = 0.9, 0.006
COMPAT = (None, "published")


class RatioTest(NamedTuple):
    """N correlation maps, tested.

    Attributes:
        xy: (N, 2) column and row of the largest value; of equal ones the first in row-major order.
        valid: (N,) bool, the test passed.
        margin: (N,) ratio^2 * largest - value at the rank; the test passes when it is not negative.
    """

    xy: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_]
    margin: npt.NDArray[np.float32]


def check_fractions(factor: float, ratio: float) -> None:
    if not 0 < factor <= 1:
        raise ValueError(f"factor must lie in (0, 1], got {factor!r}")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must lie in (0, 1], got {ratio!r}")


def ratio_test(correlation: Any, *, factor: float = FACTOR, ratio: float = RATIO) -> RatioTest:
    """The published test on dense maps: keep where `ratio^2 * largest >= value at rank K`.

    Args:
        correlation: (N, H, W).
        factor: K = int(factor H W), the largest value having rank 1; K is at least 1.
        ratio: in (0, 1].

    Raises ValueError for another shape or option.

    Source: Germain et al. 2019, Eq. 3.1 of the thesis prints `largest / value > 0.9`, which always
    holds; this is what the published program does.
    """
    maps = np.asarray(correlation)
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(f"correlation must be (N, H, W), got {maps.shape}")
    check_fractions(factor, ratio)
    flat = maps.reshape(len(maps), maps.shape[1] * maps.shape[2])
    rank = max(1, int(factor * flat.shape[1]))
    best = flat.argmax(1)
    at_rank = -np.partition(-flat, rank - 1, axis=1)[:, rank - 1]
    margin = ratio**2 * flat[np.arange(len(flat)), best] - at_rank
    xy = np.stack([best % maps.shape[2], best // maps.shape[2]], axis=1)
    return RatioTest(xy.astype(np.float64), margin >= 0, margin.astype(np.float32))


def match_hypercolumns(
    descriptors: Any,
    features: Any,
    *,
    factor: float = FACTOR,
    ratio: float = RATIO,
    num_threads: int | None = None,
) -> RatioTest:
    """`ratio_test` of unit descriptors (N, D) against a map (D, H, W), without storing correlations."""
    check_fractions(factor, ratio)
    found = match(descriptors, features, quantile=factor, num_threads=num_threads)
    xy = np.asarray(found.xy)
    x, y = xy.astype(np.int64).T
    best = np.einsum("nd,dn->n", np.asarray(descriptors), np.asarray(features)[:, y, x])
    quotient = np.asarray(found.quantile_ratio, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        at_rank = np.where(quotient == 0, np.inf, best / quotient)
    margin = ratio**2 * best - at_rank
    return RatioTest(xy, margin >= 0, margin.astype(np.float32))


def query_pixels(xy: Any, image_size: Size, map_size: Size, *, compat: str | None = None) -> Any:
    """(N, 2) image pixels of cells (N, 2) of a map over an image.

    compat="published": `xy * cell + cell / 2` with the cell's (height, width) in that order multiplied
    onto (x, y). It is right only for square cells. The published program also passes the size of the
    *reference* image as `image_size`.
    """
    if compat not in COMPAT:
        raise ValueError(f"compat must be None or 'published', got {compat!r}")
    cells = np.asarray(xy, np.float64).reshape(-1, 2)
    if compat is None:
        return image_from_map(cells, image_size, map_size)
    cell = np.array(image_size, np.float64) / np.array(map_size, np.float64)
    return cells * cell + cell / 2
