# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Launcher of cuda/score_poses.cu."""

from __future__ import annotations

from typing import Any

import torch

from pyloc_core import _problems
from pyloc_core._cuda.launch import address, compiled, place


def score_poses(
    map_args: tuple[Any, ...],
    points3d: torch.Tensor,
    camera: list[float],
    cameras: torch.Tensor | None,
    cam_from_world: torch.Tensor,
    problem_ptr: torch.Tensor | None,
    cost: torch.Tensor,
) -> None:
    """Contiguous tensors of one device: cam_from_world (B, M, 3, 4) -> cost (B, M) float64."""
    native = compiled()
    tensors = [each.contiguous() if torch.is_tensor(each) else each for each in map_args]
    problems, poses = cost.shape
    size = native.score_poses_workspace(points3d.shape[0], problems, poses)
    # Freed when this returns, and used again in stream order only.
    workspace = torch.empty(size, dtype=torch.uint8, device=points3d.device)
    native.score_poses(
        _problems.device_map_args(tensors), address(points3d), tuple(camera), address(cameras),
        address(problem_ptr), problems, address(cam_from_world), poses, address(cost),
        address(workspace), *place(points3d),
    )  # fmt: skip
