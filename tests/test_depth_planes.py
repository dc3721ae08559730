# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth planes: the range from the cameras, the planes in it, the range of a second sweep."""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl

SIZE = (480, 640)
K = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])


def poses(*baselines: float) -> np.ndarray:
    """(V, 3, 4) turned cameras whose centres lie that far from the reference."""
    rng = np.random.default_rng(1)
    result = []
    for length in baselines:
        R, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        R *= np.linalg.det(R)
        way = rng.normal(size=3)
        centre = length * way / np.linalg.norm(way)
        result.append(np.c_[R, -R @ centre])
    return np.stack(result)


def test_range_of_the_example_in_the_design() -> None:
    """W 640, f 500, baselines 0.05 to 0.3: 0.039 to 23.4."""
    near, far = pl.depth_range(K, poses(0.3, 0.05, 0.1), SIZE)
    assert near == pytest.approx(0.05 * 500 / 640) and far == pytest.approx(0.3 * 500 / 6.4)
    assert (near.shape, far.dtype) == ((), np.float64)


def test_range_of_a_batch_is_that_of_its_items() -> None:
    batch = np.stack([poses(0.1, 0.2), poses(3.0, 2.0)])
    Ks = np.stack([K, 2 * K])
    near, far = pl.depth_range(Ks, batch, SIZE, max_disparity=0.5, min_disparity=0.02)
    for i in range(2):
        alone = pl.depth_range(Ks[i], batch[i], SIZE, max_disparity=0.5, min_disparity=0.02)
        np.testing.assert_array_equal((near[i], far[i]), alone)
    square = np.zeros((2, 2, 4, 4))
    square[..., :3, :] = batch
    square[..., 3, 3] = 1
    np.testing.assert_array_equal(
        pl.depth_range(Ks, square, SIZE, max_disparity=0.5, min_disparity=0.02)[0], near
    )


def test_views_without_parallax_are_left_out() -> None:
    """Exact zeros, and the same place up to rounding; an item that has nothing else is refused."""
    expected = pl.depth_range(K, poses(0.3, 0.1), SIZE)
    assert pl.depth_range(K, poses(0.3, 0.0, 0.1), SIZE) == pytest.approx(expected)
    assert pl.depth_range(K, poses(0.3, 1e-7, 0.1), SIZE) == pytest.approx(expected)
    near, _ = pl.depth_range(K, poses(0.3, 1e-7, 0.1), SIZE, negligible_baseline=0)
    assert near == pytest.approx(1e-7 * 500 / 640)
    with pytest.raises(ValueError, match="baselines are zero"):
        pl.depth_range(K, poses(0.0, 0.0), SIZE)
    with pytest.raises(ValueError, match="baselines are zero"):
        pl.depth_range(K, np.stack([poses(0.1, 0.2), poses(0.0, 0.0)]), SIZE)


def test_range_scales_with_the_scene() -> None:
    near, far = pl.depth_range(K, poses(0.3, 0.1), SIZE)
    large = poses(0.3, 0.1) * [1, 1, 1, 100]
    np.testing.assert_allclose(pl.depth_range(K, large, SIZE), (100 * near, 100 * far), rtol=1e-14)


@pytest.mark.parametrize(
    "changes,name",
    [
        ({"K": np.eye(3) * -1}, "K"),
        ({"K": np.zeros((3, 3))}, "K"),
        ({"K": np.stack([K] * 3)}, "K"),
        ({"size": (0, 640)}, "size"),
        ({"source_from_reference": np.zeros((0, 3, 4))}, "V = 0"),
        ({"source_from_reference": np.full((2, 3, 4), np.nan)}, "source_from_reference"),
        ({"min_disparity": 1.0}, "min_disparity"),
        ({"max_disparity": -1.0}, "max_disparity"),
        ({"negligible_baseline": 1.0}, "negligible_baseline"),
    ],
)
def test_range_refuses(changes, name) -> None:
    good = {"K": K, "source_from_reference": poses(0.3, 0.1), "size": SIZE}
    with pytest.raises(ValueError, match=name):
        pl.depth_range(**{**good, **changes})


def test_planes_are_even_in_the_logarithm_and_hit_both_ends() -> None:
    near, far = np.array([0.5, 0.039]), np.array([10.0, 23.4])
    planes = pl.log_depth_planes(near, far, 64)
    assert planes.shape == (2, 64)
    np.testing.assert_array_equal(planes[:, [0, -1]], np.stack([near, far], 1))
    steps = np.diff(np.log(planes), axis=1)
    np.testing.assert_allclose(
        steps, np.repeat(np.log(far / near)[:, None] / 63, 63, 1), rtol=1e-11
    )
    assert pl.log_depth_planes(1, 4, 3) == pytest.approx([1, 2, 4])


@pytest.mark.parametrize(
    "near,far,count,name",
    [(1.0, 2.0, 1, "count"), (2.0, 2.0, 4, "near"), (3.0, 2.0, 4, "near"), (0.0, 2.0, 4, "near"),
     (-1.0, 2.0, 4, "near"), (np.nan, 2.0, 4, "near"), (1.0, np.inf, 4, "far"),
     ([1.0, 3.0], [2.0, 2.0], 4, "near"), ([1.0, 3.0], 5.0, 4, "near")],
)  # fmt: skip
def test_planes_refuse(near, far, count, name) -> None:
    with pytest.raises(ValueError, match=name):
        pl.log_depth_planes(near, far, count)
    with pytest.raises(TypeError, match="count"):
        pl.log_depth_planes(1.0, 2.0, 4.0)


