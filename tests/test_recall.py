# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Recall@k by hand and by brute force: rules, ties, queries without positives, curves, bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyloc_core.retrieval import (
    positives_by_frame,
    positives_within,
    recall,
    recall_curve,
)

RANKED = np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]])
POSITIVES = [[0], [0, 1], [2], []]


def test_recall_by_hand() -> None:
    found = recall(RANKED, POSITIVES, (1, 2, 3))
    assert found.first.tolist() == [0, 1, 2, -1]
    assert found.values.tolist() == [0.25, 0.5, 0.75]
    assert found[2] == 0.5 and found.without_positives == 1
    assert str(found) == "R@1 25.0, R@2 50.0, R@3 75.0 (4 queries)"
    assert json.loads(json.dumps(found.to_dict()))["recall"] == {"1": 0.25, "2": 0.5, "3": 0.75}
    with pytest.raises(KeyError, match="recall@5"):
        found[5]


def test_queries_without_positives_are_misses_or_left_out() -> None:
    found = recall(RANKED, POSITIVES, (3, 1), without_positives="leave_out")
    assert found.ks == (1, 3) and np.allclose(found.values, [1 / 3, 1.0])
    assert found.counted.tolist() == [True, True, True, False]
    nothing = recall(RANKED, [[]] * 4, (1,), without_positives="leave_out")
    assert np.isnan(nothing.values).all() and nothing.to_dict()["recall"] == {"1": None}
    assert recall(RANKED, [[]] * 4, (1,))[1] == 0.0


def test_missing_results_and_repeated_ones() -> None:
    ranked = np.array([[-1, -1, -1], [3, 3, 1]])
    found = recall(ranked, [[0], [1]], (1, 3))
    assert found.values.tolist() == [0.0, 0.5]
    # A positive is never -1, whatever the list says.
    assert recall(ranked, [[-1], [7]], (3,))[3] == 0.0


def test_ties_give_a_range() -> None:
    ranked = np.array([[4, 5, 6, 7]])
    similar = np.array([[0.9, 0.5, 0.5, 0.5]])
    for ties, first in (("ranked", 2), ("best", 1), ("worst", 3)):
        assert recall(ranked, [[6]], (1,), similarities=similar, ties=ties).first[0] == first
    two = recall(ranked, [[6, 5]], (3,), similarities=similar, ties="worst")
    assert two.first[0] == 2  # one wrong image among the three
    with pytest.raises(ValueError, match="similarities must be given"):
        recall(ranked, [[6]], (1,), ties="best")
    with pytest.raises(ValueError, match="fall along"):
        recall(ranked, [[6]], (1,), ties="best", similarities=similar[:, ::-1])


def test_positives_within_equal_brute_force() -> None:
    pytest.importorskip("scipy")
    rng = np.random.default_rng(0)
    queries = rng.uniform(0, 200, (60, 2)) + (5e5, 4e6)
    database = rng.uniform(0, 200, (90, 2)) + (5e5, 4e6)
    database[0] = queries[0] + (15.0, 20.0)  # exactly 25 m: correct
    found = positives_within(queries, database)
    distance = np.sqrt(((queries[:, None] - database) ** 2).sum(-1))
    assert 0 in found[0] and 100 < sum(map(len, found)) < 1000
    for query, rows in enumerate(found):
        assert rows.tolist() == np.flatnonzero(distance[query] <= 25.0).tolist()
    assert [len(p) for p in positives_within(queries[:2], database[:0])] == [0, 0]
    assert positives_within(queries[:0], database) == []


def test_positives_by_frame() -> None:
    found = positives_by_frame([5, 0, 9], [9, 4, 6, 5, 5, 2])
    assert [rows.tolist() for rows in found] == [[1, 2, 3, 4], [], [0]]
    assert positives_by_frame([5], [9, 4, 6], 0)[0].tolist() == []


def test_the_curve_agrees_with_recall_at_each_threshold() -> None:
    pytest.importorskip("scipy")
    rng = np.random.default_rng(1)
    queries, database = rng.uniform(0, 300, (40, 2)), rng.uniform(0, 300, (70, 2))
    ranked = np.argsort(rng.standard_normal((40, 70)), 1)[:, :10]
    ranked[3, 4:] = -1
    thresholds = [5.0, 25.0, 60.0, 500.0]
    curve = recall_curve(ranked, queries, database, thresholds)
    for row, limit in enumerate(thresholds):
        at = recall(ranked, positives_within(queries, database, limit))
        assert np.array_equal(curve.values[row], at.values)
    assert (np.diff(curve.values, axis=0) >= 0).all() and (curve.values[-1] == 1).all()
    frames = recall_curve([[3, 1]], [4], [0, 5, 9, 7], [0, 1, 3], (1, 2))
    assert frames.values.tolist() == [[0, 0], [0, 1], [1, 1]]
    json.dumps(curve.to_dict())


