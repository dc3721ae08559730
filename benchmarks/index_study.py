# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The index of global descriptors: exact against FAISS and NumPy alone, product quantization against exact.

    python benchmarks/index_study.py --out benchmarks/results/index.md

The descriptors are drawn: `places` random unit vectors, several views of each at a fixed angle, so that a
query's true neighbours are the other views of its place. Real descriptors are distributed otherwise. One
thread; medians of rounds in which every way is asked in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from report import machine

from pyloc_core.retrieval import Index

DEPTH, VIEWS, QUERIES, K, ROUNDS = 512, 10, 200, 20, 5


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, D) database and (Q, D) queries: views of common places, 46 degrees from each other."""
    rng = np.random.default_rng(3)
    places = rng.standard_normal((count // VIEWS, DEPTH), np.float32)
    database = np.repeat(places, VIEWS, 0) + 0.65 * rng.standard_normal((count, DEPTH), np.float32)
    of = rng.integers(0, len(places), QUERIES)
    queries = places[of] + 0.65 * rng.standard_normal((QUERIES, DEPTH), np.float32)
    return unit(database), unit(queries)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def seconds(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn:  # the first warms up
                taken[name].append(time.perf_counter() - begin)
    return {name: float(np.median(times)) for name, times in taken.items()}


def by_numpy(database: np.ndarray, queries: np.ndarray) -> np.ndarray:
    similar = queries @ database.T
    best = np.argpartition(-similar, K, 1)[:, :K]
    order = np.argsort(-np.take_along_axis(similar, best, 1), 1)
    return np.take_along_axis(best, order, 1)


def exact_rows(database: np.ndarray, queries: np.ndarray) -> list[str]:
    index = Index.build(database)
    plain = faiss.IndexFlatIP(DEPTH)
    plain.add(database)
    found = index.search(queries, K).indices
    assert np.array_equal(found, by_numpy(database, queries))
    one_by_one = [queries[i : i + 1] for i in range(QUERIES)]
    times = seconds(
        {
            "Index, exact": lambda: index.search(queries, K, num_threads=1),
            "FAISS flat alone": lambda: plain.search(queries, K),
            "NumPy": lambda: by_numpy(database, queries),
            "Index, exact, one query a call": lambda: [
                index.search(q, K, num_threads=1) for q in one_by_one
            ],
            "FAISS flat alone, one query a call": lambda: [plain.search(q, K) for q in one_by_one],
        }
    )
    return [
        f"| {len(database)} | {name} | {1e3 * s / QUERIES:.3f} | {4 * DEPTH} | 1 | 1 |"
        for name, s in times.items()
    ]


def quantized_rows(database: np.ndarray, queries: np.ndarray) -> list[str]:
    exact = Index.build(database).search(queries, K).indices
    rows = []
    for code_bytes in (32, 64, 128):
        begin = time.perf_counter()
        built = Index.build(database, kind="ivf_pq", code_bytes=code_bytes, num_threads=1)
        spent = time.perf_counter() - begin
        for probes in (4, 16, 64):
            built._faiss.nprobe = probes
            found = built.search(queries, K).indices
            first = np.mean([e[0] in f[:K] for e, f in zip(exact, found)])
            shared = np.mean([len(set(e[:10]) & set(f)) / 10 for e, f in zip(exact, found)])
            took = seconds({"": partial(built.search, queries, K, num_threads=1)})[""]
            name = f"ivf_pq, {code_bytes} bytes, {probes} probes (built in {spent:.1f} s)"
            rows.append(
                f"| {len(database)} | {name} | {1e3 * took / QUERIES:.3f} | {code_bytes} | "
                f"{first:.3f} | {shared:.3f} |"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 50_000])
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    info = machine()
    lines = [
        "# Index of global descriptors",
        "",
        f"{DEPTH} dimensions, {QUERIES} queries, k = {K}; drawn places with {VIEWS} views each "
        "(benchmarks/index_study.py). Milliseconds per query on one thread; bytes per entry; share of "
        f"queries whose exact nearest entry is among the {K} found, and share of the exact ten among them.",
        "",
        f"{info['date']}, {info['cpu']}, {info['isa']}, FAISS {faiss.__version__}. {arguments.note}",
        "",
        "| entries | way | ms | bytes | nearest found | ten nearest found |",
        "|---|---|---|---|---|---|",
    ]
    for count in arguments.counts:
        database, queries = drawn(count)
        lines += exact_rows(database, queries)
        if count >= 10_000:
            lines += quantized_rows(database, queries)
    arguments.out.write_text("\n".join(line.rstrip() for line in lines) + "\n")


if __name__ == "__main__":
    main()
