# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of surfaces: against all pairs written out, and uniform points on meshes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from pyloc_core.depth.surface_metrics import sample_mesh, surface_errors


def test_distances_both_ways_against_all_pairs() -> None:
    rng = np.random.default_rng(0)
    predicted, truth = rng.uniform(0, 0.3, (80, 3)), rng.uniform(0, 0.3, (120, 3))
    found = surface_errors(predicted, truth)
    pairs = np.linalg.norm(predicted[:, None] - truth[None], axis=2)
    assert found.accuracy == pytest.approx(pairs.min(1).mean())
    assert found.completeness == pytest.approx(pairs.min(0).mean())
    assert found.chamfer == pytest.approx((found.accuracy + found.completeness) / 2)
    precision, recall = (pairs.min(1) < 0.05).mean(), (pairs.min(0) < 0.05).mean()
    assert (found.precision, found.recall) == pytest.approx((precision, recall))
    assert found.f_score == pytest.approx(2 / (1 / precision + 1 / recall))
    assert surface_errors(predicted, truth, num_threads=2) == found


def test_half_a_surface_is_accurate_and_incomplete() -> None:
    x, y = np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
    truth = np.c_[x.ravel(), y.ravel(), np.zeros(x.size)]
    half = truth[truth[:, 0] <= 0.5]
    found = surface_errors(half, truth)
    assert found.accuracy == 0 and found.precision == 1
    assert found.completeness == pytest.approx(0.126, abs=1e-3) and found.recall == pytest.approx(
        0.545, abs=2e-3
    )
    far = surface_errors(truth + [0, 0, 10], truth)
    assert (far.accuracy, far.f_score) == (pytest.approx(10), 0.0)


def test_points_are_spread_by_area() -> None:
    vertices = np.array([[0, 0, 0], [3, 0, 0], [0, 1, 0], [0, 0, 5], [1, 0, 5], [0, 1, 5.0]])
    faces = np.array([[0, 1, 2], [3, 4, 5], [0, 0, 0]])  # areas 1.5, 0.5, 0
    points = sample_mesh(vertices, faces, 40_000, seed=3)
    on_first = points[:, 2] == 0
    assert on_first.mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_allclose(points[on_first].mean(0), [1, 1 / 3, 0], atol=0.02)  # the centroid
    assert (points[on_first, 0] / 3 + points[on_first, 1] <= 1 + 1e-12).all()
    # A quarter of a triangle's area lies beyond the middle line.
    assert (points[on_first, 0] > 1.5).mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_array_equal(points, sample_mesh(vertices, faces, 40_000, seed=3))
    assert (points != sample_mesh(vertices, faces, 40_000, seed=4)).any()


def test_bad_input() -> None:
    points = np.zeros((3, 3))
    for changes, name in (
        ({"predicted": np.zeros((0, 3))}, "predicted"), ({"truth": np.zeros((3, 2))}, "truth"),
        ({"truth": np.full((3, 3), np.nan)}, "truth"), ({"threshold": 0.0}, "threshold"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            surface_errors(**{"predicted": points, "truth": points, **changes})
    for faces in (
        np.zeros((1, 3)),
        np.array([[0, 1, 3]]),
        np.array([[0, 1, -1]]),
        np.array([[0, 1, 2]]),
    ):
        with pytest.raises(ValueError, match="faces"):
            sample_mesh(points, faces)
