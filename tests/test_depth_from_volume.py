# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth and confidence read out of a matching volume."""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl

PLANES = pl.log_depth_planes(0.5, 10.0, 16)
FUNCTION = {"log": (np.log, np.exp), "inverse": (np.reciprocal, np.reciprocal),
            "linear": (np.asarray, np.asarray)}  # fmt: skip


def volume_of(seed: int = 0, *lead: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*lead, 16, 5, 6))


def peaked(*places: int, height: float = 20.0) -> np.ndarray:
    volume = np.zeros((16, 1, 1))
    volume[list(places)] = height
    return volume


@pytest.mark.parametrize("space", FUNCTION)
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_depth_is_the_expectation_cell_by_cell(space, sharpness) -> None:
    volume = volume_of()
    to, back = FUNCTION[space]
    depth = pl.soft_argmax_depth(volume, PLANES, space=space, sharpness=sharpness)
    for y, x in np.ndindex(5, 6):
        p = np.exp(sharpness * volume[:, y, x])
        expected = back((p * to(PLANES)).sum() / p.sum())
        assert depth[y, x] == pytest.approx(expected, rel=1e-12)


def test_planes_that_are_shared_of_an_image_or_of_a_pixel() -> None:
    volume = volume_of(1, 2, 3)
    shared = pl.soft_argmax_depth(volume, PLANES)
    image = np.broadcast_to(PLANES, (2, 3, 16))
    np.testing.assert_array_equal(pl.soft_argmax_depth(volume, image), shared)
    pixel = np.broadcast_to(PLANES[:, None, None], volume.shape)
    np.testing.assert_array_equal(pl.soft_argmax_depth(volume, pixel), shared)
    doubled = image.copy()
    doubled[1, 2] *= 2
    found = pl.soft_argmax_depth(volume, doubled)
    np.testing.assert_allclose(found[1, 2], 2 * shared[1, 2], rtol=1e-12)
    np.testing.assert_array_equal(found[0], shared[0])


def test_a_window_keeps_two_surfaces_apart() -> None:
    """Two equal peaks: everything averages to a depth between them, a window stays at the first."""
    volume = peaked(3, 12)
    between = pl.soft_argmax_depth(volume, PLANES)
    assert between[0, 0] == pytest.approx(np.sqrt(PLANES[3] * PLANES[12]), rel=1e-6)
    for window in (0, 1, 3):
        found = pl.soft_argmax_depth(volume, PLANES, window=window)
        assert found[0, 0] == pytest.approx(PLANES[3], rel=1e-6)
    whole = pl.soft_argmax_depth(volume_of(), PLANES, window=15)
    np.testing.assert_array_equal(whole, pl.soft_argmax_depth(volume_of(), PLANES))


def test_a_parabola_between_planes_is_met_below_their_distance() -> None:
    """Scores of a Gaussian peak off the planes: sub-plane accuracy from 16 planes."""
    index = np.arange(16)
    for true in (4.0, 6.3, 8.5, 9.9):
        volume = (-((index - true) ** 2) / 2).reshape(16, 1, 1)
        depth = pl.soft_argmax_depth(volume, PLANES)
        step = np.log(20) / 15
        assert abs(np.log(depth / 0.5) / step - true) < 1e-3


def test_depth_stays_between_the_planes_for_huge_scores() -> None:
    for factor in (1e-30, 1.0, 1e4, 1e30):
        depth = pl.soft_argmax_depth(factor * volume_of(), PLANES)
        assert ((depth >= 0.5 * (1 - 1e-12)) & (depth <= 10 * (1 + 1e-12))).all()


def test_confidence_is_the_mass_of_the_four_nearest_planes() -> None:
    """Cell by cell against the sentence of MVSNet."""
    volume = volume_of(3)
    confidence = pl.volume_confidence(volume, sharpness=2.0)
    for y, x in np.ndindex(5, 6):
        p = np.exp(2.0 * volume[:, y, x])
        p /= p.sum()
        mean = (p * np.arange(16)).sum()
        nearest = np.argsort(abs(np.arange(16) - mean))[:4]
        assert confidence[y, x] == pytest.approx(p[nearest].sum(), rel=1e-12)


def test_confidence_tells_one_peak_from_two_and_from_none() -> None:
    one, two, none = peaked(7), peaked(3, 12), peaked(7, height=0.0)
    for around in ("mean", "peak"):
        assert pl.volume_confidence(one, around=around)[0, 0] == pytest.approx(1, abs=1e-6)
        assert pl.volume_confidence(none, around=around)[0, 0] == pytest.approx(4 / 16)
    assert pl.volume_confidence(two)[0, 0] < 1e-6  # the mean lies where there is nothing
    assert pl.volume_confidence(two, around="peak")[0, 0] == pytest.approx(0.5, abs=1e-6)
    for end in (0, 15):  # the planes nearest to an end lie on one side
        assert pl.volume_confidence(peaked(end))[0, 0] == pytest.approx(1, abs=1e-6)
        p = pl.volume_confidence(np.zeros((16, 1, 1)), planes=16)
        assert p[0, 0] == pytest.approx(1)


@pytest.mark.parametrize(
    "changes,name",
    [({"depths": PLANES[:-1]}, "depths"), ({"depths": -PLANES}, "depths"),
     ({"depths": PLANES * np.nan}, "depths"),
     ({"volume": np.full((16, 2, 2), np.nan)}, "volume"), ({"volume": np.zeros((16, 0, 2))}, "volume"),
     ({"volume": np.zeros((16, 2))}, "volume"), ({"sharpness": 0.0}, "sharpness"), ({"window": -1}, "window"),
     ({"space": "disparity"}, "space"), ({"space": "liner"}, "did you mean 'linear'")],
)  # fmt: skip
def test_depth_refuses(changes, name) -> None:
    with pytest.raises(ValueError, match=name):
        pl.soft_argmax_depth(**{"volume": volume_of(), "depths": PLANES, **changes})


def test_confidence_refuses() -> None:
    for bad in (0, 17):
        with pytest.raises(ValueError, match="planes"):
            pl.volume_confidence(volume_of(), planes=bad)
    with pytest.raises(ValueError, match="around"):
        pl.volume_confidence(volume_of(), around="median")
