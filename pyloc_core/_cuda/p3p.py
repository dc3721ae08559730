# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Launcher of cuda/p3p.cu."""

from __future__ import annotations

import torch

from pyloc_core import _arrays
from pyloc_core._cuda.launch import address, compiled, place


def p3p(
    bearings: torch.Tensor, points3d: torch.Tensor, poses: torch.Tensor, valid: torch.Tensor
) -> None:
    """bearings, points3d (B, 3, 3) of one dtype -> contiguous poses (B, 4, 3, 4), valid (B, 4) bool."""
    code = _arrays.DTYPE_CODES[str(bearings.dtype).removeprefix("torch.")]
    f, x = (
        bearings.contiguous(),
        points3d.contiguous(),
    )  # held until the launch: freed in stream order
    compiled().p3p(address(f), address(x), len(f), address(poses), address(valid), code, *place(f))
