# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Maps padded beyond the image: an origin moves the array, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pose_problems import camera, rotation

import pyloc_core as pl

CELLS, PAD = (30, 40), (15, 20)  # the image in cells; rows and columns added on each side
SIZE = (CELLS[0] + 2 * PAD[0], CELLS[1] + 2 * PAD[1])
ORIGIN = (-PAD[1], -PAD[0])


class Scene:
    """Points of which two thirds project outside the image, and their padded maps."""

    def __init__(self, count: int = 90, seed: int = 1, model: str = "PINHOLE") -> None:
        rng = np.random.default_rng(seed)
        self.camera = camera(model)  # 1024 x 768
        ratio = np.array([CELLS[1] / self.camera.width, CELLS[0] / self.camera.height])
        low = np.array(ORIGIN) + 2.0
        high = low + np.array(SIZE[::-1]) - 5.0
        self.xy = rng.uniform(low, high, (count, 2))  # map points
        inside = ((self.xy > -0.5) & (self.xy < np.array(CELLS[::-1]) - 0.5)).all(1)
        self.outside = ~inside
        rays = np.asarray(self.camera.unproject((self.xy + 0.5) / ratio))
        # Far outside the image a distortion model may have no ray for a pixel.
        back, ahead = self.camera.project(rays)
        self.outside &= ahead & (np.abs(back * ratio - 0.5 - self.xy) < 0.01).all(1)
        local = rays / rays[:, 2:] * rng.uniform(4, 12, (count, 1))
        R, t = rotation(rng.normal(size=3)), rng.normal(size=3)
        self.points, self.truth = (local - t) @ R, np.c_[R, t]
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        at = self.xy - ORIGIN
        squared = (x - at[:, 0, None, None]) ** 2 + (y - at[:, 1, None, None]) ** 2
        p = np.exp(12 * np.exp(-squared / (2 * 1.2**2)))
        self.loss = -np.log(p / (1 + p.sum((1, 2), keepdims=True))).astype(np.float32)
        self.maps = pl.LossMaps.from_dense(self.loss, origin=ORIGIN, max_entries=256)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def test_every_padded_cell_counts(scene: Scene) -> None:
    assert scene.maps.origin == ORIGIN and scene.maps.image_cells == CELLS
    assert scene.maps.log_cardinality == np.log(1 + SIZE[0] * SIZE[1])
    assert "origin (-20, -15)" in repr(scene.maps)
    assert scene.outside.sum() > 50  # most of the scene lies in the padding


def test_methods_take_and_give_map_points(scene: Scene) -> None:
    maps, plain = scene.maps, scene.maps.without_origin()
    assert plain.origin == (0, 0) and plain.image_cells == plain.size == SIZE
    peaks = maps.argmin()
    np.testing.assert_array_equal(peaks.xy, np.rint(scene.xy))
    np.testing.assert_array_equal(plain.argmin().xy, peaks.xy - ORIGIN)
    np.testing.assert_array_equal(maps.evaluate(scene.xy), plain.evaluate(scene.xy - ORIGIN))
    np.testing.assert_array_equal(maps.mass(scene.xy, 3), plain.mass(scene.xy - ORIGIN, 3))
    # By hand: the loss on a cell, and ln|O| beyond the padding.
    n = int(np.flatnonzero(scene.outside)[0])
    column, row = peaks.xy[n] - ORIGIN
    assert maps.evaluate(peaks.xy.astype(float))[n] == pytest.approx(
        scene.loss[n, row, column], abs=1e-5
    )
    far = np.full((len(maps), 2), 21.0) - [[PAD[1] + 23.0, 0]]
    np.testing.assert_array_equal(maps.evaluate(far), maps.log_cardinality)


def test_an_empty_map_has_no_peak() -> None:
    maps = pl.LossMaps.from_dense(np.full((2, *SIZE), 9.0), origin=ORIGIN)
    assert maps.argmin().xy.tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("model", ["PINHOLE", "SIMPLE_RADIAL", "OPENCV_FISHEYE"])
@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_pose_from_points_outside_the_image(model: str, implementation: str) -> None:
    if implementation == "reference":
        pytest.importorskip("torch")
    scene = Scene(model=model, seed=2)
    only = np.flatnonzero(scene.outside)  # nothing in the image at all
    maps, points = scene.maps[only], scene.points[only]
    assert maps.origin == ORIGIN
    first = pl.estimate_pose(
        maps, points, scene.camera, iterations=64, implementation=implementation
    )
    assert first.success, first.reason
    found = pl.refine_pose(
        maps, points, scene.camera, first.cam_from_world, implementation=implementation
    )
    assert found.success, found.reason
    degrees, distance = pl.pose_error(found.cam_from_world, scene.truth)
    assert degrees < 0.3 and distance < 0.1
    assert np.isfinite(found.covariance).all() and found.inlier_probability.min() > 0.5


