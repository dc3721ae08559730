# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The metadata cost volume on NumPy arrays: every one of its values by hand, sizes, invariances, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sweep_problems import metadata_problem

import pyloc_core as pl

SLOPE = 0.01


def volume(problem: dict[str, Any], **changes: Any) -> np.ndarray:
    return pl.metadata_cost_volume(**{**problem, **changes})


def read(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Features (C, H, W) at a point, bilinear, zero outside."""
    out = np.zeros(len(image))
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)):
        if 0 <= x0 + i < image.shape[2] and 0 <= y0 + j < image.shape[1]:
            weight = (x - x0 if i else 1 - x + x0) * (y - y0 if j else 1 - y + y0)
            out += weight * image[:, y0 + j, x0 + i]
    return out


def by_hand(p: dict[str, Any], item: int, plane: int, y: int, x: int) -> np.ndarray:
    """The values (V, 2 C + 14) of one cell and plane, written out with vectors and norms."""
    poses = np.asarray(p["source_from_reference"])[item]
    depth, low, high = p["depths"][plane], min(p["depths"]), max(p["depths"])
    point = depth * np.linalg.inv(p["K_reference"][item]) @ (x, y, 1)
    lengths = [np.linalg.norm(t) for t in poses[:, :, 3]]
    angles = [np.sqrt(2 * (1 - min(3, np.trace(r)) / 3)) for r in poses[:, :, :3]]
    far = max(np.hypot(t, r) for t, r in zip(lengths, angles)) or 1.0
    rows = []
    for v, pose in enumerate(poses):
        seen = pose[:, :3] @ point + pose[:, 3]
        u, w, z = p["K_sources"][item, v] @ seen
        f, own = read(p["sources"][item, v], u / z, w / z), p["reference"][item, :, y, x]
        ray = point / np.linalg.norm(point)
        centre = -pose[:, :3].T @ pose[:, 3]
        other = (point - centre) / np.linalg.norm(point - centre)
        scalars = [z > 0, (z - low) / high, (depth - low) / high, (z > 0) * (f @ own), ray @ other]
        last = [np.hypot(lengths[v], angles[v]) / far, angles[v], lengths[v] / (max(lengths) or 1)]
        rows.append(np.concatenate([f, own, scalars, ray, other, last]))
    return np.array(rows)


def one_value(channel: int, values: int) -> tuple[np.ndarray, ...]:
    """Weights whose score is one channel, and whose logits are equal."""
    w1 = np.zeros((2, values))
    w1[0, channel], w1[1, channel] = 1, -1  # x = (leaky(x) - leaky(-x)) / (1 + slope)
    w3 = np.zeros((2, 2))
    w3[0] = np.array([1, -1]) / (1 + SLOPE) ** 2
    w2 = np.array([[1.0, -1.0], [-1.0, 1.0]])
    return w1, np.zeros(2), w2, np.zeros(2), w3, np.zeros(2)


@pytest.mark.parametrize("channel", range(46))
def test_channel_order(channel: int) -> None:
    """The 46 values in the published order: a network that lets one of them through, mean over the views."""
    p = metadata_problem(batch=1, seed=3)
    found = volume(p, mlp_weights=one_value(channel, 46))
    for plane, y, x in ((0, 0, 0), (1, 4, 19), (2, 8, 7), (3, 5, 16)):
        expected = by_hand(p, 0, plane, y, x)[:, channel].mean()
        assert found[0, plane, y, x] == pytest.approx(expected, rel=2e-5, abs=2e-5)
    assert np.ptp(found) > 0 or channel in (32, 43, 44, 45)


@pytest.mark.parametrize("views", [1, 2, 7, 16])
def test_any_number_of_views_in_any_order(views: int) -> None:
    p = metadata_problem(views=views, seed=views)
    found = volume(p)
    order = np.random.default_rng(1).permutation(views)
    names = ("sources", "K_sources", "source_from_reference")
    turned = volume({**p, **{n: p[n][:, order] for n in names}})
    np.testing.assert_allclose(turned, found, rtol=0, atol=1e-5 * np.abs(found).max())
    pytest.importorskip("torch")  # the reference's
    truth = pl.metadata_cost_volume(**p, implementation="reference")
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-5 * np.abs(truth).max())


def test_planes_of_every_cell() -> None:
    """Equal planes per cell give the volume of shared ones; tilted ones that of each cell's own depth."""
    p = metadata_problem(batch=1, planes=3)
    wide = np.broadcast_to(p["depths"][:, None, None], (1, 3, 9, 20))
    np.testing.assert_allclose(volume(p, depths=wide), volume(p), rtol=0, atol=1e-5)
    limits = np.array([[0.5, 9.0]])
    factor = np.linspace(0.9, 1.3, 20)
    found = volume(p, depths=wide * factor, depth_limits=limits)
    for x in (0, 7, 19):
        column = volume(p, depths=p["depths"] * factor[x], depth_limits=limits)
        np.testing.assert_allclose(found[..., x], column[..., x], rtol=0, atol=1e-5)


def scaled(p: dict[str, Any], factor: float) -> dict[str, Any]:
    poses = p["source_from_reference"].copy()
    poses[..., 3] *= factor
    return {**p, "source_from_reference": poses, "depths": factor * p["depths"]}


def test_the_unit_of_length() -> None:
    """Published: channel 43 alone mixes lengths and rotations and drifts; scale_invariant does not."""
    p = metadata_problem()
    found, other = volume(p), volume(scaled(p, 100.0))
    assert np.abs(found - other).max() > 1e-3 * np.abs(found).max()
    quiet = p["mlp_weights"][0].copy()
    quiet[:, 43] = 0
    without = {**p, "mlp_weights": (quiet, *p["mlp_weights"][1:])}
    for options, q in (({"scale_invariant": True}, p), ({}, without)):
        found, other = volume(q, **options), volume(scaled(q, 100.0), **options)
        np.testing.assert_allclose(other, found, rtol=0, atol=2e-5 * np.abs(found).max())


def test_limits_of_depth() -> None:
    """dmin and dmax come from the planes unless they are given, for every item its own."""
    p = metadata_problem()
    expected = volume(p)
    limits = np.tile([0.6, 8.0], (2, 1))
    np.testing.assert_allclose(volume(p, depth_limits=limits), expected, rtol=0, atol=1e-6)
    other = volume(p, depth_limits=limits * [1, 2])
    assert np.abs(other - expected).max() > 1e-3
    per_item = np.stack([p["depths"], 2 * p["depths"]])
    both = volume(p, depths=per_item)
    np.testing.assert_array_equal(both[0], expected[0])
    for bad in (
        [0.6, 8.0],
        [[0.6, 0.5]] * 2,
        [[-1.0, 2.0]] * 2,
        [[np.nan, 2.0]] * 2,
        [[0.0, 0.0]] * 2,
    ):
        with pytest.raises(ValueError, match="depth_limits"):
            volume(p, depth_limits=np.array(bad))


def test_no_motion_divides_by_one() -> None:
    p = metadata_problem(batch=1, views=2)
    p["source_from_reference"] = np.tile(np.eye(3, 4), (1, 2, 1, 1))
    for channel in (43, 44, 45):
        found = volume(p, mlp_weights=one_value(channel, 46))
        np.testing.assert_array_equal(found, 0)
    same = volume(p, mlp_weights=one_value(36, 46))  # the rays agree
    np.testing.assert_allclose(same, 1, rtol=1e-6)
    assert np.isfinite(volume(p, scale_invariant=True)).all()


def test_sources_that_see_nothing() -> None:
    """Turned around: nothing is in front, and no inner product. Turned aside: in front, no features."""
    p = metadata_problem(batch=1, views=1, channels=4)
    behind = np.diag([-1.0, 1, -1])
    aside = np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]])
    for rotation, in_front in ((behind, 0.0), (aside, None)):
        pose = np.concatenate([rotation, np.zeros((3, 1))], 1)[None, None]
        q = {**p, "source_from_reference": pose}
        mask = volume(q, mlp_weights=one_value(8, 22))
        dot = volume(q, mlp_weights=one_value(11, 22))
        assert np.isfinite(volume(q)).all()
        np.testing.assert_array_equal(dot[mask == 0], 0)
        if in_front is not None:
            np.testing.assert_array_equal(mask, in_front)
    far = np.concatenate([np.eye(3), [[1e6], [0], [0]]], 1)[None, None]
    for channel in (0, 3, 11):
        found = volume({**p, "source_from_reference": far}, mlp_weights=one_value(channel, 22))
        np.testing.assert_array_equal(found, 0)


