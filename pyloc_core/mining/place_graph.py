# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The graph of one draw: frames closer than tau, and cliques taken out of it one after the other.

Frames get ranks in a random order, written as a permutation. Among all maximal cliques of at least K
frames the one is taken whose sorted ranks come first in lexicographic order, then K of its frames at
random, then these frames and all their neighbours leave the graph (thesis, algorithm 2). The published
program takes the first large enough clique in the order of NetworkX, an order of the library and not of
the problem; this rule has a distribution that needs no library to be defined, and that `next_place` and
the enumeration by NetworkX share: they return the same cliques.

No edge is stored. The search asks the spatial index for the neighbours of the frames it visits, so that
its cost follows the places that are wanted and not the number of edges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# The index compares with <= and its own rounding: it is asked for a little more, then `closer` decides.
_SLACK = 1.0 + 1e-9
# From so many candidates on it pays to ask whether all of them fit each other.
_CROWD = 64


def closer(points: Floats, point: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """(n,) whether rows of `points` (n, 2) lie strictly nearer to `point` (2,) than the threshold."""
    dx = points[:, 0] - point[0]
    dy = points[:, 1] - point[1]
    return np.asarray(np.sqrt(dx * dx + dy * dy) < threshold)


def edges(positions: Floats, threshold: float) -> Indices:
    """(E, 2) all pairs i < j strictly nearer than the threshold, rows sorted (Eq. 5.1)."""
    index = require("scipy.spatial", "the edges of a graph of frames").cKDTree(positions)
    pairs = index.query_pairs(threshold * _SLACK, output_type="ndarray").astype(np.int64)
    pairs.sort(axis=1)
    d = positions[pairs[:, 0]] - positions[pairs[:, 1]]
    pairs = pairs[np.sqrt(d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1]) < threshold]
    return np.asarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])


class PlaceGraph:
    """The frames of one draw, by rank.

    Args:
        positions: (n, 2) metres, of the frames in the order of their ranks.
        threshold: tau in metres; an edge is a distance strictly below it.
        size: K, frames per place.
    """

    def __init__(self, positions: Floats, threshold: float, size: int) -> None:
        self.positions = np.ascontiguousarray(positions)
        self.threshold, self.size = threshold, size
        self.alive = np.ones(len(positions), bool)
        spatial = require("scipy.spatial", "mining")
        # Built for every draw: a median split would cost more than it saves.
        self._index: Any = spatial.cKDTree(self.positions, balanced_tree=False)
        self._first = 0  # no frame of a lower rank is alive

    def remove_near(self, points: Floats) -> None:
        """Takes frames nearer than tau to any of `points` (m, 2) out of the graph."""
        near = self._index.query_ball_point(points, self.threshold * _SLACK)
        for point, found in zip(points, near):
            ranks = np.array(found, np.int64)
            self.alive[ranks[closer(self.positions[ranks], point, self.threshold)]] = False

    def next_place(self, rng: np.random.Generator) -> Indices | None:
        """(K,) ranks of a place, which leaves the graph with its neighbours; None when no clique is left."""
        while self._first < len(self.alive):
            if self.alive[self._first]:
                clique = self.clique_from(self._first)
                if clique is not None:
                    return self.take(clique, rng)
                self.alive[self._first] = False  # in no clique now, so in none later
            self._first += 1
        return None

    def take(self, clique: Indices, rng: np.random.Generator) -> Indices:
        """K frames of a clique at random; they and their neighbours leave the graph."""
        place = rng.choice(clique, self.size, replace=False)
        self.remove_near(self.positions[place])
        self.alive[place] = False  # a threshold of one rounding step: not even near itself
        return np.asarray(place)

    def clique_from(self, rank: int, *, maximal: bool = True) -> Indices | None:
        """The first maximal clique of at least K frames that holds the frame of lowest rank; if it need not
        be maximal, the first K of it."""
        found = self._index.query_ball_point(self.positions[rank], self.threshold * _SLACK)
        around = np.array(found, np.int64)
        around = around[self.alive[around]]
        if len(around) < self.size:
            return None
        around.sort()
        points = self.positions[around]
        kept = closer(points, self.positions[rank], self.threshold)
        kept &= around != rank
        return self._grow([rank], around[kept], points[kept], maximal)

    def has_clique(self) -> bool:
        """Whether any clique of K frames is left; frames of lower rank than the first such one leave."""
        while self._first < len(self.alive):
            if self.alive[self._first] and self.clique_from(self._first, maximal=False) is not None:
                return True
            self.alive[self._first] = False
            self._first += 1
        return False

    def _grow(
        self, members: list[int], candidates: Indices, points: Floats, maximal: bool
    ) -> Indices | None:
        """Depth first over candidates (c,), by rank, at `points` (c, 2), which fit all members.

        Below K members a candidate that leads nowhere is given up, and the next one tried. From K members
        on nothing can fail: each candidate that fits all others joins, so that the clique is maximal.
        """
        while len(members) >= self.size or len(members) + len(candidates) >= self.size:
            if len(members) >= self.size and not maximal:
                return np.array(members, np.int64)
            if len(members) >= self.size and (
                not len(candidates) or (len(candidates) > _CROWD and self._all_fit(points))
            ):
                return np.concatenate([np.array(members, np.int64), candidates])
            chosen, rest = int(candidates[0]), points[1:]
            fits = closer(rest, points[0], self.threshold)
            candidates = candidates[1:]
            if len(members) < self.size - 1:
                found = self._grow([*members, chosen], candidates[fits], rest[fits], maximal)
                if found is not None:
                    return found
                points = rest
            else:
                members = [*members, chosen]
                candidates, points = candidates[fits], rest[fits]
        return None

    def _all_fit(self, points: Floats) -> bool:
        """Whether the box around `points` is so small that no two are tau apart. Rounding is monotonic:
        the diagonal of the box is computed no shorter than the distance of any pair."""
        extent = points.max(0) - points.min(0)
        return bool(np.sqrt(extent[0] * extent[0] + extent[1] * extent[1]) < self.threshold)


Finder = Callable[[PlaceGraph, np.random.Generator], "Indices | None"]


def search(graph: PlaceGraph, rng: np.random.Generator) -> Indices | None:
    """The bounded search: `PlaceGraph.next_place`."""
    return graph.next_place(rng)


def enumerate_all(graph: PlaceGraph, rng: np.random.Generator) -> Indices | None:
    """The same place from all maximal cliques that NetworkX lists: the oracle of the search."""
    cliques = [sorted(c) for c in _maximal_cliques(graph) if len(c) >= graph.size]
    return graph.take(np.array(min(cliques), np.int64), rng) if cliques else None


def first_listed(graph: PlaceGraph, rng: np.random.Generator) -> Indices | None:
    """The place of the published program: of the first large enough clique that NetworkX lists."""
    for clique in _maximal_cliques(graph):
        if len(clique) >= graph.size:
            return graph.take(np.array(clique, np.int64), rng)
    return None


def _maximal_cliques(graph: PlaceGraph) -> Any:
    networkx = require("networkx", "the maximal cliques of a graph")
    ranks = np.flatnonzero(graph.alive)
    built = networkx.Graph()
    built.add_nodes_from(ranks.tolist())
    built.add_edges_from(ranks[edges(graph.positions[ranks], graph.threshold)].tolist())
    return networkx.find_cliques(built)


FINDERS: dict[str, Finder] = {
    "search": search,
    "networkx": enumerate_all,
    "published": first_listed,
}
