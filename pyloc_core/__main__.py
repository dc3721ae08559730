# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m pyloc_core`: what this build is."""

from __future__ import annotations

from pyloc_core import build_info


def main() -> None:
    for key, value in build_info().items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, entry in value.items():
                print(f"  {name}: {', '.join(entry) if isinstance(entry, list) else entry}")
        else:
            print(f"{key}: {value}")


if __name__ == "__main__":
    main()
