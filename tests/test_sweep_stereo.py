# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the sweep without weights: descriptors, smoothing, best views, sources, undistortion."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cv2")

import depth_scene

import pyloc_core as pl
from pyloc_core.depth.consistency import without_speckles
from pyloc_core.depth.patch_descriptors import patch_descriptors
from pyloc_core.depth.pipeline import range_of
from pyloc_core.depth.point_check import check_points
from pyloc_core.depth.posed_images import PosedImage, undistort
from pyloc_core.depth.semi_global import DIRECTIONS, aggregate
from pyloc_core.depth.sweep_stereo import SweepStereo, best_mean
from pyloc_core.depth.view_choice import choose_sources


def posed() -> list[PosedImage]:
    """The rendered views with no points."""
    views = []
    for shot in depth_scene.shots():
        image, camera, seen = undistort(shot.image, shot.view.camera)
        nothing = np.zeros(0, np.int64), np.zeros((0, 3))
        views.append(
            PosedImage(shot.view.name, image, camera, shot.view.cam_from_world, *nothing, seen)
        )
    return views


def test_descriptors_are_correlations_of_patches() -> None:
    rng = np.random.default_rng(0)
    picture = rng.uniform(size=(9, 11)).astype(np.float32)
    found = patch_descriptors(picture, 2, noise=0.0)
    assert found.shape == (25, 9, 11) and found.dtype == np.float32
    g = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.5**2))
    weights = np.outer(g, g) / np.outer(g, g).sum()

    def patch(y: int, x: int) -> np.ndarray:
        return picture[y - 2 : y + 3, x - 2 : x + 3].astype(np.float64)

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - (weights * a).sum(), b - (weights * b).sum()
        return (weights * a * b).sum() / np.sqrt((weights * a * a).sum() * (weights * b * b).sum())

    for one, two in (((4, 5), (3, 3)), ((2, 2), (6, 8)), ((4, 4), (4, 4))):
        wanted = correlation(patch(*one), patch(*two))
        assert found[:, one[0], one[1]] @ found[:, two[0], two[1]] == pytest.approx(
            wanted, abs=1e-5
        )
    brighter = patch_descriptors(0.3 * picture + 0.5, 2, noise=0.0)
    np.testing.assert_allclose(brighter, found, atol=1e-4)


def test_flat_patches_resemble_nothing() -> None:
    rng = np.random.default_rng(0)
    flat = (0.5 + 0.0005 * rng.standard_normal((20, 20))).astype(np.float32)
    found = patch_descriptors(flat)
    assert (found * found).sum(0).max() < 0.1
    with pytest.raises(ValueError, match="radius"):
        patch_descriptors(flat, 0)
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        patch_descriptors(flat[0])


@pytest.mark.parametrize("paths", [4, 8])
def test_smoothing_is_hirschmuellers_recursion(paths: int) -> None:
    rng = np.random.default_rng(1)
    cost = rng.uniform(size=(5, 6, 7)).astype(np.float32)
    guide = rng.uniform(size=(6, 7)).astype(np.float32)
    step, jump, edge = 0.1, 0.5, 0.2
    total = np.zeros(cost.shape)
    for dy, dx in DIRECTIONS[:paths]:
        path = np.zeros(cost.shape)
        rows = range(6) if dy > 0 or dy == 0 else range(5, -1, -1)
        columns = range(7) if dx >= 0 else range(6, -1, -1)
        for y, x in itertools.product(rows, columns):
            py, px = y - dy, x - dx
            if dy and not 0 <= px < 7 and 0 <= py < 6:
                px = x  # a diagonal that enters at the side begins with the border's own path
            if not (0 <= py < 6 and 0 <= px < 7):
                path[:, y, x] = cost[:, y, x]
                continue
            before = path[:, py, px]
            high = max(jump / (1 + abs(guide[y, x] - guide[py, px]) / edge), step)
            for d in range(5):
                options = [before[d], before.min() + high]
                options += [before[k] + step for k in (d - 1, d + 1) if 0 <= k < 5]
                path[d, y, x] = cost[d, y, x] + min(options) - before.min()
        total += path
    found = aggregate(cost, guide, step=step, jump=jump, edge=edge, paths=paths)
    np.testing.assert_allclose(found, total / paths, rtol=1e-4)


