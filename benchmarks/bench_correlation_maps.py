# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dense correspondence maps, 200 descriptors on 150 x 200 cells, 1 thread, against torch."""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
GROUP = "correspondence maps, 200 x 128 x 30000, 1 thread"


@pytest.fixture(scope="module")
def level():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    h = torch.from_numpy(rng.standard_normal((200, 128), dtype=np.float32) / 4)
    return h, torch.from_numpy(rng.standard_normal((128, 150, 200), dtype=np.float32))


def eager(h, f):
    return torch.einsum("nd,dp->np", h, f.flatten(1)).softmax(1).reshape(-1, *f.shape[1:])


@pytest.mark.benchmark(group=GROUP)
def test_pyloc(benchmark, level):
    options = {"num_threads": 1}
    maps = benchmark.pedantic(pl.correspondence_maps, level, options, rounds=9, warmup_rounds=2)
    assert (maps - eager(*level)).abs().max() < 1e-5


@pytest.mark.benchmark(group=GROUP)
def test_eager(benchmark, level):
    benchmark.pedantic(eager, level, rounds=9, warmup_rounds=2)
