# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Tests of the compiled CUDA kernels: they need a GPU and a build that has the kernels."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from pyloc_core import _dispatch


@pytest.fixture(scope="session")
def cuda() -> Any:
    """The device the kernels run on."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if _dispatch.cuda_module() is None:
        pytest.skip(f"this build has no CUDA kernels: {_dispatch.cuda_missing()}")
    return torch.device("cuda", torch.cuda.current_device())
