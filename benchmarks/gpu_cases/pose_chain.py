# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Consensus, coarse and fine refinement on given loss maps, for one query and for a batch of 64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyloc_core as pl
from gpu_cases import Case, Check, Setting
from gpu_cases.poses import batch, on_device, pose_distance

OPERATOR = ("estimate_pose", "refine_pose")


def problems(seed: int, count: int, points: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same scenes as full coarse maps, and as windows of a fine map."""
    fine = batch(seed, count, points, size=(240, 320), window=48, mode_std=2.0)
    return batch(seed, count, points), fine


def chain(coarse: dict[str, Any], fine: dict[str, Any]) -> Any:
    points, ptr = {"points3d": coarse["points3d"]}, {"problem_ptr": coarse["problem_ptr"]}
    stage = {"maps": coarse["maps"], "camera": coarse["camera"], **points, **ptr}
    first = pl.estimate_pose(**stage)
    second = pl.refine_pose(**stage, cam_from_world=first.cam_from_world)
    stage |= {"maps": fine["maps"], "camera": fine["camera"]}
    return pl.refine_pose(**stage, cam_from_world=second.cam_from_world, sigma_max=8.0)


def check(setting: Setting) -> Iterator[Check]:
    host = problems(setting.seed % 1000, 4, 150)
    found = chain(*(on_device(each, setting.device) for each in host)).cpu()
    native = chain(*host)
    worst = truth = 0.0
    for b in range(4):
        pose = found.cam_from_world[b].numpy()
        worst = max(worst, pose_distance(pose, native.cam_from_world[b]))
        truth = max(truth, pose_distance(pose, host[0]["truths"][b]))
    yield Check("poses against the CPU", worst, 1e-3)
    yield Check("poses against the truth", truth, 5e-2)
    yield Check("failures", float((~found.success).double().mean()), 0.0)


def cases(setting: Setting) -> Iterator[Case]:
    for count, goal in ((1, 1.5e-3), (64, 12e-3)):
        both = [on_device(each, setting.device) for each in problems(1, count, 1000)]
        yield Case(
            f"estimate + coarse + fine refinement, {count} x 1000 points, maps given",
            lambda both=both: chain(*both), goal=goal, units=count, unit="poses",
        )  # fmt: skip
