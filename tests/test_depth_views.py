# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Labels of correspondents and overlap, against a scene whose geometry is known."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2")

from rgbd_scene import BOARD, BOARD_X, BOARD_Z, CAMERA, WALL, faces, pose, view

import pyloc_core as pl
from pyloc_core.localization.depth_views import (
    IDENTIFIED,
    INPAINTED,
    OUTPAINTED,
    UNKNOWN,
    DepthView,
    correspondents,
    covisibility_ratio,
    keypoint_grid,
    visual_overlap,
)

SOURCE, TARGET = pose(0.6, aim=0.8), pose(-0.7, aim=-0.2)


@pytest.fixture(scope="module")
def views() -> tuple[DepthView, DepthView]:
    scene = faces()
    return view(SOURCE, scene)[1], view(TARGET, scene)[1]


def behind_the_board(eye: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How far inside the board's outline, metres, the segment from the eye to a point passes; negative
    outside."""
    t = (BOARD - eye[1]) / (points[:, 1] - eye[1])
    x, _, z = (eye + t[:, None] * (points - eye)).T
    margins = np.stack([x - BOARD_X[0], BOARD_X[1] - x, z - BOARD_Z[0], BOARD_Z[1] - z])
    return np.minimum(margins.min(0), np.where((t > 0) & (t < 1), 9, -9))


def test_labels_are_those_of_the_geometry(views: tuple[DepthView, DepthView]) -> None:
    source, target = views
    grid = keypoint_grid(CAMERA.size, 6)
    found = correspondents(source, target, grid)
    points = found.points
    known = np.isfinite(points).all(1)
    assert (found.label[~known] == UNKNOWN).all() and known.mean() > 0.6
    xy, front = CAMERA.project(pl.transform_points(TARGET, np.nan_to_num(points)))
    inside = (xy >= 0).all(1) & (xy < [CAMERA.width, CAMERA.height]).all(1)
    np.testing.assert_allclose(found.xy[known & front], xy[known & front])
    outside = known & front & ~inside
    assert outside.sum() > 30 and (found.label[outside] == OUTPAINTED).all()
    on_board = np.abs(points[:, 1] - BOARD) < 0.05
    cover = behind_the_board(np.asarray(pl.camera_center(TARGET)), np.nan_to_num(points))
    seen = known & front & inside
    hidden = seen & ~on_board & (cover > 0.06)
    clear = seen & (on_board | (cover < -0.06))
    assert hidden.sum() > 5 and clear.sum() > 200
    assert (found.label[hidden] == INPAINTED).all()
    edges = source.steep(grid)  # the board's own outline
    assert (found.label[clear & ~edges] == IDENTIFIED).mean() > 0.99


def test_depth_is_exact(views: tuple[DepthView, DepthView]) -> None:
    source, _ = views
    grid = keypoint_grid(CAMERA.size, 10)
    points = source.lift(grid)
    points = points[np.isfinite(points).all(1) & ~source.steep(grid, 0.02)]
    plane = np.minimum.reduce(
        [np.abs(points[:, 1] - WALL), np.abs(points[:, 1] - BOARD), np.abs(points[:, 2])]
    )
    assert len(points) > 100 and plane.max() < 0.06  # half a pixel on the slanted floor
    xy, depth = source.project(points)
    assert (depth > 0).all() and np.isfinite(xy).all()


def test_points_behind_the_target_are_unknown(views: tuple[DepthView, DepthView]) -> None:
    source, target = views
    turned = DepthView(target.depth, CAMERA, np.diag([-1.0, 1, -1]) @ SOURCE)
    grid = keypoint_grid(CAMERA.size)
    found = correspondents(source, turned, grid)
    assert (found.label == UNKNOWN).all() and np.isnan(found.xy).all()


def test_strict_leaves_out_what_occlusion_does_not_explain(
    views: tuple[DepthView, DepthView],
) -> None:
    source, target = views
    grid = keypoint_grid(CAMERA.size, 8)
    farther = DepthView(2.5 * target.depth, CAMERA, TARGET)
    loose = correspondents(source, farther, grid).label
    strict = correspondents(source, farther, grid, strict=True).label
    assert (loose == INPAINTED).sum() > 50 and (strict == INPAINTED).sum() < 10
    assert (strict[loose == OUTPAINTED] == OUTPAINTED).all()


def test_overlap_is_the_smaller_ratio(views: tuple[DepthView, DepthView]) -> None:
    source, target = views
    ratios = covisibility_ratio(source, target), covisibility_ratio(target, source)
    assert visual_overlap(source, target) == visual_overlap(target, source) == min(ratios)
    assert 0.1 < min(ratios) < max(ratios) < 1
    assert visual_overlap(source, source) == 1.0
    away = DepthView(source.depth, CAMERA, pose(30.0, aim=32.0))
    assert visual_overlap(source, away) == 0.0
    blind = DepthView(np.zeros_like(source.depth), CAMERA, SOURCE)
    assert visual_overlap(source, blind) == 0.0


def test_depth_of_another_resolution_and_camera(views: tuple[DepthView, DepthView]) -> None:
    source, _ = views
    grid = keypoint_grid(CAMERA.size, 8)
    half = DepthView(source.depth[::2, ::2], CAMERA, SOURCE)
    wide = pl.Camera("PINHOLE", 192, 144, (140.0, 140.0, 96.0, 72.0))
    xy = keypoint_grid(wide.size, 1)
    there = source.read_depth(np.asarray(CAMERA.project(wide.unproject(xy))[0]))
    other = DepthView(np.nan_to_num(there).reshape(144, 192), CAMERA, SOURCE, depth_camera=wide)
    truth = source.lift(grid)
    flat = np.isfinite(truth).all(1) & ~source.steep(grid, 0.02)
    for seen in (half, other):
        error = np.linalg.norm(seen.lift(grid) - truth, axis=1)[flat]
        assert np.nanmedian(error) < 0.03 and np.isfinite(error).mean() > 0.95


def test_bad_input(views: tuple[DepthView, DepthView]) -> None:
    source, target = views
    xy = np.array([[np.nan, 3], [np.inf, 4], [-5, 4], [1e9, 4], [191.9, 143.9]])
    found = correspondents(source, target, xy)
    assert (found.label[:4] == UNKNOWN).all() and source.steep(xy)[:4].all()
    assert correspondents(source, target, np.zeros((0, 2))).label.shape == (0,)
    with pytest.raises(ValueError, match="keypoints"):
        correspondents(source, target, np.zeros(4))
    with pytest.raises(ValueError, match="max_cycle_error"):
        correspondents(source, target, xy, max_cycle_error=0)
    with pytest.raises(ValueError, match="depth"):
        DepthView(np.zeros((0, 4)), CAMERA, SOURCE)
    with pytest.raises(ValueError, match="spacing"):
        keypoint_grid(CAMERA.size, 0)
    with pytest.raises(TypeError, match="depth"):
        DepthView(np.full((4, 4), "a"), CAMERA, SOURCE)
    with pytest.raises(ValueError, match="camera"):
        DepthView(
            source.depth, CAMERA, SOURCE, depth_camera=pl.Camera("PINHOLE", 9, 9, (5, 5, 4, 4))
        )
