# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Drawn scenes: depth, poses and intrinsics must explain the pictures."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

import pyloc_core as pl
from pyloc_core.localization.depth_views import DepthView
from pyloc_core.training import DepthScene, RenderedScenes

KINDS = ("street", "ground", "room")


@pytest.fixture(scope="module", params=KINDS)
def scene(request) -> DepthScene:
    return RenderedScenes(count=1, views=3, kinds=(request.param,), seed=5)[0]


def _bilinear(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Values of (H, W, ...) at points (N, 2) whose cell centres are at integers, inside the map."""
    x0, y0 = (np.clip(np.floor(v).astype(int), 0, n - 2) for v, n in zip(xy.T, image.shape[1::-1]))
    image = image.astype(np.float64).reshape(*image.shape[:2], -1)
    fx, fy = (xy - np.stack([x0, y0], 1)).T[:, :, None]
    top = (1 - fx) * image[y0, x0] + fx * image[y0, x0 + 1]
    low = (1 - fx) * image[y0 + 1, x0] + fx * image[y0 + 1, x0 + 1]
    return (1 - fy) * top + fy * low


def _warped(scene: DepthScene, view: int, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Another view at the pixels of view 0, and where it sees the same surface."""
    h, w = depth.shape
    xy = np.stack(np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5), -1).reshape(-1, 2)
    rays = np.column_stack([xy, np.ones(len(xy))]) @ np.linalg.inv(scene.K[0]).T
    world = pl.transform_points(
        pl.inverse_pose(scene.cam_from_world[0]), rays * depth.reshape(-1, 1)
    )
    local = pl.transform_points(scene.cam_from_world[view], world)
    seen = local @ scene.K[view].T
    at = seen[:, :2] / np.maximum(seen[:, 2:], 1e-6) - 0.5
    inside = (seen[:, 2] > 0) & (at >= 0).all(1) & (at <= [w - 1, h - 1]).all(1)
    at[~inside] = 0
    there = _bilinear(scene.depth[view], at)[:, 0]
    same = inside & (np.abs(there - local[:, 2]) < 0.01 * local[:, 2])
    return _bilinear(scene.images[view], at), same


def test_a_neighbour_warped_by_the_depth_is_the_picture(scene):
    own = scene.images[0].reshape(-1, 3).astype(np.float64)
    for view in (1, 2):
        picture, same = _warped(scene, view, scene.depth[0].astype(np.float64))
        assert same.mean() > 0.5
        error = np.abs(picture - own)[same].mean()
        _, also = _warped(scene, view, 1.25 * scene.depth[0].astype(np.float64))
        plain = np.abs(scene.images[view].reshape(-1, 3) - own).mean()
        # A pixel is the mean over its area, so fine texture differs between views.
        assert error < 10 and error < 0.4 * plain
        # A quarter too far is seen: where it still agrees with the neighbour's depth is chance.
        assert also.mean() < 0.5 * same.mean()


@pytest.mark.parametrize("kind", ["street", "room"])
def test_depth_is_of_the_ray_through_the_centre_of_the_pixel(kind):
    """The floor is z = 0, to rounding; read a quarter of a pixel beside it is not."""
    scene = RenderedScenes(count=1, views=3, kinds=(kind,), seed=5)[0]
    h, w = scene.depth.shape[1:]
    shares = []
    for beside in (0.0, 0.25):
        xy = np.stack(np.meshgrid(np.arange(w) + 0.5 + beside, np.arange(h) + 0.5), -1)
        share = 0.0
        for depth, K, pose in zip(scene.depth, scene.K, scene.cam_from_world, strict=True):
            rays = np.concatenate([xy, np.ones((h, w, 1))], -1) @ np.linalg.inv(K).T
            local = rays * depth[..., None].astype(np.float64)
            height = (local.reshape(-1, 3) - pose[:, 3]) @ pose[:, 2]
            share += np.mean(np.abs(height) < 2e-6 * depth.reshape(-1)) / len(scene.depth)
        shares.append(share)
    assert shares[0] > 0.1 and shares[1] < 0.05


