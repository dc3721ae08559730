# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""refine_pose: a block of threads per problem, the whole graduated non-convexity in one launch."""

from __future__ import annotations

from collections.abc import Iterator

import pyloc_core as pl
from gpu_cases import Case, Check, Setting
from gpu_cases.poses import CAMERA, batch, on_device, pose_distance, problem

OPERATOR = "refine_pose"


def refine(a, **options):
    return pl.refine_pose(
        a["maps"], a["points3d"], a["camera"], a["starts"], problem_ptr=a["problem_ptr"], **options
    )


def check(setting: Setting) -> Iterator[Check]:
    host = batch(setting.seed % 1000, 4, 150)
    found = refine(on_device(host, setting.device)).cpu()
    native = refine(host)
    worst = worst_native = 0.0
    for b in range(4):
        maps, points = problem(host, b)
        truth = pl.refine_pose(maps, points, CAMERA, host["starts"][b], implementation="reference")
        pose = found.cam_from_world[b].numpy()
        worst = max(worst, pose_distance(pose, truth.cam_from_world))
        worst_native = max(worst_native, pose_distance(pose, native.cam_from_world[b]))
    yield Check("poses against the reference", worst, 1e-3)
    yield Check("poses against the CPU", worst_native, 1e-4)
    yield Check("failures", float((~found.success).double().mean()), 0.0)


def cases(setting: Setting) -> Iterator[Case]:
    for problems, goal in ((1, None), (64, None), (1000, 15e-3)):
        a = on_device(batch(1, problems, 1000), setting.device)
        yield Case(
            f"refine_pose, {problems} x 1000 points, 2 to 0.6 cells", lambda a=a: refine(a),
            goal=goal, units=problems, unit="poses",
        )  # fmt: skip
