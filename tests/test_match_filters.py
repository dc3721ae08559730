# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Filters of matches, against plain formulas over stored correlation maps."""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pc


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two maps (D, H, W) of which one holds the other's cells in another order, with noise."""
    rng = np.random.default_rng(3)
    a = rng.normal(size=(12, 9, 11)).astype(np.float32)
    order = rng.permutation(99)
    b = a.reshape(12, 99)[:, order].reshape(12, 9, 11)
    return a, (b + 0.55 * rng.normal(size=b.shape)).astype(np.float32)


def plain_argmax(descriptors: np.ndarray, features: np.ndarray) -> np.ndarray:
    maps = np.einsum("nd,dhw->nhw", descriptors.astype(float), features.astype(float))
    best = maps.reshape(len(maps), -1).argmax(1)
    return np.stack([best % features.shape[2], best // features.shape[2]], axis=1)


def test_cyclic_check_is_the_plain_way_there_and_back(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    begin = np.stack(np.meshgrid(np.arange(11), np.arange(9)), -1).reshape(-1, 2)
    there = plain_argmax(a[:, begin[:, 1], begin[:, 0]].T, b)
    descriptors = b[:, there[:, 1], there[:, 0]].T
    back = plain_argmax(descriptors, a)
    distance = np.linalg.norm(back - begin, axis=1)
    for limit in (0.5, 1.0, 3.5):
        found = pc.cyclic_check(begin, descriptors, a, max_distance=limit)
        np.testing.assert_array_equal(found.valid, distance < limit)
        np.testing.assert_array_equal(found.xy, back)
        np.testing.assert_allclose(found.distance, distance)
        assert 5 < found.valid.sum() < 95
    exact = pc.cyclic_check(begin.astype(float) + [1.0, 0.0], descriptors, a, max_distance=1.0)
    returned = distance == 0
    assert not exact.valid[returned].any(), "a distance of exactly nu fails, as in Eq. A.1"


def test_filters_are_the_plain_comparisons(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    found = pc.match(a.reshape(12, 99).T, b, quantile=0.05, entropy=True)
    keep = pc.filter_matches(found, min_probability=0.2, min_quantile_ratio=1.3, max_entropy=2.0)
    p = np.exp(found.log_probability)
    expected = (p > 0.2) & (found.quantile_ratio >= 1.3) & (found.entropy <= 2.0)
    np.testing.assert_array_equal(keep, expected)
    assert 5 < keep.sum() < 95
    for name, value in (
        ("min_probability", 0.5),
        ("min_quantile_ratio", 2.0),
        ("max_entropy", 0.5),
    ):
        alone = pc.filter_matches(found, **{name: value})
        assert 0 < alone.sum() < 99, name
    assert pc.filter_matches(found).all()
    spoiled = found._replace(log_probability=np.full(99, np.nan, np.float32))
    assert not pc.filter_matches(spoiled).any()


def test_mutual_matches_are_those_of_the_similarity_matrix() -> None:
    rng = np.random.default_rng(6)
    a = rng.normal(size=(70, 16)).astype(np.float32)
    b = np.concatenate([a[rng.permutation(70)[:50]] + 0.8 * rng.normal(size=(50, 16)),
                        rng.normal(size=(31, 16))]).astype(np.float32)  # fmt: skip
    similarity = a.astype(float) @ b.T.astype(float)
    expected = [
        (i, j) for i, j in enumerate(similarity.argmax(1)) if similarity[:, j].argmax() == i
    ]
    found = pc.mutual_matches(a, b)
    assert found.indices.tolist() == [list(map(int, pair)) for pair in expected]
    assert 10 < len(expected) < 60
    np.testing.assert_allclose(
        found.similarity, similarity[found.indices[:, 0], found.indices[:, 1]], rtol=1e-5
    )
    limit = float(np.median(found.similarity))
    some = pc.mutual_matches(a, b, min_similarity=limit)
    np.testing.assert_array_equal(some.indices, found.indices[found.similarity >= limit])
    for first, second in ((a[:0], b), (a, b[:0]), (a[:0], b[:0])):
        empty = pc.mutual_matches(first, second)
        assert empty.indices.shape == (0, 2) and empty.similarity.shape == (0,)


def test_tensors_give_tensors(pair: tuple[np.ndarray, np.ndarray]) -> None:
    torch = pytest.importorskip("torch")
    a, b = pair
    begin = np.argwhere(np.ones((9, 11)))[:, ::-1].astype(float)
    descriptors = b.reshape(12, 99).T
    plain = pc.cyclic_check(begin, descriptors, a)
    for xy in (torch.from_numpy(begin.copy()), begin):
        found = pc.cyclic_check(xy, torch.from_numpy(descriptors), torch.from_numpy(a))
        assert all(isinstance(each, torch.Tensor) for each in found)
        np.testing.assert_array_equal(found.valid.numpy(), plain.valid)
    mutual = pc.mutual_matches(torch.from_numpy(descriptors), torch.from_numpy(a.reshape(12, 99).T))
    np.testing.assert_array_equal(
        mutual.indices.numpy(), pc.mutual_matches(descriptors, a.reshape(12, 99).T).indices
    )
    half = pc.mutual_matches(torch.from_numpy(descriptors).bfloat16(), a.reshape(12, 99).T)
    assert (
        isinstance(half.indices, torch.Tensor)
        and 0.8 < len(half.indices) / len(mutual.indices) < 1.2
    )


def test_bad_thresholds(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    found = pc.match(a.reshape(12, 99).T, b)
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="min_probability"):
            pc.filter_matches(found, min_probability=bad)
    with pytest.raises(ValueError, match=r"quantile_ratio: call match with quantile"):
        pc.filter_matches(found, min_quantile_ratio=1.2)
    with pytest.raises(ValueError, match=r"entropy: call match with entropy=True"):
        pc.filter_matches(found, max_entropy=1.0)
    with pytest.raises(TypeError, match="matches must come from match"):
        pc.filter_matches(np.ones(3))  # type: ignore[arg-type]
    for bad in (0, -1.0, float("inf"), "x", True):
        with pytest.raises(ValueError, match="max_distance"):
            pc.cyclic_check(np.zeros((99, 2)), a.reshape(12, 99).T, b, max_distance=bad)
    with pytest.raises(ValueError, match="min_similarity"):
        pc.mutual_matches(a[0], b[0], min_similarity=float("nan"))
