# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""CliqueMining: training batches of nearby and similar-looking places.

Izquierdo and Civera, "Close, but not there", ECCV 2024; thesis of S. Izquierdo, chapter 5, algorithms 1
and 2. Where the released program differs from the thesis, its way is the default and the other an option.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _checks
from pyloc_core.mining.place_graph import FINDERS, PlaceGraph
from pyloc_core.mining.sequences import (
    WEIGHTINGS,
    SequenceTable,
    draw_similar,
    group,
    sequence_weights,
)

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_FARTHEST = 1e9  # metres: beyond it coordinates are no longer exact to a micrometre


class MiningError(RuntimeError):
    """A batch could not be filled: the cities do not hold enough places that are tau apart."""


class CliqueSampler:
    """Draws batches of places, each a clique of K frames with all distances strictly below tau.

    A draw takes a reference sequence and S more of the same city, the likelier the more alike they look;
    the graph of all their frames gives one place after the other (`place_graph.py` says which), each
    leaving with all its neighbours. When the graph has no clique left, the batch goes on with another
    draw. Frames nearer than tau to a place that the batch has already taken are left out, so that any two
    places of a city in a batch are at least tau apart, whatever the draws they come from.

    Batch i depends on the seed and on i alone: any worker may draw it, in any order. Nothing changes after
    construction, so an instance may be shared by threads and pickled to processes.

    Args:
        positions: (F, 2) metres, such as UTM easting and northing.
        sequence: (F,) integers or strings, the sequence of each frame. With MSLS, `unique_cluster`.
        descriptors: (S', D), a descriptor per sequence in the order of `sequence_labels(sequence, city)`;
            or (F, D), of which the frames of `representative_frames` are used. Distances between the
            sequences of a city are computed here, once: 4 S'^2 bytes per city are kept.
        city: (F,) integers or strings; None: all frames are of one city. Frames of two cities are never
            compared. Cities are drawn with probability proportional to their number of sequences.
        threshold: tau, metres; 25 was best of 10 to 30 (thesis, figure 5.6).
        images_per_place: K.
        places_per_batch: N; 30, beside as many places of another data set, as published.
        similar_sequences: S, beside the reference.
        seed: of all draws, and of the representative frames when descriptors are per frame.
        weighting: "published", "cosine", "nearest" or "uniform"; see `sequences.sequence_weights`.
        when_exhausted: what follows a graph without cliques: "city", a city that the batch has not used
            (published; when all are used a new round begins), or "sequence", a new reference sequence of
            the same city (thesis).
        cliques: "search"; "networkx", the same places from the list of all maximal cliques, slow; or
            "published", the first clique that NetworkX lists, another distribution.
        max_draws: draws per batch, after which MiningError says that the batch cannot be filled. The
            published program would go on for ever.

    Raises:
        ValueError: a length that does not fit, a NaN, a city with fewer frames than K, with no clique
            at all, or with too few sequences, an unknown option: the argument is named.
        TypeError: labels that are neither integers nor strings, numbers that are none.
        MissingExtra: scipy is not installed, or networkx where it is asked for.
    """

    def __init__(
        self,
        positions: Any,
        sequence: Any,
        descriptors: Any,
        *,
        city: Any = None,
        threshold: float = 25.0,
        images_per_place: int = 4,
        places_per_batch: int = 30,
        similar_sequences: int = 15,
        seed: int = 0,
        weighting: str = "published",
        when_exhausted: str = "city",
        cliques: str = "search",
        max_draws: int = 100,
    ) -> None:
        _checks.known_name("weighting", weighting, WEIGHTINGS)
        _checks.known_name("when_exhausted", when_exhausted, ("city", "sequence"))
        _checks.known_name("cliques", cliques, tuple(FINDERS))
        self.images_per_place = _checks.integer("images_per_place", images_per_place, 2)
        self.places_per_batch = _checks.integer("places_per_batch", places_per_batch, 1)
        self.similar_sequences = _checks.integer("similar_sequences", similar_sequences, 0)
        self.max_draws = _checks.integer("max_draws", max_draws, 1)
        self.seed = _checks.integer("seed", seed, 0)
        self.threshold = _checks.number("threshold", threshold, positive=True)
        self.weighting, self.when_exhausted, self.cliques = weighting, when_exhausted, cliques
        self._table = group(sequence, city)
        self._positions = _checked_positions(positions, len(self._table.frames))
        values = _per_sequence(descriptors, self._table, self.seed)
        self._check_cities()
        # Sequences of a city are neighbours in the table; row of the table = start of the city + row.
        self._start = np.searchsorted(self._table.city_of, np.arange(len(self._table.cities) + 1))
        self._weights = [
            sequence_weights(values[first:last], weighting)
            for first, last in zip(self._start[:-1], self._start[1:])
        ]

    def __repr__(self) -> str:
        return (
            f"CliqueSampler({len(self._positions)} frames, {len(self._table)} sequences, "
            f"{len(self._table.cities)} cities, {self.places_per_batch} places of "
            f"{self.images_per_place} within {self.threshold:g} m)"
        )

    def batch(self, index: int) -> Indices:
        """(N, K) frame indices of batch `index`; a row is a place, the same for the same seed and index.

        Raises:
            ValueError: a negative index.
            MiningError: `max_draws` draws did not fill the batch.
        """
        rng = np.random.default_rng((self.seed, _checks.integer("index", index, 0)))
        places: list[Indices] = []
        left: list[int] = []
        city = -1
        for _ in range(self.max_draws):
            if self.when_exhausted == "city" or city < 0:
                left = left or list(range(len(self._table.cities)))
                sizes = np.diff(self._start)[left]
                city = left.pop(int(rng.choice(len(left), p=sizes / sizes.sum())))
            self._draw(city, places, rng)
            if len(places) == self.places_per_batch:
                return np.stack(places)
        raise MiningError(
            f"batch {index} holds {len(places)} of {self.places_per_batch} places after "
            f"{self.max_draws} draws: fewer places_per_batch, more similar_sequences or more data"
        )

    def batches(self, count: int, *, start: int = 0) -> Iterator[Indices]:
        """Batches start to start + count - 1, one by one; errors as of `batch`."""
        start, count = _checks.integer("start", start, 0), _checks.integer("count", count, 0)
        return map(self.batch, range(start, start + count))

    def mine(self, count: int, *, start: int = 0) -> Indices:
        """(count, N, K) frame indices: the collection mined once before a training (thesis: 4000)."""
        empty = np.zeros((0, self.places_per_batch, self.images_per_place), np.int64)
        mined = [*self.batches(count, start=start)]
        return np.stack(mined) if mined else empty

    def sampling_probabilities(self, sequence: int) -> Floats:
        """(S',) the probability of each sequence to be drawn first beside a reference.

        Args:
            sequence: row of the reference in `sequence_labels`. Sequences of other cities have 0.
        """
        if _checks.integer("sequence", sequence, 0) >= len(self._table):
            raise ValueError(f"sequence must be in [0, {len(self._table)}), got {sequence}")
        city = int(self._table.city_of[sequence])
        first, last = self._start[city], self._start[city + 1]
        weights = self._weights[city][sequence - first].astype(np.float64)
        result = np.zeros(len(self._table))
        result[first:last] = weights / (weights.sum() or 1.0)
        return result

    def _draw(self, city: int, places: list[Indices], rng: np.random.Generator) -> None:
        """Algorithm 1, then algorithm 2 until the batch is full or the graph holds no clique."""
        weights = self._weights[city]
        reference = int(rng.integers(len(weights)))
        similar = draw_similar(weights[reference], self.similar_sequences, self.weighting, rng)
        frames = self._table.frames_of(self._start[city] + np.append(reference, similar))
        frames.sort()
        if self.cliques != "published":
            frames = rng.permutation(frames)
        graph = PlaceGraph(self._positions[frames], self.threshold, self.images_per_place)
        taken = [p for p in places if self._city_of_frame(p[0]) == city]
        if taken:
            graph.remove_near(self._positions[np.concatenate(taken)])
        find = FINDERS[self.cliques]
        while len(places) < self.places_per_batch:
            place = find(graph, rng)
            if place is None:
                return
            places.append(frames[place])

    def _city_of_frame(self, frame: Any) -> int:
        return int(self._city_of_frames[frame])

    def _check_cities(self) -> None:
        """ValueError names a city that no batch could be drawn from."""
        table = self._table
        sequences = np.bincount(table.city_of)
        self._city_of_frames = np.empty(len(self._positions), np.int64)
        self._city_of_frames[table.frames] = np.repeat(table.city_of, np.diff(table.bounds))
        for c, name in enumerate(table.cities):
            frames = np.flatnonzero(self._city_of_frames == c)
            if len(frames) < self.images_per_place:
                raise ValueError(
                    f"city {name!r} has {len(frames)} frames, a place {self.images_per_place}"
                )
            if sequences[c] - 1 < self.similar_sequences:
                raise ValueError(
                    f"city {name!r} has {sequences[c]} sequences: similar_sequences must be at most "
                    f"{sequences[c] - 1}, got {self.similar_sequences}"
                )
            graph = PlaceGraph(self._positions[frames], self.threshold, self.images_per_place)
            if not graph.has_clique():
                raise ValueError(
                    f"city {name!r} has no place: no {self.images_per_place} frames are pairwise "
                    f"closer than {self.threshold:g} m"
                )


