# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Graduated non-convexity: one pass over all maps, and whole refinements, against the plain torch form.

1000 maps of at most 256 live cells. "fine": a 16 x 16 block around the vote, as in a window of a fine
map. "coarse": 64 cells around the vote, the others scattered over a 75 x 100 map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import pyloc_core as pl
from pyloc_core import _arrays, _native
from pyloc_core.camera import camera_native_args

torch = pytest.importorskip("torch")

COUNT, ENTRIES = 1000, 256
PASSES = 20  # native passes per call, so that preparing the problem does not show


@dataclass
class Problem:
    maps: pl.LossMaps
    points: np.ndarray
    K: np.ndarray
    start: np.ndarray
    sigma_max: float


def make(kind: str, seed: int = 3) -> Problem:
    rng = np.random.default_rng(seed)
    fine = kind == "fine"
    h, w = (600, 800) if fine else (75, 100)
    K = np.array([[0.75 * w, 0, w / 2], [0, 0.75 * w, h / 2], [0, 0, 1.0]])
    truth = np.hstack([pl.rotation_from_quaternion(rng.standard_normal(4)), [[1.0], [2], [3]]])
    xy = rng.uniform([20, 20], [w - 21, h - 21], (COUNT, 2))
    depth = rng.uniform(4, 20, (COUNT, 1))
    rays = np.hstack([(xy - K[:2, 2]) / K[0, 0], np.ones((COUNT, 1))])
    points = (rays * depth - truth[:, 3]) @ truth[:, :3]
    vote = xy + 0.4 * rng.standard_normal((COUNT, 2))
    wrong = rng.random(COUNT) < 0.3
    vote[wrong] += rng.uniform(-12, 12, (int(wrong.sum()), 2))
    side = 16 if fine else 8
    offset = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(1, -1, 2)
    cells = np.clip(np.round(vote[:, None]).astype(int) - side // 2 + offset, 0, [w - 1, h - 1])
    if not fine:
        cells = np.concatenate([cells, rng.integers(0, [w, h], (COUNT, ENTRIES - 64, 2))], 1)
    rows, key = [], cells[..., 1] * w + cells[..., 0]
    for n in range(COUNT):
        unique = np.unique(key[n])
        r2 = ((np.stack([unique % w, unique // w], 1) - vote[n]) ** 2).sum(1)
        gain = 8 * np.exp(-r2 / 4.5) + 0.3 * rng.random(len(unique)) + 0.01
        rows.append((unique, gain))
    keys = np.concatenate([r[0] for r in rows])
    maps = pl.LossMaps(
        np.r_[0, np.cumsum([len(r[0]) for r in rows])],
        np.stack([keys % w, keys // w], 1).astype(np.int16),
        np.concatenate([r[1] for r in rows]).astype(np.float32),
        size=(h, w),
        log_cardinality=math.log(1 + h * w),
    )
    angle = 0.004 if fine else 0.02
    R = (
        pl.rotation_from_quaternion(np.array([1.0, angle / 2, -angle / 3, angle / 4]))
        @ truth[:, :3]
    )
    start = np.hstack([R, -(R @ (pl.camera_center(truth) + 0.02))[:, None]])
    return Problem(maps, points, K, start, 8.0 if fine else 2.0)


@pytest.fixture(scope="module", params=["coarse", "fine"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return make(request.param)


def native_passes(p: Problem, sigma: float, repeats: int) -> np.ndarray:
    sums, pointer = np.empty(28), _arrays.pointer
    camera = camera_native_args(p.K)
    _native.gnc_assemble(
        p.maps.native_args(),
        pointer(p.points),
        camera,
        pointer(p.start),
        sigma,
        1,
        repeats,
        pointer(sums),
    )
    return sums


class Eager:
    """The same sums in plain torch, float32, everything vectorised, Jacobians written out."""

    def __init__(self, p: Problem) -> None:
        self.rows = torch.tensor(np.repeat(np.arange(COUNT), p.maps.entries_per_map))
        self.xy = torch.tensor(p.maps.xy.astype(np.float32))
        self.gain = torch.tensor(p.maps.gain)
        self.points = torch.tensor(p.points)
        self.pose = torch.tensor(p.start)
        self.K = torch.tensor(p.K)

    def __call__(self, sigma: float) -> Any:
        RX = self.points @ self.pose[:, :3].T
        X = RX + self.pose[:, 3]
        f, iz = self.K[0, 0], 1 / X[:, 2]
        p = X[:, :2] * iz[:, None] * f + self.K[:2, 2]
        zero = torch.zeros_like(iz)
        Jp = torch.stack(
            [f * iz, zero, -f * X[:, 0] * iz**2, zero, f * iz, -f * X[:, 1] * iz**2], 1
        ).reshape(-1, 2, 3)
        J = torch.cat([torch.cross(RX[:, None].expand_as(Jp), Jp, dim=2), Jp], 2)
        r = self.xy - p.float()[self.rows]
        e = self.gain * torch.exp((r * r).sum(1) * (-0.5 / sigma**2))
        terms = torch.stack([e, e * r[:, 0], e * r[:, 1]], 1)
        sums = torch.zeros(COUNT, 3).index_add_(0, self.rows, terms).double()
        sums = sums / (2 * math.pi * sigma**2)
        w, pull = sums[:, 0] / sigma**2, sums[:, 1:] / sigma**2
        A = torch.einsum("n,nij,nik->jk", w, J, J)
        return -sums[:, 0].sum(), A, torch.einsum("nij,ni->j", J, pull)


@pytest.mark.parametrize("sigma", [0.6, 2.0, 8.0])
class TestPass:
    """Divide by the number of entries (and, native, by 20 passes) for the time per live entry."""

    def test_pyloc_20_passes(self, benchmark: Any, problem: Problem, sigma: float) -> None:
        benchmark.group = f"pass x 20, sigma {sigma}, {len(problem.maps.gain)} entries"
        native = native_passes(problem, sigma, 1)
        energy, A, b = Eager(problem)(sigma)
        assert native[0] == pytest.approx(float(energy), rel=1e-3)
        lower = A.numpy()[np.tril_indices(6)]
        np.testing.assert_allclose(native[1:22], lower, rtol=2e-3, atol=1e-3 * np.abs(lower).max())
        np.testing.assert_allclose(native[22:], b.numpy(), rtol=5e-3, atol=1e-2 * b.abs().max())
        benchmark(native_passes, problem, sigma, PASSES)
        entries = len(problem.maps.gain) * PASSES
        if benchmark.stats is not None:
            benchmark.extra_info["ns_per_entry"] = benchmark.stats["median"] / entries * 1e9

    def test_torch_20_passes(self, benchmark: Any, problem: Problem, sigma: float) -> None:
        benchmark.group = f"pass x 20, sigma {sigma}, {len(problem.maps.gain)} entries"
        torch.set_num_threads(1)
        eager = Eager(problem)
        benchmark.pedantic(lambda: [eager(sigma) for _ in range(PASSES)], rounds=3)
        entries = len(problem.maps.gain) * PASSES
        if benchmark.stats is not None:
            benchmark.extra_info["ns_per_entry"] = benchmark.stats["median"] / entries * 1e9


def refine(p: Problem, **options: Any) -> pl.PoseEstimate:
    return pl.refine_pose(p.maps, p.points, p.K, p.start, sigma_max=p.sigma_max, **options)


def test_pyloc_refine(benchmark: Any, problem: Problem) -> None:
    benchmark.group = f"refine_pose, sigma {problem.sigma_max} to 0.6"
    found = benchmark(refine, problem, num_threads=1)
    assert found.success


def test_reference_refine(benchmark: Any, problem: Problem) -> None:
    benchmark.group = f"refine_pose, sigma {problem.sigma_max} to 0.6"
    torch.set_num_threads(1)
    found = benchmark.pedantic(refine, (problem,), {"implementation": "reference"}, rounds=2)
    assert found.success
