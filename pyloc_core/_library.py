# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The operators as torch sees them: torch.ops.pyloc_core.<name>.

Front doors call `define` when they are imported, which costs nothing; torch hears of the definitions
from `ensure`, when the first tensor needs them. torch.library.Library and not the decorated form, whose
dispatch costs as much as a small kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Definition:
    name: str
    schema: str
    run: Callable[..., Any]
    fake: Callable[..., Any]


_waiting: list[_Definition] = []
_library: Any = None


def define(name: str, schema: str, *, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Queue an operator.

    Args:
        name: torch.ops.pyloc_core.<name>.
        schema: arguments and results in torch's schema language, "(Tensor a, float b) -> Tensor".
        run: what runs on CPU and CUDA tensors; results must not alias arguments.
        fake: shapes, dtypes and device of the results, from those of the arguments.

    No gradient is registered: front doors that have one keep an autograd.Function outside the operator.
    """
    _waiting.append(_Definition(name, schema, run, fake))
    if _library is not None:
        ensure()


def ensure() -> bool:
    """Register what is queued. True, always: a traced call may hold on to the answer."""
    global _library
    import torch

    if _library is None:
        _library = torch.library.Library("pyloc_core", "DEF")
    while _waiting:
        each = _waiting.pop(0)
        _library.define(each.name + each.schema)
        for device in ("CPU", "CUDA"):
            _library.impl(each.name, each.run, device)
        torch.library.register_fake(f"pyloc_core::{each.name}", each.fake, lib=_library)
    return True


# torch.compile then runs it while tracing instead of tracing into it.
ensure._dynamo_marked_constant = True  # type: ignore[attr-defined]
