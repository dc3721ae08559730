# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""estimate_pose: MSAC over loss maps for a batch of queries, without the host."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import pyloc_core as pl
from gpu_cases import Case, Check, Setting
from gpu_cases.poses import CAMERA, batch, on_device, pose_distance, problem

OPERATOR = "estimate_pose"


def estimate(a, **options):
    return pl.estimate_pose(
        a["maps"], a["points3d"], a["camera"], problem_ptr=a["problem_ptr"], **options
    )


def check(setting: Setting) -> Iterator[Check]:
    host = batch(setting.seed % 1000, 4, 150)
    found = estimate(on_device(host, setting.device), seed=3).cpu()
    native = estimate(host, seed=3)
    costs = []
    for b in range(4):  # the chosen hypothesis may differ where two are equally good
        maps, points = problem(host, b)
        truth = pl.estimate_pose(maps, points, CAMERA, seed=3, implementation="reference")
        costs.append(abs(float(found.cost[b]) / truth.cost - 1))
    yield Check("costs against the reference, relative", max(costs), 1e-4)
    same = [
        pose_distance(found.cam_from_world[b].numpy(), native.cam_from_world[b]) < 1e-6
        for b in range(4)
    ]
    yield Check("problems with another hypothesis than the CPU's", 1 - float(np.mean(same)), 0.0)
    yield Check("failures", float((~found.success).double().mean()), 0.0)


def cases(setting: Setting) -> Iterator[Case]:
    for problems in (1, 64):
        a = on_device(batch(1, problems, 1000), setting.device)
        yield Case(
            f"estimate_pose, {problems} x 1000 points, adaptive", lambda a=a: estimate(a),
            units=problems, unit="poses",
        )  # fmt: skip
