# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""P3P, 4096 random problems, 1 thread, against `poselib.p3p` called once per problem.

PoseLib has no batched call in Python: its figure holds the binding's overhead. Its C++ solver alone takes
about 250 ns per problem by its authors' table.
"""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl

COUNT = 4096
GROUP = "p3p, 4096 problems, 1 thread"


@pytest.fixture(scope="module")
def problems():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(COUNT, 4))
    rotation = pl.rotation_from_quaternion(q / np.linalg.norm(q, axis=1, keepdims=True))
    f = np.concatenate([rng.uniform(-1, 1, (COUNT, 3, 2)), np.ones((COUNT, 3, 1))], -1)
    y = f * rng.uniform(1, 5, (COUNT, 3, 1))
    x = np.einsum("bji,bnj->bni", rotation, y - rng.uniform(-1, 1, (COUNT, 1, 3)))
    return f / np.linalg.norm(f, axis=-1, keepdims=True), x


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pyloc(benchmark, problems, dtype):
    f, x = (a.astype(dtype) for a in problems)
    out = pl.p3p(f, x)
    benchmark.pedantic(
        pl.p3p, (f, x), {"out": out, "num_threads": 1}, rounds=300, iterations=5, warmup_rounds=5
    )
    benchmark.extra_info["ns per problem"] = benchmark.stats.stats.median / COUNT * 1e9
    assert out.valid.any(1).mean() > 0.999


@pytest.mark.benchmark(group=GROUP)
def test_poselib(benchmark, problems):
    poselib = pytest.importorskip("poselib")
    f, x = problems
    ours = pl.p3p(f, x)

    def run():
        return [poselib.p3p(a, b) for a, b in zip(f, x)]

    theirs = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info["ns per problem"] = benchmark.stats.stats.median / COUNT * 1e9
    same = [len(t) == v.sum() for t, v in zip(theirs, ours.valid)]
    assert np.mean(same) > 0.99
