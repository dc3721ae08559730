# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The whole step from descriptors to a fine pose, for a query of 1000 points: it must run as one CUDA graph.

Coarse loss maps, consensus, refinement, fine loss maps in windows around the reprojections, refinement again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting
from gpu_cases.poses import CAMERA, make_scene
from pyloc_core.localization.tensor_step import CapturedStep, Stage, pose_from_features

OPERATOR = ("loss_maps", "estimate_pose", "refine_pose", "local_loss_maps")
COARSE, FINE = (60, 80), (240, 320)


def stage(setting: Setting, xy: np.ndarray, wrong: np.ndarray, size: tuple[int, int], depth: int):
    """Descriptors read from random features at the projections, noise for the wrong ones."""
    g = torch.Generator().manual_seed(setting.seed + depth)
    features = torch.randn(depth, *size, generator=g)
    features = torch.nn.functional.avg_pool2d(features[None], 3, 1, 1)[0]
    features = features / features.norm(dim=0)
    cells = pl.map_from_image(xy, CAMERA.size, size)
    grid = torch.from_numpy(2 * cells / (np.array(size[::-1]) - 1) - 1).float()[None, None]
    read = torch.nn.functional.grid_sample(features[None], grid, align_corners=True)[0, :, 0].t()
    read[torch.from_numpy(wrong)] = torch.randn(int(wrong.sum()), depth, generator=g)
    descriptors = 14 * torch.nn.functional.normalize(read, dim=1)
    device = setting.device
    return Stage(
        descriptors.to(device, torch.bfloat16),
        features.to(device, torch.bfloat16),
        stride=CAMERA.height / size[0],
    )


def step(setting: Setting, count: int) -> tuple[tuple[Any, ...], np.ndarray]:
    """Arguments of `pose_from_features`, and the true pose."""
    scene = make_scene(setting.seed % 1000, count, CAMERA, 0.3)
    coarse = stage(setting, scene.xy, scene.wrong, COARSE, 128)
    fine = stage(setting, scene.xy, scene.wrong, FINE, 288)
    points = torch.from_numpy(scene.points).to(setting.device)
    return (points, CAMERA, coarse, fine), scene.truth


def check(setting: Setting) -> Iterator[Check]:
    arguments, truth = step(setting, 500)
    found = pose_from_features(*arguments)
    poses = found.cam_from_world.cpu()
    yield Check("failures", float((~found.success.cpu()).double().mean()), 0.0)
    error = np.abs(poses[0].numpy() - truth).max()
    yield Check("pose against the truth", float(error), 2e-2)
    graph = CapturedStep(*arguments)
    graph.result.cam_from_world.zero_()
    again = graph.replay().cam_from_world.cpu()
    yield Check("poses of the captured graph that differ", float((again != poses).any()), 0.0)


def cases(setting: Setting) -> Iterator[Case]:
    arguments, _ = step(setting, 1000)
    yield Case(
        "localization step, 1000 points, features to fine pose",
        lambda: pose_from_features(*arguments),
    )
