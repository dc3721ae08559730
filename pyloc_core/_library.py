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
# Operator -> its autograd.Function, once `ensure` has made it (`define_gradient`).
functions: dict[str, Any] = {}


def define(name: str, schema: str, *, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Queue an operator.

    Args:
        name: torch.ops.pyloc_core.<name>.
        schema: arguments and results in torch's schema language, "(Tensor a, float b) -> Tensor".
        run: what runs on CPU and CUDA tensors; results must not alias arguments.
        fake: shapes, dtypes and device of the results, from those of the arguments.

    No gradient is registered: front doors that have one keep an autograd.Function outside the operator,
    so that a call without gradients does not pay for them.
    """
    _waiting.append(_Definition(name, schema, run, fake))
    if _library is not None:
        ensure()


def define_gradient(name: str, *, tensors: int, keep_result: bool = False) -> None:
    """Queue `functions[name]`: the operator `name` with the gradients that `<name>_backward` gives.

    The operator takes `tensors` tensors (or None), then options, and returns its result and what its
    backward needs. That takes the same tensors, what was kept (with keep_result the result, too), the
    result's gradient and the options, and returns gradients of the first tensors.
    """
    functions[name] = (tensors, keep_result)
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
    for name, made in functions.items():
        if isinstance(made, tuple):
            functions[name] = _function(name, *made)
    return True


# torch.compile then runs it while tracing instead of tracing into it.
ensure._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _function(name: str, tensors: int, keep_result: bool) -> Any:
    import torch

    run = getattr(torch.ops.pyloc_core, name)
    run_backward = getattr(torch.ops.pyloc_core, f"{name}_backward")
    first_kept = 0 if keep_result else 1

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *arguments):  # type: ignore[no-untyped-def]
            given, options = arguments[:tensors], arguments[tensors:]
            result = run(*given, *options)
            result = result if isinstance(result, (tuple, list)) else (result,)
            ctx.save_for_backward(*given, *result[first_kept:])
            ctx.options = options
            return result[0]

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):  # type: ignore[no-untyped-def]
            saved = ctx.saved_tensors
            found = run_backward(*saved, slope, *ctx.options)
            found = found if isinstance(found, (tuple, list)) else (found,)
            gradients = [None if x is None else g for x, g in zip(saved, found)]
            return (*gradients, *[None] * (tensors - len(gradients) + len(ctx.options)))

    return Differentiable
