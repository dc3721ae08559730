# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""CliqueSampler: what holds for every batch, the search against NetworkX, the golden case, bad input."""

from __future__ import annotations

import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest
from shared_data import SHARED
from synthetic_city import City, synthetic_city

pytest.importorskip("scipy")
pytest.importorskip("hypothesis")
import hypothesis
from hypothesis import strategies as st

from pyloc_core.mining import (
    CliqueSampler,
    MiningError,
    representative_frames,
    sequence_labels,
)
from pyloc_core.mining.place_graph import PlaceGraph, _maximal_cliques, edges, enumerate_all, search
from pyloc_core.mining.sequences import descriptor_distances, draw_similar, sequence_weights

GOLDEN = SHARED / "golden"
CASE = GOLDEN / "cases" / "clique_mining_s1.json"


@pytest.fixture(scope="module")
def town() -> City:
    return synthetic_city(3000, seed=1, cities=3)


def sampler_of(city: City, **options) -> CliqueSampler:
    return CliqueSampler(
        city.positions, city.sequence, city.descriptors, city=city.city,
        **{"similar_sequences": 5, "places_per_batch": 12, **options},
    )  # fmt: skip


def distances(points: np.ndarray) -> np.ndarray:
    d = points[:, None] - points[None]
    return np.sqrt((d * d).sum(-1))


def assert_batch_is_valid(batch, positions, city, tau) -> None:
    for place in batch:
        assert len(set(place.tolist())) == len(place)
        assert len({int(city[i]) for i in place}) == 1
        assert distances(positions[place]).max() < tau
    for a, b in combinations(batch, 2):
        if city[a[0]] == city[b[0]]:
            assert distances(positions[np.concatenate([a, b])])[: len(a), len(a) :].min() >= tau


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 2**32),
    tau=st.floats(15.0, 40.0),
    size=st.integers(2, 5),
    exhausted=st.sampled_from(["city", "sequence"]),
    weighting=st.sampled_from(["published", "cosine", "nearest", "uniform"]),
)
def test_every_place_is_a_clique_and_places_are_apart(town, seed, tau, size, exhausted, weighting):
    sampler = sampler_of(
        town, seed=seed, threshold=tau, images_per_place=size, when_exhausted=exhausted,
        weighting=weighting, places_per_batch=8,
    )  # fmt: skip
    batch = sampler.batch(seed % 7)
    assert batch.shape == (8, size) and batch.dtype == np.int64
    assert_batch_is_valid(batch, town.positions, town.city, tau)


def test_draws_of_one_city_leave_out_what_lies_near_places_already_taken() -> None:
    town = synthetic_city(1500, seed=2, blocks=3)
    for exhausted in ("city", "sequence"):
        sampler = sampler_of(
            town, similar_sequences=1, places_per_batch=20, when_exhausted=exhausted
        )
        for batch in sampler.batches(5):  # two sequences hold far fewer than 20 places
            assert_batch_is_valid(batch, town.positions, town.city, 25.0)


def test_the_same_seed_and_index_give_the_same_batch_in_any_order_on_any_worker(town) -> None:
    sampler = sampler_of(town, seed=5)
    mined = sampler.mine(12)
    assert mined.shape == (12, 12, 4)
    with ThreadPoolExecutor(4) as pool:
        assert np.array_equal(
            np.stack(list(pool.map(sampler.batch, reversed(range(12)))))[::-1], mined
        )
    again = pickle.loads(pickle.dumps(sampler_of(town, seed=5)))
    assert np.array_equal(again.mine(5, start=7), mined[7:])
    assert not np.array_equal(sampler_of(town, seed=6).batch(0), mined[0])
    assert sampler.mine(0).shape == (0, 12, 4)
    assert len({mined[i].tobytes() for i in range(12)}) == 12


def test_cities_are_drawn_by_their_number_of_sequences() -> None:
    town = synthetic_city(6000, seed=3, cities=2)
    kept = (town.city == 0) | (town.sequence % 3 == 0)
    labels = sequence_labels(town.sequence[kept], town.city[kept])
    descriptors = np.random.default_rng(0).standard_normal((len(labels), 4))
    sampler = CliqueSampler(
        town.positions[kept], town.sequence[kept], descriptors, city=town.city[kept],
        places_per_batch=1, similar_sequences=3,
    )  # fmt: skip
    expected = np.mean([city == 0 for city, _ in labels])
    assert 0.6 < expected < 0.85
    drawn = [town.city[kept][sampler.batch(i)[0, 0]] == 0 for i in range(400)]
    assert abs(np.mean(drawn) - expected) < 4 * 0.45 / np.sqrt(400)


