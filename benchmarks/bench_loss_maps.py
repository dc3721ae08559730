# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""loss_maps at N 1000, D 128, 200 x 150 cells, 1 thread, beside `match`, torch and from_dense.

Two sets of descriptors: peaked maps as a trained network gives them, and flat ones, where thousands of
cells per map compete for the 256 places.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
N, D, H, W = 1000, 128, 150, 200
ROUNDS = {"rounds": 7, "warmup_rounds": 1}


@pytest.fixture(scope="module", params=["peaked", "flat"])
def level(request: Any) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    deviation = 9.0 if request.param == "peaked" else 0.3
    h = deviation * rng.standard_normal((N, D), dtype=np.float32) / np.sqrt(D, dtype=np.float32)
    f = torch.from_numpy(rng.standard_normal((D, H, W), dtype=np.float32))
    return torch.from_numpy(h.astype(np.float32)), f


def group(level: Any) -> str:
    kind = "peaked" if level[0].std() > 0.1 else "flat"
    return f"loss_maps, {kind}, 1000 x 128 x 30000, 1 thread"


def eager(h: Any, f: Any) -> Any:
    """Dense maps, then the 256 largest gains: the same information."""
    cut = math.log(1 + H * W)
    gain = cut + torch.log_softmax(h @ f.flatten(1), 1)
    return gain.topk(256, dim=1)


def test_pyloc(benchmark: Any, level: Any) -> None:
    benchmark.group = group(level)
    maps = benchmark.pedantic(pl.loss_maps, level, {"num_threads": 1}, **ROUNDS)
    values = eager(*level).values
    live = torch.where(values > 0, values, torch.zeros_like(values)).sum(1)
    got = np.add.reduceat(maps.gain, maps.row_ptr[:-1])
    np.testing.assert_allclose(got, live.numpy(), rtol=1e-3)


def test_match_alone(benchmark: Any, level: Any) -> None:
    benchmark.group = group(level)
    found = benchmark.pedantic(pl.match, level, {"num_threads": 1}, **ROUNDS)
    assert found.xy.shape == (N, 2)


def test_eager(benchmark: Any, level: Any) -> None:
    benchmark.group = group(level)
    found = benchmark.pedantic(eager, level, rounds=3, warmup_rounds=1)
    assert found.values.shape == (N, 256)


def test_pyloc_from_dense(benchmark: Any, level: Any) -> None:
    """Sparse form of maps that already exist."""
    benchmark.group = f"from_dense, {group(level).split(', ')[1]}, 1000 x 150 x 200, 1 thread"
    loss = -torch.log_softmax(level[0] @ level[1].flatten(1), 1).reshape(N, H, W)
    options = {"max_entries": 256, "num_threads": 1}
    assert len(benchmark.pedantic(pl.LossMaps.from_dense, (loss,), options, **ROUNDS)) == N
