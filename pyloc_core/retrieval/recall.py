# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Recall@k: the share of queries with a correct image among the first k that were retrieved.

An image is correct within 25 metres of the query, or on sequences that are aligned frame by frame
(Nordland) at most one frame away (Izquierdo and Civera, CVPR and ECCV 2024). Both bounds count as
correct, as in the radius searches of the published evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _checks
from pyloc_core.retrieval.checks import checked_integers, checked_ks, checked_ranks

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

WITHOUT_POSITIVES = ("miss", "leave_out")
TIES = ("ranked", "best", "worst")


@dataclass(frozen=True, eq=False)
class Recall:
    """Recall at several k.

    ks: the k, rising. values: (len(ks),) shares in [0, 1]; NaN when no query was counted.
    first: (Q,) place of the first correct image, from 0; -1 where none was retrieved.
    counted: (Q,) bool, the queries behind the values. without_positives: how many have no correct image
    in the database at all.
    """

    ks: tuple[int, ...]
    values: Floats
    first: Indices
    counted: npt.NDArray[np.bool_]
    without_positives: int

    def __getitem__(self, k: int) -> float:
        """The recall at one of the k."""
        if k not in self.ks:
            raise KeyError(f"recall@{k} was not asked for; there is {', '.join(map(str, self.ks))}")
        return float(self.values[self.ks.index(k)])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; None where no query was counted."""
        values = [None if np.isnan(v) else float(v) for v in self.values]
        return {
            "recall": {str(k): v for k, v in zip(self.ks, values)},
            "queries": len(self.first),
            "counted": int(self.counted.sum()),
            "without_positives": self.without_positives,
        }

    def __str__(self) -> str:
        shares = ", ".join(f"R@{k} {100 * v:.1f}" for k, v in zip(self.ks, self.values))
        return f"{shares} ({int(self.counted.sum())} queries)"


def recall(
    ranked: Any,
    positives: Sequence[Any],
    ks: Sequence[int] = (1, 5, 10),
    *,
    without_positives: str = "miss",
    similarities: Any = None,
    ties: str = "ranked",
) -> Recall:
    """Recall@k of ranked lists.

    Args:
        ranked: (Q, k) integer database indices, best first; -1 fills lists that are shorter, as `Index`
            does. An index that appears twice in a row counts where it stands first.
        positives: Q sequences of correct database indices, as of `positives_within`.
        ks: at most as large as the k of `ranked`.
        without_positives: what queries without any correct image count as: "miss", as in the published
            evaluations, which divide by the number of all queries; or "leave_out". The lists of MSLS
            contain only queries that have one; `layouts.read_msls` keeps the others.
        similarities: (Q, k) of `ranked`, falling; only `ties` needs them.
        ties: among images of exactly the same similarity, "ranked" keeps the order of `ranked`, "best"
            puts correct ones first, and "worst" last: the range that an arbitrary order leaves open.

    Raises:
        ValueError: shapes that do not fit, a k out of range, an index of less than -1, an unknown option.
        TypeError: indices and k that are not integers.
    """
    array = checked_ranks(ranked)
    wanted = checked_ks(ks, array)
    _checks.known_name("without_positives", without_positives, WITHOUT_POSITIVES)
    _checks.known_name("ties", ties, TIES)
    if not hasattr(positives, "__len__"):
        raise TypeError(
            f"positives must be a sequence of sequences, got {type(positives).__name__}"
        )
    if len(positives) != len(array):
        raise ValueError(f"positives has {len(positives)} queries, ranked {len(array)}")
    lists = [checked_integers(f"positives[{i}]", p) for i, p in enumerate(positives)]
    hits = _hits(array, lists)
    if ties == "ranked":
        first = np.where(hits.any(1), hits.argmax(1), -1)
    else:
        first = _first_of_ties(hits, _similarities(similarities, array), ties)
    has = np.array([len(p) > 0 for p in lists], bool)
    counted = has if without_positives == "leave_out" else np.ones(len(array), bool)
    return _of_first(first, wanted, counted, int((~has).sum()))


def _of_first(
    first: Indices, ks: tuple[int, ...], counted: npt.NDArray[np.bool_], without: int
) -> Recall:
    values = np.full(len(ks), np.nan)
    if counted.any():
        kept = first[counted]
        values = np.array([((kept >= 0) & (kept < k)).mean() for k in ks])
    return Recall(ks, values, first.astype(np.int64), counted, without)


def _hits(ranked: Indices, positives: list[Indices]) -> npt.NDArray[np.bool_]:
    """(Q, k) whether an index is correct, all queries at once: as numbers query * size + index."""
    if not ranked.size:
        return np.zeros(ranked.shape, bool)
    correct = np.concatenate(positives)
    query = np.repeat(np.arange(len(ranked)), [len(p) for p in positives])
    size = int(ranked.max()) + 1
    wanted = (correct >= 0) & (correct < size)
    rows = np.arange(len(ranked))[:, None] * size
    return np.isin(rows + ranked, query[wanted] * size + correct[wanted]) & (ranked >= 0)


def _first_of_ties(hits: npt.NDArray[np.bool_], similar: Floats, ties: str) -> Indices:
    """(Q,) place of the first correct image when runs of equal similarity are put in the other order."""
    first = np.full(len(hits), -1, np.int64)
    for row in np.flatnonzero(hits.any(1)):
        at = int(hits[row].argmax())
        run = np.flatnonzero(similar[row] == similar[row, at])
        wrong = int((~hits[row, run]).sum())
        first[row] = run[0] if ties == "best" else run[0] + wrong
    return first


def _similarities(similarities: Any, ranked: Indices) -> Floats:
    if similarities is None:
        raise ValueError("similarities must be given for ties other than 'ranked'")
    array = _arrays.as_array(similarities, "similarities", finite=False).data
    if array.shape != ranked.shape:
        raise ValueError(f"similarities must be {ranked.shape}, got {array.shape}")
    if np.isnan(array).any() or (array[:, 1:] > array[:, :-1]).any():
        raise ValueError("similarities must fall along each row, without NaN")
    return array
