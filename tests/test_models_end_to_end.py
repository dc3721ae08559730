# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Real photos localized with the wrapped networks, from images to a pose, with random weights.

What is shown is that every part fits every other. The poses come out right all the same, since random
convolutions describe small patches well enough for photos taken near to each other; weights that were
trained are far better. Measured here: S2DNet 0.16 degrees and 0.3 % of the depth; S2DHM in the localizer 1.2
degrees and 2.2 %, by itself 1.0 degrees and 1.8 %, with the published pixel rule 2.4 degrees and 3.0 %.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for module in ("cv2", "PIL", "pycolmap", "safetensors"):
    pytest.importorskip(module)

import pyloc_core as pc  # noqa: E402
from pyloc_core import models  # noqa: E402
from pyloc_core.localization import Localizer, Map, read_image  # noqa: E402
from pyloc_core.localization.images import fit_size  # noqa: E402
from pyloc_core.localization.map_build import ModelArrays  # noqa: E402
from pyloc_core.localization.scene import Scene  # noqa: E402

pytestmark = pytest.mark.slow
SIZE, VIEWS = 256, 4


class Problem:
    """A photo of fountain_P11, and a model of the photos next to it: points, cameras, pictures."""

    def __init__(self, shared: Path) -> None:
        scene = Scene.open(shared / "data" / "fountain_P11")
        self.query = query = scene.query(scene.problems[5])
        self.image = read_image(query.image)
        poses = np.array([scene.cam_from_world[n] for n in query.view_names])
        centre = pc.camera_center(query.cam_from_world)
        near = np.argsort(np.linalg.norm(pc.camera_center(poses) - centre, axis=1))[:VIEWS]
        position = np.full(len(poses), -1)
        position[near] = np.arange(VIEWS)
        view = position[query.obs_view]
        point = np.repeat(np.arange(len(query.xyz)), np.diff(query.obs_ptr))[view >= 0]
        names = [query.view_names[i] for i in near]
        self.prior = poses[near[0]]
        self.arrays = ModelArrays.checked(
            query.xyz, np.cumsum([0, *np.bincount(point, minlength=len(query.xyz))]),
            view[view >= 0], names, [scene.cameras[n] for n in names], poses[near],
            [read_image(scene.folder / "images" / n) for n in names], None,
        )  # fmt: skip

    def error(self, estimate: Any) -> tuple[float, float]:
        """Degrees, and distance of the camera over the median depth."""
        angle, distance = pc.pose_error(estimate.cam_from_world, self.query.cam_from_world)
        return angle, distance / self.query.median_depth

    def map(self, descriptor: Any, **options: Any) -> Map:
        a = self.arrays
        return Map.from_arrays(
            a.xyz, a.obs_ptr, a.obs_view, image_names=a.image_names, cameras=a.cameras,
            cam_from_world=a.cam_from_world, images=a.images, descriptor=descriptor,
            max_size=SIZE, scales=(1.0,), max_views=2, **options,
        )  # fmt: skip


@pytest.fixture(scope="module")
def problem(shared: Path) -> Problem:
    return Problem(shared)


def normalised(model: Any, image: np.ndarray) -> Any:
    """The statistics of the normalisation taken from a picture, as training leaves them."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(model.preprocess(image))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def test_s2dnet_in_map_and_localizer(problem: Problem, tmp_path: Path) -> None:
    """Retrieval by the network's own coarse level; the map goes through a file."""
    model = normalised(models.create("s2dnet"), fit_size(problem.image, SIZE))
    problem.map(model, vocabulary=16).save(tmp_path / "map")
    place = Map.load(tmp_path / "map")
    estimate = Localizer(place, model, max_points=600).localize(problem.image, problem.query.camera)
    assert estimate.success, estimate.reason
    angle, share = problem.error(estimate)
    assert angle < 0.6 and share < 0.012
    with pytest.raises(ValueError, match="the map was built with"):
        Localizer(place, models.create("s2dnet", seed=1))
    with pytest.raises(ValueError, match="pass that descriptor"):
        Localizer(place)


def test_s2dhm_in_map_and_localizer(problem: Problem) -> None:
    """One level: the pose of the coarse stage is the pose."""
    model = models.create("s2dhm")
    localizer = Localizer(problem.map(model, vocabulary=0), model, max_points=600)
    found = localizer.localize_detailed(problem.image, problem.query.camera, problem.prior)
    assert found.estimate.success, found.estimate.reason
    assert found.fine_maps is None
    angle, share = problem.error(found.estimate)
    assert angle < 6.0 and share < 0.1


def test_s2dhm_sparse_to_dense(problem: Problem) -> None:
    from pyloc_core.models.s2dhm.localizer import S2DHMLocalizer

    model = models.create("s2dhm", max_size=SIZE)
    # Random hypercolumns are alike everywhere: the published ratio of 0.9 would drop all matches.
    right = S2DHMLocalizer.from_arrays(model, problem.arrays, ratio=0.998, factor=0.02)
    poses = {}
    for compat in (None, "published"):
        localizer = S2DHMLocalizer(model, right.references, options=right.options, compat=compat)
        found = localizer.localize_detailed(problem.image, problem.query.camera)
        assert found.estimate.success, found.estimate.reason
        angle, share = problem.error(found.estimate)
        assert angle < 4.0 and share < 0.1
        assert max(found.num_inliers) >= 12
        poses[compat] = np.asarray(found.estimate.cam_from_world)
    # Photos of one size with cells that are nearly square: the published pixel rule does little harm.
    assert 0 < pc.pose_error(poses[None], poses["published"])[0] < 2.0
