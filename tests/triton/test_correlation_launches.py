# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The correlation kernels through the compiler, which accepts less than the interpreter does."""

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
# Bytes of stack per thread that the register allocator may spill in the pass over all cells, and where
# addresses of 64 bits are mixed from four cells.
SPILLS, WIDE_SPILLS = 64, 256


def compile_launches(target: int, *names: str) -> list[dict[str, Any]]:
    command = [
        sys.executable,
        "compile_launches.py",
        "correlation_launches.py",
        str(target),
        *names,
    ]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE)
    assert done.returncode == 0, done.stderr[-3000:]
    launches: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return launches


def check(launches: list[dict[str, Any]], shared_limit: int) -> None:
    for each in launches:
        assert each["shared"] <= shared_limit, each
        if each["kernel"] == "stream_kernel" and shared_limit > 101376:
            assert each["stack"] <= (WIDE_SPILLS if "2^31" in each["case"] else SPILLS), each


def test_the_main_pass_fits_the_registers_and_compiles() -> None:
    launches = compile_launches(90, "match")
    assert [each["kernel"] for each in launches] == ["stream_kernel", "match_kernel"]
    check(launches, 232448)
    stream = launches[0]
    assert stream["stack"] == 0
    assert (
        2 * 256 * stream["registers"] <= 65536 and 2 * stream["shared"] <= 232448
    )  # two at a time


@pytest.mark.slow
@pytest.mark.parametrize(("target", "shared"), [(80, 166912), (86, 101376), (90, 232448)])
def test_every_specialisation_compiles(target: int, shared: int) -> None:
    launches = compile_launches(target)
    kernels = {each["kernel"] for each in launches}
    assert kernels == {
        "stream_kernel", "narrow_kernel", "exact_rank_kernel", "match_kernel", "subcell_kernel",
        "settle_kernel", "choose_kernel", "fill_kernel", "place_kernel", "window_kernel",
        "join_kernel",
    }  # fmt: skip
    check(launches, shared)
