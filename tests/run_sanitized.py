# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the Python tests against a build with sanitizers, in an import folder of its own.

    python run_sanitized.py BUILD_FOLDER [pytest arguments]

The package's Python files and the sanitized module are put together in BUILD_FOLDER/site, which
PYTHONPATH places before an installed pyloc_core. The sanitizer runtime must be loaded before Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def runtime(name: str) -> str:
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    root, build = Path(__file__).resolve().parents[1], Path(sys.argv[1]).resolve()
    site = build / "site"
    shutil.rmtree(site, ignore_errors=True)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(root / "pyloc_core", site / "pyloc_core", ignore=ignore)
    (module,) = build.glob("_native*.so")
    shutil.copy(module, site / "pyloc_core")
    env = {
        **os.environ,
        "PYTHONPATH": str(site),
        "LD_PRELOAD": f"{runtime('libasan.so')}:{runtime('libubsan.so')}",
        # Python and its extensions keep memory until exit; leaks are not what this looks for.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    check = "import pyloc_core; assert 'address' in pyloc_core.build_info()['sanitizers']"
    subprocess.run([sys.executable, "-c", check], env=env, check=True, cwd=build)
    arguments = sys.argv[2:] or [str(root / "tests"), "-m", "not slow", "-x", "-q",
                                 "--deselect", "tests/test_import.py::test_import_is_fast"]  # fmt: skip
    raise SystemExit(
        subprocess.run([Path(sys.executable).with_name("pytest"), *arguments], env=env).returncode
    )


if __name__ == "__main__":
    main()
