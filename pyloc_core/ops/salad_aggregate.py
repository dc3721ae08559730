# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD: patches assigned to clusters and a dustbin by optimal transport, and the descriptor made of it."""

from __future__ import annotations

from typing import Any

from pyloc_core import _aggregation, _arrays, _dispatch, _library, _tensors

_OP = "salad_aggregate"
_DTYPES = (*_arrays.FEATURE_DTYPES, "float64")


def salad_aggregate(
    scores: Any,
    features: Any,
    token: Any,
    dustbin: Any,
    *,
    iterations: int = 3,
    num_valid: Any = None,
    check_finite: bool = False,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Global descriptor of an image from the scores and features of its patches.

    With P the assignment of `salad_assign` without its dustbin, V_lk = sum_j F_lj P_kj, every cluster's
    V_k and the token are brought to unit length, then all of them together. Fused: besides its arguments
    and gradients it keeps no more than the assignment of an item per thread. For tensors that need a
    gradient the result has one (first order), through the unrolled iterations.

    Args:
        scores: S (..., m, n) of m clusters and n patches, n > m; float32, float16 or bfloat16. -inf: that
            patch is not for that cluster.
        features: F (..., l, n), of the same leading dimensions.
        token: (..., t) features of the whole image, or None for a descriptor without them.
        dustbin: score of the dustbin, a number or an array of shape (). It moves nothing: a constant on a
            row is taken up by that row's first update, and its gradient is 0. It is an argument since
            published checkpoints carry it.
        iterations: T; 3 is published.
        num_valid: patches that count, from the first on: an int, or integers of the leading shape (...),
            m + 1 to n; None for all. The result has the bits of the call without the others. On a GPU the
            values are not looked at.
        check_finite: on a GPU, refuse NaN and infinite values, which waits for the device; CPU arrays are
            always checked.
        num_threads: threads of the native code; the result does not depend on it.
        implementation: "native" (CPU), "triton", or "reference" (torch, float64, differentiable).

    Returns:
        (..., t + l m) unit vectors of the kind and dtype of `features`: the token's part first, then V in
        the order l_index * m + cluster. Sums are float32. float64 tensors are computed in float64 by the
        plain formula (for gradient checks); NumPy arrays of float64 are taken as float32.

    Raises:
        ValueError: n <= m, shapes that do not fit, num_valid or iterations out of range, NaN or infinite
            values (other than scores of -inf), sums that leave float32, arrays on different devices.
        TypeError: something that is no array of real numbers.

    Source: Izquierdo, Civera, "Optimal transport aggregation for visual place recognition" (SALAD), CVPR
    2024, Eq. 3 to 6, with the marginals, order and normalisations of the released program.
    """
    steps = _aggregation.as_iterations(iterations)
    threads = _arrays.thread_count(num_threads)
    arrays = {"scores": scores, "features": features, "token": token, "dustbin": dustbin}
    if _needs_torch(arrays, implementation):
        options = (steps, threads, implementation or "")
        return _with_torch(arrays, num_valid, check_finite, options)
    given = (scores, features, token, dustbin, num_valid)
    problem = _aggregation.check_salad(*given, steps, threads)
    if _dispatch.use_reference(_OP, implementation):
        return _reference(problem, arrays)
    out = _aggregation.run_salad(problem, False)[0]
    out = out.reshape(*problem.scores.shape[:-2], out.shape[-1])
    return _aggregation.as_kind(out, problem.features)


def _needs_torch(arrays: dict[str, Any], implementation: str | None) -> bool:
    tensors = {n: x for n, x in arrays.items() if n != "dustbin" or _arrays.is_torch(x)}
    if implementation == "reference":
        _dispatch.select(_OP, implementation, tensors)
        return False
    if _dispatch.on_tensors(_OP, implementation, tensors):
        return True
    if not all(_arrays.is_torch(tensors[n]) for n in ("scores", "features")):
        return False
    found = [x for x in tensors.values() if _arrays.is_torch(x)]
    return _aggregation.needs_formula_or_gradient(found)


def _reference(problem: _aggregation.Salad, arrays: dict[str, Any]) -> Any:
    import torch

    module = _dispatch.reference_module(_OP)

    b, m, n, depth, t = problem.shape
    scores = _aggregation.as_double(arrays["scores"], problem.scores).reshape(b, m, n)
    features = _aggregation.as_double(arrays["features"], problem.features).reshape(b, depth, n)
    token = None
    if problem.token is not None:
        token = _aggregation.as_double(arrays["token"], problem.token).reshape(b, t)
    _tensors.check_finite(features=features)
    if (scores.isnan() | (scores == torch.inf)).any():
        raise ValueError("scores holds NaN or +infinity")
    dustbin = torch.as_tensor(arrays["dustbin"], dtype=torch.float64)
    valid = None if problem.num_columns is None else torch.from_numpy(problem.num_columns)
    out = module.salad_aggregate(
        scores, features, token, dustbin, valid, problem.iterations
    ).descriptor
    out = out.reshape(*problem.scores.shape[:-2], out.shape[-1])
    return out if problem.scores.is_torch or problem.features.is_torch else out.numpy()


# ---------------------------------------------------------------------- torch: the operator and its gradient


def _with_torch(
    arrays: dict[str, Any], num_valid: Any, check_finite: bool, options: tuple[int, int, str]
) -> Any:
    """`options` are the operator's last arguments: iterations, num_threads, implementation."""
    _prepare()
    torch = _arrays.torch_module()
    tensors: dict[str, Any] = {
        n: None if x is None else _tensors.check(x, n, dtype=_DTYPES)
        for n, x in arrays.items()
        if n != "dustbin"
    }
    device = tensors["scores"].device
    dustbin = _dustbin(arrays["dustbin"], device)
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
    if _aggregation.wants_gradient([x for x in given if x is not None]):
        out = _Aggregate.apply(*given, valid, *options)
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


def _dustbin(dustbin: Any, device: Any) -> Any:
    """() tensor on the device; a number does not wait for it."""
    torch = _arrays.torch_module()
    if not _arrays.is_torch(dustbin):
        return torch.full((), _aggregation.as_scalar(dustbin, "dustbin"), device=device)
    return _tensors.check(dustbin, "dustbin", shape=(), dtype=_DTYPES, device=device)


_Aggregate: Any = None


def _prepare() -> bool:
    """Registers the operators and makes the autograd function, once. True, as `_library.ensure`."""
    global _Aggregate
    _library.ensure()
    if _Aggregate is not None:
        return True
    import torch

    class SaladAggregate(torch.autograd.Function):
        """Outside the operator, so that a call without gradients does not pay for them."""

        @staticmethod
        def forward(ctx, scores, features, token, dustbin, valid, *options):  # type: ignore[no-untyped-def]
            given = (scores, features, token, dustbin, valid)
            out, *kept = torch.ops.pyloc_core.salad_aggregate(*given, *options)
            ctx.save_for_backward(*given, *kept)
            ctx.options = options
            return out

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, d_descriptor):  # type: ignore[no-untyped-def]
            *gradients, d_token, d_dustbin = torch.ops.pyloc_core.salad_aggregate_backward(
                *ctx.saved_tensors, d_descriptor, *ctx.options
            )
            d_token = None if ctx.saved_tensors[2] is None else d_token
            return (*gradients, d_token, d_dustbin, None, None, None, None)

    _Aggregate = SaladAggregate
    return True


_prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
        d_scores, d_features, d_token = (torch.from_numpy(g) for g in found)
        d_token = no_token if token is None else d_token.to(token.dtype)
        d_dustbin = torch.zeros_like(dustbin)
        return d_scores.to(scores.dtype), d_features.to(features.dtype), d_token, d_dustbin
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