def test_smoothing_refuses_what_does_not_fit() -> None:
    cost = np.ones((3, 4, 5), np.float32)
    with pytest.raises(ValueError, match="guide"):
        aggregate(cost, np.ones((5, 4), np.float32), step=0.1, jump=1)
    with pytest.raises(ValueError, match="paths must be 4 or 8"):
        aggregate(cost, cost[0], step=0.1, jump=1, paths=5)


def test_the_best_views_are_averaged_and_unseen_ones_left_out() -> None:
    rng = np.random.default_rng(2)
    views = rng.uniform(-1, 1, (5, 3, 4)).astype(np.float32)
    views[rng.random(views.shape) < 0.5] = -2
    views[:, 0, 0] = -2
    mean, seen = best_mean(list(views), 3)
    for y, x in itertools.product(range(3), range(4)):
        there = np.sort(views[:, y, x][views[:, y, x] > -2])[::-1][:3]
        assert seen[y, x] == bool(len(there))
        assert mean[y, x] == pytest.approx(there.mean() if len(there) else 0, abs=1e-6)


def test_a_hidden_strip_is_filled_by_the_views_that_see_it() -> None:
    """Left of the board the views on the right do not see the wall; with views on both sides, it is."""
    views, truth = posed(), depth_scene.exact_maps()[2].depth
    both, _ = SweepStereo()(views[2], [views[0], views[1], views[3], views[4]], 2.0, 7.0)
    right, _ = SweepStereo()(views[2], [views[3], views[4]], 2.0, 7.0)
    y = depth_scene.exact_maps()[2].world_points()[..., 1]
    rows, columns = np.nonzero(np.abs(y - depth_scene.rgbd_scene.BOARD) < 1e-3)
    strip = np.s_[rows.min() + 5 : rows.max() - 15, columns.min() - 14 : columns.min() - 6]
    wrong = [np.mean(np.abs(d / truth - 1)[strip] > 0.1) for d in (both, right)]
    assert wrong[0] < 0.25 and wrong[1] > wrong[0] + 0.2


def test_one_sweep_is_coarser_than_two() -> None:
    views, truth = posed(), depth_scene.exact_maps()[2].depth
    sources = [views[i] for i in (0, 1, 3, 4)]
    error = []
    for fine in (0, 9):
        depth, confidence = SweepStereo(fine_planes=fine)(views[2], sources, 2.0, 7.0)
        assert depth.dtype == confidence.dtype == np.float32 and depth.shape == truth.shape
        assert confidence.min() >= 0 and confidence.max() <= 1
        error.append(np.median(np.abs(depth / truth - 1)))
    assert error[1] < 0.7 * error[0] and error[0] < 0.02


def test_the_sweep_does_not_depend_on_threads_and_refuses_bad_ranges() -> None:
    views = posed()
    one, _ = SweepStereo(num_threads=1)(views[0], views[1:3], 2.0, 7.0)
    two, _ = SweepStereo(num_threads=2)(views[0], views[1:3], 2.0, 7.0)
    np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match=r"0\.png: no sources"):
        SweepStereo()(views[0], [], 2.0, 7.0)
    for near, far in ((0, 1), (3, 2), (1, np.inf), (np.nan, 2)):
        with pytest.raises(ValueError, match="0 < near < far"):
            SweepStereo()(views[0], views[1:2], near, far)


def test_sources_that_look_away_give_no_depth() -> None:
    views = posed()
    turned = replace(views[1], cam_from_world=np.diag([-1.0, 1, -1]) @ views[1].cam_from_world)
    depth, confidence = SweepStereo()(views[0], [turned], 2.0, 7.0)
    assert not depth.any() and not confidence.any()


def test_without_points_sources_are_the_nearest_that_look_the_same_way() -> None:
    views = posed()
    turned = replace(views[3], cam_from_world=np.diag([-1.0, 1, -1]) @ views[3].cam_from_world)
    assert choose_sources([*views[:3], turned, views[4]], 2)[2] == [1, 0]
    twice = replace(views[1], name="twin")  # no baseline
    assert 5 not in choose_sources([*views, twice], 5)[1]


