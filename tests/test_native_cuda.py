# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A build whose CUDA kernels are missing or broken says so, and everything else works."""

from __future__ import annotations

import subprocess
import sys

import pytest

MISSING = "import sys; sys.modules['pyloc_core._native_cuda'] = None\n"
BROKEN = """
import importlib.abc, importlib.machinery, sys
class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name == "pyloc_core._native_cuda":
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise ImportError("libcudart.so.99: cannot open shared object file")
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Broken())
"""
REPORT = """
import numpy as np, pyloc_core as pl
print(pl.build_info()["cuda"])
print([(e.name, e.available, e.note) for e in pl.implementations("p3p") if e.name == "cuda"][0])
rays = np.array([[[0, 0, 1.0], [0.3, 0, 1], [0, 0.2, 1]]])
print(pl.p3p(rays, 3 * rays).valid.any())
"""


@pytest.mark.parametrize(("start", "why"), [(MISSING, "halted"), (BROKEN, "libcudart.so.99")])
def test_a_module_that_cannot_be_imported_is_reported(start: str, why: str) -> None:
    code = start + REPORT
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    info, listed, solved = run.stdout.splitlines()
    assert why in info
    assert "not in this build" in listed and why in listed and "False" in listed
    assert solved == "True"


def test_importing_the_package_does_not_load_it() -> None:
    code = "import sys, pyloc_core; print('pyloc_core._native_cuda' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
