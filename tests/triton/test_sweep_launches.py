# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The cost volumes' kernels through the compiler, which accepts less than the interpreter does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

HERE = Path(__file__).parent
# Bytes of stack per thread: the metadata gradient's sums of all weights do not fit the registers.
SPILLS = {"gradient_kernel": 1024, "forward_kernel": 256}


def compile_launches(target: int, *names: str) -> list[dict[str, Any]]:
    command = [sys.executable, "compile_launches.py", "sweep_launches.py", str(target), *names]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE)
    assert done.returncode == 0, done.stderr[-3000:]
    launches: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return launches


def test_the_dot_volume_compiles_and_keeps_its_registers() -> None:
    launches = compile_launches(90, "dot, float16")
    assert [each["kernel"] for each in launches] == [
        "pack_kernel", "pack_kernel", "forward_kernel", "mask_kernel", "pack_kernel", "pack_kernel",
        "reference_kernel", "unpack_kernel", "plan_kernel", "gather_kernel",
    ]  # fmt: skip
    assert not any(each["stack"] for each in launches)


def test_the_dot_volume_of_one_plane_compiles() -> None:
    kernels = {each["kernel"] for each in compile_launches(90, "dot, one plane")}
    assert {"reference_kernel", "scatter_kernel"} <= kernels


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 86, 90])
def test_every_specialisation_compiles(target: int) -> None:
    launches = compile_launches(target)
    assert {each["kernel"] for each in launches} == {
        "pack_kernel", "unpack_kernel", "forward_kernel", "mask_kernel", "seen_slope_kernel",
        "reference_kernel", "plan_kernel", "gather_kernel", "scatter_kernel", "gradient_kernel",
    }  # fmt: skip
    for each in launches:
        assert each["shared"] <= 99 * 1024, each  # consumer cards have no more
        assert each["stack"] <= SPILLS.get(each["kernel"], 32), each
