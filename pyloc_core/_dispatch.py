# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which implementation of an operator runs. One per device by default; a name forces one."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_OPS = Path(__file__).parent / "ops"


@dataclass(frozen=True)
class Implementation:
    """One way to run an operator: its name, whether it can run here, whether it is the default."""

    name: str
    available: bool
    default: bool
    note: str


@cache
def operators() -> tuple[str, ...]:
    """Names of all operators."""
    return tuple(sorted(path.stem for path in _OPS.glob("*.py") if path.stem != "__init__"))


def implementations(op: str) -> list[Implementation]:
    """What can run `op`, the default first. Raises ValueError for an unknown operator."""
    if op not in operators():
        close = difflib.get_close_matches(op, operators(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown operator {op!r}{hint} known: {', '.join(operators())}")
    has_torch = importlib.util.find_spec("torch") is not None
    note = "float64, torch" if has_torch else "needs torch: pip install 'pyloc_core[torch]'"
    return [
        Implementation("native", True, True, "C++, CPU"),
        Implementation("reference", has_torch, False, note),
    ]


def use_reference(op: str, implementation: str | None) -> bool:
    """True when the caller forces the reference; raises for what cannot run."""
    if implementation is None or implementation == "native":
        return False
    known = {each.name: each for each in implementations(op)}
    if implementation not in known:
        raise ValueError(
            f"{op} has no implementation {implementation!r}; it has {', '.join(sorted(known))}"
        )
    chosen = known[implementation]
    if not chosen.available:
        raise RuntimeError(
            f"{op}: implementation {implementation!r} cannot run here: {chosen.note}"
        )
    return True


def reference_module(op: str) -> Any:
    """pyloc_core.reference.<op>, imported on first use since it imports torch."""
    return importlib.import_module(f"pyloc_core.reference.{op}")
