# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels run on the GPU where there is one, and in Triton's interpreter elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from triton_interpreter import interpreter_fault

_HAS = all(importlib.util.find_spec(name) for name in ("torch", "triton"))
_COMPILER = Path(__file__).with_name("compile_kernels.py")


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if _HAS and not _has_gpu():
    os.environ["TRITON_INTERPRET"] = (
        "1"  # read when a kernel is decorated, so before any is imported
    )


@pytest.fixture(scope="session")
def device() -> Any:
    """Where the kernels run."""
    import torch

    if not _has_gpu() and interpreter_fault():
        pytest.skip(interpreter_fault())
    return torch.device("cuda" if _has_gpu() else "cpu")


@pytest.fixture(scope="session")
def compile_for_gpu() -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Compile kernels ahead of time, which needs no GPU and accepts less than the interpreter does.

    Takes dictionaries with module ("pyloc_core._triton.match"), kernel (its name there), signature
    (argument -> "*fp32", "i32", ...), constexprs and, optionally, options (num_warps, num_stages) and
    targets (default [80, 90]). Gives for each and each target: name, target, registers, stack (bytes
    per thread: spills), shared (bytes).
    """

    def compile_all(kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        done = subprocess.run(
            [sys.executable, str(_COMPILER)],
            input=json.dumps(kernels),
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return results

    return compile_all


collect_ignore_glob = [] if _HAS else ["test_*.py"]