def test_the_origin_is_a_shift_of_the_camera(scene: Scene) -> None:
    """The same bits as maps without an origin, seen by a camera whose principal point is moved."""
    K = pl.scale_intrinsics(scene.camera.K, scene.camera.size, CELLS)
    shifted = K.copy()
    shifted[:2, 2] -= ORIGIN
    plain = scene.maps.without_origin()
    for operator, more in ((pl.estimate_pose, ()), (pl.refine_pose, (scene.truth,))):
        results = [
            operator(scene.maps, scene.points, scene.camera, *more),
            operator(scene.maps, scene.points, K, *more),
            operator(plain, scene.points, shifted, *more),
        ]
        for other in results[1:]:
            np.testing.assert_allclose(other.cam_from_world, results[0].cam_from_world, atol=1e-9)
            assert other.cost == pytest.approx(results[0].cost, rel=1e-12)


def test_projections_beyond_the_padding_cost_ln_o(scene: Scene) -> None:
    """Poses that look elsewhere: far off, behind, and just over the border on every side."""
    away = scene.truth.copy()
    away[:, :3] = np.diag([-1.0, 1.0, -1.0]) @ away[:, :3]
    away[:, 3] *= [-1, 1, -1]
    found = pl.refine_pose(scene.maps, scene.points, scene.camera, away)
    assert not found.success and found.cost == pytest.approx(
        len(scene.maps) * scene.maps.log_cardinality
    )
    x0, y0, x1, y1 = *ORIGIN, ORIGIN[0] + SIZE[1] - 1, ORIGIN[1] + SIZE[0] - 1
    maps = pl.LossMaps.from_dense(np.zeros((1, *SIZE), np.float32), origin=ORIGIN)
    cut = maps.log_cardinality
    for x, y, share in ((x0, y0, 1), (x0 - 0.25, y0, 0.75), (x0 - 1, y0, 0), (x1 + 0.5, y1, 0.5),
                        (x1, y1 + 0.75, 0.25), (x1 + 1, y1, 0), (x0 - 0.5, y1 + 0.5, 0.25),
                        (np.nan, 0, 0), (-1e9, 0, 0)):  # fmt: skip
        assert maps.evaluate(np.array([[x, y]]))[0] == pytest.approx(cut * (1 - share), abs=1e-5)


def test_operators_make_placed_maps(rng: np.random.Generator) -> None:
    h = rng.normal(size=(5, 6)).astype(np.float32)
    features = rng.normal(size=(6, *SIZE)).astype(np.float32)
    plain, placed = pl.loss_maps(h, features), pl.loss_maps(h, features, origin=ORIGIN)
    np.testing.assert_array_equal(placed.argmin().xy, plain.argmin().xy + ORIGIN)
    np.testing.assert_array_equal(placed.gain, plain.gain)
    assert placed.image_cells == CELLS and placed.log_cardinality == plain.log_cardinality
    lower = pl.loss_maps(h, features, origin=(0, -3), image_cells=(40, 80))
    assert lower.origin == (0, -3) and lower.image_cells == (40, 80)
    both = pl.LossMaps.concatenate([placed[:2], placed[2:]])
    assert both.origin == ORIGIN and np.array_equal(both.gain, placed.gain)
    with pytest.raises(ValueError, match="parts differ"):
        pl.LossMaps.concatenate([placed, plain])


def test_windows_in_a_padded_map(scene: Scene) -> None:
    """`origins` count columns and rows of the array."""
    window = scene.loss[:2, 3:9, 5:13]
    maps = pl.LossMaps.from_dense(
        window, origins=[[5, 3], [5, 3]], size=SIZE, origin=ORIGIN, log_cardinality=30.0
    )  # fmt: skip
    row, column = np.unravel_index(window[1].argmin(), window[1].shape)
    assert maps.argmin().xy[1].tolist() == [5 + column + ORIGIN[0], 3 + row + ORIGIN[1]]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_files_keep_the_origin(scene: Scene, tmp_path: Path, suffix: str) -> None:
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"maps.{suffix}"
    scene.maps.save(path)
    again = pl.LossMaps.load(path)
    assert (again.origin, again.image_cells) == (ORIGIN, CELLS)
    np.testing.assert_array_equal(again.xy, scene.maps.xy)


def test_on_a_device_and_back(scene: Scene) -> None:
    pytest.importorskip("torch")
    there = scene.maps.to("cpu")
    assert there.origin == ORIGIN and there.image_cells == CELLS
    np.testing.assert_array_equal(there.peak_xy.numpy(), scene.maps.argmin().xy - ORIGIN)
    back = there.cpu()
    assert (back.origin, back.image_cells) == (ORIGIN, CELLS)


def test_refusals(scene: Scene) -> None:
    for bad in ((0.5, 0), (1,), None, (1e9, 0), "ab"):
        with pytest.raises(ValueError, match="origin"):
            pl.LossMaps.from_dense(scene.loss[:1], origin=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no image"):
        pl.LossMaps.from_dense(scene.loss[:1], origin=(-40, 0))
    with pytest.raises(ValueError, match="image_cells"):
        pl.LossMaps.from_dense(scene.loss[:1], origin=ORIGIN, image_cells=(0, 4))
