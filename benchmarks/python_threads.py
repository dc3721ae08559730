# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Eight Python threads that call at once, each operator on one native thread, against one after the other.

    python benchmarks/python_threads.py

The GIL is released while native code runs, so the ratio should come near the number of cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from report import machine

import pyloc_core as pc

CALLS = 32


def problems() -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    descriptors = rng.standard_normal((200, 128), dtype=np.float32)
    features = rng.standard_normal((128, 75, 100), dtype=np.float32)
    bearings, points = rng.standard_normal((2, 32768, 3, 3))
    bearings[..., 2] = np.abs(bearings[..., 2]) + 1
    world = rng.uniform(-1, 1, (4000, 3)) + (0, 0, 4)
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    pixels = world @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:] + rng.standard_normal((4000, 2))
    pixels[:2000] = rng.uniform(0, 640, (2000, 2))
    return {
        "match": lambda: pc.match(descriptors, features, num_threads=1),
        "loss_maps": lambda: pc.loss_maps(descriptors, features, num_threads=1),
        "p3p": lambda: pc.p3p(bearings, points, num_threads=1),
        "estimate_pose_from_matches": lambda: pc.estimate_pose_from_matches(
            pixels, world, K, iterations=2000, num_threads=1
        ),
    }


def seconds(call: Callable[[], object], threads: int) -> float:
    """The fastest of three rounds of `CALLS` calls."""
    best = np.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            start = time.perf_counter()
            list(pool.map(lambda _: call(), range(CALLS)))
            best = min(best, time.perf_counter() - start)
    return float(best)


def main() -> None:
    data = machine()
    print(", ".join(f"{k}: {v}" for k, v in data.items()), "\n")
    print("| operator | one Python thread | eight | ratio |\n|---|---|---|---|")
    for name, call in problems().items():
        one, eight = seconds(call, 1), seconds(call, 8)
        print(f"| {name} | {1e3 * one:.0f} ms | {1e3 * eight:.0f} ms | {one / eight:.2f} |")


if __name__ == "__main__":
    main()
