# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""CliqueMining on a synthetic city: CliqueSampler beside the plain form, which lists cliques with NetworkX.

    python benchmarks/bench_clique_sampler.py --frames 100000 --batches 1000

prints a table. `plain` is what one writes first, and what the published program does (networks by their
description): the matrix of all distances of a draw, a graph of it, NetworkX's first maximal clique that is
large enough, rows and columns cleared, once more. It runs on fewer batches; times are per batch.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from synthetic_city import City, synthetic_city

pytest.importorskip("scipy")
pytest.importorskip("networkx")
import networkx

from pyloc_core.mining import CliqueSampler
from pyloc_core.mining.sequences import descriptor_distances

TAU, SIZE, PLACES, SIMILAR = 25.0, 4, 30, 15


class Plain:
    """Batches of places with dense matrices and NetworkX alone."""

    def __init__(self, city: City) -> None:
        self.city = city
        x = city.descriptors
        self.distance = np.sqrt(np.maximum(2 - 2 * (x @ x.T), 0)).astype(float)
        self.frames = [np.flatnonzero(city.sequence == s) for s in range(len(x))]

    def batch(self, index: int) -> np.ndarray:
        rng = np.random.default_rng((1, index))
        places: list[np.ndarray] = []
        while len(places) < PLACES:
            reference = int(rng.integers(len(self.frames)))
            d = self.distance[reference]
            weights = np.where(d > 0, d.max() - d, 0.0)
            weights[reference] = 0.0
            chosen = rng.choice(len(d), SIMILAR, replace=False, p=weights / weights.sum())
            frames = np.concatenate([self.frames[s] for s in (reference, *chosen)])
            p = self.city.positions[frames]
            near = np.sqrt(((p[:, None] - p[None]) ** 2).sum(-1)) < TAU
            while len(places) < PLACES:
                cliques = networkx.find_cliques(networkx.from_numpy_array(near))
                clique = next((c for c in cliques if len(c) >= SIZE), None)
                if clique is None:
                    break
                place = rng.choice(clique, SIZE, replace=False)
                places.append(frames[place])
                gone = near[place].any(0)
                near[gone] = False
                near[:, gone] = False
        return np.stack(places)


def sampler_of(city: City, **options: Any) -> CliqueSampler:
    return CliqueSampler(
        city.positions, city.sequence, city.descriptors, city=city.city,
        **{"seed": 1, "places_per_batch": PLACES, "similar_sequences": SIMILAR, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def city() -> City:
    return synthetic_city(20000, dimension=64)


def check(batch: np.ndarray, city: City) -> None:
    """Places are cliques, and apart; a plain loop over pairs."""
    p = city.positions[batch]
    d = np.sqrt(((p[:, :, None, None] - p[None, None]) ** 2).sum(-1))
    for a in range(len(batch)):
        assert d[a, :, a].max() < TAU
        d[a, :, a] = np.inf
    assert d.min() >= TAU


def test_pyloc(benchmark, city) -> None:
    benchmark.group = "batch of 30 places, 16 sequences, 2e4 frames"
    sampler = sampler_of(city)
    check(sampler.batch(0), city)
    benchmark.pedantic(sampler.batch, (1,), rounds=5, warmup_rounds=1)


def test_plain_networkx(benchmark, city) -> None:
    benchmark.group = "batch of 30 places, 16 sequences, 2e4 frames"
    benchmark.pedantic(Plain(city).batch, (1,), rounds=1)


class Spent:
    """Seconds of this process and of the wall, of one call."""

    def __init__(self, run: Callable[[], Any]) -> None:
        wall, own = time.perf_counter(), time.process_time()
        self.result = run()
        self.own, self.wall = time.process_time() - own, time.perf_counter() - wall

    def __str__(self) -> str:
        return f"{self.own:.2f} s (wall {self.wall:.2f} s)"


def rows(arguments: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Rows of the table; times are of the process, since machines are shared."""
    city = synthetic_city(
        arguments.frames, seed=0, dimension=64, blocks=arguments.blocks, cities=arguments.cities
    )
    lengths = np.bincount(city.sequence)
    print(
        f"{len(city.positions)} frames, {len(lengths)} sequences of {lengths.min()} to {lengths.max()} "
        f"frames (mean {lengths.mean():.0f}), cities: {arguments.cities}"
    )
    built = Spent(lambda: sampler_of(city))
    sampler = built.result
    spent = Spent(lambda: sampler.mine(arguments.batches))
    mined, ours = spent.result, spent.own / arguments.batches
    for batch in mined[:20]:
        check(batch, city)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table = [
        ("construction, 64-d descriptors", str(built), ""),
        (f"{arguments.batches} batches", str(spent), f"{1e3 * ours:.2f} ms each"),
        ("peak memory of the process so far", f"{peak:.0f} MB", ""),
    ]
    others = [
        (f'cliques="{way}"', sampler_of(city, cliques=way)) for way in ("networkx", "published")
    ]
    if arguments.cities == 1:
        others.append(("plain form", Plain(city)))
    for name, other in others:
        slow = Spent(lambda o=other: [o.batch(i) for i in range(arguments.slow)])
        each = slow.own / arguments.slow
        table.append(
            (
                f"{name}, {arguments.slow} batches",
                f"{1e3 * each:.0f} ms each",
                f"{each / ours:.0f} times",
            )
        )
        if "networkx" in name:
            same = np.array_equal(slow.result, mined[: arguments.slow])
            table.append(("its batches are those of the search", "yes" if same else "NO", ""))
    x = np.random.default_rng(0).standard_normal((arguments.clusters, 8448), dtype=np.float32)
    distances = Spent(lambda: descriptor_distances(x))
    table.append((f"distances of {len(x)} clusters, 8448-d, once", str(distances), ""))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--slow", type=int, default=5, help="batches of the NetworkX forms")
    parser.add_argument("--blocks", type=int, help="blocks along a side of the city")
    parser.add_argument("--cities", type=int, default=1)
    parser.add_argument("--clusters", type=int, default=1500)
    for name, first, second in rows(parser.parse_args()):
        print(f"| {name} | {first} | {second} |")
    print(f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, "
          f"NetworkX {networkx.__version__}")  # fmt: skip


if __name__ == "__main__":
    main()
