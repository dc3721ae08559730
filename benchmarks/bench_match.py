# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""match at N 1000, D 128, 200 x 150 cells, 1 thread, against plain torch and NumPy in one run.

`eager` is einsum, logsumexp and argmax (and kthvalue for the ratio test); `plain product` is the matrix
product alone, which gives no match: the share of the time that cannot be avoided.
"""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
N, D, H, W = 1000, 128, 150, 200
QUANTILE = 0.006
ROUNDS = {"rounds": 9, "warmup_rounds": 2}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def level(request):
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    # Correlations of standard deviation 3: peaked, not degenerate.
    h = torch.from_numpy(
        3 * rng.standard_normal((N, D), dtype=np.float32) / np.sqrt(D, dtype=np.float32)
    )
    f = torch.from_numpy(rng.standard_normal((D, H, W), dtype=np.float32))
    dtype = getattr(torch, request.param)
    return h.to(dtype), f.to(dtype)


def eager(h, f, quantile=None):
    c = torch.einsum("nd,dp->np", h, f.flatten(1))
    found = c.argmax(1), c.amax(1) - c.logsumexp(1)
    if quantile is None:
        return found
    rank = int(quantile * H * W)
    return *found, c.amax(1) / c.kthvalue(H * W - rank + 1, dim=1).values


def test_pyloc(benchmark, level):
    benchmark.group = f"match, {level[0].dtype}, 1000 x 128 x 30000, 1 thread"
    found = benchmark.pedantic(pl.match, level, {"num_threads": 1}, **ROUNDS)
    cell, log_probability = eager(*level)
    same = (found.xy[:, 0] + W * found.xy[:, 1]).long() == cell
    exact = level[0].dtype == torch.float32
    assert same.double().mean() > (0.999 if exact else 0.9)
    assert (found.log_probability - log_probability).abs().max() < (1e-4 if exact else 0.2)


def test_eager(benchmark, level):
    benchmark.group = f"match, {level[0].dtype}, 1000 x 128 x 30000, 1 thread"
    benchmark.pedantic(eager, level, **ROUNDS)


def test_plain_product_torch(benchmark, level):
    benchmark.group = f"match, {level[0].dtype}, 1000 x 128 x 30000, 1 thread"
    h, f = level[0], level[1].flatten(1)
    out = torch.empty(N, H * W, dtype=h.dtype)
    benchmark.pedantic(torch.mm, (h, f), {"out": out}, **ROUNDS)


def test_pyloc_ratio(benchmark, level):
    benchmark.group = f"match + ratio test, {level[0].dtype}, 1 thread"
    options = {"num_threads": 1, "quantile": QUANTILE}
    found = benchmark.pedantic(pl.match, level, options, **ROUNDS)
    ratio = eager(*level, QUANTILE)[2]
    tolerance = 1e-4 if level[0].dtype == torch.float32 else 2e-2
    assert ((found.quantile_ratio - ratio) / ratio).abs().max() < tolerance


def test_eager_ratio(benchmark, level):
    benchmark.group = f"match + ratio test, {level[0].dtype}, 1 thread"
    benchmark.pedantic(eager, (*level, QUANTILE), rounds=3, warmup_rounds=1)


def test_pyloc_entropy(benchmark, level):
    benchmark.group = f"match + entropy, {level[0].dtype}, 1 thread"
    options = {"num_threads": 1, "entropy": True}
    assert benchmark.pedantic(pl.match, level, options, **ROUNDS).entropy.min() > 0


@pytest.fixture(scope="module")
def network_levels():
    """Three levels as S2DNet gives them, at a quarter of its usual image size."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    sizes = [(128, 240, 320), (128, 60, 80), (128, 15, 20)]
    h = [torch.from_numpy(rng.standard_normal((500, s[0]), dtype=np.float32)) / 10 for s in sizes]
    return h, [torch.from_numpy(rng.standard_normal(s, dtype=np.float32)) for s in sizes]


def test_pyloc_three_levels(benchmark, network_levels):
    benchmark.group = "match, 3 levels, 500 points, 240 x 320, 1 thread"
    found = benchmark.pedantic(
        pl.match, network_levels, {"num_threads": 1}, rounds=5, warmup_rounds=1
    )
    assert (found.log_probability - eager_levels(*network_levels)[1]).abs().max() < 1e-4


def eager_levels(descriptors, features):
    total = 0
    for h, f in zip(descriptors, features):
        c = torch.einsum("nd,dhw->nhw", h, f)[None]
        size = features[0].shape[1:]
        total = total + torch.nn.functional.interpolate(c, size=size, mode="bilinear")[0].flatten(1)
    return total.argmax(1), total.amax(1) - total.logsumexp(1)


def test_eager_three_levels(benchmark, network_levels):
    benchmark.group = "match, 3 levels, 500 points, 240 x 320, 1 thread"
    benchmark.pedantic(eager_levels, network_levels, rounds=3, warmup_rounds=1)
