# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth maps beside the points of the model that they were made from.

The points are triangulated by matching of their own. The sweep takes from them the range of depths and
the choice of sources, never a depth, so that the comparison means something.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyloc_core.depth.posed_images import PosedImage

WITHIN = 0.03  # relative error that counts as right: the inlier ratio of the Robust MVD benchmark


@dataclass(frozen=True)
class PointCheck:
    """`points` of the model in view, the share of them that has a depth (`covered`), and of those the
    median relative error and the share within 1 and 3 %. NaN where there is nothing to compare."""

    points: int
    covered: float
    median: float
    within_1: float
    within_3: float


def check_points(view: PosedImage, depth: npt.NDArray[np.floating]) -> PointCheck:
    """Compare a depth map (H, W), 0 where unknown, with the points that the image observes, each at its
    pixel. Raises ValueError for a map of another size than the image."""
    if depth.shape != view.size:
        raise ValueError(f"depth is {depth.shape} and {view.name} is {view.size}")
    xy, truth, _ = view.project_points()
    if not len(truth):
        return PointCheck(0, *(float("nan"),) * 4)
    cell = np.minimum(xy.astype(np.int64), np.array(view.size[::-1]) - 1)
    found = depth[cell[:, 1], cell[:, 0]].astype(np.float64)
    known = found > 0
    if not known.any():
        return PointCheck(len(truth), 0.0, *(float("nan"),) * 3)
    error = np.abs(found[known] - truth[known]) / truth[known]
    return PointCheck(
        len(truth), float(known.mean()), float(np.median(error)), float((error <= 0.01).mean()),
        float((error <= WITHIN).mean()),
    )  # fmt: skip