# The search against the list of all maximal cliques.


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 60),
    size=st.integers(2, 6),
    extent=st.sampled_from([30.0, 80.0, 200.0]),
)
def test_the_search_returns_the_cliques_of_the_graph_library(seed, count, size, extent) -> None:
    pytest.importorskip("networkx")
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, extent, (count, 2))
    points[:: max(count // 5, 1)] = points[0]  # some frames at one position
    ours, theirs = (PlaceGraph(points, 25.0, size) for _ in range(2))
    draws = np.random.default_rng(seed), np.random.default_rng(seed)
    while True:
        a, b = search(ours, draws[0]), enumerate_all(theirs, draws[1])
        assert (a is None) == (b is None)
        if a is None or b is None:
            break
        assert np.array_equal(a, b)
    # What is neither in a place nor beside one holds no clique of this size.
    assert enumerate_all(theirs, draws[1]) is None


def test_the_options_for_cliques_agree_where_they_promise_to(town) -> None:
    pytest.importorskip("networkx")
    ours, oracle, published = (
        sampler_of(town, cliques=way, places_per_batch=6)
        for way in ("search", "networkx", "published")
    )
    for index in range(3):
        assert np.array_equal(ours.batch(index), oracle.batch(index))
        assert_batch_is_valid(published.batch(index), town.positions, town.city, 25.0)


def test_a_distance_of_exactly_tau_is_no_edge() -> None:
    points = np.array([[0.0, 0.0], [25.0, 0.0], [0.0, 24.999], [15.0, 20.0]])
    found = edges(points, 25.0).tolist()
    assert found == [[0, 2], [1, 3], [2, 3]]
    assert PlaceGraph(points[:2], 25.0, 2).next_place(np.random.default_rng(0)) is None


def test_edges_equal_those_of_the_dense_matrix(town) -> None:
    points = town.positions[:500]
    upper = np.argwhere(np.triu(distances(points) < 25.0, 1))
    assert len(upper) > 1000 and np.array_equal(edges(points, 25.0), upper)


# The golden case.


@pytest.mark.skipif(not CASE.is_file(), reason=f"{CASE} is not there")
def test_golden_parity() -> None:
    pytest.importorskip("torch")  # the runner imports all systems
    pytest.importorskip("networkx")
    import golden_parity

    rows = golden_parity.run(GOLDEN, ("clique_mining",))
    assert len(rows) == 12 and all(row.ok for row in rows), golden_parity.table(rows)


@pytest.mark.skipif(not CASE.is_file(), reason=f"{CASE} is not there")
def test_draws_of_the_golden_case_have_its_properties() -> None:
    case = json.loads(CASE.read_text())
    given = case["input"]
    points, cluster = np.array(given["utm_easting_northing"]), np.array(given["cluster_of_frame"])
    descriptors = np.random.default_rng(0).standard_normal((given["num_clusters"], 64))
    sampler = CliqueSampler(points, cluster, descriptors, similar_sequences=8)
    counts = []
    for seed in range(400):
        places: list[np.ndarray] = []
        sampler._draw(0, places, np.random.default_rng(seed))
        batch = np.stack(places)
        assert len(np.unique(cluster[batch])) <= 9
        assert_batch_is_valid(batch, points, np.zeros(len(points)), 25.0)
        counts.append(len(places))
    # The order of the picks differs from the published one: its range may be left, its mean hardly.
    low, high = case["places_per_draw_observed"]
    assert low - 1 <= min(counts) and max(counts) <= high + 1
    assert abs(np.mean(counts) - case["mean_places_per_draw"]) < 0.5


# Weights and draws of sequences.


def test_published_weights() -> None:
    x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 1.0]])
    weights = sequence_weights(x, "published")
    weights *= 4 / weights[0, 3]  # they have no unit
    assert np.allclose(weights[0], [0.0, 0.0, 0.0, 4.0])  # itself, farthest, duplicate, 5 - 1
    assert np.allclose(weights[3], [np.sqrt(18) - 1, 0.0, np.sqrt(18) - 1, 0.0])


