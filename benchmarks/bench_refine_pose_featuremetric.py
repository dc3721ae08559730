# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Featuremetric refinement against the same steps written in plain torch: 1000 points, D 128, 150 x 200."""

from __future__ import annotations

import numpy as np
import pytest
from pose_problems import feature_problem, rotation

import pyloc_core as pl
from pyloc_core.camera import camera_native_args

SCALE = 0.3
GROUP = "refine_pose_featuremetric, N 1000, D 128, 150 x 200, 1 thread"


@pytest.fixture(scope="module")
def problem():
    return feature_problem(1000, 0, channels=128, size=(150, 200), outliers=0.2, start=0.002)


@pytest.fixture(scope="module")
def features(problem):
    last = np.ascontiguousarray(problem.features.transpose(1, 2, 0))
    return {"first": problem.features, "last": last.transpose(2, 0, 1)}


def run_pyloc(problem, features):
    return pl.refine_pose_featuremetric(
        problem.descriptors, features, problem.points3d, problem.camera, problem.start,
        loss="cauchy", scale=SCALE, num_threads=1,
    )  # fmt: skip


def run_torch(torch, descriptors, maps, points3d, camera, start, iterations):
    """Gauss-Newton with Cauchy weights; maps (H, W, D). The same formula, vectorised over the points."""
    _, fx, fy, cx, cy, *_ = camera
    R, t = start[:, :3].copy(), start[:, 3].copy()
    for _ in range(iterations + 1):
        RX = points3d @ R.T
        X, Y, Z = (RX + t).T
        x, y = fx * X / Z + cx, fy * Y / Z + cy
        x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        a, b = (
            torch.from_numpy((v - v0).astype(np.float32))[:, None] for v, v0 in ((x, x0), (y, y0))
        )
        x0, y0 = torch.from_numpy(x0), torch.from_numpy(y0)
        f00, f10, f01, f11 = maps[y0, x0], maps[y0, x0 + 1], maps[y0 + 1, x0], maps[y0 + 1, x0 + 1]
        top, bottom = f00 + a * (f10 - f00), f01 + a * (f11 - f01)
        e = descriptors - (top + b * (bottom - top))
        G = torch.stack([(1 - b) * (f10 - f00) + b * (f11 - f01), bottom - top], 1)  # (N, 2, D)
        w = (1 / (1 + (e * e).sum(1) / SCALE**2)).numpy().astype(np.float64)
        Ge = torch.bmm(G, e[:, :, None])[:, :, 0].numpy().astype(np.float64)
        GG = torch.bmm(G, G.transpose(1, 2)).numpy().astype(np.float64)
        zero = np.zeros_like(Z)
        Jp = np.stack([fx / Z, zero, -fx * X / Z**2, zero, fy / Z, -fy * Y / Z**2], 1).reshape(
            -1, 2, 3
        )
        skew = np.zeros((len(RX), 3, 3))
        for (i, j), v in {(0, 1): -RX[:, 2], (0, 2): RX[:, 1], (1, 2): -RX[:, 0]}.items():
            skew[:, i, j], skew[:, j, i] = v, -v
        J = np.concatenate([-Jp @ skew, Jp], 2)
        A = np.einsum("nki,nkj->ij", J, (w[:, None, None] * GG) @ J)
        step = np.linalg.solve(A, np.einsum("nki,nk->i", J, w[:, None] * Ge))
        R, t = rotation(step[:3]) @ R, t + step[3:]
    return np.c_[R, t]


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("channels", ["first", "last"])
def test_pyloc(benchmark, problem, features, channels):
    args = (problem, features[channels])
    found = benchmark.pedantic(run_pyloc, args, rounds=50, warmup_rounds=3)
    assert found.success
    assert pl.pose_error(found.cam_from_world, problem.cam_from_world)[0] < 0.02


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("channels", ["first", "last"])
def test_torch_eager(benchmark, problem, features, channels):
    torch = pytest.importorskip("torch")
    reference = run_pyloc(problem, features["last"])
    maps = torch.from_numpy(features[channels]).permute(1, 2, 0)
    camera = camera_native_args(problem.camera, (150, 200))
    args = (
        torch, torch.from_numpy(problem.descriptors), maps, problem.points3d, camera, problem.start,
        reference.iterations,
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = benchmark.pedantic(run_torch, args, rounds=20, warmup_rounds=1)
    finally:
        torch.set_num_threads(threads)
    assert np.abs(found - reference.cam_from_world).max() < 1e-3
