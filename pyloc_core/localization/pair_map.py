# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A pair matcher against a map: the photo is compared with the nearest reference images, one pair each."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyloc_core.camera import as_camera
from pyloc_core.localization.images import check_image, fit_size, read_image, to_gray
from pyloc_core.localization.localizer import Localizer
from pyloc_core.localization.map import Map
from pyloc_core.localization.pair import (
    PairFeatures,
    PairLocalization,
    PairMatcher,
    PairOptions,
    pose_from_maps,
)
from pyloc_core.localization.selection import choose_points
from pyloc_core.maps import LossMaps
from pyloc_core.pose import PoseEstimate, as_cam_from_world


def localize_in_map(
    matcher: PairMatcher,
    localizer: Localizer,
    image: Any,
    camera: Any,
    prior: Any = None,
    *,
    num_views: int = 2,
    scene: str | None = None,
    options: PairOptions | None = None,
    seed: int = 0,
    num_threads: int | None = None,
) -> PairLocalization:
    """Pose of a photo in a map, by a network that looks at pairs, such as NeurHal.

    The localizer's descriptor finds the reference images (or `prior` does); every one of the `num_views`
    nearest is compared with the photo at the map's points that it sees. Loss maps of all pairs lie over the
    same photo, so they are put together: one pose from all of them, a point's maps counting as often as
    reference images see it.

    Args:
        matcher: see `PairMatcher`.
        localizer: of the map; its options bound the number of points.
        image, camera, prior, scene: as `Localizer.localize` takes them.

    Returns:
        PairLocalization; `maps` and `estimate.inlier_probability` run over the observations used.

    Raises:
        ValueError, TypeError: as `Localizer.localize`; a map that holds no images; num_views below 1.
    """
    model, camera = localizer.map, as_camera(camera)
    if not len(model.images):
        raise ValueError("the map holds no reference images: a pair matcher needs them")
    if num_views < 1:
        raise ValueError(f"num_views must be at least 1, got {num_views}")
    pixels = read_image(image) if isinstance(image, (str, Path)) else check_image(image)
    if pixels.shape[:2] != camera.size:
        raise ValueError(f"image is {pixels.shape[:2]} and its camera {camera.size}")
    start = None if prior is None else as_cam_from_world(prior, "prior")
    begin = time.perf_counter()
    described = fit_size(pixels, model.options.max_size)
    levels = [] if start is not None else list(localizer.descriptor.dense(described))
    coarse: Any = levels[0] if levels else None
    views = localizer.nearby_views(coarse, start, image=described, scene=scene)
    views = views[:num_views]
    candidates = choose_points(model, views, localizer.options.max_points)
    retrieved = time.perf_counter()
    obs = candidates.obs
    pairs = []
    for view in views:
        seen = obs[model.obs_view[obs] == view]
        if len(seen):
            features = _compare(matcher, model, int(view), pixels, seen)
            maps = features.loss_maps(
                max_entries=(options or PairOptions()).max_entries, num_threads=num_threads
            )
            pairs.append((features.camera(camera), maps, model.obs_point[seen]))
    if not pairs:
        nothing = PoseEstimate.failed("no point of the map is seen by the chosen images", 0)
        empty = LossMaps(np.zeros(1, np.int64), np.zeros((0, 2)), np.zeros(0), size=(1, 1))
        return PairLocalization(nothing, nothing, empty, camera)
    joint = LossMaps.concatenate([maps for _, maps, _ in pairs])
    points = model.xyz[np.concatenate([point for _, _, point in pairs])]
    compared = time.perf_counter()
    found = pose_from_maps(
        joint, points, pairs[0][0], options=options, seed=seed, num_threads=num_threads
    )
    seconds = {"retrieve": retrieved - begin, "match_pairs": compared - retrieved}
    timings = {**seconds, **found.estimate.timings}
    name = model.scenes[model.view_scene[views[0]]] if found.estimate.success else ""
    return replace(found, estimate=replace(found.estimate, timings=timings, scene=name))


def _compare(
    matcher: PairMatcher, model: Map, view: int, photo: np.ndarray, obs: np.ndarray
) -> PairFeatures:
    """The photo against one reference image; grey against grey."""
    source = model.images[view]
    target = photo
    if source.ndim == 2 and photo.ndim == 3:
        target = np.clip(np.rint(to_gray(photo)), 0, 255).astype(np.uint8)
    return matcher.match_pair(np.asarray(source), target, model.obs_xy[obs])
