# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A photo against a map: coarse loss maps over the whole image, then fine ones in windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera, as_camera
from pyloc_core.localization import nearby
from pyloc_core.localization.coarse_stage import CoarseStage, Photo
from pyloc_core.localization.covisibility import covisibility_clusters
from pyloc_core.localization.features import Features
from pyloc_core.localization.images import check_image, fit_size, read_image
from pyloc_core.localization.map import Map
from pyloc_core.localization.mixture import mix
from pyloc_core.localization.options import LocalizerOptions, with_overrides
from pyloc_core.localization.reference_patches import FinePatches
from pyloc_core.localization.result import Clock, Localization
from pyloc_core.localization.rootsift import descriptor_from
from pyloc_core.localization.selection import Candidates
from pyloc_core.localization.whole_images import WholeImages, network_for
from pyloc_core.maps import LossMaps
from pyloc_core.ops.local_loss_maps import local_loss_maps
from pyloc_core.ops.refine_pose import refine_pose
from pyloc_core.pose import PoseEstimate, as_cam_from_world, transform_points

Array = npt.NDArray[np.float64]


class Localizer:
    """Localizes photos against one map. Holds no state of a photo: calls may come from many threads.

    Args:
        model: the map.
        descriptor: what the map was built with; None makes the one that the map names, which works
            for `DenseRootSIFT`.
        global_descriptor: what the map was built with, None if with nothing.
        options: `LocalizerOptions`; single ones can be given by name.

    A photo is compared with several clusters of reference images that look like it, since the nearest
    one may show another place; the pose with the largest gain is taken (`Localization.clusters`).

    Raises ValueError when a descriptor is not the map's, TypeError for an unknown option.
    """

    def __init__(
        self,
        model: Map,
        descriptor: Any = None,
        *,
        global_descriptor: Any = None,
        options: LocalizerOptions | None = None,
        **overrides: Any,
    ) -> None:
        if not isinstance(model, Map):
            raise TypeError(f"model must be a Map, got {type(model).__name__}")
        self.map = model
        self.descriptor = descriptor_from(descriptor, model.descriptor)
        self.options = with_overrides(options or LocalizerOptions(), overrides)
        network = network_for(global_descriptor, model.global_descriptor)
        self._whole = WholeImages(self.descriptor, network, model.vocabulary)
        self._coarse = CoarseStage(model, self.descriptor, self.options)
        self._fine = FinePatches(model, self.descriptor, self.options)

    def localize(
        self,
        image: Any,
        camera: Any,
        prior: Any = None,
        *,
        scene: str | None = None,
        seed: int = 0,
        num_threads: int | None = None,
    ) -> PoseEstimate:
        """Pose of a photo.

        Args:
            image: file name, or (H, W) or (H, W, 3) RGB uint8.
            camera: its `Camera` (or what `as_camera` takes), of the image's size.
            prior: (3, 4) approximate cam_from_world: chooses the reference images instead of the
                global descriptor, and takes part as one hypothesis.
            scene: name of the map's scene to look in, None for all; needed with a prior where there
                are several.
            seed: of the sampling; the same seed gives the same bits on any thread count.
            num_threads: None for the default of the process.

        Returns:
            PoseEstimate in the map's frame; of a map of several scenes, in the frame of the one that
            its `scene` names. `inlier_probability` is (N,) over the points used; `timings` holds the
            seconds of each of `STAGES`. Without success the reason says which stage found no answer.

        Raises:
            ValueError, TypeError: an unreadable image, a size that is not the camera's, a prior that
            is no pose.
        """
        return self.localize_detailed(
            image, camera, prior, scene=scene, seed=seed, num_threads=num_threads
        ).estimate

    def localize_detailed(
        self,
        image: Any,
        camera: Any,
        prior: Any = None,
        *,
        scene: str | None = None,
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
        self._scene_label(scene, start)  # an unknown one is told before the photo is described
        clock = Clock()
        pixels = fit_size(pixels, self.map.options.max_size)
        scaled = camera if pixels.shape[:2] == camera.size else camera.resized(pixels.shape[:2])
        levels = list(self.descriptor.dense(pixels))
        clock.lap("describe")
        photo = Photo(levels[0], scaled, start, seed, num_threads, clock)
        views = self._clusters(levels[0], pixels, start, scene, clock, num_threads)
        found = self._coarse.locate(views, photo)
        if found.estimate.success and len(levels) > 1:
            found = self._refined(found, levels, scaled, num_threads, clock)
        timed = replace(found.estimate, timings=dict(clock.seconds))
        return replace(found, estimate=timed, camera=camera)

    def nearby_views(
        self,
        coarse: Features,
        prior: Array | None,
        *,
        image: npt.NDArray[Any] | None = None,
        scene: str | None = None,
        num_threads: int | None = None,
    ) -> npt.NDArray[np.int64]:
        """The `num_views` reference images nearest to a photo, nearest first, all of one scene.

        `image`: the photo's pixels, for a map with a `GlobalDescriptor`.
        """
        label = self._scene_label(scene, prior)
        ranked = self._ranked(coarse, image, prior, label, num_threads)
        of_first = self.map.view_scene[ranked] == self.map.view_scene[ranked[:1]]
        ranked = ranked[of_first]
        return ranked[: self.options.num_views] if self._finds(prior) else ranked

    def _clusters(
        self,
        coarse: Features,
        image: npt.NDArray[Any] | None,
        prior: Array | None,
        scene: str | None,
        clock: Clock,
        num_threads: int | None,
    ) -> list[npt.NDArray[np.int64]]:
        """The reference images to compare a photo with, cluster by cluster."""
        label = self._scene_label(scene, prior)
        ranked = self._ranked(coarse, image, prior, label, num_threads)
        clock.lap("retrieve")
        options = self.options
        groups = covisibility_clusters(self.map, ranked, options.min_shared_points)
        # An image that sees no point gives no pose, and takes no place of a cluster that may.
        seeing = [g for g in groups if len(g) > 1 or len(self.map.observations_of(int(g[0])))]
        groups = seeing or groups
        most = options.num_views if self._finds(prior) else None
        return [views[:most] for views in groups[: options.max_clusters]]

    def _finds(self, prior: Array | None) -> bool:
        """Whether there is anything to choose reference images by."""
        return prior is not None or self._whole.exist

    def _ranked(
        self,
        coarse: Features,
        image: npt.NDArray[Any] | None,
        prior: Array | None,
        label: int | None,
        num_threads: int | None,
    ) -> npt.NDArray[np.int64]:
        """Reference images, nearest first: `top_k`, or all of a map without retrieval."""
        model, count = self.map, max(self.options.top_k, self.options.num_views)
        if prior is not None or not self._whole.exist:
            views = np.arange(len(model.cameras))
            if label is not None:
                views = np.flatnonzero(model.view_scene == label)
            if prior is None:
                return views
            return views[nearby.rank_by_prior(prior, model.cam_from_world[views])][:count]
        if image is None and self._whole.network is not None:
            raise ValueError("image is needed: the map's global descriptor looks at pixels")
        query = self._whole.describe(image, coarse)  # type: ignore[arg-type]
        return nearby.ranked_views(model, query, count, label, num_threads)

    def _scene_label(self, scene: str | None, prior: Array | None) -> int | None:
        scenes = self.map.scenes
        if scene is None:
            if prior is not None and len(scenes) > 1:
                raise ValueError(
                    f"scene is needed with a prior: the map holds {', '.join(scenes)}, each in a frame "
                    "of its own"
                )
            return None
        nearby.check_scene(scenes, scene)
        return scenes.index(scene) if len(scenes) > 1 else None

    def coarse_maps(
        self, candidates: Candidates, coarse: Features, num_threads: int | None = None
    ) -> LossMaps:
        """One loss map per point over the whole photo."""
        return self._coarse.loss_maps(candidates, coarse, num_threads)

    def _refined(
        self,
        found: Localization,
        levels: list[Features],
        camera: Camera,
        num_threads: int | None,
        clock: Clock,
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
            refined = replace(refined, scene=found.estimate.scene)
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
        described = patches.descriptors
        if not len(patches.owner):  # no reference image sees a point from where the photo does
            described = np.zeros((0, fine.values.shape[0]), np.float32)
        each = local_loss_maps(
            described, fine.values, centres[patches.owner], window=self.options.window,
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
