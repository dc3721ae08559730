# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Launcher of cuda/refine_pose.cu."""

from __future__ import annotations

from typing import Any

import torch

from pyloc_core import _problems
from pyloc_core._cuda.launch import address, compiled, place


def refine_pose(
    map_args: tuple[Any, ...],
    points3d: torch.Tensor,
    camera: list[float],
    cameras: torch.Tensor | None,
    starts: torch.Tensor,
    problem_ptr: torch.Tensor | None,
    options: tuple[float, float, int, float, float],
    found: tuple[torch.Tensor, ...],
) -> None:
    """Contiguous tensors of one device; `found` as in `_refinements.allocate`."""
    native = compiled()
    tensors = tuple(each.contiguous() if torch.is_tensor(each) else each for each in map_args)
    entries, count, problems = tensors[2].shape[0], points3d.shape[0], starts.shape[0]
    # Freed when this returns, and used again in stream order only.
    workspace = torch.empty(
        native.refine_pose_workspace(entries, count), dtype=torch.uint8, device=points3d.device
    )
    native.refine_pose(
        _problems.device_map_args(tensors), address(points3d), tuple(camera), address(cameras),
        address(problem_ptr), problems, address(starts), options,
        tuple(address(each) for each in found), address(workspace), *place(points3d),
    )  # fmt: skip
