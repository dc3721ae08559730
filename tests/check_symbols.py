# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Guard of the instruction-set variants: no weak symbol is shared between them.

The linker keeps one copy of a weak symbol. If the AVX-512 objects define, say, a std::vector member that
the portable code uses too, a processor without AVX-512 may be handed that copy and crash. Everything in
those objects must therefore live in a namespace of its own variant.

    python check_symbols.py BUILD_FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def shared_weak_symbols(build: Path) -> list[str]:
    found = []
    for isa in ("avx2", "avx512"):
        objects = sorted(build.glob(f"**/pyloc_cpu_{isa}.dir/**/*.o"))
        if not objects:
            raise SystemExit(f"no objects of {isa} under {build}")
        for path in objects:
            listing = subprocess.run(
                ["nm", "-C", path], capture_output=True, text=True, check=True
            ).stdout
            for line in listing.splitlines():
                parts = line.split(maxsplit=2)
                if len(parts) != 3 or parts[2].startswith(
                    "DW.ref."
                ):  # a pointer for unwinding: data
                    continue
                if parts[1] in "VvWwu" and f"{isa}::" not in parts[2]:
                    found.append(f"{path.name} ({isa}): {parts[2]}")
    return found


def main() -> None:
    bad = shared_weak_symbols(Path(sys.argv[1]))
    if bad:
        sys.exit("weak symbols shared between instruction sets:\n  " + "\n  ".join(bad))
    print("instruction-set variants share no weak symbol")


if __name__ == "__main__":
    main()
