# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A photo against a map: coarse loss maps over the whole image, then fine ones in windows."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera, as_camera
from pyloc_core.localization import retrieval
from pyloc_core.localization.features import Features
from pyloc_core.localization.images import check_image, fit_size, read_image
from pyloc_core.localization.map import Map
from pyloc_core.localization.mixture import mix
from pyloc_core.localization.options import LocalizerOptions, with_overrides
from pyloc_core.localization.reference_patches import FinePatches
from pyloc_core.localization.rootsift import descriptor_from
from pyloc_core.localization.selection import Candidates, best_of, choose_points
from pyloc_core.maps import LossMaps
from pyloc_core.ops.estimate_pose import estimate_pose
from pyloc_core.ops.local_loss_maps import local_loss_maps
from pyloc_core.ops.loss_maps import loss_maps
from pyloc_core.ops.match import match
from pyloc_core.ops.refine_pose import refine_pose
from pyloc_core.pose import PoseEstimate, as_cam_from_world, transform_points

Array = npt.NDArray[np.float64]
STAGES = (
    "retrieve", "describe", "coarse_maps", "msac", "coarse_gnc", "fine_maps", "fine_gnc", "total",
)  # fmt: skip


@dataclass(frozen=True)
class Localization:
    """A result with everything it was made of. N points of the map.

    Attributes:
        estimate: the pose, as `Localizer.localize` returns it; its `inlier_probability` is (N,).
        coarse: the pose after the coarse stage alone.
        point_indices: (N,) rows of the map's points; `xyz` (N, 3) their coordinates.
        views: reference images that were compared, nearest first.
        coarse_maps: N loss maps over the whole photo, None when the photo has no candidates.
        fine_maps: N loss maps in windows, empty for points outside the photo; None without a fine
            stage.
        camera: of the photo as given.
        coarse_camera, fine_camera: over the pixels that the cells of the maps cover (`Features.camera`):
            what belongs to `coarse_maps` and `fine_maps`.
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

    def project(self) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Reprojections (N, 2) in the photo's pixels under the estimate, and (N,) depth > 0."""
        local = transform_points(self.estimate.cam_from_world, self.xyz)
        xy, front = self.camera.project(local)
        return np.asarray(xy), np.asarray(front)


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now
        self.seconds["total"] = now - self.start


