# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""p3p: one thread per problem."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting

OPERATOR = "p3p"


def problems(setting: Setting, count: int, dtype: torch.dtype):
    rng = np.random.default_rng(setting.seed)
    rotation = pl.rotation_from_quaternion(rng.normal(size=(count, 4)))
    rays = np.concatenate([rng.uniform(-1, 1, (count, 3, 2)), np.ones((count, 3, 1))], -1)
    points = rays * rng.uniform(1, 5, (count, 3, 1)) - rng.uniform(-1, 1, (count, 1, 3))
    points = np.einsum("bji,bnj->bni", rotation, points)
    return [torch.from_numpy(a).to(setting.device, dtype) for a in (rays, points)]


def check(setting: Setting) -> Iterator[Check]:
    for dtype, differ, tolerance in ((torch.float64, 1e-2, 1e-6), (torch.float32, 2e-2, 2e-2)):
        f, x = problems(setting, 2000, dtype)
        found = pl.p3p(f, x)
        truth = pl.p3p(f.cpu().double(), x.cpu().double(), implementation="reference")
        name = str(dtype).removeprefix("torch.")
        valid = torch.as_tensor(truth.valid)
        same = (found.valid.cpu() == valid).all(1)
        yield Check(f"{name}: other number of solutions", 1 - float(same.double().mean()), differ)
        error = found.cam_from_world.cpu().double() - torch.as_tensor(truth.cam_from_world)
        worst = error.abs().amax((1, 2, 3))[same].quantile(0.97)
        yield Check(f"{name}: poses, 97 % of problems", float(worst), tolerance)


def cases(setting: Setting) -> Iterator[Case]:
    count = 1_000_000
    for dtype, floor, goal in ((torch.float32, 61e-6, 200e-6), (torch.float64, 123e-6, None)):
        f, x = problems(setting, count, dtype)
        size = (count, 4, 3, 4), (count, 4)
        out = pl.P3PSolutions(
            torch.empty(size[0], dtype=dtype, device=setting.device),
            torch.empty(size[1], dtype=torch.bool, device=setting.device),
        )
        name = str(dtype).removeprefix("torch.")
        yield Case(
            f"p3p, 1 M problems, {name}", lambda f=f, x=x, out=out: pl.p3p(f, x, out=out), None,
            floor, goal, count, "problems",
        )  # fmt: skip
