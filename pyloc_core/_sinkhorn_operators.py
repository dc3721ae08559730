# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""torch.ops.pyloc_core.sinkhorn and its gradient, and the way from a front door to them or to NumPy.

u and v are float32 (float64 for float64 scores, which take the plain formula on every device).
"""

from __future__ import annotations

import math
from typing import Any

from pyloc_core import _arrays, _dispatch, _library, _sinkhorn, _tensors

_OP = "sinkhorn"
_DTYPES = (*_arrays.FEATURE_DTYPES, "float64")


def transport(
    scores: Any, log_row_mass: Any, log_column_mass: Any, dustbin: Any, sides: int, num_valid: Any,
    options: _sinkhorn.Options, op: str = _OP,
) -> Any:  # fmt: skip
    """log P (..., M, N) of the kind of `scores`. `op` is the operator whose implementation is chosen."""
    arrays = {"scores": scores, "log_row_mass": log_row_mass, "log_column_mass": log_column_mass}
    if sides:
        arrays["dustbin"] = dustbin
    name = options.implementation
    if name == "reference":
        _dispatch.select(op, name, arrays)
        return _reference(arrays, sides, num_valid, options)
    if _dispatch.on_tensors(op, name, arrays) or _needs_graph(arrays):
        return _with_torch(arrays, sides, num_valid, options)
    problem = _sinkhorn.check(
        scores, log_row_mass, log_column_mass, dustbin, sides, num_valid, options
    )
    log_p = _sinkhorn.run_plan(problem)
    log_p = log_p.reshape(*problem.scores.shape[:-2], *problem.full[1:])
    return as_given(log_p, problem.scores)


def as_given(array: Any, source: _arrays.ArrayIn) -> Any:
    if not source.is_torch:
        return _arrays.bfloat16_to_float32(array) if source.dtype == "bfloat16" else array
    return _arrays.tensor_of(array)


def _needs_graph(arrays: dict[str, Any]) -> bool:
    """Tensors in double precision, or that want a gradient."""
    tensors = [x for x in arrays.values() if _arrays.is_torch(x)]
    if not tensors:
        return False
    torch = _arrays.torch_module()
    wants = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return wants or getattr(arrays["scores"], "dtype", None) == torch.float64


def _reference(
    arrays: dict[str, Any], sides: int, num_valid: Any, options: _sinkhorn.Options
) -> Any:
    import torch

    def wide(x: Any, name: str) -> Any:
        if isinstance(x, torch.Tensor):
            return x.double()
        return torch.from_numpy(_arrays.as_array(x, name, finite=False).data)

    tensors = {name: wide(x, name) for name, x in arrays.items()}
    out = _with_torch(tensors, sides, num_valid, options)
    return out if any(_arrays.is_torch(x) for x in arrays.values()) else out.detach().numpy()


def _with_torch(
    arrays: dict[str, Any], sides: int, num_valid: Any, options: _sinkhorn.Options
) -> Any:
    _prepare()
    scores = _tensors.check(arrays["scores"], "scores", dtype=_DTYPES)
    kind = "float64" if str(scores.dtype) == "torch.float64" else "float32"
    rest = {
        name: _tensors.check(x, name, dtype=kind, device=scores.device)
        for name, x in arrays.items()
        if name != "scores"
    }
    a, b = rest["log_row_mass"], rest["log_column_mass"]
    leading = tuple(scores.shape[:-2])
    batch, m, n = _sinkhorn.check_shapes(tuple(scores.shape), tuple(a.shape), tuple(b.shape), sides)
    fill = _dustbin_tensor(rest.get("dustbin"), leading)
    pair = zip(_sinkhorn.split_valid(num_valid), (m, n), ("rows", "columns"))
    rows, columns = (valid_tensor(x, scores, size, what) for x, size, what in pair)
    flat = (
        scores.reshape(batch, m, n),
        a.expand(*leading, -1).reshape(batch, a.shape[-1]),
        b.expand(*leading, -1).reshape(batch, b.shape[-1]),
        fill,
    )
    look = scores.device.type == "cpu" and kind == "float64" and not _dispatch.traced()
    if options.check_finite or look:
        check_values(*flat, rows, columns)
    name = "" if options.implementation == "reference" else options.implementation or ""
    rest_of_call = (
        sides,
        rows,
        columns,
        options.iterations,
        options.tolerance,
        options.threads,
        name,
    )
    if _tensors.wants_gradient(flat):
        out = _Sinkhorn.apply(*flat, *rest_of_call, options.implicit)
    else:
        torch = _arrays.torch_module()
        head, tail = rest_of_call[:5], rest_of_call[5:]
        out = torch.ops.pyloc_core.sinkhorn(*flat, *head, False, *tail)[0]
    return out.reshape(*leading, *out.shape[1:])


def _dustbin_tensor(dustbin: Any, leading: tuple[int, ...]) -> Any:
    """(B,) or None."""
    if dustbin is None:
        return None
    if tuple(dustbin.shape) not in ((), leading):
        raise ValueError(
            f"dustbin must be a scalar or have shape {leading}, got {tuple(dustbin.shape)}"
        )
    return dustbin.expand(leading).reshape(-1)


def valid_tensor(x: Any, scores: Any, size: int, what: str) -> Any:
    """(B,) int64 on the device of the scores, or None."""
    if x is None:
        return None
    torch = _arrays.torch_module()
    leading = tuple(scores.shape[:-2])
    if isinstance(x, int) and not isinstance(x, bool):
        if not 0 <= x <= size:
            raise ValueError(f"num_valid ({what}) must lie within 0 and {size}, got {x}")
        return torch.full((math.prod(leading),), x, device=scores.device)
    valid = _tensors.as_tensor(x)
    if valid.is_floating_point() or tuple(valid.shape) not in ((), leading):
        raise ValueError(f"num_valid ({what}) must be an int, or integers {leading}, got {x!r}")
    on_host = valid.device.type == "cpu" and not _dispatch.traced()
    if on_host and not bool(((valid >= 0) & (valid <= size)).all()):
        raise ValueError(f"num_valid ({what}) must lie within 0 and {size}, got {x!r}")
    valid = valid.long().expand(leading).reshape(-1).contiguous()
    if on_host and scores.device.type != "cpu":
        return _tensors.on_device(valid.numpy(), "num_valid", scores.device)
    return valid.to(scores.device)


def check_values(scores: Any, a: Any, b: Any, dustbin: Any, rows: Any, columns: Any) -> None:
    """ValueError for NaN, +inf and masses that do not balance. Waits for the device."""
    torch = _arrays.torch_module()
    named = {"scores": scores, "log_row_mass": a, "log_column_mass": b, "dustbin": dustbin}
    for name, x in named.items():
        if x is not None and bool((~(x.detach() < torch.inf)).any()):
            raise ValueError(f"{name} holds NaN or +infinity")
    beyond = _dispatch.reference_module(_OP).beyond
    totals = []
    for mass, size, valid in ((a, scores.shape[1], rows), (b, scores.shape[2], columns)):
        out = beyond(size, mass.shape[1], valid, mass.device)
        totals.append(mass.detach().double().masked_fill(out, -torch.inf).logsumexp(1))
    larger = torch.maximum(*totals)
    shares = [(total - larger).exp() for total in totals]
    gap = torch.where(larger == -torch.inf, 0.0, shares[0] - shares[1])
    if bool((gap.abs() > _sinkhorn.BALANCE).any()):
        raise ValueError(_sinkhorn.unbalanced())


_Sinkhorn: Any = None


def _prepare() -> bool:
    """Registers the operators and makes the autograd function, once. True, as `_library.ensure`."""
    global _Sinkhorn
    _library.ensure()
    if _Sinkhorn is not None:
        return True
    import torch

    class Sinkhorn(torch.autograd.Function):
        """Outside the operator, so that a call without gradients does not pay for them."""

        @staticmethod
        def forward(ctx, s, a, b, fill, sides, rows, columns, *options):  # type: ignore[no-untyped-def]
            iterations, tolerance, threads, name, implicit = options
            result = torch.ops.pyloc_core.sinkhorn(
                s,
                a,
                b,
                fill,
                sides,
                rows,
                columns,
                iterations,
                tolerance,
                not implicit,
                threads,
                name,
            )
            ctx.save_for_backward(s, a, b, fill, rows, columns, *result)
            ctx.options = sides, implicit, threads, name
            return result[0]

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):  # type: ignore[no-untyped-def]
            s, a, b, fill, rows, columns, *forward = ctx.saved_tensors
            sides, *options = ctx.options
            *gradients, d_fill = torch.ops.pyloc_core.sinkhorn_backward(
                s, a, b, fill, sides, rows, columns, *forward, slope, *options
            )
            return (*gradients, None if fill is None else d_fill, *[None] * 8)

    _Sinkhorn = Sinkhorn
    return True


_prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------ the operators


def _chosen(scores: Any, implementation: str) -> str:
    """What runs the operator on a tensor; float64 takes the plain formula on every device."""
    if str(scores.dtype) == "torch.float64":
        return "formula"
    return _dispatch.select(_OP, implementation, {"scores": scores})


def _native_problem(call: tuple[Any, ...], iterations: int, tolerance: float, threads: int) -> Any:
    s, a, b, fill, sides, rows, columns = call
    options = _sinkhorn.Options(iterations, tolerance, threads=threads)
    valid = tuple(None if x is None else x.numpy() for x in (rows, columns))
    return _sinkhorn.check(s, a, b, fill, sides, valid, options)


def _run_forward(
    scores: Any, log_row_mass: Any, log_column_mass: Any, dustbin: Any, dustbin_sides: int,
    num_rows: Any, num_columns: Any, iterations: int, tolerance: float, keep_history: bool,
    num_threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    chosen = _chosen(scores, implementation)
    call = scores, log_row_mass, log_column_mass, dustbin, dustbin_sides, num_rows, num_columns
    if chosen == "native":
        torch = _arrays.torch_module()
        problem = _native_problem(call, iterations, tolerance, num_threads)
        log_p, *rest = _sinkhorn.run_forward(problem, keep_history)
        return as_given(log_p, problem.scores), *(torch.from_numpy(x) for x in rest)
    options = iterations, tolerance, keep_history
    if chosen == "formula":
        return tuple(_dispatch.reference_module(_OP).sinkhorn(*call, *options))
    return tuple(_dispatch.device_module(_OP, chosen).forward(*call, *options))


def _fake_forward(
    scores: Any, log_row_mass: Any, log_column_mass: Any, dustbin: Any, dustbin_sides: int,
    num_rows: Any, num_columns: Any, iterations: int, tolerance: float, keep_history: bool,
    num_threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    torch = _arrays.torch_module()
    kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
    rows, columns = log_row_mass.shape, log_column_mass.shape
    t = iterations if keep_history else 1
    return (
        scores.new_empty(*rows, columns[1]),
        scores.new_empty(t, *rows, dtype=kind),
        scores.new_empty(t, *columns, dtype=kind),
        scores.new_empty(rows[0], dtype=torch.int32),
    )


def _run_backward(
    scores: Any, log_row_mass: Any, log_column_mass: Any, dustbin: Any, dustbin_sides: int,
    num_rows: Any, num_columns: Any, log_assignment: Any, u: Any, v: Any, num_iterations: Any,
    d_log_assignment: Any, implicit: bool, num_threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    chosen = _chosen(scores, implementation)
    call = scores, log_row_mass, log_column_mass, dustbin, dustbin_sides, num_rows, num_columns
    forward = log_assignment, u, v, num_iterations
    if chosen == "formula":
        formula = _dispatch.reference_module(_OP).sinkhorn_backward
        gradients = formula(*call, *forward, d_log_assignment, implicit)
        return tuple(x.contiguous() for x in gradients)
    if chosen != "native":
        launcher = _dispatch.device_module(_OP, chosen).backward
        return tuple(launcher(*call, *forward, d_log_assignment, implicit))
    torch = _arrays.torch_module()
    problem = _native_problem(call, len(u), 0.0, num_threads)
    saved = (log_assignment.float(), u, v, num_iterations)
    arrays = tuple(x.contiguous().numpy() for x in saved)
    slope = d_log_assignment.float().contiguous().numpy()
    gradients = _sinkhorn.run_backward(problem, arrays, slope, implicit)
    by_scores, *rest = (torch.from_numpy(g) for g in gradients)
    return by_scores.to(scores.dtype), *rest


def _fake_backward(scores: Any, log_row_mass: Any, log_column_mass: Any, *_: Any) -> Any:
    return (
        scores.new_empty(scores.shape),
        log_row_mass.new_empty(log_row_mass.shape),
        log_column_mass.new_empty(log_column_mass.shape),
        log_row_mass.new_empty(scores.shape[0]),
    )


_PROBLEM = (
    "Tensor scores, Tensor log_row_mass, Tensor log_column_mass, Tensor? dustbin, int dustbin_sides, "
    "Tensor? num_rows, Tensor? num_columns"
)
_library.define(
    _OP,
    f"({_PROBLEM}, int iterations, float tolerance, bool keep_history, int num_threads, "
    "str implementation) -> (Tensor log_assignment, Tensor u, Tensor v, Tensor num_iterations)",
    run=_run_forward,
    fake=_fake_forward,
)
_library.define(
    _OP + "_backward",
    f"({_PROBLEM}, Tensor log_assignment, Tensor u, Tensor v, Tensor num_iterations, "
    "Tensor d_log_assignment, bool implicit, int num_threads, str implementation) -> "
    "(Tensor d_scores, Tensor d_log_row_mass, Tensor d_log_column_mass, Tensor d_dustbin)",
    run=_run_backward,
    fake=_fake_backward,
)
