# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Compiles Triton kernels for GPUs that need not be there: JSON in on stdin, JSON out (see conftest.py)."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def compile_one(spec: dict[str, Any], target: int) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(spec["module"]), spec["kernel"])
    constants = spec["constexprs"]
    unknown = [n for n in kernel.arg_names if n not in spec["signature"] and n not in constants]
    assert not unknown, f"{spec['kernel']}: no type given for {unknown}"
    types = {n: spec["signature"].get(n, "constexpr") for n in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    built = triton.compile(
        source, target=GPUTarget("cuda", target, 32), options=spec.get("options", {})
    )
    registers, stack = resources(built.asm["cubin"])
    shared = int(built.metadata.shared)
    return {
        "name": spec["kernel"], "target": target, "registers": registers, "stack": stack,
        "shared": shared,
    }  # fmt: skip


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack per thread, as Triton's own cuobjdump reads them."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


def main() -> None:
    results = [
        compile_one(spec, target)
        for spec in json.load(sys.stdin)
        for target in spec.get("targets", [80, 90])
    ]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
