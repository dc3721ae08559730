# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""score_poses: the scoring loop of MSAC by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting
from gpu_cases.poses import CAMERA, batch, on_device, problem

OPERATOR = "score_poses"


def hypotheses(seed: int, truths: np.ndarray, count: int) -> np.ndarray:
    """(B, M, 3, 4): poses around the truth, from near to far."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(1e-3, 0.3, count)[:, None]
    turns = pl.rotation_from_quaternion(
        np.concatenate([np.ones((count, 1)), rng.standard_normal((count, 3)) * spread], 1)
    )
    poses = np.einsum("mij,bjk->bmik", turns, truths)
    poses[..., 3] += rng.standard_normal((len(truths), count, 3)) * spread
    return poses


def score(a, poses):
    return pl.score_poses(
        a["maps"], a["points3d"], a["camera"], poses, problem_ptr=a["problem_ptr"]
    )


def check(setting: Setting) -> Iterator[Check]:
    host = batch(setting.seed % 1000, 3, 150)
    poses = hypotheses(setting.seed, host["truths"], 64)
    device_poses = torch.from_numpy(poses).to(setting.device)
    found = score(on_device(host, setting.device), device_poses).cpu().numpy()
    worst = 0.0
    for b in range(3):
        maps, points = problem(host, b)
        truth = pl.score_poses(maps, points, CAMERA, poses[b], implementation="reference")
        worst = max(worst, float(np.abs(found[b] - truth).max()) / float(maps.peak_gain.sum()))
    yield Check("costs over the sum of peak gains", worst, 2e-4)


def cases(setting: Setting) -> Iterator[Case]:
    problems, count = 64, 1024
    host = batch(1, problems, 1000)
    a = on_device(host, setting.device)
    poses = torch.from_numpy(hypotheses(2, host["truths"], count)).to(setting.device)
    work = problems * 1000 * count
    yield Case(
        f"score_poses, {problems} x 1000 points x {count} poses", lambda: score(a, poses),
        goal=work / 8e10, units=work, unit="point-hypotheses",
    )  # fmt: skip
