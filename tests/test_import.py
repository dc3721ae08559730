# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Importing the package is light, and the build says what it is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pyloc_core


def run_python(code: str, **env: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_brings_neither_torch_nor_extras() -> None:
    code = (
        "import sys, pyloc_core\n"
        "heavy = {'torch', 'cv2', 'pycolmap', 'PIL', 'matplotlib', 'scipy', 'typer', 'tqdm'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run_python(code) == "[]"


def test_import_is_fast() -> None:
    """Under 150 ms of the processor beside the start of the interpreter and NumPy; the best of five.
    Machines are shared: the time on the wall says as much about their load."""
    code = (
        "import time, numpy; t = time.process_time(); import pyloc_core; "
        "print(time.process_time() - t)"
    )
    assert min(float(run_python(code)) for _ in range(5)) < 0.150


def test_build_info_and_module_entry() -> None:
    info = pyloc_core.build_info()
    assert info["version"] == pyloc_core.__version__
    assert info["isa"] in ("baseline", "avx2", "avx512")
    output = subprocess.run(
        [sys.executable, "-m", "pyloc_core"], capture_output=True, text=True, check=True
    ).stdout
    assert f"version: {pyloc_core.__version__}" in output
    assert "cuda:" in output


def test_instruction_set_follows_the_environment() -> None:
    code = "import pyloc_core; print(pyloc_core.build_info()['isa'])"
    assert run_python(code, PYLOC_ISA="baseline") == "baseline"
    with pytest.raises(ValueError, match="baseline"):
        pyloc_core.set_isa("sse9")


def test_thread_count_follows_the_environment_and_the_call() -> None:
    code = "import pyloc_core; print(pyloc_core.get_num_threads())"
    assert run_python(code, PYLOC_NUM_THREADS="3") == "3"
    # In a process of its own: commands that other tests call here hold this one to their --threads.
    code = (
        "import pyloc_core as pl; before = pl.get_num_threads(); pl.set_num_threads(5); "
        "five = pl.get_num_threads(); pl.set_num_threads(None); "
        "print(five, pl.get_num_threads() == before)"
    )
    assert run_python(code) == "5 True"
    with pytest.raises(ValueError, match="at least 1"):
        pyloc_core.set_num_threads(0)


def test_implementations_are_listed() -> None:
    names = [each.name for each in pyloc_core.implementations("p3p")]
    assert names == ["native", "cuda", "reference"]
    with pytest.raises(ValueError, match="did you mean 'p3p'"):
        pyloc_core.implementations("p3")