def test_the_point_in_the_sources_centre_has_no_ray() -> None:
    p = metadata_problem(batch=1, views=1, size=(1, 1), planes=1)
    pose = np.eye(3, 4)
    pose[:, 3] = -2.0 * np.linalg.inv(p["K_reference"][0]) @ (0, 0, 1)
    q = {**p, "source_from_reference": pose[None, None], "depths": np.array([2.0])}
    assert np.isfinite(volume(q)).all()
    for channel in (36, 40, 41, 42):
        assert np.abs(volume(q, mlp_weights=one_value(channel, 46))).max() <= 1.0 + 1e-6


def test_kinds_leading_dimensions_and_layouts() -> None:
    p = metadata_problem()
    expected = volume(p)
    assert expected.dtype == np.float32 and expected.shape == (2, 4, 9, 20)
    half = volume({**p, **{n: p[n].astype(np.float16) for n in ("reference", "sources")}})
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, expected, rtol=0, atol=5e-3 * np.abs(expected).max())
    shared = ("depths", "mlp_weights")
    one = {n: x if n in shared else x[0] for n, x in p.items()}
    np.testing.assert_array_equal(volume(one), expected[0])
    more = {n: x if n in shared else x.reshape(1, 2, *x.shape[1:]) for n, x in p.items()}
    np.testing.assert_array_equal(volume(more), expected[None])
    rows = np.zeros((2, 3, 4, 4))
    rows[..., :3, :], rows[..., 3, 3] = p["source_from_reference"], 1
    np.testing.assert_array_equal(volume(p, source_from_reference=rows), expected)
    flipped = p["sources"][..., ::-1].copy()[..., ::-1]
    np.testing.assert_array_equal(volume(p, sources=flipped), expected)
    empty = {n: x if n in shared else x[:0] for n, x in p.items()}
    assert volume(empty).shape == (0, 4, 9, 20)