@pytest.mark.parametrize("weighting", ["published", "cosine", "nearest", "uniform"])
def test_the_length_of_the_descriptors_does_not_matter(weighting) -> None:
    x = np.random.default_rng(1).standard_normal((30, 16))
    expected = np.argsort(sequence_weights(x.astype(np.float32), weighting), axis=1, kind="stable")
    for factor in (
        2.0**-600,
        2.0**70,
        2.0**600,
    ):  # squares leave the range of float32, or of float64
        found = sequence_weights(x * factor, weighting)
        assert np.isfinite(found).all()
        assert np.array_equal(np.argsort(found, axis=1, kind="stable"), expected)


def test_distances_of_duplicates_are_exactly_zero_and_others_are_right() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((40, 300)).astype(np.float32) + 50
    x[7] = x[3]
    x[8] = x[3] + np.float32(1e-3)
    expected = np.linalg.norm(x[:, None].astype(float) - x[None], axis=-1)
    found = descriptor_distances(x)
    assert found[3, 7] == 0 and found[7, 3] == 0 and found[3, 8] > 0
    assert np.abs(found - expected).max() < 1e-3 * expected.max()
    assert abs(found[3, 8] / expected[3, 8] - 1) < 1e-6


def test_draws_without_replacement_follow_successive_sampling() -> None:
    weights = np.array([1.0, 2.0, 0.0, 3.0, 4.0], np.float32)
    rng = np.random.default_rng(0)
    drawn = np.array([draw_similar(weights, 2, "published", rng) for _ in range(20000)])
    p = weights / weights.sum()
    exact = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            exact[i, j] = 0.0 if i == j or p[i] == 0 else p[i] * p[j] / (1 - p[i])
    observed = np.zeros((5, 5))
    np.add.at(observed, (drawn[:, 0], drawn[:, 1]), 1 / len(drawn))
    assert np.abs(observed - exact).max() < 4 * 0.5 / np.sqrt(20000)
    assert len(draw_similar(weights, 9, "published", rng)) == 4
    assert draw_similar(weights, 2, "nearest", rng).tolist() == [4, 3]


def test_representative_frames_and_labels() -> None:
    sequence = np.array(["b", "a", "b", "b", "a"])
    city = np.array([0, 0, 0, 1, 1])
    labels = sequence_labels(sequence, city)
    assert labels == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert representative_frames(sequence, city, choose="central").tolist() == [1, 2, 4, 3]
    frames = representative_frames(sequence, city, seed=3)
    assert [(int(city[f]), str(sequence[f])) for f in frames] == labels
    with pytest.raises(ValueError, match="choose"):
        representative_frames(sequence, choose="middle")


def test_descriptors_per_frame_use_the_representative_frames(town) -> None:
    rng = np.random.default_rng(8)
    per_frame = rng.standard_normal((len(town.positions), 8))
    chosen = per_frame[representative_frames(town.sequence, town.city, seed=2)]
    a, b = (sampler_of(town._replace(descriptors=d), seed=2) for d in (per_frame, chosen))
    assert np.array_equal(a.batch(3), b.batch(3))
    assert np.isclose(a.sampling_probabilities(4).sum(), 1.0)
    assert a.sampling_probabilities(4)[4] == 0.0


# Bad input.