def test_depth_is_metric_and_deep(scene):
    assert scene.images.shape == (3, 96, 128, 3) and scene.images.dtype == np.uint8
    assert scene.depth.shape == (3, 96, 128) and scene.depth.dtype == np.float32
    assert (scene.depth > 0).all()
    for depth in scene.depth:
        assert depth.max() >= 20 * depth.min()
    assert len({scene.images[v].tobytes() for v in range(3)}) == 3
    centres = np.stack([pl.inverse_pose(pose)[:, 3] for pose in scene.cam_from_world])
    assert (np.linalg.norm(centres[1:] - centres[0], axis=1) > 0.04).all()
    view = scene.view(1)
    assert isinstance(view, DepthView) and view.camera.size == (96, 128)


def test_texture_is_everywhere(scene):
    grey = scene.images[0].astype(np.float64).mean(-1)
    blocks = grey.reshape(8, 12, 8, 16).transpose(0, 2, 1, 3).reshape(64, -1)
    assert (blocks.std(1) > 4).mean() > 0.9


def test_sky_has_no_depth():
    scenes = RenderedScenes(count=4, views=2, sky=1.0, seed=2, size=(48, 64))
    for scene in scenes:
        empty = scene.depth == 0
        assert 0.02 < empty[0].mean() < 0.6
        assert np.isfinite(scene.depth).all()
        # It is above: the highest row has more of it than the lowest.
        assert empty[:, :8].sum() > empty[:, -8:].sum() == 0
    mixed = RenderedScenes(count=12, views=1, sky=0.5, seed=2, size=(48, 64))
    with_sky = [bool((scene.depth == 0).any()) for scene in mixed]
    assert any(with_sky) and not all(with_sky)


def test_a_scene_depends_on_the_seed_and_its_number():
    options = {"count": 3, "views": 2, "size": (48, 64)}
    first, again = RenderedScenes(**options, seed=1), RenderedScenes(**options, seed=1)
    one = again[2]  # asked for first, and alone
    for name in ("images", "depth", "cam_from_world"):
        assert np.array_equal(getattr(first[2], name), getattr(one, name))
    assert first[2] is first[2] and first[-1] is first[2]
    other = RenderedScenes(**options, seed=2)[2]
    assert not np.array_equal(other.images, one.images)
    forgetful = RenderedScenes(**options, seed=1, keep=0)
    assert np.array_equal(forgetful[2].images, one.images) and not forgetful._kept
    with pytest.raises(IndexError):
        first[3]


def test_scale_multiplies_lengths_alone():
    options = {"count": 2, "views": 2, "size": (48, 64), "seed": 3}
    plain, scaled = RenderedScenes(**options), RenderedScenes(**options, scale=1.5)
    for a, b in zip(plain, scaled):
        factor = np.median(b.depth / a.depth)
        assert abs(np.log(factor)) > 1e-3
        np.testing.assert_allclose(b.depth, factor * a.depth, rtol=1e-5)
        np.testing.assert_allclose(
            b.cam_from_world[:, :, 3], factor * a.cam_from_world[:, :, 3], rtol=1e-5
        )
        assert np.array_equal(a.images, b.images)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kinds": ("sea",)}, "kinds"),
        ({"kinds": ()}, "kinds"),
        ({"size": (8, 64)}, "size"),
        ({"sky": 1.5}, "sky"),
        ({"views": 0}, "views"),
        ({"noise": float("nan")}, "noise"),
    ],
)
def test_bad_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        RenderedScenes(**options)


def test_an_impossible_ratio_is_said():
    with pytest.raises(ValueError, match="depth ratio 5000"):
        RenderedScenes(count=1, views=1, size=(16, 16), ratio=5000)[0]
