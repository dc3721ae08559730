# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From the files of a set to its errors: the sweep without weights, a network, the plain operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("cv2")

from depth_folders import camera, plane_view, write_mvsnet

import pyloc_core as pl
from pyloc_core.depth.evaluate import evaluate_depth
from pyloc_core.depth.layouts import DepthSample, DepthSet, read_mvsnet
from pyloc_core.depth.patch_descriptors import grey_picture, patch_descriptors
from pyloc_core.depth.predictors import NetworkPredictor, SweepPredictor, _relative
from pyloc_core.depth.sparsification import sparsification

SCALE, SIZE = 4, (96, 128)
K = camera(SCALE)


@pytest.fixture
def planes(tmp_path) -> DepthSet:
    write_mvsnet(tmp_path / "room", scale=SCALE)
    return read_mvsnet(tmp_path, name="planes", count=3)


def test_the_sweep_finds_the_plane(planes) -> None:
    """A textured plane: most pixels within 3 %, range from the cameras alone or given."""
    for range_from in ("cameras", "given"):
        found = evaluate_depth(planes, SweepPredictor(range_from=range_from))
        assert found.mean.abs_rel < 15 and found.mean.inliers > 40, found.mean
    strict = SweepPredictor(range_from="given", least_confidence=0.9)
    sure = evaluate_depth(planes, strict, sparse=True).mean
    assert sure.abs_rel < 0.8 * found.mean.abs_rel and 20 < sure.density < 100
    known = evaluate_depth(planes, SweepPredictor(range_from="given", confidence=True))
    assert known.mean == found.mean and 0 < known.ause < 0.6
    wrong = evaluate_depth(planes, lambda s: np.full(SIZE, 4.0))
    assert wrong.mean.inliers < 20  # a constant does not do


def test_the_plain_operators_find_the_plane(planes) -> None:
    """depth_range, log_depth_planes, plane_sweep, soft_argmax_depth and refine_depth_range, twice."""

    def predict(sample: DepthSample) -> Any:
        maps = [
            patch_descriptors(grey_picture(v.read(), SIZE))
            for v in (sample.reference, *sample.sources)
        ]
        K_map, poses = pl.scale_intrinsics(K, SIZE, SIZE), _relative(sample)
        near, far = pl.depth_range(K, poses, SIZE)
        for _ in range(2):
            depths = pl.log_depth_planes(near, far, 48)
            volume = pl.plane_sweep(
                maps[0], np.stack(maps[1:]), K_map, np.stack([K_map] * len(poses)), poses, depths
            )
            depth = pl.soft_argmax_depth(volume, depths, sharpness=30.0, window=2)
            sure = pl.volume_confidence(volume, sharpness=30.0, around="peak")
            first.setdefault(sample.name, (depth, sure))
            near, far = pl.refine_depth_range(depth, near, far, valid=sure > 0.5)
        return depth

    first: dict[str, Any] = {}
    found = evaluate_depth(planes, predict)
    assert found.mean.inliers > 50 and found.mean.abs_rel < 15, found.mean
    for sample in planes:  # over the whole range the confidence knows where the depth is wrong
        truth, (depth, sure) = sample.read_depth(), first[sample.name]
        known = sparsification(depth, truth, sure)
        none = sparsification(depth, truth, np.random.default_rng(0).uniform(size=SIZE))
        assert known.ause < 0.75 * none.ause


class FakeNetwork:
    """Answers with the depth of the plane, if it is told the views it is asked about."""

    def predict(
        self, image, sources, K_reference, K_sources, source_from_reference, **options
    ) -> Any:
        assert image.shape == (48, 64, 3) and all(s.shape == image.shape for s in sources)
        np.testing.assert_allclose(K_reference, K * [[0.5], [0.5], [1]])
        assert K_sources.shape == (len(sources), 3, 3)
        self.options, self.poses = options, source_from_reference
        return type("Found", (), {"depth": np.full((1, 48, 64), 5.0)})


def test_a_network_gets_images_of_its_size_and_their_cameras(planes) -> None:
    network = FakeNetwork()
    sample = planes.samples[2]
    predict = NetworkPredictor(network, size=(48, 64), range_from="given", half=True)
    assert predict(sample).shape == (48, 64)
    assert network.options == {"half": True, "depth_range": pytest.approx((2, 9))}
    first, second = plane_view(2).cam_from_world, plane_view(1).cam_from_world
    point = np.array([0.3, -0.2, 4.0])
    local = first[:, :3] @ point + first[:, 3]
    moved = network.poses[0][:, :3] @ local + network.poses[0][:, 3]
    np.testing.assert_allclose(moved, second[:, :3] @ point + second[:, 3], atol=1e-9)
    NetworkPredictor(network, size=(48, 64))(sample)
    assert network.options == {}
    assert (
        evaluate_depth(planes, NetworkPredictor(network, size=(48, 64))).mean.pixels
        == 5 * SIZE[0] * SIZE[1]
    )


def test_bad_input(planes) -> None:
    with pytest.raises(ValueError, match="did you mean 'given'"):
        SweepPredictor(range_from="givne")
    from dataclasses import replace

    with pytest.raises(ValueError, match="without a range"):
        SweepPredictor(range_from="given")(replace(planes.samples[0], depth_range=None))


def test_mvsanywhere_is_judged_like_any_predictor(planes) -> None:
    """A small one with random weights, on images resampled to a size it takes: it runs, and knows nothing."""
    pytest.importorskip("torch")
    from mvsanywhere_scene import SMALL

    from pyloc_core import models

    network = models.create("mvsanywhere_dot", seed=3, **SMALL)
    found = evaluate_depth(planes.samples[:2], NetworkPredictor(network, size=(64, 96)))
    assert [s.errors.pixels for s in found.samples] == [SIZE[0] * SIZE[1]] * 2
    assert np.isfinite(found.mean.abs_rel) and found.mean.inliers < 30
    given = NetworkPredictor(network, size=(64, 96), range_from="given", refinements=0)
    depth = given(planes.samples[0])
    assert float(depth.min()) >= 2 and float(depth.max()) <= 9
