# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Geographic distance sensitivity against brute force, its promises about memory and seeds, its picture."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("scipy")
from pyloc_core.retrieval import distance_sensitivity, plot_sensitivity

EDGES = np.arange(0.0, 41.0, 10.0)


def scene(count: int = 300, noise: float = 0.05, seed: int = 0):
    """Frames in a square, and descriptors that turn with the position."""
    turn, phase = np.random.default_rng(0).standard_normal((2, 64)) / 60, np.arange(64)
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, 200, (count, 2))
    x = np.cos(positions @ turn + phase)
    x += noise * rng.standard_normal(x.shape)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), positions


def brute_force(x, p, y, q, same):
    metres = np.sqrt(((p[:, None] - q) ** 2).sum(-1))
    distance = np.linalg.norm(x[:, None].astype(float) - y, axis=-1)
    if same:
        np.fill_diagonal(metres, np.inf)
    rows = [(metres >= a) & (metres < b) for a, b in pairwise(EDGES)]
    right = total = 0.0
    for m, d in zip(metres, distance):
        near = np.flatnonzero(m < EDGES[-1])
        closer = m[near][:, None] < m[near][None]
        right += ((d[near][:, None] < d[near][None]) & closer).sum()
        total += closer.sum()
    return [distance[r].mean() for r in rows], [distance[r].std() for r in rows], [
        r.sum() for r in rows], right / total  # fmt: skip


@pytest.mark.parametrize("same", [True, False])
def test_bins_equal_brute_force(same: bool) -> None:
    x, p = scene()
    y, q = (x, p) if same else scene(200, seed=5)
    other = {} if same else {"database_descriptors": y, "database_positions": q}
    found = distance_sensitivity(x, p, EDGES, **other)
    mean, std, count, order = brute_force(x, p, y, q, same)
    assert found.count.tolist() == count and min(count) > 50
    assert np.allclose(found.mean, mean, atol=1e-6) and np.allclose(found.std, std, atol=1e-5)
    assert abs(found.order - order) < 0.02 and found.order > 0.8
    assert found.far_mean > found.mean[-1]


def test_order_is_a_half_for_random_descriptors_and_falls_with_noise() -> None:
    _, p = scene()
    random = np.random.default_rng(1).standard_normal((300, 32))
    assert abs(distance_sensitivity(random, p, EDGES).order - 0.5) < 0.02
    orders = [distance_sensitivity(*scene(noise=n), EDGES).order for n in (0.01, 0.3, 1.0)]
    assert orders[0] > orders[1] > orders[2] > 0.5
    assert distance_sensitivity(np.ones((300, 4)), p, EDGES).order == 0.5  # all equal


def test_frames_of_aligned_sequences() -> None:
    x, _ = scene(120)
    frames = np.arange(120)
    found = distance_sensitivity(
        x[frames], frames, [0, 1, 2], database_descriptors=x, database_positions=frames
    )
    assert found.count.tolist() == [120, 238] and found.mean[0] == 0.0 and found.std[0] == 0.0


def test_the_seed_decides_and_pairs_are_limited() -> None:
    x, p = scene(600)
    a, b, c = (distance_sensitivity(x, p, EDGES, max_pairs=3000, seed=s) for s in (0, 0, 1))
    assert a.to_dict() == b.to_dict() != c.to_dict()
    assert 3000 <= a.count.sum() < 3000 + 256
    assert np.abs(a.mean - c.mean).max() < 0.05  # another sample of the same


def test_memory_is_bounded_when_all_frames_are_at_one_place() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 16)).astype(np.float32)
    tracemalloc.start()
    found = distance_sensitivity(x, rng.normal(0, 1, (4000, 2)), EDGES, max_pairs=20000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.count[0] >= 20000 and peak < 32 << 20  # all distances would take 128 MB
    assert found.far_count == 0 and found.to_dict()["far_mean"] is None


def test_the_picture(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    blunt, sharp = (distance_sensitivity(*scene(noise=n), EDGES) for n in (0.5, 0.01))
    path = plot_sensitivity({"blunt": blunt, "sharp": sharp}, tmp_path / "deep" / "s.png")
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 10000
    json.dumps(sharp.to_dict())


def test_nothing_and_bad_input() -> None:
    x, p = scene(20)
    empty = distance_sensitivity(x[:0], p[:0], EDGES)
    assert empty.count.sum() == 0 and np.isnan(empty.order) and np.isnan(empty.mean).all()
    spoilt = x.copy()
    spoilt[5, 3] = np.nan
    for arguments, options, message in (
        ((x, p[:-1]), {}, "positions has 19 frames, descriptors 20"),
        ((spoilt, p), {}, "descriptors has a row that is not finite or beyond 1e.15, row 5"),
        ((x, p * np.inf), {}, "positions has"),
        ((x * np.float32(1e17), p), {}, "descriptors has a row .* row 0"),
        ((x, p * 1e200), {}, "positions must be below 1e.150"),
        ((x, p), {"far_pairs": -1}, "far_pairs must be at least 0"),
        ((x, p), {"seed": -1}, "seed must be at least 0"),
        ((x[0], p), {}, "descriptors must be"),
        ((x, p, [3.0]), {}, "edges must be"),
        ((x, p, [3.0, 2.0]), {}, "edges must be finite"),
        ((x, p), {"database_descriptors": x}, "given together"),
        ((x, p), {"database_descriptors": x[:, :5], "database_positions": p}, "64 and 2 columns"),
    ):
        with pytest.raises(ValueError, match=message):
            distance_sensitivity(*arguments, **options)
    for options in ({"max_pairs": None}, {"seed": 0.5}, {"edges": "rising"}):
        with pytest.raises(TypeError, match=next(iter(options))):
            distance_sensitivity(x, p, **options)


def test_other_kinds_of_arrays() -> None:
    x, p = scene(60)
    expected = distance_sensitivity(x, p, EDGES)
    halves = distance_sensitivity(x.astype(np.float16).tolist(), p.tolist(), EDGES.tolist())
    assert np.allclose(halves.mean, expected.mean, atol=1e-3)
    whole = distance_sensitivity(np.rint(x * 100).astype(np.int8), p, EDGES)
    assert np.allclose(whole.mean / 100, expected.mean, atol=0.05)
    torch = pytest.importorskip("torch")
    y = torch.from_numpy(x)
    found = distance_sensitivity(y.requires_grad_(), torch.from_numpy(p), EDGES)
    assert found.to_dict() == expected.to_dict()
    narrow = distance_sensitivity(y.detach().bfloat16(), p, EDGES)
    assert np.allclose(narrow.mean, expected.mean, atol=1e-2)
