# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A photo localized as the released NRE program does it: one reference image, two stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyloc_core._arrays import as_array, check_equal_length
from pyloc_core.camera import Camera, as_camera, camera_native_args
from pyloc_core.localization import nearby, vlad
from pyloc_core.localization.images import check_image, fit_size, read_image
from pyloc_core.localization.map import Map
from pyloc_core.localization.rootsift import descriptor_from
from pyloc_core.models.network import as_numpy
from pyloc_core.models.nre import published
from pyloc_core.models.nre.descriptor import NRE
from pyloc_core.models.nre.network import NRENetwork
from pyloc_core.models.nre.published import Array, FineStage, PublishedOptions
from pyloc_core.pose import PoseEstimate, as_cam_from_world


@dataclass(frozen=True)
class PublishedLocalization:
    """A result and the two poses before it. N points.

    Attributes:
        estimate: after the fine stage; the coarse or a failed one where there is none.
        coarse: after the coarse refinement; `initial` (3, 4) from P3P, None without a pose.
        fine: maps and rows of the fine stage, None when it was not reached.
        point_indices: (N,) rows of the map's points, or 0 to N - 1.
    """

    estimate: PoseEstimate
    coarse: PoseEstimate
    initial: Array | None
    fine: FineStage | None
    point_indices: npt.NDArray[np.int64]


class PublishedLocalizer:
    """Localizes photos against a map with the steps of `published`.

    It stands beside `Localizer`, which does the same with what this package holds to be right. A photo
    is compared with one reference image, as in the program: the nearest one.

    Args:
        model: built with an `NRE(compat="published")` of the same weights; at `scales` without 1, those
            nearest to it are used. Its descriptors are kept in half precision; `localize_pair` keeps
            them as they are.
        descriptor: that NRE.
        options: of the released configuration.

    Raises ValueError when the descriptor is not the map's or not one with compat="published".
    """

    def __init__(
        self, model: Map, descriptor: NRE, options: PublishedOptions | None = None
    ) -> None:
        if not isinstance(model, Map):
            raise TypeError(f"model must be a Map, got {type(model).__name__}")
        _check_nre(descriptor)
        if not isinstance(options, (PublishedOptions, type(None))):
            raise TypeError(f"options must be PublishedOptions, got {type(options).__name__}")
        self.map = model
        self.descriptor: NRE = descriptor_from(descriptor, model.descriptor)
        self.options = options or PublishedOptions()
        self._scale = int(np.abs(np.log(model.options.scales)).argmin())

    def localize(
        self, image: Any, camera: Any, prior: Any = None, *, seed: int = 0
    ) -> PoseEstimate:
        """Pose of a photo; arguments and errors as in `Localizer.localize`."""
        return self.localize_detailed(image, camera, prior, seed=seed).estimate

    def localize_detailed(
        self, image: Any, camera: Any, prior: Any = None, *, seed: int = 0
    ) -> PublishedLocalization:
        """`localize`, with what led to the pose."""
        camera = as_camera(camera)
        pixels = read_image(image) if isinstance(image, (str, Path)) else check_image(image)
        start = None if prior is None else as_cam_from_world(prior, "prior")
        if pixels.shape[:2] != camera.size:
            raise ValueError(
                f"image has {pixels.shape[1]} x {pixels.shape[0]} pixels and its camera "
                f"{camera.width} x {camera.height}"
            )
        pixels = fit_size(pixels, self.map.options.max_size)
        camera = camera if pixels.shape[:2] == camera.size else camera.resized(pixels.shape[:2])
        nearest = self._nearest(pixels, start)
        obs = self.map.observations_of(nearest)
        points = self.map.obs_point[obs]
        described = [
            np.asarray(level[obs, self._scale], np.float32)
            for level in (self.map.coarse, self.map.fine)
            if level is not None
        ]
        found = _localize(
            self.descriptor, pixels, camera, (described[0], described[-1]), self.map.xyz[points],
            self.options, seed,
        )  # fmt: skip
        name = self.map.scenes[self.map.view_scene[nearest]] if found.estimate.success else ""
        estimate = replace(found.estimate, scene=name)
        return replace(found, estimate=estimate, point_indices=points)

    def _nearest(self, pixels: npt.NDArray[Any], prior: Array | None) -> int:
        model = self.map
        if prior is not None:
            if len(model.scenes) > 1:
                raise ValueError("a prior says nothing in a map of several frames of reference")
            return int(nearby.rank_by_prior(prior, model.cam_from_world)[0])
        if not len(model.vocabulary):
            raise ValueError("the map has no vocabulary to find a reference image: give a prior")
        query = vlad.global_descriptor(self.descriptor.dense_coarse(pixels), model.vocabulary)
        return int(nearby.rank_by_descriptor(query, model.global_descriptors)[0])


