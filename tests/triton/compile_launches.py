# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Compiles what launchers would launch, with the very arguments that Triton specialises on, without a GPU.

    python compile_launches.py CASES.py TARGET [NAME ...]

CASES.py defines `cases(target) -> dict[str, Callable[[], object]]`, calls of launchers on CPU tensors. Nothing
is launched: results are undefined. Prints JSON, one entry per launch: case, kernel, registers, stack
(bytes per thread: spills), shared (bytes).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from compile_kernels import resources


class NoDriver:
    """What Triton asks its driver before it compiles."""

    def __init__(self, target: int) -> None:
        self.target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: Any = None) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.target, 32)


def load_cases(path: str, target: int) -> Any:
    spec = importlib.util.spec_from_file_location("launch_cases", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.cases(target)


def main() -> None:
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    target = int(sys.argv[2])
    driver.set_active(NoDriver(target))
    built: list[dict[str, Any]] = []
    compile_only = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = compile_only(self, *args, grid=grid, warmup=True, **options)
        registers, stack = resources(kernel.asm["cubin"])
        sizes = {"registers": registers, "stack": stack, "shared": int(kernel.metadata.shared)}
        built.append({"case": case, "kernel": self.__name__, **sizes})
        return kernel

    JITFunction.run = run
    for case, launch in load_cases(sys.argv[1], target).items():
        if len(sys.argv) == 3 or case in sys.argv[3:]:
            launch()
    print(json.dumps(built))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
