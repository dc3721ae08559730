# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Two source trees with their modules built in place (`make dev`), timed in turn: has anything become slower?

    python benchmarks/compare_builds.py OLD_TREE NEW_TREE

Each round runs both in processes of their own, one thread; the ratio is that of the medians over rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS, SECONDS = 3, 1.0


def calls() -> dict[str, Callable[[], Any]]:
    """The operators of the first release, on random data; imports the tree that is first on sys.path."""
    from pose_problems import reprojection_problem
    from public_calls import loss_maps_problem

    import pyloc_core as pl

    pl.set_num_threads(1)
    rng = np.random.default_rng(0)

    def unit(*shape: int, axis: int) -> np.ndarray:
        drawn = rng.normal(size=shape).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=axis, keepdims=True)

    h, f = unit(1000, 128, axis=1), unit(128, 150, 200, axis=0)
    patches, fine = unit(300, 288, axis=1), unit(288, 400, 600, axis=0)
    centers = rng.uniform(40, 350, (300, 2))
    dense, problem = loss_maps_problem(1000)
    maps = pl.LossMaps.from_dense(dense, max_entries=256)
    start = (maps, problem.points3d, problem.camera)
    seen = reprojection_problem(3 * 4096, 2)
    rays = seen.camera.unproject(seen.points2d).reshape(-1, 3, 3)
    corners = seen.points3d.reshape(-1, 3, 3)
    return {
        "match": lambda: pl.match(h, f, temperature=0.05),
        "match, ratio test": lambda: pl.match(h, f, temperature=0.05, quantile=0.006),
        "loss_maps": lambda: pl.loss_maps(h, f, temperature=0.05),
        "local_loss_maps": lambda: pl.local_loss_maps(patches, fine, centers, window=32),
        "p3p, 4096 problems": lambda: pl.p3p(rays, corners),
        "p3p, one problem": lambda: pl.p3p(rays[:1], corners[:1]),
        "estimate_pose": lambda: pl.estimate_pose(*start, seed=1),
        "refine_pose": lambda: pl.refine_pose(*start, problem.start),
    }


def measure() -> dict[str, float]:
    """Median seconds per call."""
    medians = {}
    for name, call in calls().items():
        call()
        times: list[float] = []
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end or len(times) < 5:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        medians[name] = float(np.median(times))
    return medians


def main() -> None:
    trees = [str(Path(tree).resolve()) for tree in sys.argv[1:]]
    if len(trees) == 1:  # as a child: the tree to measure
        sys.path[:0] = [trees[0], f"{trees[0]}/tests"]
        print(json.dumps(measure()))
        return
    if len(trees) != 2:
        sys.exit("usage: compare_builds.py OLD_TREE NEW_TREE")
    found: dict[str, list[dict[str, float]]] = {tree: [] for tree in trees}
    for _ in range(ROUNDS):
        for tree in trees:
            child = [sys.executable, __file__, tree]
            output = subprocess.run(child, capture_output=True, text=True, check=True).stdout
            found[tree].append(json.loads(output))
    print("| call | old | new | new / old |\n|---|---|---|---|")
    for name in found[trees[0]][0]:
        old, new = (float(np.median([run[name] for run in found[tree]])) for tree in trees)
        print(f"| {name} | {1e3 * old:.4g} ms | {1e3 * new:.4g} ms | {new / old:.3f} |")


if __name__ == "__main__":
    main()
