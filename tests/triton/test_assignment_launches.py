# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The assignment kernels through the compiler, which accepts less than the interpreter does."""

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
# Bytes of stack per thread that the register allocator may spill: three products in place of one (float32),
# and heads with more than 64 clusters.
SPILLS, MANY_SPILLS = 192, 256


def compile_launches(target: int, *names: str) -> list[dict[str, Any]]:
    command = [sys.executable, "compile_launches.py", "assignment_launches.py", str(target), *names]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE)
    assert done.returncode == 0, done.stderr[-3000:]
    launches: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return launches


def check(launches: list[dict[str, Any]]) -> None:
    for each in launches:
        assert each["shared"] <= 99 * 1024, each  # consumer cards have no more
        assert each["stack"] <= (MANY_SPILLS if "clusters" in each["case"] else SPILLS), each


def test_half_precision_heads_compile_and_keep_their_registers() -> None:
    launches = compile_launches(90, "salad_aggregate, float16")
    assert [each["kernel"] for each in launches] == [
        "potentials_kernel", "sums_kernel", "normalise_kernel", "normalise_gradient_kernel",
        "slopes_kernel", "gradient_kernel",
    ]  # fmt: skip
    assert not any(each["stack"] for each in launches)


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 86, 90])
def test_every_specialisation_compiles(target: int) -> None:
    launches = compile_launches(target)
    kernels = {each["kernel"] for each in launches}
    assert kernels == {
        "row_kernel", "column_kernel", "assignment_kernel", "column_slope_kernel",
        "row_gradient_kernel", "column_gradient_kernel", "score_gradient_kernel",
        "potentials_kernel", "gradient_kernel", "sums_kernel", "slopes_kernel",
        "normalise_kernel", "normalise_gradient_kernel", "log_sum_kernel", "line_kernel",
    }  # fmt: skip
    check(launches)