def _checked_positions(positions: Any, count: int) -> Floats:
    array = _arrays.as_array(positions, "positions", finite=False).data
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"positions must be (F, 2), got shape {array.shape}")
    if len(array) != count:
        raise ValueError(f"positions has {len(array)} frames, sequence {count}")
    array = array.copy()  # the sampler must not change when the caller's array does
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise ValueError(
            f"positions has {len(bad)} frames that are not finite, first frame {bad[0]}"
        )
    if np.abs(array).max() > _FARTHEST:
        raise ValueError(
            f"positions must be metres below {_FARTHEST:g}, got {np.abs(array).max():g}"
        )
    return array


def _per_sequence(descriptors: Any, table: SequenceTable, seed: int) -> npt.NDArray[Any]:
    array = _arrays.as_array(
        descriptors, "descriptors", dtype=("float32", "float64", "float16"), finite=False
    ).data
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"descriptors must be (S, D) or (F, D), got shape {array.shape}")
    if len(array) not in (len(table), len(table.frames)):
        raise ValueError(
            f"descriptors has {len(array)} rows; there are {len(table)} sequences and "
            f"{len(table.frames)} frames"
        )
    if len(array) != len(table):
        sizes = np.diff(table.bounds)
        inside = np.random.default_rng(seed).integers(0, sizes)
        array = array[table.frames[table.bounds[:-1] + inside]]
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise ValueError(f"descriptors has {len(bad)} rows that are not finite, first row {bad[0]}")
    return array