def test_bad_input_is_named(town) -> None:
    p, s, d, c = town.positions, town.sequence, town.descriptors, town.city
    nan = p.copy()
    nan[17, 1] = np.nan
    spoilt = d.copy()
    spoilt[2, 0] = np.inf
    far = p * 100
    for arguments, message in (
        ((nan, s, d, c), "positions has 1 frames that are not finite, first frame 17"),
        ((p[:-1], s, d, c), "positions has"),
        ((p * 1e200, s, d, c), "positions must be metres below 1e\\+09"),
        ((p[:, :1], s, d, c), "positions must be"),
        ((p, s, d[:-1], c), "descriptors has"),
        ((p, s, spoilt, c), "descriptors has 1 rows that are not finite, first row 2"),
        ((p, s, d, c[1:]), "city has"),
        ((far, s, d, c), "city 0 has no place"),
        ((p[:0], s[:0], d[:0], None), "sequence is empty"),
        ((p, s[:, None], d, c), "sequence must be"),
        ((p[:3], s[:3], d[:1], None), "has 3 frames, a place 4"),
    ):
        with pytest.raises(ValueError, match=message):
            CliqueSampler(*arguments[:3], city=arguments[3], similar_sequences=0)
    with pytest.raises(ValueError, match=r"city 0 has \d+ sequences: similar_sequences"):
        sampler_of(town, similar_sequences=10000)
    for options, message in (
        ({"threshold": float("nan")}, "threshold"),
        ({"images_per_place": 1}, "images_per_place"),
        ({"weighting": "publisched"}, "did you mean 'published'"),
        ({"when_exhausted": "never"}, "when_exhausted"),
        ({"cliques": "network"}, "did you mean 'networkx'"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler_of(town, **options)
    with pytest.raises(TypeError, match="places_per_batch"):
        sampler_of(town, places_per_batch=2.5)
    with pytest.raises(TypeError, match="sequence must be integers or strings"):
        CliqueSampler(p, s.astype(float), d)
    sampler = sampler_of(town)
    for call, kind, message in (
        (lambda: sampler.batch(-1), ValueError, "index must be at least 0"),
        (lambda: sampler.batches(3, start=-1), ValueError, "start must be at least 0"),
        (lambda: sampler.batches(-1), ValueError, "count must be at least 0"),
        (lambda: sampler.sampling_probabilities(10**9), ValueError, "sequence must be in"),
        (lambda: sampler.sampling_probabilities(0.5), TypeError, "sequence must be an integer"),
        (lambda: sampler_of(town, threshold="25"), TypeError, "threshold must be a number"),
        (lambda: sampler_of(town, threshold=None), TypeError, "threshold must be a number"),
        (lambda: representative_frames(s, seed=-1), ValueError, "seed must be at least 0"),
        (lambda: sequence_labels(["a", None]), TypeError, "sequence must be .* got None"),
        (lambda: sequence_labels(s, s.astype("M8[s]")), TypeError, "city must be integers"),
        (lambda: sequence_labels([]), ValueError, "sequence is empty"),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_other_kinds_of_arrays_and_names(town) -> None:
    expected = sampler_of(town).batch(0)
    names = np.array(["Zürich", "東京", "São Paulo"])  # sorted otherwise: the cities are the same
    named = CliqueSampler(
        town.positions.tolist(), [str(i) for i in town.sequence], np.zeros((len(town.city), 1)),
        city=names[town.city].tolist(), similar_sequences=5, places_per_batch=12,
    )  # fmt: skip
    assert_batch_is_valid(named.batch(0), town.positions, town.city, 25.0)
    torch = pytest.importorskip("torch")
    tensors = (torch.from_numpy(np.asarray(value)) for value in town)
    same = sampler_of(City(*tensors)._replace(descriptors=torch.tensor(town.descriptors)))
    assert np.array_equal(same.batch(0), expected)
    learned = torch.tensor(town.descriptors, requires_grad=True)
    assert np.array_equal(sampler_of(town._replace(descriptors=learned)).batch(0), expected)
    narrow = learned.detach().bfloat16()
    assert sampler_of(town._replace(descriptors=narrow)).batch(0).shape == (12, 4)


def test_the_arrays_of_the_caller_may_change_afterwards(town) -> None:
    mine = town._replace(positions=town.positions.copy())
    sampler = sampler_of(mine)
    mine.positions[:] = 0.0
    assert np.array_equal(sampler.batch(0), sampler_of(town).batch(0))


def test_a_batch_that_cannot_be_filled_ends_with_an_error(town) -> None:
    for exhausted in ("city", "sequence"):
        sampler = sampler_of(town, places_per_batch=5000, max_draws=8, when_exhausted=exhausted)
        with pytest.raises(MiningError, match=r"holds \d+ of 5000 places after 8 draws"):
            sampler.batch(0)


def test_a_crowd_at_one_place_is_quick_and_gives_what_the_library_gives() -> None:
    pytest.importorskip("networkx")
    points = np.random.default_rng(0).normal(0, 3, (150, 2)) + np.repeat([[0, 0], [26, 0]], 75, 0)
    graph = PlaceGraph(points, 25.0, 4)
    ours = graph.clique_from(0)
    expected = min(sorted(c) for c in _maximal_cliques(graph) if len(c) >= 4)
    assert sorted(ours.tolist()) == expected and len(expected) > 70
    crowd = PlaceGraph(np.random.default_rng(1).normal(0, 2, (50000, 2)), 25.0, 4)
    begin = time.perf_counter()
    assert len(crowd.clique_from(0)) == 50000
    assert (
        crowd.has_clique() and time.perf_counter() - begin < 5
    )  # pair by pair it would be minutes


def test_frames_at_one_position_make_a_place() -> None:
    points = np.zeros((8, 2)) + [[5e5, 4e6]]
    sampler = CliqueSampler(
        points, np.repeat([0, 1], 4), np.eye(2), similar_sequences=1, places_per_batch=1
    )
    place = sampler.batch(0)[0]
    assert len(set(place.tolist())) == 4
