# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The whole step from descriptors to a fine pose, for a query of 1000 points: it must run as one CUDA graph.

Coarse loss maps, estimate_pose, refine_pose, reprojection, fine loss maps in windows, refine_pose again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gpu_timing import captured

import pyloc_core as pl
from gpu_cases import Case, Check, Setting
from gpu_cases.poses import CAMERA, make_scene
from pyloc_core._projection import project_problems

OPERATOR = ("loss_maps", "estimate_pose", "refine_pose", "local_loss_maps")
COARSE, FINE = (60, 80), (240, 320)


def stage(setting: Setting, xy: np.ndarray, wrong: np.ndarray, size: tuple[int, int], depth: int):
    """Descriptors read from random features at the projections, noise elsewhere; camera (1, 13)."""
    g = torch.Generator().manual_seed(setting.seed + depth)
    features = torch.randn(depth, *size, generator=g)
    features = torch.nn.functional.avg_pool2d(features[None], 3, 1, 1)[0]
    features = features / features.norm(dim=0)
    cells = pl.map_from_image(xy, CAMERA.size, size)
    grid = torch.from_numpy(2 * cells / (np.array(size[::-1]) - 1) - 1).float()[None, None]
    read = torch.nn.functional.grid_sample(features[None], grid, align_corners=True)[0, :, 0].t()
    read[torch.from_numpy(wrong)] = torch.randn(int(wrong.sum()), depth, generator=g)
    descriptors = 14 * torch.nn.functional.normalize(read, dim=1)
    rows = torch.tensor([pl.camera.camera_native_args(CAMERA, size)], dtype=torch.float64)
    device = setting.device
    return (
        descriptors.to(device, torch.bfloat16),
        features.to(device, torch.bfloat16),
        rows.to(device),
    )


def step(setting: Setting, count: int) -> tuple[Callable[[], Any], np.ndarray]:
    scene = make_scene(setting.seed % 1000, count, CAMERA, 0.3)
    coarse = stage(setting, scene.xy, scene.wrong, COARSE, 128)
    fine = stage(setting, scene.xy, scene.wrong, FINE, 288)
    points = torch.from_numpy(scene.points).to(setting.device)
    ptr = torch.tensor([0, count], device=setting.device)

    def run() -> Any:
        h, f, camera = coarse
        maps = pl.loss_maps(h, f)
        first = pl.estimate_pose(maps, points, camera, problem_ptr=ptr)
        second = pl.refine_pose(maps, points, camera, first.cam_from_world, problem_ptr=ptr)
        h, f, camera = fine
        xy, _ = project_problems(camera, second.cam_from_world, points, ptr)
        maps = pl.local_loss_maps(h, f, xy, window=32)
        return pl.refine_pose(
            maps, points, camera, second.cam_from_world, problem_ptr=ptr, sigma_max=8.0
        )

    return run, scene.truth


def check(setting: Setting) -> Iterator[Check]:
    run, truth = step(setting, 500)
    found = run().cpu()
    yield Check("failures", float((~found.success).double().mean()), 0.0)
    error = np.abs(found.cam_from_world[0].numpy() - truth).max()
    yield Check("pose against the truth", float(error), 2e-2)
    replay = captured(run)
    replay.outputs.cam_from_world.zero_()
    replay()
    torch.cuda.synchronize()
    again = replay.outputs.cam_from_world.cpu()
    different = float((again != found.cam_from_world).any())
    yield Check("bits of the captured graph that differ", different, 0.0)


def cases(setting: Setting) -> Iterator[Case]:
    run, _ = step(setting, 1000)
    yield Case("localization step, 1000 points, coarse and fine", run, goal=1.5e-3)
