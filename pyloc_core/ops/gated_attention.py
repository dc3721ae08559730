# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Gated attention: softmax attention whose sharpness each query sets by its best key."""

from __future__ import annotations

import math
from typing import Any

from pyloc_core import _arrays, _attention, _dispatch, _levels, _library, _tensors

_OP = "gated_attention"
_DTYPES = (*_arrays.FEATURE_DTYPES, "float64")


def gated_attention(
    queries: Any,
    keys: Any,
    values: Any,
    *,
    scale: float = 1.0,
    num_valid: Any = None,
    check_finite: bool = False,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """`softmax(g_i S_i) V` with `S = scale Q K^T` and the gate `g_i = sigmoid(max_j S_ij)` per query.

    The map S is never stored: the maximum of a row comes first, then one pass over the keys. For tensors
    that need a gradient the result has one (first order); the maximum's goes to the first key that has it.

    Args:
        queries: Q (..., heads, N, d) float32, float16 or bfloat16. N = 0 gives an empty result.
        keys: K (..., heads, M, d) of the same leading dimensions and dtype (otherwise all are taken as
            float32). M, d or dv = 0 raises.
        values: V (..., heads, M, dv).
        scale: factor of the logits, positive. The published formula has none, hence 1; 1 / sqrt(d) is
            that of ordinary attention.
        num_valid: keys that count, from the first on: an int, or integers of the leading shape (...), 1
            to M; None for all. On a GPU the values are not looked at: 0 gives zeros.
        check_finite: on a GPU, refuse NaN and infinite values, which waits for the device; CPU arrays are
            always checked.
        num_threads: threads of the native code; the result does not depend on it.
        implementation: "native" (CPU), "triton", or "reference" (torch, float64, differentiable).

    Returns:
        (..., heads, N, dv) of the kind and dtype of `queries`. Sums are float32. float64 tensors are
        computed in float64 by the plain formula, which stores the map (for gradient checks); NumPy arrays
        of float64 are taken as float32.

    Raises:
        ValueError: shapes that do not fit, NaN or infinite values, products that leave float32, scale or
            num_valid out of range, arrays on different devices.
        TypeError: something that is no array of real numbers.

    Source: Germain, thesis (2021), appendix C.3.1 (NeurHal): `softmax(g * QK^T) V, g = sigma(max(QK))`.
    Whether the gate is one per query, per head or per image is not said there; it is per query and head
    here. At equal scores the gate does not change the result, and it never sharpens the softmax.
    """
    scale = _levels.as_positive(scale, "scale")
    threads = _arrays.thread_count(num_threads)
    arrays = {"queries": queries, "keys": keys, "values": values}
    if _needs_torch(arrays, implementation):
        options = (scale, threads, implementation or "")
        return _with_torch(arrays, num_valid, check_finite, options)
    problem = _attention.check(arrays, num_valid, scale, threads)
    if _dispatch.use_reference(_OP, implementation):
        return _reference(problem, arrays)
    out = _attention.run_forward(problem)[0].reshape(*problem.queries.shape[:-1], problem.shape[-1])
    if problem.queries.is_torch:
        torch = _arrays.torch_module()
        return torch.from_numpy(out).to(getattr(torch, problem.queries.dtype))
    return out.astype("float16") if problem.queries.dtype == "float16" else out


def _needs_torch(arrays: dict[str, Any], implementation: str | None) -> bool:
    if implementation == "reference":
        _dispatch.select(_OP, implementation, arrays)
        return False
    if _dispatch.on_tensors(_OP, implementation, arrays):
        return True
    tensors = [x for x in arrays.values() if _arrays.is_torch(x)]
    return len(tensors) == 3 and (
        any(str(x.dtype) == "torch.float64" for x in tensors) or _tensors.wants_gradient(tensors)
    )


def _reference(problem: _attention.Problem, arrays: dict[str, Any]) -> Any:
    import torch

    module = _dispatch.reference_module(_OP)
    given = (problem.queries, problem.keys, problem.values)
    b, h, n, m, d, dv = problem.shape
    tensors = [
        x.double()
        if isinstance(x, torch.Tensor)
        else torch.from_numpy(_attention.as_float32(a).data).double()
        for x, a in zip(arrays.values(), given)
    ]
    q, k, v = (t.reshape(b, h, s, c) for t, s, c in zip(tensors, (n, m, m), (d, d, dv)))
    valid = None if problem.num_valid is None else torch.from_numpy(problem.num_valid)
    out = module.gated_attention(q, k, v, valid, problem.scale).out
    out = out.reshape(*problem.queries.shape[:-1], dv)
    return out if any(a.is_torch for a in given) else out.numpy()


# ---------------------------------------------------------------------- torch: the operator and its gradient


def _with_torch(
    arrays: dict[str, Any], num_valid: Any, check_finite: bool, options: tuple[float, int, str]
) -> Any:
    """`options` are the operator's last arguments: scale, num_threads, implementation."""
    _library.ensure()
    tensors = {n: _tensors.check(x, n, dtype=_DTYPES) for n, x in arrays.items()}
    if len({t.dtype for t in tensors.values()}) > 1:
        wide = any(t.dtype == _arrays.torch_module().float64 for t in tensors.values())
        tensors = {n: t.double() if wide else t.float() for n, t in tensors.items()}
    b, h, n, m, d, dv = _attention.check_shapes({n: tuple(t.shape) for n, t in tensors.items()})
    if check_finite or (not _dispatch.traced() and tensors["queries"].device.type == "cpu"):
        _tensors.check_finite(**tensors)
    q, k, v = tensors.values()
    valid = _valid_tensor(num_valid, q, m)
    flat = q.reshape(b, h, n, d), k.reshape(b, h, m, d), v.reshape(b, h, m, dv)
    if _tensors.wants_gradient(flat):
        out = _library.functions[_OP].apply(*flat, valid, *options)
    else:
        torch = _arrays.torch_module()
        out = torch.ops.pyloc_core.gated_attention(*flat, valid, *options)[0]
    return out.reshape(*q.shape[:-1], dv)


def _valid_tensor(num_valid: Any, queries: Any, count: int) -> Any:
    """(B,) int64 on the queries' device, or None."""
    if num_valid is None:
        return None
    torch = _arrays.torch_module()
    leading = tuple(queries.shape[:-3])
    if isinstance(num_valid, int):
        if not 1 <= num_valid <= count:
            raise ValueError(f"num_valid must lie within 1 and M = {count}, got {num_valid}")
        return torch.full((math.prod(leading),), num_valid, device=queries.device)
    valid = _tensors.as_tensor(num_valid)
    if valid.is_floating_point() or tuple(valid.shape) not in ((), leading):
        raise ValueError(f"num_valid must be an int, or integers {leading}, got {num_valid!r}")
    on_host = valid.device.type == "cpu" and not _dispatch.traced()
    if on_host and not bool(((valid >= 1) & (valid <= count)).all()):
        raise ValueError(f"num_valid must lie within 1 and M = {count}, got {num_valid!r}")
    valid = valid.long().expand(leading).reshape(-1).contiguous()
    if on_host and queries.device.type != "cpu":
        return _tensors.on_device(valid.numpy(), "num_valid", queries.device)
    return valid.to(queries.device)


def _chosen(queries: Any, implementation: str) -> str:
    """What runs the operator on a tensor; float64 takes the plain formula on every device."""
    if str(queries.dtype) == "torch.float64":
        return "formula"
    return _dispatch.select(_OP, implementation, {"queries": queries})


def _native_problem(q: Any, k: Any, v: Any, valid: Any, scale: float, threads: int) -> Any:
    arrays = {"queries": q, "keys": k, "values": v}
    return _attention.check(arrays, None if valid is None else valid.numpy(), scale, threads)


def _forward_op(
    q: Any, k: Any, v: Any, valid: Any, scale: float, num_threads: int, implementation: str
) -> tuple[Any, ...]:
    chosen = _chosen(q, implementation)
    if chosen == "native":
        torch = _arrays.torch_module()
        problem = _native_problem(q, k, v, valid, scale, num_threads)
        out, *rest = (torch.from_numpy(a) for a in _attention.run_forward(problem))
        return out.to(q.dtype), *rest
    if chosen == "triton":
        return tuple(_dispatch.device_module(_OP, chosen).forward(q, k, v, valid, scale))
    module = _dispatch.reference_module(_OP)
    out, peak, log_sum, best = module.gated_attention(q, k, v, valid, scale)
    return out, peak.float(), log_sum.float(), best.int()


def _forward_fake(
    q: Any, k: Any, v: Any, valid: Any, scale: float, num_threads: int, implementation: str
) -> tuple[Any, ...]:
    torch = _arrays.torch_module()
    rows, floats = q.shape[:-1], torch.float32
    return (
        q.new_empty(*rows, v.shape[-1]),
        q.new_empty(rows, dtype=floats),
        q.new_empty(rows, dtype=floats),
        q.new_empty(rows, dtype=torch.int32),
    )


def _backward_op(
    q: Any, k: Any, v: Any, valid: Any, out: Any, peak: Any, log_sum: Any, best: Any, d_out: Any,
    scale: float, num_threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    chosen = _chosen(q, implementation)
    if chosen == "triton":
        module = _dispatch.device_module(_OP, chosen)
        return tuple(module.backward(q, k, v, valid, out, peak, log_sum, best, d_out, scale))
    if chosen != "native":
        module = _dispatch.reference_module(_OP)
        return tuple(module.gated_attention_backward(q, k, v, valid, scale, d_out))
    torch = _arrays.torch_module()
    problem = _native_problem(q, k, v, valid, scale, num_threads)
    saved = (out.float(), peak.float(), log_sum.float(), best.int())
    forward = tuple(t.contiguous().numpy() for t in saved)
    gradients = _attention.run_backward(problem, forward, d_out.float().contiguous().numpy())
    return tuple(torch.from_numpy(g).to(q.dtype) for g in gradients)


def _backward_fake(q: Any, k: Any, v: Any, *_: Any) -> tuple[Any, ...]:
    return tuple(t.new_empty(t.shape) for t in (q, k, v))


_library.define(
    _OP,
    "(Tensor queries, Tensor keys, Tensor values, Tensor? num_valid, float scale, "
    "int num_threads, str implementation) -> (Tensor, Tensor, Tensor, Tensor)",
    run=_forward_op,
    fake=_forward_fake,
)
_library.define(
    _OP + "_backward",
    "(Tensor queries, Tensor keys, Tensor values, Tensor? num_valid, Tensor out, Tensor peak, "
    "Tensor log_sum, Tensor best, Tensor d_out, float scale, int num_threads, "
    "str implementation) "
    "-> (Tensor, Tensor, Tensor)",
    run=_backward_op,
    fake=_backward_fake,
)
_library.define_gradient(_OP, tensors=4, keep_result=True)