def test_second_range_follows_the_quantiles_of_each_image() -> None:
    depth = np.exp(np.random.default_rng(2).uniform(np.log(1), np.log(6), (3, 2, 31, 47)))
    near, far = pl.refine_depth_range(depth, 0.5, 10.0)
    low, high = (np.quantile(depth, q, axis=(-2, -1)) for q in (0.05, 0.95))
    np.testing.assert_allclose(near, 0.75 * low, rtol=1e-14)
    np.testing.assert_allclose(far, 1.25 * high, rtol=1e-14)
    assert near.shape == (3, 2)


def planted(near_share: float, far_share: float) -> np.ndarray:
    """A 20 x 20 map within [0.5, 10] with those shares of pixels at its ends."""
    depth = np.full(400, 3.0)
    depth[: round(400 * near_share)] = 0.51
    depth[400 - round(400 * far_share) :] = 9.9
    return depth.reshape(20, 20)


def test_ends_that_are_crowded_move_out_and_others_stay_within_the_old_range() -> None:
    assert pl.refine_depth_range(planted(0.06, 0.0), 0.5, 10.0) == pytest.approx((0.25, 3.75))
    assert pl.refine_depth_range(planted(0.0, 0.06), 0.5, 10.0) == pytest.approx((2.25, 20.0))
    assert pl.refine_depth_range(planted(0.06, 0.06), 0.5, 10.0) == pytest.approx((0.25, 20.0))
    # Exactly 5 % is not more than 5 %.
    assert pl.refine_depth_range(planted(0.05, 0.0), 0.5, 10.0)[1] == pytest.approx(3.75)
    assert pl.refine_depth_range(planted(0.0, 0.05), 0.5, 10.0)[1] < 10.0
    # Depths between the margins and the old ends: 0.75 q05 and 1.25 q95 reach beyond the old range.
    wide = np.exp(np.linspace(np.log(0.55), np.log(9.4), 400)).reshape(20, 20)
    assert pl.refine_depth_range(wide, 0.5, 10.0) == pytest.approx((0.5, 10.0))


@pytest.mark.parametrize("value", [1e-9, 0.2, 0.5, 3.0, 10.0, 400.0, 1e9])
def test_the_second_range_is_a_range_whatever_the_depth(value) -> None:
    near, far = pl.refine_depth_range(np.full((4, 5), value), 0.5, 10.0)
    assert 0 < near < far
    again = pl.refine_depth_range(np.full((4, 5), value), near, far)
    assert 0 < again[0] < again[1]


def test_pixels_that_do_not_count_change_nothing() -> None:
    depth = np.exp(np.random.default_rng(3).uniform(0, 2, (2, 30, 40)))
    valid = np.random.default_rng(4).uniform(size=depth.shape) < 0.3
    valid[1] = False
    spoiled = np.where(valid, depth, np.nan)
    spoiled[0, ~valid[0]] = np.resize([np.nan, 0.0, 1e9, -np.inf], (~valid[0]).sum())
    near, far = pl.refine_depth_range(spoiled, 0.5, 10.0, valid=valid)
    expected = pl.refine_depth_range(depth[0][valid[0]][None], 0.5, 10.0)
    np.testing.assert_allclose((near[0], far[0]), expected, rtol=1e-14)
    assert (near[1], far[1]) == (0.5, 10.0)  # nothing to go by: the old range


@pytest.mark.parametrize(
    "changes,name",
    [({"depth": np.ones(4)}, "depth"), ({"depth": np.ones((0, 4))}, "depth"),
     ({"depth": np.full((4, 5), np.nan)}, "depth"), ({"near": 20.0}, "near"),
     ({"near": [0.5, 0.5], "far": [9.0, 9.0]}, "near and far"), ({"valid": np.ones((5, 4), bool)}, "valid")],
)  # fmt: skip
def test_second_range_refuses(changes, name) -> None:
    with pytest.raises(ValueError, match=name):
        pl.refine_depth_range(**{"depth": np.ones((4, 5)), "near": 0.5, "far": 10.0, **changes})


def test_properties_of_random_cameras_and_maps() -> None:
    """Order of views, units, and what a second range may be, over 200 draws."""
    rng = np.random.default_rng(11)
    for _ in range(200):
        given = poses(*np.exp(rng.normal(-2, 1.5, rng.integers(1, 9))))
        near, far = pl.depth_range(K, given, SIZE)
        assert 0 < near < far and far / near >= 100 * (1 - 1e-12)
        shuffled = pl.depth_range(K, given[rng.permutation(len(given))], SIZE)
        assert shuffled == (near, far)
        factor = np.exp(rng.normal(0, 3))
        np.testing.assert_allclose(
            pl.depth_range(K, given * [1, 1, 1, factor], SIZE),
            (factor * near, factor * far),
            rtol=1e-12,
        )
        depth = np.exp(rng.uniform(np.log(near) - 1, np.log(far) + 1, (6, 7)))
        low, high = pl.refine_depth_range(depth, near, far)
        assert near / 2 <= low < high <= 2 * far
        scaled = pl.refine_depth_range(factor * depth, factor * near, factor * far)
        np.testing.assert_allclose(scaled, (factor * low, factor * high), rtol=1e-12)
