# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The check of depth maps against each other, normals and the fused cloud, on exact depths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cv2")

import depth_scene
import rgbd_scene

from pyloc_core.depth.consistency import DepthMap, agreement, confirmed
from pyloc_core.depth.point_cloud import depth_normals, fuse_points
from pyloc_core.depth.preview import depth_colours, depth_picture


@pytest.fixture(scope="module")
def maps() -> list[DepthMap]:
    return depth_scene.exact_maps()


def visible(maps: list[DepthMap], reference: int, other: int) -> np.ndarray:
    """Where the other view sees the same surface, by the scene's own geometry: its point at the same
    place of the world, looked up without interpolation, with room around edges."""
    points = maps[reference].world_points()
    pose = maps[other].cam_from_world
    local = points @ pose[:, :3].T + pose[:, 3]
    K = maps[other].K
    at = local[..., :2] / local[..., 2:] @ np.diag([K[0, 0], K[1, 1]]) + K[:2, 2]
    height, width = maps[other].depth.shape
    cell = np.rint(at).astype(int)
    inside = ((cell >= 1) & (cell < (width - 1, height - 1))).all(-1)
    cell = np.where(inside[..., None], cell, 0)
    return inside & (
        np.abs(maps[other].depth[cell[..., 1], cell[..., 0]] / local[..., 2] - 1) < 0.02
    )


def test_exact_depths_are_confirmed_where_the_other_view_sees_them(maps: list[DepthMap]) -> None:
    answer = agreement(maps[2], maps[3])
    seen = visible(maps, 2, 3)
    assert 0.6 < seen.mean() < 0.97
    assert (answer.agrees & seen).sum() > 0.985 * seen.sum()
    assert (answer.agrees & ~seen).sum() < 0.03 * seen.size  # the other image's border
    agreed = answer.agrees
    np.testing.assert_allclose(answer.depth[agreed], maps[2].depth[agreed], rtol=0.01)


def test_wrong_depths_are_not_confirmed(maps: list[DepthMap]) -> None:
    wrong = replace(maps[2], depth=(maps[2].depth * 1.04).astype(np.float32))
    assert agreement(wrong, maps[3]).agrees.mean() < 0.02
    loose = agreement(wrong, maps[3], max_reprojection=10, max_depth_change=0.05)
    assert loose.agrees.mean() > 0.6


def test_a_pixel_of_depth_noise_is_dropped_and_the_rest_averaged(maps: list[DepthMap]) -> None:
    rng = np.random.default_rng(0)
    noisy = []
    for view in maps:
        depth = view.depth * (1 + 0.002 * rng.standard_normal(view.depth.shape))
        bad = rng.random(depth.shape) < 0.1
        depth[bad] *= rng.uniform(1.1, 2, bad.sum())
        noisy.append(replace(view, depth=depth.astype(np.float32)))
    kept, count = confirmed(noisy[2], [noisy[i] for i in (0, 1, 3, 4)])
    known = kept > 0
    error = np.abs(kept / maps[2].depth - 1)
    before = np.abs(noisy[2].depth / maps[2].depth - 1)
    assert 0.75 < known.mean() < 0.92  # a tenth is wrong, and the borders have one neighbour
    assert np.mean(error[known] < 0.01) > 0.998 > np.mean(before < 0.01)
    good = known & (before < 0.01)
    assert np.std((kept / maps[2].depth)[good]) < 0.75 * 0.002
    assert (count[known] >= 2).all() and (kept[count < 2] == 0).all()


def test_unknown_depths_confirm_nothing(maps: list[DepthMap]) -> None:
    empty = replace(maps[3], depth=np.zeros_like(maps[3].depth))
    assert not agreement(maps[2], empty).agrees.any()
    assert not agreement(empty, maps[2]).agrees.any()
    kept, count = confirmed(maps[2], [])
    assert not kept.any() and not count.any()


def test_views_that_look_away_do_not_disturb(maps: list[DepthMap]) -> None:
    turned = np.diag([-1.0, 1.0, -1.0]) @ maps[3].cam_from_world
    behind = replace(maps[3], cam_from_world=turned)
    assert not agreement(maps[2], behind).agrees.any()


def test_arguments_that_do_not_fit_are_named(maps: list[DepthMap]) -> None:
    with pytest.raises(ValueError, match="least_views must be at least 1"):
        confirmed(maps[2], [maps[3]], least_views=0)
    with pytest.raises(ValueError, match="camera's size"):
        replace(maps[2], depth=maps[2].depth[1:])
    with pytest.raises(ValueError, match="must be PINHOLE"):
        replace(maps[2], camera=depth_scene.BENT)


def test_normals_of_the_wall_the_floor_and_the_board(maps: list[DepthMap]) -> None:
    view = maps[2]
    normals = depth_normals(view)
    in_world = normals @ view.cam_from_world[:, :3]
    points = view.world_points()
    wall = np.abs(points[..., 1] - rgbd_scene.WALL) < 1e-3
    floor = (np.abs(points[..., 2]) < 1e-3) & (points[..., 1] < 3.8)  # else 2 % from row to row
    board = np.abs(points[..., 1] - rgbd_scene.BOARD) < 1e-3
    for part, direction in ((wall, [0, -1, 0]), (floor, [0, 0, 1]), (board, [0, -1, 0])):
        cosine = in_world[part] @ np.array(direction, float)
        assert part.sum() > 200 and np.median(cosine) > 0.9999
        assert np.mean(cosine > 0.99) > 0.9


def test_the_fused_cloud_has_every_point_once(maps: list[DepthMap]) -> None:
    neighbours = [[j for j in range(5) if j != i] for i in range(5)]
    picture = [shot.image for shot in depth_scene.shots()]
    cloud = fuse_points(maps, neighbours, lambda i: picture[i])
    pixels = maps[0].depth.size
    assert pixels < len(cloud) < 2.2 * pixels  # five maps that show much the same
    y, z = cloud.points[:, 1], cloud.points[:, 2]
    off = np.minimum.reduce([np.abs(y - rgbd_scene.WALL), np.abs(y - rgbd_scene.BOARD), np.abs(z)])
    assert np.quantile(off, 0.99) < 0.02
    assert np.allclose(np.linalg.norm(cloud.normals, axis=1), 1, atol=1e-4)
    centre = -maps[2].cam_from_world[:, :3].T @ maps[2].cam_from_world[:, 3]
    assert np.mean(((centre - cloud.points) * cloud.normals).sum(1) > 0) > 0.99
    assert cloud.colours.dtype == np.uint8 and cloud.colours.std() > 5


def test_no_maps_give_an_empty_cloud() -> None:
    assert len(fuse_points([], [], lambda i: np.zeros((1, 1, 3), np.uint8))) == 0


def test_previews_colour_what_is_known(maps: list[DepthMap]) -> None:
    depth = maps[2].depth.copy()
    depth[:20] = 0
    colours = depth_colours(depth)
    assert not colours[:20].any() and (colours[20:].max(-1) > 30).all()
    near, far = (np.unravel_index(f(depth[20:]), depth[20:].shape) for f in (np.argmin, np.argmax))
    red, blue = colours[20:][near].astype(int), colours[20:][far].astype(int)
    assert red[0] > red[2] and blue[2] > blue[0]
    page = depth_picture(depth)
    assert page.shape[0] == depth.shape[0] and page.shape[1] > depth.shape[1]
    assert depth_picture(np.zeros((30, 40), np.float32)).shape[0] == 30
