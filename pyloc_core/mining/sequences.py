# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Frames grouped into sequences and cities, and how alike two sequences look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _checks

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

WEIGHTINGS = ("published", "cosine", "nearest", "uniform")


@dataclass(frozen=True, eq=False)
class SequenceTable:
    """Sequences in sorted order of (city, label): S of them, over F frames.

    frames: (F,) frames, sequence after sequence; bounds: (S + 1,) where each begins;
    label, city: (S,); cities: sorted names; city_of: (S,) index into `cities`.
    """

    frames: Indices
    bounds: Indices
    label: npt.NDArray[Any]
    city_of: Indices
    cities: list[Any]

    def __len__(self) -> int:
        return len(self.label)

    def frames_of(self, sequences: Sequence[int] | Indices) -> Indices:
        """All frames of some sequences, in the order given."""
        return np.concatenate([self.frames[self.bounds[s] : self.bounds[s + 1]] for s in sequences])


def group(sequence: Any, city: Any = None) -> SequenceTable:
    """The table of `sequence` (F,) and `city` (F,) or None. ValueError names what does not fit."""
    labels = _labels("sequence", sequence)
    cities = np.zeros(len(labels), np.int64) if city is None else _labels("city", city)
    if len(cities) != len(labels):
        raise ValueError(f"city has {len(cities)} frames, sequence {len(labels)}")
    if not len(labels):
        raise ValueError("sequence is empty: there is nothing to mine")
    names, city_of = np.unique(cities, return_inverse=True)
    values, label_of = np.unique(labels, return_inverse=True)
    pairs = city_of.astype(np.int64) * len(values) + label_of
    keys, counts = np.unique(pairs, return_counts=True)
    return SequenceTable(
        frames=np.argsort(pairs, kind="stable").astype(np.int64),
        bounds=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        label=values[keys % len(values)],
        city_of=(keys // len(values)).astype(np.int64),
        cities=names.tolist(),
    )


def _labels(name: str, value: Any) -> npt.NDArray[Any]:
    array = np.asarray(value.cpu() if _arrays.is_torch(value) else value)
    if array.ndim != 1:
        raise ValueError(f"{name} must be (F,), got shape {array.shape}")
    if array.dtype.kind == "O":  # such as a column of a table
        other = [x for x in array if not isinstance(x, (str, int, np.integer))]
        if other:
            raise TypeError(f"{name} must be integers or strings, got {other[0]!r}")
        return array.astype(str)
    if len(array) and array.dtype.kind not in "iubUS":
        raise TypeError(f"{name} must be integers or strings, got {array.dtype}")
    return array


def sequence_labels(sequence: Any, city: Any = None) -> list[tuple[Any, Any]]:
    """(city, label) of the S sequences, in the order that `CliqueSampler` wants descriptors in.

    Args:
        sequence: (F,) integers or strings, the sequence of each frame.
        city: (F,) or None, one city. Equal labels in two cities are two sequences.
    """
    table = group(sequence, city)
    return [(table.cities[c], label) for c, label in zip(table.city_of, table.label.tolist())]


def representative_frames(
    sequence: Any, city: Any = None, *, choose: str = "random", seed: int = 0
) -> Indices:
    """(S,) one frame per sequence, in the order of `sequence_labels`: the images to describe.

    Args:
        sequence, city: see `sequence_labels`.
        choose: "random", as the published program; or "central", the middle one of the sequence's frames
            in their given order, as the thesis says (Izquierdo 2025, section 5.2.1).
        seed: of the random choice.

    Raises:
        ValueError: an unknown `choose`, nothing to choose from, lengths that differ.
    """
    table = group(sequence, city)
    sizes = np.diff(table.bounds)
    if choose == "central":
        inside = sizes // 2
    elif choose == "random":
        inside = np.random.default_rng(_checks.integer("seed", seed, 0)).integers(0, sizes)
    else:
        raise ValueError(f"choose must be 'random' or 'central', got {choose!r}")
    return np.asarray(table.frames[table.bounds[:-1] + inside])


def descriptor_distances(descriptors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(S, S) Euclidean distances between rows of (S, D), exactly zero for equal rows.

    By one matrix product of the centred rows; where this cancels, from the differences, so that
    duplicates show as zero.
    """
    given = np.ascontiguousarray(descriptors, np.float32)
    x = (given - given.mean(0, dtype=np.float64)).astype(np.float32)
    squares = np.einsum("sd,sd->s", x, x, dtype=np.float64)
    distance = np.empty((len(x), len(x)), np.float32)
    for start in range(0, len(x), 1024):  # (1024, S) float64 at a time
        rows = slice(start, start + 1024)
        scale = squares[rows, None] + squares[None]
        d2 = scale - 2.0 * (x[rows] @ x.T)
        near = d2 < 1e-4 * scale
        for i in range(len(near)):
            difference = given[near[i]].astype(np.float64) - given[start + i]
            d2[i, near[i]] = np.einsum("sd,sd->s", difference, difference)
        distance[rows] = np.sqrt(np.maximum(d2, 0.0))
    return distance


def sequence_weights(descriptors: npt.NDArray[Any], weighting: str) -> npt.NDArray[np.float32]:
    """(S, S) row r: unnormalised probability of each sequence to join reference r; 0 for r itself.

    "published": largest distance - distance where the distance is not zero, as the released program: the
    farthest and exact duplicates never join. "cosine": the cosine of the two descriptors where positive,
    the thesis' "proportional to the similarity". "nearest": the most similar ones always, and "uniform":
    all alike; both are rows of the thesis' ablation, table 5.2. The length of the descriptors' unit does
    not matter: a power of two, which rounds nothing, brings them to where float32 holds their squares.
    """
    weights: npt.NDArray[Any]
    count = len(descriptors)
    largest = np.abs(descriptors).max(initial=0.0)
    descriptors = np.ldexp(descriptors, -np.frexp(largest)[1])
    if weighting == "uniform":
        weights = np.ones((count, count))
    elif weighting == "cosine":
        given = np.asarray(descriptors, np.float32)
        norm = np.linalg.norm(given, axis=1, keepdims=True)
        x = given / np.where(norm > 0, norm, 1.0)
        weights = np.maximum(x @ x.T, 0.0)
    else:
        distance = descriptor_distances(descriptors)
        if weighting == "nearest":
            weights = 1.0 / (1.0 + distance)  # `draw_similar` takes the largest
        else:
            weights = np.where(distance > 0, distance.max(1, keepdims=True) - distance, 0.0)
    weights = weights.astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return weights


def draw_similar(
    weights: npt.NDArray[np.float32], count: int, weighting: str, rng: np.random.Generator
) -> Indices:
    """`count` sequences without replacement with probabilities proportional to `weights` (S,).

    The smallest of S independent exponentials of these rates: the same distribution as drawing one after
    the other (Efraimidis and Spirakis 2006). Fewer come back when fewer have a positive weight.
    """
    positive = np.flatnonzero(weights > 0)
    key: npt.NDArray[Any]
    if weighting == "nearest":
        key = -weights[positive]
    else:
        key = rng.exponential(size=len(positive)) / weights[positive]
    if count < len(positive):
        chosen = np.argpartition(key, count - 1)[:count]
        return np.asarray(positive[chosen[np.argsort(key[chosen], kind="stable")]])
    return np.asarray(positive[np.argsort(key, kind="stable")])