class Localizer:
    """Localizes photos against one map. Holds no state of a photo: calls may come from many threads.

    Args:
        model: the map.
        descriptor: what the map was built with; None makes the one that the map names, which works
            for `DenseRootSIFT`.
        options: `LocalizerOptions`; single ones can be given by name.

    Raises ValueError when the descriptor is not the map's, TypeError for an unknown option.
    """

    def __init__(
        self,
        model: Map,
        descriptor: Any = None,
        *,
        options: LocalizerOptions | None = None,
        **overrides: Any,
    ) -> None:
        if not isinstance(model, Map):
            raise TypeError(f"model must be a Map, got {type(model).__name__}")
        self.map = model
        self.descriptor = descriptor_from(descriptor, model.descriptor)
        self.options = with_overrides(options or LocalizerOptions(), overrides)
        self._fine = FinePatches(model, self.descriptor, self.options)

    def localize(
        self,
        image: Any,
        camera: Any,
        prior: Any = None,
        *,
        seed: int = 0,
        num_threads: int | None = None,
    ) -> PoseEstimate:
        """Pose of a photo.

        Args:
            image: file name, or (H, W) or (H, W, 3) RGB uint8.
            camera: its `Camera` (or what `as_camera` takes), of the image's size.
            prior: (3, 4) approximate cam_from_world: chooses the reference images instead of the
                global descriptor, and takes part as one hypothesis.
            seed: of the sampling; the same seed gives the same bits on any thread count.
            num_threads: None for the default of the process.

        Returns:
            PoseEstimate in the map's frame. `inlier_probability` is (N,) over the points used;
            `timings` holds seconds for retrieve, describe, coarse_maps, msac, coarse_gnc, fine_maps,
            fine_gnc and total. Without success the reason says which stage found no answer.

        Raises:
            ValueError, TypeError: an unreadable image, a size that is not the camera's, a prior that
            is no pose.
        """
        return self.localize_detailed(
            image, camera, prior, seed=seed, num_threads=num_threads
        ).estimate

    def localize_detailed(
        self,
        image: Any,
        camera: Any,
        prior: Any = None,
        *,
        seed: int = 0,
        num_threads: int | None = None,
    ) -> Localization:
        """`localize`, with the maps and points that led to the pose."""
        camera = as_camera(camera)
        pixels = read_image(image) if isinstance(image, (str, Path)) else check_image(image)
        if pixels.shape[:2] != camera.size:
            raise ValueError(
                f"image has {pixels.shape[1]} x {pixels.shape[0]} pixels and its camera "
                f"{camera.width} x {camera.height}"
            )
        start = None if prior is None else as_cam_from_world(prior, "prior")
        clock = _Clock()
        pixels = fit_size(pixels, self.map.options.max_size)
        scaled = camera if pixels.shape[:2] == camera.size else camera.resized(pixels.shape[:2])
        levels = list(self.descriptor.dense(pixels))
        clock.lap("describe")
        views = self.nearby_views(levels[0], start)
        candidates = choose_points(self.map, views, self.options.max_points)
        clock.lap("retrieve")
        found = self._coarse(candidates, views, levels[0], scaled, start, seed, num_threads, clock)
        if found.estimate.success and len(levels) > 1:
            found = self._refined(found, levels, scaled, num_threads, clock)
        timed = replace(found.estimate, timings=dict(clock.seconds))
        return replace(found, estimate=timed, camera=camera)

    def nearby_views(self, coarse: Features, prior: Array | None) -> npt.NDArray[np.int64]:
        """The `num_views` reference images nearest to a photo, nearest first."""
        if prior is not None:
            ranked = retrieval.rank_by_prior(prior, self.map.cam_from_world)
        elif len(self.map.vocabulary):
            query = retrieval.global_descriptor(coarse, self.map.vocabulary)
            ranked = retrieval.rank_by_descriptor(query, self.map.global_descriptors)
        else:  # a map without retrieval: all of it
            return np.arange(len(self.map.cameras))
        return ranked[: self.options.num_views]

    def coarse_maps(
        self, candidates: Candidates, coarse: Features, num_threads: int | None = None
    ) -> LossMaps:
        """One loss map per point over the whole photo.

        Of a point's descriptors (views x scales) the one with the most probable peak is taken.
        """
        beta = float(self.descriptor.beta[0])
        tried = candidates.first(self.options.coarse_views)
        described = np.asarray(self.map.coarse[tried.obs], np.float32)
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

    def _coarse(
        self,
        candidates: Candidates,
        views: npt.NDArray[np.int64],
        coarse: Features,
        camera: Camera,
        prior: Array | None,
        seed: int,
        num_threads: int | None,
        clock: _Clock,
    ) -> Localization:
        xyz, over = self.map.xyz[candidates.points], coarse.camera(camera)
        if not len(xyz):
            nothing = PoseEstimate.failed("no point of the map is seen by the chosen images", 0)
            return Localization(
                nothing, nothing, candidates.points, xyz, views, None, None, camera, over, over
            )
        maps = self.coarse_maps(candidates, coarse, num_threads)
        clock.lap("coarse_maps")
        first = estimate_pose(maps, xyz, over, seed=seed, initial=prior, num_threads=num_threads)
        clock.lap("msac")
        if first.success:
            sigma = self.options.sigma_coarse
            first = refine_pose(
                maps, xyz, over, first.cam_from_world, sigma_max=sigma[0], sigma_min=sigma[1],
                num_threads=num_threads,
            )  # fmt: skip
        clock.lap("coarse_gnc")
        if not first.success:
            first = replace(first, reason=f"coarse stage: {first.reason}")
        first = replace(first, timings=dict(clock.seconds))
        return Localization(
            first, first, candidates.points, xyz, views, maps, None, camera, over, over
        )

    def _refined(
        self,
        found: Localization,
        levels: list[Features],
        camera: Camera,
        num_threads: int | None,
        clock: _Clock,
    ) -> Localization:
        """Fine rounds around the coarse pose; the coarse result where they find nothing."""
        options, fine = self.options, levels[-1]
        over = fine.camera(camera)
        for _ in range(options.fine_rounds):
            pose = np.asarray(found.estimate.cam_from_world)
            maps = self.fine_maps(found, levels, camera, pose, num_threads)
            clock.lap("fine_maps")
            refined = refine_pose(
                maps, found.xyz, over, pose, sigma_max=options.sigma_fine[0],
                sigma_min=options.sigma_fine[1], num_threads=num_threads,
            )  # fmt: skip
            clock.lap("fine_gnc")
            if not refined.success:
                reason = f"fine stage: {refined.reason}"
                failed = replace(found.estimate, success=False, reason=reason)
                return replace(found, estimate=failed, fine_maps=maps, fine_camera=over)
            found = replace(found, estimate=refined, fine_maps=maps, fine_camera=over)
            if _moved(found.xyz, over, pose, refined, fine) <= options.window / 8:
                break
        return found

    def fine_maps(
        self,
        found: Localization,
        levels: list[Features],
        camera: Camera,
        cam_from_world: Array,
        num_threads: int | None = None,
    ) -> LossMaps:
        """N loss maps in windows around the reprojections under a pose; empty outside the photo."""
        fine = levels[-1]
        patches = self._fine.describe(found.point_indices, camera, cam_from_world)
        xy, front = camera.project(transform_points(cam_from_world, found.xyz))
        inside = np.asarray(front) & (np.nan_to_num(xy, nan=-1) >= 0).all(1)
        with np.errstate(invalid="ignore"):
            inside &= (xy < [camera.width, camera.height]).all(1)
        centres = np.where(inside[:, None], fine.cells(xy), np.nan)
        mass = None
        if self.options.use_coarse_mass and found.coarse_maps is not None:
            coarse = levels[0]
            extent = self.options.window * fine.stride / coarse.stride
            at = np.where(inside[:, None], coarse.cells(xy), np.nan)
            mass = np.minimum(found.coarse_maps.mass(at, extent), 1.0)[patches.owner]
        each = local_loss_maps(
            patches.descriptors, fine.values, centres[patches.owner], window=self.options.window,
            coarse_mass=mass, strides=(fine.stride, levels[0].stride),
            temperature=1 / float(self.descriptor.beta[-1]), max_entries=self.options.max_entries,
            num_threads=num_threads,
        )  # fmt: skip
        return mix(each, patches.owner, len(found.point_indices))


def _moved(xyz: Array, camera: Camera, before: Array, after: PoseEstimate, fine: Features) -> float:
    """Median shift of the reprojections between two poses, in fine cells."""
    old, _ = camera.project(transform_points(before, xyz))
    new, _ = camera.project(transform_points(after.cam_from_world, xyz))
    shift = np.linalg.norm(np.asarray(new) - np.asarray(old), axis=1)
    shift = shift[np.isfinite(shift)]
    return float(np.median(shift)) / fine.stride if len(shift) else 0.0
