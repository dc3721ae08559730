# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A pair matcher against a map of a rendered scene: several reference images, one pose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2")

from rgbd_scene import CAMERA, faces, pose, view

import pyloc_core as pl
from pyloc_core.localization import Localizer, Map
from pyloc_core.localization.depth_views import keypoint_grid
from pyloc_core.localization.pair import PairFeatures, PairOptions
from pyloc_core.localization.pair_map import localize_in_map

REFERENCES = [pose(0.3, aim=0.4), pose(1.1, aim=1.0), pose(-0.4, aim=-0.5)]
TRUTH = pose(-1.0, aim=-1.4)
OPTIONS = PairOptions(iterations=300)


@pytest.fixture(scope="module")
def scene() -> Any:
    rendered = faces()
    views = [view(p, rendered) for p in REFERENCES]
    xyz, owners = [], []
    for index, (_, seen) in enumerate(views):
        xy = keypoint_grid(CAMERA.size, 16)
        xy = xy[~seen.steep(xy)]
        xyz.append(seen.lift(xy))
        owners.append(np.full(len(xy), index))
    points = np.concatenate(xyz)
    model = Map.from_arrays(
        points, np.arange(len(points) + 1), np.concatenate(owners),
        image_names=["a", "b", "c"], cameras=[CAMERA] * 3, cam_from_world=REFERENCES,
        images=[image for image, _ in views], max_size=192, vocabulary=8,
    )  # fmt: skip
    return Localizer(model), view(TRUTH, rendered)[0]


class Knowing:
    """The truth for the points of the reference image that it is given."""

    def __init__(self, model: Map) -> None:
        self.model, self.asked = model, []

    def match_pair(self, source: Any, target: Any, xy: Any) -> PairFeatures:
        assert source.ndim == target.ndim == 2 and target.dtype == np.uint8
        index = next(i for i, im in enumerate(self.model.images) if np.array_equal(im, source))
        self.asked.append(index)
        obs = self.model.observations_of(index)
        rows = [int(np.flatnonzero((self.model.obs_xy[obs] == p).all(1))[0]) for p in xy]
        points = self.model.xyz[self.model.obs_point[obs[rows]]]
        seen, _ = CAMERA.project(pl.transform_points(TRUTH, points))
        frame = (-12, -9), (18, 24), (144, 192), (144, 192)
        empty = PairFeatures(None, np.zeros((4, 36, 48)), *frame)
        p = empty.to_map(seen, CAMERA.size) / 1.2
        y, x = np.mgrid[-9:27, -12:36] / 1.2
        maps = np.stack([x, y, -(x**2 + y**2) / 2, np.ones_like(x)]).astype(np.float32)
        h = np.c_[p, np.ones(len(p)), np.zeros(len(p))].astype(np.float32)
        return PairFeatures(h, maps, *frame)


def test_maps_of_several_reference_images_give_one_pose(scene: Any) -> None:
    localizer, photo = scene
    counts = []
    for num_views in (1, 3):
        matcher = Knowing(localizer.map)
        found = localize_in_map(
            matcher, localizer, photo, CAMERA, num_views=num_views, options=OPTIONS
        )
        assert found.estimate.success, found.estimate.reason
        degrees, distance = pl.pose_error(found.estimate.cam_from_world, TRUTH)
        assert degrees < 1.0 and distance < 0.12  # cells are 3 degrees wide
        assert len(matcher.asked) == len(set(matcher.asked)) == num_views
        assert found.maps.origin == (-12, -9)
        counts.append(len(found.maps))
    assert counts[1] > 1.5 * counts[0]
    assert {"retrieve", "match_pairs", "consensus", "refine"} == set(found.estimate.timings)


def test_a_prior_chooses_the_reference_images(scene: Any) -> None:
    localizer, photo = scene
    matcher = Knowing(localizer.map)
    found = localize_in_map(
        matcher, localizer, photo, CAMERA, REFERENCES[1], num_views=1, options=OPTIONS
    )
    assert matcher.asked == [1] and np.isfinite(found.estimate.cam_from_world).all()


def test_neurhal_in_a_map(scene: Any) -> None:
    """Random weights: function, not accuracy."""
    pytest.importorskip("torch")
    from pyloc_core import models

    localizer, photo = scene
    network = models.create("neurhal", map_edge=12)
    found = localize_in_map(
        network, localizer, photo, CAMERA, num_views=2, options=PairOptions(iterations=64)
    )
    assert found.estimate.reason and found.maps.image_cells == (9, 12)


def test_refusals(scene: Any) -> None:
    from dataclasses import replace

    localizer, photo = scene
    matcher = Knowing(localizer.map)
    with pytest.raises(ValueError, match="num_views"):
        localize_in_map(matcher, localizer, photo, CAMERA, num_views=0)
    with pytest.raises(ValueError, match="camera"):
        localize_in_map(matcher, localizer, photo[:-1], CAMERA)
    bare = Localizer(replace(localizer.map, images=[]))
    with pytest.raises(ValueError, match="no reference images"):
        localize_in_map(matcher, bare, photo, CAMERA)
