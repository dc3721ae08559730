# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""NetVLAD: residuals of the features of an image from the centroids, summed by soft assignment."""

from __future__ import annotations

from typing import Any

from pyloc_core import _aggregation, _arrays, _dispatch, _library, _tensors

_OP = "netvlad_aggregate"
_DTYPES = (*_arrays.FEATURE_DTYPES, "float64")


def netvlad_aggregate(
    features: Any,
    logits: Any,
    centroids: Any,
    *,
    num_valid: Any = None,
    check_finite: bool = False,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Global descriptor from features x_j and the logits s_kj of their soft assignment to K clusters.

    With w_kj the softmax of the logits over the clusters, every residual sum_j w_kj (x_j - c_k) is brought
    to unit length, then all of them together. For tensors that need a gradient the result has one (first
    order).

    Args:
        features: (..., D, n) float32, float16 or bfloat16, one column per patch.
        logits: (..., K, n), of the same leading dimensions.
        centroids: c (K, D), taken as float32.
        num_valid: patches that count, from the first on: an int, or integers of the leading shape (...), 1
            to n; None for all. The result has the bits of the call without the others. On a GPU the
            values are not looked at.
        check_finite: on a GPU, refuse NaN and infinite values, which waits for the device; CPU arrays are
            always checked.
        num_threads: threads of the native code; the result does not depend on it.
        implementation: "native" (CPU), "triton", or "reference" (torch, float64, differentiable).

    Returns:
        (..., K D) unit vectors of the kind and dtype of `features`, cluster-major. Sums are float32.
        float64 tensors are computed in float64 by the plain formula (for gradient checks); NumPy arrays of
        float64 are taken as float32.

    Raises:
        ValueError: shapes that do not fit, num_valid out of range, NaN or infinite values, sums that leave
            float32, arrays on different devices.
        TypeError: something that is no array of real numbers.

    Source: Arandjelovic, Gronat, Torii, Pajdla, Sivic, "NetVLAD: CNN architecture for weakly supervised
    place recognition", CVPR 2016, Eq. 4 with the logits given, and its two normalisations.
    """
    threads = _arrays.thread_count(num_threads)
    arrays = {"features": features, "logits": logits, "centroids": centroids}
    if _needs_torch(arrays, implementation):
        return _with_torch(arrays, num_valid, check_finite, (threads, implementation or ""))
    problem = _aggregation.check_netvlad(features, logits, centroids, num_valid, threads)
    if _dispatch.use_reference(_OP, implementation):
        return _reference(problem, arrays)
    out = _aggregation.run_netvlad(problem, False)[0]
    out = out.reshape(*problem.features.shape[:-2], out.shape[-1])
    return _aggregation.as_kind(out, problem.features)


def _needs_torch(arrays: dict[str, Any], implementation: str | None) -> bool:
    if implementation == "reference":
        _dispatch.select(_OP, implementation, arrays)
        return False
    if _dispatch.on_tensors(_OP, implementation, arrays):
        return True
    tensors = [x for x in arrays.values() if _arrays.is_torch(x)]
    return len(tensors) == 3 and _aggregation.needs_formula_or_gradient(tensors)


def _reference(problem: _aggregation.Netvlad, arrays: dict[str, Any]) -> Any:
    import torch

    module = _dispatch.reference_module(_OP)
    b, depth, clusters, n = problem.shape
    features = _aggregation.as_double(arrays["features"], problem.features).reshape(b, depth, n)
    logits = _aggregation.as_double(arrays["logits"], problem.logits).reshape(b, clusters, n)
    centroids = _aggregation.as_double(arrays["centroids"], problem.centroids)
    _tensors.check_finite(features=features, logits=logits)
    valid = None if problem.num_columns is None else torch.from_numpy(problem.num_columns)
    out = module.netvlad_aggregate(features, logits, centroids, valid).descriptor
    out = out.reshape(*problem.features.shape[:-2], out.shape[-1])
    return out if any(_arrays.is_torch(x) for x in arrays.values()) else out.numpy()


# ---------------------------------------------------------------------- torch: the operator and its gradient


def _with_torch(
    arrays: dict[str, Any], num_valid: Any, check_finite: bool, options: tuple[int, str]
) -> Any:
    """`options` are the operator's last arguments: num_threads, implementation."""
    _library.ensure()
    torch = _arrays.torch_module()
    tensors = {n: _tensors.check(x, n, dtype=_DTYPES) for n, x in arrays.items()}
    wide = any(x.dtype == torch.float64 for x in tensors.values())
    if wide:
        tensors = {n: x.double() for n, x in tensors.items()}
    shapes = (tuple(x.shape) for x in tensors.values())
    b, depth, clusters, n = _aggregation.check_netvlad_shapes(*shapes)
    features, logits, centroids = tensors.values()
    if check_finite or (wide and not _dispatch.traced() and features.device.type == "cpu"):
        _tensors.check_finite(**tensors)  # otherwise the kernel looks
    leading = features.shape[:-2]
    valid = _aggregation.count_tensor(num_valid, leading, 1, n, features.device)
    given = (features.reshape(b, depth, n), logits.reshape(b, clusters, n), centroids)
    if _tensors.wants_gradient(given):
        out = _library.functions[_OP].apply(*given, valid, *options)
    else:
        out = torch.ops.pyloc_core.netvlad_aggregate(*given, valid, *options)[0]
    return out.reshape(*leading, out.shape[-1])


def _chosen(features: Any, implementation: str) -> str:
    """What runs the operator on a tensor; float64 takes the plain formula on every device."""
    if str(features.dtype) == "torch.float64":
        return "formula"
    return _dispatch.select(_OP, implementation, {"features": features})


def _native_problem(
    features: Any, logits: Any, centroids: Any, valid: Any, threads: int
) -> _aggregation.Netvlad:
    valid = None if valid is None else valid.numpy()
    return _aggregation.check_netvlad(features, logits, centroids, valid, threads)


def _forward_op(
    features: Any, logits: Any, centroids: Any, valid: Any, num_threads: int, implementation: str
) -> tuple[Any, ...]:
    chosen = _chosen(features, implementation)
    given = (features, logits, centroids, valid)
    if chosen == "native":
        torch = _arrays.torch_module()
        found = _aggregation.run_netvlad(_native_problem(*given, num_threads), True)
        out, *rest = (torch.from_numpy(a) for a in found)
        return out.to(features.dtype), *rest
    if chosen == "triton":
        return tuple(_dispatch.device_module(_OP, chosen).forward(*given))
    out, *rest = _dispatch.reference_module(_OP).netvlad_aggregate(*given)
    return out, *(x.float() for x in rest)


def _forward_fake(
    features: Any, logits: Any, centroids: Any, valid: Any, num_threads: int, implementation: str
) -> tuple[Any, ...]:
    torch = _arrays.torch_module()
    (b, depth, n), clusters = features.shape, logits.shape[1]
    kept = (
        features.new_empty(s, dtype=torch.float32) for s in ((b, clusters, depth), (b, n))
    )  # fmt: skip
    return features.new_empty(b, clusters * depth), *kept


def _backward_op(
    features: Any, logits: Any, centroids: Any, valid: Any, residual: Any, log_sum: Any,
    d_descriptor: Any, num_threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    chosen = _chosen(features, implementation)
    given = (features, logits, centroids, valid)
    if chosen == "native":
        problem = _native_problem(*given, num_threads)
        slope = d_descriptor.float().contiguous().numpy()
        found = _aggregation.run_netvlad_backward(problem, residual.contiguous().numpy(), slope)
        return tuple(_aggregation.as_tensor_of(g, x.dtype) for g, x in zip(found, given))
    if chosen == "triton":
        module = _dispatch.device_module(_OP, chosen)
        return tuple(module.backward(*given, residual, log_sum, d_descriptor))
    module = _dispatch.reference_module(_OP)
    again = module.netvlad_aggregate(*given)  # the saved float32 is not enough here
    kept = (again.residual, again.log_sum, d_descriptor)
    return tuple(module.netvlad_aggregate_backward(*given, *kept))


def _backward_fake(features: Any, logits: Any, centroids: Any, *_: Any) -> tuple[Any, ...]:
    return tuple(x.new_empty(x.shape) for x in (features, logits, centroids))


_ARGUMENTS = "(Tensor features, Tensor logits, Tensor centroids, Tensor? num_columns, "
_OPTIONS = "int num_threads, str implementation) "
_library.define(
    _OP,
    _ARGUMENTS + _OPTIONS + "-> (Tensor, Tensor, Tensor)",
    run=_forward_op,
    fake=_forward_fake,
)
_library.define(
    _OP + "_backward",
    _ARGUMENTS
    + "Tensor residual, Tensor log_sum, Tensor d_descriptor, "
    + _OPTIONS
    + "-> (Tensor, Tensor, Tensor)",
    run=_backward_op,
    fake=_backward_fake,
)
_library.define_gradient(_OP, tensors=4)
