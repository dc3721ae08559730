# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""torch.ops.pyloc_core.salad_aggregate and its gradient, and the way from the front door to them."""

from __future__ import annotations

from typing import Any

from pyloc_core import _aggregation, _arrays, _dispatch, _library, _tensors

_OP = "salad_aggregate"
_DTYPES = (*_arrays.FEATURE_DTYPES, "float64")


def with_torch(
    arrays: dict[str, Any], num_valid: Any, check_finite: bool, options: tuple[int, int, str]
) -> Any:
    """`options` are the operator's last arguments: iterations, num_threads, implementation."""
    _library.ensure()
    torch = _arrays.torch_module()
    tensors: dict[str, Any] = {
        n: None if x is None else _tensors.check(x, n, dtype=_DTYPES)
        for n, x in arrays.items()
        if n != "dustbin"
    }
    device = tensors["scores"].device
    dustbin = dustbin_tensor(arrays["dustbin"], device)
    if any(x is not None and x.dtype == torch.float64 for x in (*tensors.values(), dustbin)):
        tensors = {n: None if x is None else x.double() for n, x in tensors.items()}
        dustbin = dustbin.double()
    scores, features, token = tensors.values()
    shapes = (tuple(x.shape) if x is not None else None for x in tensors.values())
    b, m, n, depth, t = _aggregation.check_salad_shapes(*shapes)  # type: ignore[arg-type]
    if check_finite or (not _dispatch.traced() and device.type == "cpu"):
        _check_values(scores, features, token, dustbin)
    leading = scores.shape[:-2]
    valid = _aggregation.count_tensor(num_valid, leading, m + 1, n, device)
    token = None if token is None else token.reshape(b, t)
    given = (scores.reshape(b, m, n), features.reshape(b, depth, n), token, dustbin)
    if _tensors.wants_gradient(given):
        out = _library.functions[_OP].apply(*given, valid, *options)
    else:
        out = torch.ops.pyloc_core.salad_aggregate(*given, valid, *options)[0]
    return out.reshape(*leading, out.shape[-1])


def _check_values(scores: Any, features: Any, token: Any, dustbin: Any) -> None:
    torch = _arrays.torch_module()
    if scores.dtype != torch.float64 and scores.device.type == "cpu":
        return  # the kernel looks
    if bool((scores.isnan() | (scores == torch.inf)).any()):
        raise ValueError("scores holds NaN or +infinity")
    finite = {"features": features, "token": token, "dustbin": dustbin}
    _tensors.check_finite(**{n: x for n, x in finite.items() if x is not None})


def dustbin_tensor(dustbin: Any, device: Any) -> Any:
    """() tensor on the device; a number does not wait for it."""
    torch = _arrays.torch_module()
    if not _arrays.is_torch(dustbin):
        return torch.full((), _aggregation.as_scalar(dustbin, "dustbin"), device=device)
    return _tensors.check(dustbin, "dustbin", shape=(), dtype=_DTYPES, device=device)


def _chosen(scores: Any, implementation: str) -> str:
    """What runs the operator on a tensor; float64 takes the plain formula on every device."""
    if str(scores.dtype) == "torch.float64":
        return "formula"
    return _dispatch.select(_OP, implementation, {"scores": scores})


def _native_problem(
    scores: Any, features: Any, token: Any, dustbin: Any, valid: Any, steps: int, threads: int
) -> _aggregation.Salad:
    valid = None if valid is None else valid.numpy()
    return _aggregation.check_salad(scores, features, token, dustbin, valid, steps, threads)


def _forward_op(
    scores: Any, features: Any, token: Any, dustbin: Any, valid: Any, iterations: int,
    num_threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    chosen = _chosen(scores, implementation)
    given = (scores, features, token, dustbin, valid, iterations)
    if chosen == "native":
        torch = _arrays.torch_module()
        problem = _native_problem(*given, num_threads)
        out, *rest = (torch.from_numpy(a) for a in _aggregation.run_salad(problem, True))
        return out.to(features.dtype), *rest
    if chosen == "triton":
        return tuple(_dispatch.device_module(_OP, chosen).forward(*given))
    out, *rest = _dispatch.reference_module(_OP).salad_aggregate(*given)
    return out, *(x.float() for x in rest)


def _forward_fake(
    scores: Any, features: Any, token: Any, dustbin: Any, valid: Any, iterations: int,
    num_threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    torch = _arrays.torch_module()
    (b, m, n), depth = scores.shape, features.shape[1]
    t = 0 if token is None else token.shape[1]
    sizes = ((b, depth, m), (iterations, b, m + 1), (iterations, b, n))
    kept = (features.new_empty(s, dtype=torch.float32) for s in sizes)
    return features.new_empty(b, t + depth * m), *kept


def _backward_op(
    scores: Any, features: Any, token: Any, dustbin: Any, valid: Any, aggregate: Any, u: Any, v: Any,
    d_descriptor: Any, iterations: int, num_threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    chosen = _chosen(scores, implementation)
    given = (scores, features, token, dustbin, valid)
    kept = (aggregate, u, v, d_descriptor, iterations)
    no_token = features.new_empty(len(features), 0)
    if chosen == "native":
        torch = _arrays.torch_module()
        problem = _native_problem(*given, iterations, num_threads)
        slope = d_descriptor.float().contiguous().numpy()
        found = _aggregation.run_salad_backward(problem, aggregate.contiguous().numpy(), slope)
        kinds = (scores.dtype, features.dtype, scores.dtype if token is None else token.dtype)
        gradients = (_aggregation.as_tensor_of(g, kind) for g, kind in zip(found, kinds))
        d_scores, d_features, d_token = gradients
        return (
            d_scores,
            d_features,
            no_token if token is None else d_token,
            torch.zeros_like(dustbin),
        )
    if chosen == "triton":
        return tuple(_dispatch.device_module(_OP, chosen).backward(*given, *kept))
    module = _dispatch.reference_module(_OP)
    forward = module.salad_aggregate(*given, iterations)  # the saved float32 is not enough here
    again = (forward.aggregate, forward.u, forward.v, d_descriptor, iterations)
    d_scores, d_features, d_token, d_dustbin = module.salad_aggregate_backward(*given, *again)
    return d_scores, d_features, no_token if token is None else d_token, d_dustbin


def _backward_fake(
    scores: Any, features: Any, token: Any, dustbin: Any, *_: Any
) -> tuple[Any, ...]:
    d_token = (
        features.new_empty(features.shape[0], 0) if token is None else token.new_empty(token.shape)
    )
    return (
        scores.new_empty(scores.shape),
        features.new_empty(features.shape),
        d_token,
        dustbin.new_empty(()),
    )


_ARGUMENTS = "(Tensor scores, Tensor features, Tensor? token, Tensor dustbin, Tensor? num_columns, "
_OPTIONS = "int iterations, int num_threads, str implementation) "
_library.define(
    _OP,
    _ARGUMENTS + _OPTIONS + "-> (Tensor, Tensor, Tensor, Tensor)",
    run=_forward_op,
    fake=_forward_fake,
)
_library.define(
    _OP + "_backward",
    _ARGUMENTS
    + "Tensor aggregate, Tensor u, Tensor v, Tensor d_descriptor, "
    + _OPTIONS
    + "-> (Tensor, Tensor, Tensor, Tensor)",
    run=_backward_op,
    fake=_backward_fake,
)
_library.define_gradient(_OP, tensors=5)