def localize_pair(
    nre: NRE,
    image: npt.NDArray[Any],
    camera: Any,
    reference: npt.NDArray[Any],
    keypoints: Any,
    points3d: Any,
    *,
    options: PublishedOptions | None = None,
    seed: int = 0,
) -> PublishedLocalization:
    """Pose of a photo from one reference image whose keypoints have 3D points: the program's own task.

    Args:
        nre: both networks, `compat="published"`.
        image: (H, W, 3) RGB or (H, W) uint8, and its `camera`; `reference`: the other image.
        keypoints: (N, 2) pixels of the reference, `points3d` (N, 3) in the world.
        options: of the released configuration.
        seed: of the draws.

    Raises ValueError or TypeError for arrays that do not fit together, by name.
    """
    _check_nre(nre)
    xy = as_array(keypoints, "keypoints", shape=("N", 2)).data
    xyz = as_array(points3d, "points3d", shape=("N", 3)).data
    check_equal_length(len(xy), "keypoints", len(xyz), "points3d")
    pixels, camera = check_image(image), as_camera(camera)
    if pixels.shape[:2] != camera.size:
        raise ValueError(f"image has size {pixels.shape[:2]} and its camera {camera.size}")
    other = check_image(reference, "reference")
    described = nre.describe_published(other, xy, other.shape[:2])
    return _localize(nre, pixels, camera, described, xyz, options or PublishedOptions(), seed)


def _check_nre(descriptor: Any) -> None:
    if not isinstance(descriptor, NRE) or descriptor.compat != "published":
        raise ValueError('the published program needs an NRE with compat="published"')


def _features(network: NRENetwork, image: npt.NDArray[Any]) -> tuple[Any, tuple[int, int]]:
    """(D, h, w), and the size of the image that the network saw."""
    with torch.inference_mode():
        pixels = network.preprocess(image)
        return as_numpy(network(pixels)[0]), (int(pixels.shape[2]), int(pixels.shape[3]))


def _localize(
    nre: NRE,
    image: npt.NDArray[Any],
    camera: Camera,
    descriptors: tuple[Any, Any],
    points: Array,
    options: PublishedOptions,
    seed: int,
) -> PublishedLocalization:
    """Initial pose, coarse refinement, fine windows about it, fine refinement."""
    everything = np.arange(len(points))
    values, seen = _features(nre.coarse, image)
    over, numbers = published.in_map(camera, seen, values.shape[1:])
    initial = None
    if len(points):
        stage = published.dense_stage(descriptors[0], values, one_hot=options.one_hot)
        initial = published.initial_pose(stage, points, numbers, options, seed)
    if initial is None:
        nothing = PoseEstimate.failed("coarse stage: no triplet gives a pose", len(points))
        return PublishedLocalization(nothing, nothing, None, None, everything)
    coarse = published.refined(stage.maps, points, over, initial, options.sigma_coarse)
    # What the windows weigh comes from the P3P pose, their centres from the refined one.
    around = published.project(numbers, points, initial[None])[0][0]
    norms = published.coarse_norms(stage.probability, around, options.window)
    values, seen = _features(nre.fine, image)
    over, _ = published.in_map(camera, seen, values.shape[1:])
    counted_from_0 = camera_native_args(over, seen)
    pose = np.asarray(coarse.cam_from_world)
    priors, ahead = published.project(counted_from_0, points, pose[None])
    priors = np.where(ahead[0][:, None], priors[0], np.nan)
    fine = published.fine_stage(
        descriptors[1], values, priors, norms, image_size=seen, options=options
    )
    if not len(fine.rows):
        reason = "fine stage: no point lies inside the photo"
        failed = replace(coarse, success=False, reason=reason)
        return PublishedLocalization(failed, coarse, initial, None, everything)
    estimate = published.refined(fine.maps, points[fine.rows], over, pose, options.sigma_fine)
    probability = np.zeros(len(points))
    probability[fine.rows] = estimate.inlier_probability
    estimate = replace(estimate, inlier_probability=probability)
    return PublishedLocalization(estimate, coarse, initial, fine, everything)
