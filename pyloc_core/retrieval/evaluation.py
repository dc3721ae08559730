# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors of a benchmark in, figures out: recall, its curve, the sensitivity to distance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.retrieval.index import Index, Neighbours
from pyloc_core.retrieval.layouts.retrieval_set import RetrievalSet
from pyloc_core.retrieval.recall import Recall, recall
from pyloc_core.retrieval.recall_curve import RecallCurve
from pyloc_core.retrieval.sensitivity import EDGES, Sensitivity, distance_sensitivity

Descriptors = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate_retrieval` found. curve and sensitivity are None where correct images are listed."""

    found: Neighbours
    recall: Recall
    curve: RecallCurve | None
    sensitivity: Sensitivity | None
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; without the retrieved lists."""
        return {
            **self.recall.to_dict(),
            "curve": self.curve and self.curve.to_dict(),
            "sensitivity": self.sensitivity and self.sensitivity.to_dict(),
            "seconds": self.seconds,
        }


def evaluate_retrieval(
    benchmark: RetrievalSet,
    query_descriptors: Descriptors,
    database_descriptors: Descriptors,
    ks: Sequence[int] = (1, 5, 10),
    *,
    without_positives: str = "miss",
    sensitivity: bool = False,
    seed: int = 0,
    num_threads: int | None = None,
) -> Evaluation:
    """Retrieve every query with an exact index and judge the lists by the rule of the benchmark.

    Args:
        benchmark: of a reader in `retrieval.layouts`.
        query_descriptors, database_descriptors: (Q, D) and (N, D) unit vectors in its order.
        ks: of recall@k.
        without_positives: see `recall`.
        sensitivity: also `distance_sensitivity` between queries and database, with `seed`.
        num_threads: see `Index`.

    Raises:
        ValueError: lengths that differ, what `Index` and `recall` refuse, or a sensitivity of a benchmark
            that lists its correct images.
        MissingExtra: FAISS or scipy is not installed.
    """
    for name, given, side in (
        ("query_descriptors", query_descriptors, benchmark.queries),
        ("database_descriptors", database_descriptors, benchmark.database),
    ):
        if len(given) != len(side.images):
            raise ValueError(f"{name} has {len(given)} rows, the set {len(side.images)} images")
    if sensitivity:
        benchmark.places()  # a set without distances is refused before the work begins
    seconds: dict[str, float] = {}
    with _timed(seconds, "positives"):
        positives = benchmark.positives()
    with _timed(seconds, "index"):
        index = Index.build(database_descriptors, num_threads=num_threads)
    with _timed(seconds, "search"):
        found = index.search(query_descriptors, max(ks), num_threads=num_threads)
    judged = recall(found.indices, positives, ks, without_positives=without_positives)
    if benchmark.rule == "listed":
        return Evaluation(found, judged, None, None, seconds)
    limits = np.linspace(0, 4 * benchmark.threshold, 81)
    if benchmark.rule == "frames":
        limits = np.arange(0, 4 * int(benchmark.threshold) + 17.0)
    curve = benchmark.curve(found.indices, limits, ks)
    sensed = None
    if sensitivity:
        with _timed(seconds, "sensitivity"):
            queries, database = benchmark.places()
            edges = np.append(0, np.arange(0.5, 41)) if benchmark.rule == "frames" else EDGES
            sensed = distance_sensitivity(
                query_descriptors, queries, edges, database_descriptors=database_descriptors,
                database_positions=database, seed=seed,
            )  # fmt: skip
    return Evaluation(found, judged, curve, sensed, seconds)


def read_descriptors(path: str | Path) -> tuple[Descriptors, Descriptors]:
    """(Q, D) `queries` and (N, D) `database` of an .npz file. ValueError names what is missing."""
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except OSError:
        raise
    except Exception as error:  # an .npy file, a damaged one, another one altogether
        raise ValueError(f"{path} is no .npz file of numbers: {error}") from None
    missing = {"queries", "database"} - arrays.keys()
    if missing:
        raise ValueError(f"{path} has no array {', '.join(sorted(missing))}")
    return arrays["queries"], arrays["database"]


class _timed:
    def __init__(self, into: dict[str, float], name: str) -> None:
        self.into, self.name = into, name

    def __enter__(self) -> None:
        self.begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.into[self.name] = round(time.perf_counter() - self.begin, 4)
