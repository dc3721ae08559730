# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From clusters of reference images to one coarse pose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.localization.agreement import Agreement, agreement
from pyloc_core.localization.features import Features
from pyloc_core.localization.map import Map
from pyloc_core.localization.options import LocalizerOptions
from pyloc_core.localization.result import Clock, Cluster, Localization
from pyloc_core.localization.selection import Candidates, best_of, choose_points
from pyloc_core.maps import LossMaps
from pyloc_core.ops.estimate_pose import estimate_pose
from pyloc_core.ops.loss_maps import loss_maps
from pyloc_core.ops.match import match
from pyloc_core.ops.refine_pose import refine_pose
from pyloc_core.pose import PoseEstimate

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
_NO_POINTS = "no point of the map is seen by the chosen images"


@dataclass(frozen=True)
class Photo:
    """What the stages need of a photo: its coarse level, its camera at the size that was described, a
    prior pose or None, the seed of the sampling, threads, and the clock of its stages."""

    coarse: Features
    camera: Camera
    prior: Array | None
    seed: int
    num_threads: int | None
    clock: Clock

    @property
    def over(self) -> Camera:
        """The camera over the pixels that the coarse cells cover."""
        return self.coarse.camera(self.camera)


@dataclass(frozen=True)
class CoarseStage:
    """Poses of a photo from the coarse descriptors of a map."""

    model: Map
    descriptor: Any
    options: LocalizerOptions

    def locate(self, clusters: list[Index], photo: Photo) -> Localization:
        """The best pose among clusters of views; every cluster's loss maps are made in one call.

        Poses are compared by their gain over the points of all clusters of their scene: by the sum of
        its losses a cluster with few points would win. Every cell of the photo counts once (`agreement`).
        """
        parts = [choose_points(self.model, views, self.options.max_points) for views in clusters]
        joint, ptr = _joined(parts)
        photo.clock.lap("cluster")
        if not len(joint.points):
            nothing = [PoseEstimate.failed(_NO_POINTS, 0) for _ in clusters]
            return self._localization(clusters, nothing, _Choice(joint.points), None, photo)
        maps = self.loss_maps(joint, photo.coarse, photo.num_threads)
        photo.clock.lap("coarse_maps")
        poses = self._poses(maps, joint.points, ptr, photo)
        choice = self._choose(maps, joint.points, ptr, clusters, poses, photo)
        photo.clock.lap("choose")
        return self._localization(clusters, poses, choice, maps, photo)

    def _poses(self, maps: LossMaps, points: Index, ptr: Index, photo: Photo) -> list[PoseEstimate]:
        """Coarse pose of every cluster: sample consensus, then refinement where it found one."""
        xyz, single = self.model.xyz[points], len(ptr) == 2
        start = photo.prior
        if start is not None and not single:
            start = np.repeat(start[None], len(ptr) - 1, 0)
        drawn = estimate_pose(
            maps, xyz, photo.over, problem_ptr=None if single else ptr, seed=photo.seed,
            initial=start, num_threads=photo.num_threads,
        )  # fmt: skip
        photo.clock.lap("msac")
        poses = [drawn] if single else list(drawn)
        if single and drawn.success:
            poses = [self._refined(maps, points, drawn.cam_from_world, photo)]
        elif not single and drawn.success.any():
            alive = np.flatnonzero(drawn.success)
            rows = np.concatenate([np.arange(ptr[b], ptr[b + 1]) for b in alive])
            kept = np.concatenate([[0], np.cumsum(np.diff(ptr)[alive])])
            starts = drawn.cam_from_world[alive]
            refined = self._refined(maps[rows], points[rows], starts, photo, problem_ptr=kept)
            for b, pose in zip(alive, refined):
                poses[b] = pose
        photo.clock.lap("coarse_gnc")
        return poses

    def _refined(
        self, maps: LossMaps, points: Index, start: Array, photo: Photo, problem_ptr: Any = None
    ) -> Any:
        sigma = self.options.sigma_coarse
        return refine_pose(
            maps, self.model.xyz[points], photo.over, start, problem_ptr=problem_ptr,
            sigma_max=sigma[0], sigma_min=sigma[1], num_threads=photo.num_threads,
        )  # fmt: skip

    def _choose(
        self,
        maps: LossMaps,
        points: Index,
        ptr: Index,
        clusters: list[Index],
        poses: list[PoseEstimate],
        photo: Photo,
    ) -> _Choice:
        scene = np.array([self._scene(views) for views in clusters])
        union = {one: _union(points, ptr, np.flatnonzero(scene == one)) for one in np.unique(scene)}
        gains = np.full(len(poses), -np.inf)
        for b, pose in enumerate(poses):
            if not pose.success:
                continue
            own = self._agreement(maps, points, np.arange(ptr[b], ptr[b + 1]), pose, photo)
            if own.collapsed:
                why = f"the {own.points} points that agree fall on {own.cells} cells of the photo"
                poses[b] = replace(pose, success=False, reason=why)
            elif (scene == scene[b]).sum() == 1:
                gains[b] = own.gain
            else:
                gains[b] = self._agreement(maps, points, union[scene[b]], pose, photo).gain
        best = int(gains.argmax())
        rows, pose = np.arange(ptr[best], ptr[best + 1]), poses[best]
        if pose.success and (scene == scene[best]).sum() > 1:
            every = union[scene[best]]
            refined = self._refined(maps[every], points[every], pose.cam_from_world, photo)
            if refined.success:  # other clusters' maps may drown the agreement of a small one's
                rows, pose = every, refined
        return _Choice(points[rows], rows, pose, best, gains)

    def _agreement(
        self, maps: LossMaps, points: Index, rows: Index, pose: PoseEstimate, photo: Photo
    ) -> Agreement:
        part = maps if np.array_equal(rows, np.arange(len(maps))) else maps[rows]
        start = np.asarray(pose.cam_from_world)
        return agreement(part, self.model.xyz[points[rows]], photo.over, start)

    def _localization(
        self,
        clusters: list[Index],
        poses: list[PoseEstimate],
        choice: _Choice,
        maps: LossMaps | None,
        photo: Photo,
    ) -> Localization:
        names = [self.model.scenes[self._scene(views)] for views in clusters]
        gains = np.full(len(poses), -np.inf) if choice.gains is None else choice.gains
        tried = tuple(
            Cluster(name, views, len(pose.inlier_probability), pose, float(gain))
            for name, views, pose, gain in zip(names, clusters, poses, gains)
        )
        pose = choice.pose or PoseEstimate.failed(_NO_POINTS, 0)
        if pose.success:
            pose = replace(pose, scene=names[choice.best])
        elif choice.pose is not None:
            several = f"none of {len(poses)} clusters gives a pose; of the first, " * (
                len(poses) > 1
            )
            pose = replace(pose, reason=f"coarse stage: {several}{pose.reason}")
        if maps is not None:
            pose = replace(pose, timings=dict(photo.clock.seconds))
            maps = maps if len(clusters) == 1 else maps[choice.rows]
        return Localization(
            estimate=pose, coarse=pose, point_indices=choice.points,
            xyz=self.model.xyz[choice.points],
            views=clusters[choice.best] if clusters else np.zeros(0, np.int64),
            coarse_maps=maps, fine_maps=None, camera=photo.camera, coarse_camera=photo.over,
            fine_camera=photo.over, clusters=tried, chosen=choice.best if pose.success else -1,
        )  # fmt: skip

    def _scene(self, views: Index) -> int:
        return int(self.model.view_scene[views[0]])

    def loss_maps(
        self, candidates: Candidates, coarse: Features, num_threads: int | None
    ) -> LossMaps:
        """One loss map per point over the whole photo.

        Of a point's descriptors (views x scales) the one with the most probable peak is taken.
        """
        beta = float(self.descriptor.beta[0])
        tried = candidates.first(self.options.coarse_views)
        described = np.asarray(self.model.coarse[tried.obs], np.float32)
        count, scales, depth = described.shape
        flat = described.reshape(count * scales, depth)
        peaks = match(flat, coarse.values, temperature=1 / beta, num_threads=num_threads)
        owner = np.repeat(tried.owner, scales)
        score = np.asarray(peaks.log_probability, np.float64)
        best = best_of(owner, score, len(candidates.points))
        return loss_maps(
            flat[best], coarse.values, temperature=1 / beta, max_entries=self.options.max_entries,
            num_threads=num_threads,
        )  # fmt: skip


@dataclass(frozen=True)
class _Choice:
    """Points (n,) that the pose rests on, their rows among all clusters' points, the pose, its cluster
    and the gains (C,) that decided."""

    points: Index
    rows: Index | None = None
    pose: PoseEstimate | None = None
    best: int = 0
    gains: Array | None = None


def _joined(parts: list[Candidates]) -> tuple[Candidates, Index]:
    """All clusters' candidates in order, and where each cluster's points begin."""
    ptr = np.concatenate([[0], np.cumsum([len(part.points) for part in parts], dtype=np.int64)])
    if len(parts) == 1:
        return parts[0], ptr
    none = [np.zeros(0, np.int64)]
    return Candidates(
        np.concatenate([p.points for p in parts] or none),
        np.concatenate([p.obs for p in parts] or none),
        np.concatenate([p.owner + start for p, start in zip(parts, ptr)] or none),
    ), ptr


def _union(points: Index, ptr: Index, members: Index) -> Index:
    """Rows of the points of some clusters, a point that several share once, in order of the points."""
    rows = np.concatenate([np.arange(ptr[b], ptr[b + 1]) for b in members])
    return rows[np.unique(points[rows], return_index=True)[1]]
