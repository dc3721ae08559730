# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth out of a volume of 64 planes and 120 x 160 cells, and the range of a second sweep from a map of
480 x 640 pixels, 1 thread: against the plain calls of torch that compute the same."""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
VOLUME = RNG.normal(size=(64, 120, 160)).astype(np.float32)
PLANES = pl.log_depth_planes(0.5, 10.0, 64).astype(np.float32)
DEPTH = np.exp(RNG.normal(size=(480, 640))).astype(np.float32)


def plain_depth(volume, planes):
    return torch.exp((torch.softmax(20 * volume, 0) * planes.log()[:, None, None]).sum(0))


def plain_quantiles(depth):
    flat = depth.flatten()
    return flat.quantile(0.05), flat.quantile(0.95)


DEPTHS = {
    "torch, softmax and sum": (plain_depth, "torch"),
    "pyloc, torch": (lambda v, p: pl.soft_argmax_depth(v, p, sharpness=20.0), "torch"),
    "pyloc, torch, window": (
        lambda v, p: pl.soft_argmax_depth(v, p, sharpness=20.0, window=2),
        "torch",
    ),
    "pyloc, NumPy": (lambda v, p: pl.soft_argmax_depth(v, p, sharpness=20.0), "numpy"),
    "pyloc, NumPy, window": (
        lambda v, p: pl.soft_argmax_depth(v, p, sharpness=20.0, window=2),
        "numpy",
    ),
}
RANGES = {
    "torch.quantile twice": (plain_quantiles, "torch"),
    "pyloc, torch": (lambda d: pl.refine_depth_range(d, 0.1, 50.0), "torch"),
    "pyloc, NumPy": (lambda d: pl.refine_depth_range(d, 0.1, 50.0), "numpy"),
}


def of_kind(kind, *arrays):
    torch.set_num_threads(1)
    return arrays if kind == "numpy" else tuple(torch.from_numpy(array) for array in arrays)


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_from_volume(benchmark, name):
    form, kind = DEPTHS[name]
    benchmark.group = "depth from a volume, 64 planes, 120 x 160, 1 thread"
    given = of_kind(kind, VOLUME, PLANES)
    depth = benchmark.pedantic(form, given, rounds=15, warmup_rounds=2)
    if "window" not in name:
        expected = plain_depth(*of_kind("torch", VOLUME, PLANES))
        np.testing.assert_allclose(depth, expected, rtol=1e-4)


@pytest.mark.parametrize("name", RANGES)
def test_second_range(benchmark, name):
    form, kind = RANGES[name]
    benchmark.group = "range of a second sweep, 480 x 640, 1 thread"
    low, high = benchmark.pedantic(form, of_kind(kind, DEPTH), rounds=15, warmup_rounds=2)
    expected = plain_quantiles(torch.from_numpy(DEPTH))
    factors = (1.0, 1.0) if name.startswith("torch") else (0.75, 1.25)
    np.testing.assert_allclose(
        (low, high), [f * float(e) for f, e in zip(factors, expected)], rtol=1e-5
    )
