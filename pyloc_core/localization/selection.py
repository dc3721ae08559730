# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which points and which of their observations a photo is compared with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core.localization.map import Map
from pyloc_core.pose import camera_center

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]


class Candidates(NamedTuple):
    """Points (N,) of the map, and their observations in the chosen views: `obs` (K,), sorted by
    `owner` (K,) (position in `points`), each owner's nearest view first."""

    points: Index
    obs: Index
    owner: Index

    def first(self, count: int) -> Candidates:
        """Only the `count` first observations of every point."""
        keep = ranks(self.owner) < count
        return Candidates(self.points, self.obs[keep], self.owner[keep])


def choose_points(model: Map, views: Index, max_points: int) -> Candidates:
    """Points seen by the given views (nearest first): most often seen first, then evenly spread."""
    if not len(views):
        none = np.zeros(0, np.int64)
        return Candidates(none, none, none)
    obs = np.concatenate([model.observations_of(int(v)) for v in views])
    rank = np.repeat(np.arange(len(views)), [len(model.observations_of(int(v))) for v in views])
    point = model.obs_point[obs]
    seen, times = np.unique(point, return_counts=True)
    # Among equals an arbitrary but fixed order: the points of a model are often sorted by place.
    order = np.lexsort((np.random.default_rng(0).random(len(seen)), -times))
    points = np.sort(seen[order[:max_points]])
    at = np.minimum(np.searchsorted(points, point), max(len(points) - 1, 0))
    keep = points[at] == point if len(points) else np.zeros(0, bool)
    obs, rank, owner = obs[keep], rank[keep], at[keep]
    order = np.lexsort((rank, owner))
    return Candidates(points, obs[order], owner[order])


def nearest_observations(
    model: Map, points: Index, cam_from_world: Array, max_angle: float, count: int
) -> Candidates:
    """For each point the `count` observations that see it from closest to where the pose does.

    Every view of the map takes part; those further than `max_angle` degrees away do not.
    """
    lengths = np.diff(model.obs_ptr)[points]
    owner = np.repeat(np.arange(len(points)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    obs = model.obs_ptr[points][owner] + within
    xyz = model.xyz[points]
    to_query = _unit(camera_center(cam_from_world) - xyz)[owner]
    centres = np.asarray(camera_center(model.cam_from_world))
    to_view = _unit(centres[model.obs_view[obs]] - xyz[owner])
    cosine = (to_query * to_view).sum(1)
    keep = cosine >= np.cos(np.radians(max_angle))
    obs, owner, cosine = obs[keep], owner[keep], cosine[keep]
    order = np.lexsort((-cosine, owner))
    return Candidates(points, obs[order], owner[order]).first(count)


def ranks(owner: Index) -> Index:
    """Position of each entry within its owner; `owner` is sorted."""
    if not len(owner):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    lengths = np.diff(np.r_[starts, len(owner)])
    return np.arange(len(owner)) - np.repeat(starts, lengths)


def best_of(owner: Index, score: Array, count: int) -> Index:
    """For each of `count` owners the entry with the highest score; -1 where there is none."""
    order = np.lexsort((-score, owner))
    first = order[np.r_[True, owner[order][1:] != owner[order][:-1]]] if len(order) else order
    best = np.full(count, -1, np.int64)
    best[owner[first]] = first
    return best


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
