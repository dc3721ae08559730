# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What a localizer finds, with everything that led to it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.maps import LossMaps
from pyloc_core.pose import PoseEstimate, transform_points

Array = npt.NDArray[np.float64]
STAGES = (
    "retrieve", "describe", "cluster", "coarse_maps", "msac", "coarse_gnc", "choose", "fine_maps",
    "fine_gnc", "total",
)  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """Reference images that see the same place, and what a photo's pose among their points came to.

    Attributes:
        scene: name of the scene they belong to.
        views: the images compared with, nearest first.
        num_points: points that they see and that were used.
        estimate: the coarse pose on these points alone; without success its reason says why.
        union_gain: of that pose over the points of all clusters of the scene, nats, every cell of the
            photo counted once (`agreement`): what decides between clusters. -inf without a pose.
    """

    scene: str
    views: npt.NDArray[np.int64]
    num_points: int
    estimate: PoseEstimate
    union_gain: float


@dataclass(frozen=True)
class Localization:
    """A result with everything it was made of. N points of the map.

    Attributes:
        estimate: the pose, as `Localizer.localize` returns it; its `inlier_probability` is (N,).
        coarse: the pose after the coarse stage alone.
        point_indices: (N,) rows of the map's points; `xyz` (N, 3) their coordinates.
        views: reference images that were compared, nearest first; those of the chosen cluster.
        coarse_maps: N loss maps over the whole photo, None when the photo has no candidates.
        fine_maps: N loss maps in windows, empty for points outside the photo; None without a fine
            stage.
        camera: of the photo as given.
        coarse_camera, fine_camera: over the pixels that the cells of the maps cover (`Features.camera`):
            what belongs to `coarse_maps` and `fine_maps`.
        clusters: all that were tried, most views first; `chosen` the one whose coarse pose was
            taken, -1 where none has one.
    """

    estimate: PoseEstimate
    coarse: PoseEstimate
    point_indices: npt.NDArray[np.int64]
    xyz: Array
    views: npt.NDArray[np.int64]
    coarse_maps: LossMaps | None
    fine_maps: LossMaps | None
    camera: Camera
    coarse_camera: Camera
    fine_camera: Camera
    clusters: tuple[Cluster, ...] = ()
    chosen: int = -1

    @property
    def scene(self) -> str:
        """Name of the scene in whose frame of reference the pose is; "" where a map has but one."""
        return self.estimate.scene

    def project(self) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Reprojections (N, 2) in the photo's pixels under the estimate, and (N,) depth > 0."""
        local = transform_points(self.estimate.cam_from_world, self.xyz)
        xy, front = self.camera.project(local)
        return np.asarray(xy), np.asarray(front)


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now
        self.seconds["total"] = now - self.start
