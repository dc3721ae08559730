# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Launcher of cuda/estimate_pose.cu."""

from __future__ import annotations

from typing import Any

import torch

from pyloc_core import _problems
from pyloc_core._cuda.launch import address, compiled, place


def estimate_pose(
    map_args: tuple[Any, ...],
    points3d: torch.Tensor,
    camera: list[float],
    cameras: torch.Tensor | None,
    initial: torch.Tensor | None,
    problem_ptr: torch.Tensor | None,
    options: tuple[Any, ...],
    found: tuple[torch.Tensor, ...],
) -> None:
    """Contiguous tensors of one device; `found` as in the front door: poses (B, 3, 4), status, cost, gain,
    iterations, num_usable, num_consistent (B,), inlier_probability (N,)."""
    native = compiled()
    tensors = [each.contiguous() if torch.is_tensor(each) else each for each in map_args]
    problems = found[0].shape[0]
    size = native.estimate_pose_workspace(points3d.shape[0], problems)
    # Freed when this returns, and used again in stream order only.
    workspace = torch.empty(size, dtype=torch.uint8, device=points3d.device)
    native.estimate_pose(
        _problems.device_map_args(tensors), address(points3d), tuple(camera), address(cameras),
        address(problem_ptr), problems, address(initial), 0 if initial is None else initial.shape[1],
        options[:4], tuple(address(each) for each in found), address(workspace), *place(points3d),
    )  # fmt: skip
