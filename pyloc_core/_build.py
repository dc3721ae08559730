# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What this build is and what it runs with."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from pyloc_core import _native
from pyloc_core._dispatch import cuda_missing, cuda_module, implementations, operators


def build_info() -> dict[str, Any]:
    """Version, compiler, instruction set in use, thread count, operators and their implementations.

    "cuda" is a dictionary with the architectures of the CUDA kernels and the versions of the runtime and
    of the driver, or, where the kernels cannot be used, the reason.
    """
    info: dict[str, Any] = dict(_native.build_info())
    info["python"] = platform.python_version()
    info["numpy"] = np.__version__
    info["machine"] = platform.machine()
    compiled = cuda_module()
    info["cuda"] = cuda_missing() if compiled is None else dict(compiled.build_info())
    info["operators"] = {
        op: [each.name for each in implementations(op) if each.available] for op in operators()
    }
    return info


def set_num_threads(count: int | None) -> None:
    """Default number of threads of every operator; None returns to the environment's."""
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    _native.set_num_threads(count or 0)


def get_num_threads() -> int:
    """Default number of threads: PYLOC_NUM_THREADS, or the cores this process may use."""
    return int(_native.num_threads())


def set_isa(name: str) -> None:
    """Run with the kernels of 'baseline', 'avx2' or 'avx512'. ValueError if this machine cannot."""
    _native.set_isa(name)
