# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sources of every view of a model: by the points they share, or by the cameras where there are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyloc_core.depth.posed_images import PosedImage
from pyloc_core.depth.sources import rank_sources

# Without points nothing tells what a view shows; views that look further apart than this are not asked.
MOST_TURNED = 60.0  # degrees


def choose_sources(views: Sequence[PosedImage], count: int) -> list[list[int]]:
    """For each view the indices of at most `count` sources, the best first; [] where none overlaps.

    With points: `rank_sources`. In a model without any point: the views that look in much the same
    direction, the nearest camera first.
    """
    if not any(len(view.points) for view in views):
        return [_by_cameras(views, index, count) for index in range(len(views))]
    ids = np.concatenate([view.point_ids for view in views])
    seen_by = np.repeat(np.arange(len(views)), [len(view.point_ids) for view in views])
    points = np.concatenate([view.points for view in views])
    order = np.argsort(ids, kind="stable")
    _, first = np.unique(ids[order], return_index=True)
    poses = np.stack([view.cam_from_world for view in views])
    ranked = rank_sources(
        poses, points[order][first], np.append(first, len(ids)), seen_by[order], count
    )
    return [[int(i) for i in found] for found in ranked]


def _by_cameras(views: Sequence[PosedImage], index: int, count: int) -> list[int]:
    centres = np.stack([view.center for view in views])
    axes = np.stack([view.cam_from_world[2, :3] for view in views])
    away = np.linalg.norm(centres - centres[index], axis=1)
    turned = np.degrees(np.arccos(np.clip(axes @ axes[index], -1, 1)))
    usable = (turned <= MOST_TURNED) & (away > 1e-9 * max(1.0, float(away.max())))
    usable[index] = False
    order = np.argsort(away, kind="stable")
    return [int(i) for i in order if usable[i]][:count]