def test_the_curve_is_drawn(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from pyloc_core.retrieval import plot_recall_curve

    curve = recall_curve([[3, 1]], [4], [0, 5, 9, 7], [0, 1, 3], (1, 2))
    one = plot_recall_curve({"a": curve}, tmp_path / "new" / "a.png", rule=1, unit="frames")
    two = plot_recall_curve({"a": curve, "b": curve}, tmp_path / "b.png", rule=1)
    assert one.read_bytes()[:4] == two.read_bytes()[:4] == b"\x89PNG"
    assert one.read_bytes() != two.read_bytes()


def test_bad_input_is_named() -> None:
    points = np.zeros((4, 2))
    for call, message in (
        (lambda: recall(RANKED[0], POSITIVES), "ranked must be"),
        (lambda: recall(RANKED, POSITIVES[:3], (1,)), "positives has 3 queries, ranked 4"),
        (lambda: recall(RANKED, POSITIVES, (4,)), "recall@4, ranked holds 3"),
        (lambda: recall(RANKED, POSITIVES, ()), "ks must be"),
        (lambda: recall(RANKED, POSITIVES, (0,)), "ks must be"),
        (lambda: recall(RANKED - 2, POSITIVES, (1,)), "index -2"),
        (lambda: recall(RANKED.astype(np.uint64) + 2**63, POSITIVES, (1,)), "no database is as"),
        (lambda: recall([[0, 1], [1]], POSITIVES[:2], (1,)), "ranked must be an array"),
        (lambda: positives_within(points + 1e200, points), "query_positions must be below"),
        (lambda: positives_by_frame([2**63 - 1], [0]), "query_frames must be integers below"),
        (lambda: recall(RANKED, POSITIVES, (1,), without_positives="mis"), "did you mean 'miss'"),
        (lambda: recall(RANKED, POSITIVES, (1,), ties="wurst"), "did you mean 'worst'"),
        (lambda: positives_within(points * np.nan, points), "query_positions has 4 rows"),
        (lambda: positives_within(points, points, -1.0), "threshold"),
        (lambda: positives_within(points, np.zeros((4, 3))), "2 coordinates"),
        (lambda: positives_within(points[:, 0], points), "query_positions must be"),
        (lambda: recall_curve(RANKED, points[:2], points, [1], (1,)), "query_positions has 2"),
        (lambda: recall_curve(RANKED, points, points[:2], [1], (1,)), "index 2"),
        (lambda: recall_curve(RANKED, points, points, [-1], (1,)), "thresholds"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for call, message in (
        (lambda: recall(RANKED.astype(float), POSITIVES), "ranked must be integers"),
        (lambda: positives_by_frame([1.5], [1]), "query_frames must be integers"),
        (lambda: recall(RANKED, None, (1,)), "positives must be a sequence"),
        (lambda: recall(RANKED, POSITIVES, 1), "ks must be a sequence"),
        (lambda: recall(RANKED, POSITIVES, (1.5,)), "ks must be an integer"),
        (lambda: positives_within(points, points, "25"), "threshold must be a number"),
        (lambda: positives_within(points + 1j, points), "query_positions must hold real numbers"),
        (lambda: positives_by_frame([1], [1], None), "tolerance must be a number"),
        (lambda: recall_curve(RANKED, points, points, ["a"], (1,)), "thresholds must hold"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_a_database_or_a_set_of_queries_of_none_or_one() -> None:
    nothing = np.full((2, 3), -1)
    assert recall(nothing, [[], []], (1,))[1] == 0.0
    assert recall_curve(nothing, [4.0, 5.0], [], [0, 9], (1, 3)).values.tolist() == [[0, 0]] * 2
    empty = recall_curve(nothing[:0], [], [1], [5], (1,))
    assert json.loads(json.dumps(empty.to_dict()))["recall"] == {"1": [None]}
    assert recall([[0]], [[0]], np.array([1]))[1] == 1.0


def test_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("scipy")
    points = torch.tensor([[0.0, 0.0], [20.0, 0.0]], requires_grad=True)
    near = positives_within(points, points.detach().bfloat16(), np.float32(25))
    assert [rows.tolist() for rows in near] == [[0, 1], [0, 1]]
    ranked = torch.tensor([[1, 0], [0, 1]])
    assert recall(ranked, [torch.tensor([0]), [0]], (1, 2)).values.tolist() == [0.5, 1.0]
