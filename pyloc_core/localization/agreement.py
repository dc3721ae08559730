# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""How much of a photo agrees with a pose, rather than how many points.

Loss maps of a wrong place are not independent: some cells of the photo (sky, blurred walls) look a
little like everything. A camera that stands far away sees all points of a place in such a cell, and
every one of them agrees. Counted by points such a pose can have a larger gain than the right one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.geometry import map_from_image
from pyloc_core.maps import LossMaps
from pyloc_core.pose import transform_points

Array = npt.NDArray[np.float64]
# Five photos of sacre_coeur in maps of fountain_P11 and lund_door, compared with one and with five images:
# 46 to 406 points agreed, in 12 to 47 cells. Fourteen photos in maps of their own scene: 271 to 1426
# points in 234 to 1282 cells, at most 1.7 points a cell. benchmarks/results/merged_map.md has the rest.
_FEWEST_CELLS, _POINTS_PER_CELL = 100, 3


class Agreement(NamedTuple):
    """Of one pose. `gain`: nats, every cell of the photo counted once, with the best point in it;
    `points` that are consistent with the pose; `cells` that they fall in."""

    gain: float
    points: int
    cells: int

    @property
    def collapsed(self) -> bool:
        """Many points agree, and they are all in a few cells."""
        return self.cells < _FEWEST_CELLS and self.points > _POINTS_PER_CELL * self.cells


def agreement(maps: LossMaps, xyz: Array, camera: Camera, cam_from_world: Array) -> Agreement:
    """Agreement of N full loss maps of points (N, 3) with a pose; `camera` over the maps' cells.

    A point is consistent when its gain is at least half its map's peak, and the peak more than 1 nat
    above a flat map's (csrc/include/pyloc/consensus.h).
    """
    xy, front = camera.project(transform_points(cam_from_world, xyz))
    at = map_from_image(np.asarray(xy), camera.size, maps.size)
    at = np.where(np.asarray(front)[:, None], at, np.nan)
    gain = maps.log_cardinality - np.asarray(maps.evaluate(at, num_threads=1))
    live = np.flatnonzero(gain > 0)
    height, width = maps.size
    # Less than a cell outside there are gains as well: a border of cells around the map's.
    cell = (np.rint(at[live]).astype(np.int64) + 1) @ np.array([1, width + 2], np.int64)
    best = np.zeros((height + 2) * (width + 2))
    np.maximum.at(best, cell, gain[live])
    peak = maps.peak_gain
    consistent = (gain[live] >= 0.5 * peak[live]) & (peak[live] > 1 + maps.flat_gain[live])
    return Agreement(float(best.sum()), int(consistent.sum()), len(np.unique(cell[consistent])))
