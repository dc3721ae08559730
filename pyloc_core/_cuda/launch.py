# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the launchers share: where a kernel runs, and tensors as the native interface takes them."""

from __future__ import annotations

from typing import Any

import torch

from pyloc_core import _dispatch


def compiled() -> Any:
    """pyloc_core._native_cuda. RuntimeError where this build has none."""
    module = _dispatch.cuda_module()
    if module is None:
        raise RuntimeError("this build has no CUDA kernels (PYLOC_CUDA=on builds them)")
    return module


def place(tensor: torch.Tensor) -> tuple[int, int]:
    """(device index, address of the current stream there)."""
    device = tensor.device
    return int(device.index), int(torch.cuda.current_stream(device).cuda_stream)


def address(tensor: torch.Tensor | None) -> int:
    """Of the first element; 0 for None."""
    return 0 if tensor is None else int(tensor.data_ptr())