def test_ranges_come_from_what_is_given_the_points_or_the_cameras() -> None:
    views = posed()
    assert range_of(views[0], views[1:], 1.0, 3.0) == (1.0, 3.0)
    near, far = range_of(views[0], views[1:])
    assert 0 < near < 2.5 and far > 6
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-1, 1, 500), np.full(500, 5.0), rng.uniform(0.5, 2, 500)])
    points[:2, 1] = 2000.0  # two wrong ones do not count
    told = replace(views[2], points=points, point_ids=np.arange(500))
    near, far = range_of(told, views)
    assert near == pytest.approx(5 / 1.3, rel=0.05) and far == pytest.approx(5 * 1.3, rel=0.05)
    with pytest.raises(ValueError, match=r"2\.png: near must be less than far"):
        range_of(told, views, near=50.0)
    still = replace(views[1], cam_from_world=views[0].cam_from_world)
    with pytest.raises(ValueError, match=r"0\.png: no source has a baseline"):
        range_of(views[0], [still])


def test_undistortion_gives_the_pinhole_picture() -> None:
    bent, straight = depth_scene.BENT, depth_scene.shots()[1]
    image, camera, seen = undistort(straight.image, bent)
    assert camera.model == "PINHOLE" and camera.size == bent.size and seen is None
    y, x = 70, 40  # where a ray of the pinhole camera meets the distorted picture
    ray = np.array([[(x + 0.5 - 95) / 150, (y + 0.5 - 73) / 150, 1.0]])
    at = np.asarray(bent.project(ray)[0])[0] - 0.5
    low = np.floor(at).astype(int)
    a, b = at - low
    corners = straight.image[low[1] : low[1] + 2, low[0] : low[0] + 2].astype(float)
    wanted = np.array([1 - b, b]) @ (corners.transpose(2, 0, 1) @ np.array([1 - a, a])).T
    assert np.abs(image[y, x] - wanted).max() < 4  # OpenCV takes 1/32 of a pixel
    cushion = pl.Camera("SIMPLE_RADIAL", 192, 144, (150.0, 95.0, 73.0, 0.1))
    image, _, seen = undistort(straight.image, cushion)
    assert seen is not None and not seen[0, 0] and seen[72, 96] and not image[~seen].any()
    plain, _, seen = undistort(straight.image, depth_scene.PLAIN)
    assert plain is straight.image and seen is None


def test_points_are_compared_at_their_pixels() -> None:
    view, truth = posed()[2], depth_scene.exact_maps()[2]
    cells = np.array([[30, 20], [100, 50], [150, 130], [10, 140]])
    points = truth.world_points()[cells[:, 1], cells[:, 0]]
    told = replace(view, points=points, point_ids=np.arange(4))
    depth = truth.depth.copy()
    depth[50, 100] *= 1.02
    depth[130, 150] *= 1.5
    depth[140, 10] = 0
    check = check_points(told, depth)
    assert (check.points, check.covered) == (4, 0.75)
    assert check.median == pytest.approx(0.02, rel=1e-3)
    assert check.within_1 == pytest.approx(1 / 3) and check.within_3 == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"2\.png"):
        check_points(told, depth[1:])


def test_speckles_go_and_surfaces_stay() -> None:
    depth = np.full((40, 50), 5.0, np.float32)
    depth[:, 25:] = 8.0
    depth[10:13, 10:13] = 6.0
    depth[30, 40] = 0
    kept = without_speckles(depth, 20)
    assert not kept[10:13, 10:13].any() and kept[30, 40] == 0
    assert (kept > 0).sum() == depth.size - 10
    np.testing.assert_array_equal(kept[kept > 0], depth[kept > 0])
    np.testing.assert_array_equal(without_speckles(depth, 0), depth)
    assert not without_speckles(np.zeros((4, 4), np.float32), 9).any()


@pytest.mark.parametrize(("focal", "k"), [(100.0, -0.3), (150.0, -0.3), (100.0, -0.1)])
def test_no_pixel_is_made_of_the_mirrored_picture_beyond_a_fold(focal: float, k: float) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    camera = pl.Camera("SIMPLE_RADIAL", 400, 300, (focal, 200.0, 150.0, k))
    straight, _, seen = undistort(picture, camera)
    y, x = np.mgrid[0:300, 0:400] + 0.5
    radius = np.hypot(x - 200, y - 150) / focal
    fold = (-1 / (3 * k)) ** 0.5  # r (1 + k r^2) turns back there
    known = np.ones(radius.shape, bool) if seen is None else seen
    assert known[radius < fold - 2 / focal].all() and not known[radius > fold + 2 / focal].any()
    assert (straight[~known] == 0).all()