def test_refusals() -> None:
    p = metadata_problem()
    w = list(p["mlp_weights"])

    def changed(i: int, x: Any) -> tuple[Any, ...]:
        return (*w[:i], x, *w[i + 1 :])

    nan = p["sources"].copy()
    nan[1, 2, 3, 4, 5] = np.nan
    for name, bad, text in (
        ("mlp_weights", w[:5], "mlp_weights must be a tuple"),
        ("mlp_weights", None, "mlp_weights must be a tuple"),
        ("mlp_weights", changed(0, w[0][:, :45]), r"mlp_weights\[0\].*2 C \+ 14 = 46"),
        ("mlp_weights", changed(1, w[1][:-1]), r"mlp_weights\[1\]"),
        ("mlp_weights", changed(2, w[2][:, :-1]), r"mlp_weights\[2\]"),
        ("mlp_weights", changed(3, w[3][None]), r"mlp_weights\[3\]"),
        ("mlp_weights", changed(4, w[4][:1]), r"mlp_weights\[4\]"),
        ("mlp_weights", changed(5, w[5][:1]), r"mlp_weights\[5\]"),
        ("mlp_weights", changed(2, w[2] * np.inf), r"mlp_weights\[2\] holds NaN"),
        ("mlp_weights", changed(0, w[0][:0]), r"mlp_weights\[0\]"),
        ("sources", nan, "sources holds NaN"),
        ("sources", p["sources"][:, :, :4], "sources must have shape"),
        ("sources", p["sources"][:, :0], "sources"),
        ("mlp_weights", changed(2, w[2] * 1e38), "leaves float32"),
        ("depths", -p["depths"], "depths must be positive"),
        ("depths", p["depths"][:0], "depths"),
        ("K_reference", 0 * p["K_reference"], "K_reference must be invertible"),
        ("num_valid", 4, "num_valid"),
        ("num_valid", [0, 1], "num_valid"),
        ("implementation", "cuda", "implementation"),
    ):
        with pytest.raises(ValueError, match=text):
            volume(p, **{name: bad})


def test_maps_beyond_32_bit_offsets_are_refused() -> None:
    """Without a map of that size: the check looks at shapes alone."""
    from pyloc_core import _arrays, _metadata

    row = np.zeros(1, np.float32)
    wide = np.lib.stride_tricks.as_strided(row, (1, 1, 16, 2**13, 2**13), (0,) * 5)
    features = [_arrays.ArrayIn(x, "float32", False) for x in (row.reshape(1, 1, 1, 1), wide)]
    others = [np.zeros((32, 46), np.float32)] * 10 + [np.ones((1, 1), np.float32)] * 2
    with pytest.raises(ValueError, match="sources of 8192 x 8192"):
        _metadata.Native(tuple(features), others, None, 1)
