# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dual softmax: the product of the softmax over rows and over columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyloc_core import (
    _arrays,
    _dispatch,
    _levels,
    _library,
    _native,
    _sinkhorn,
    _sinkhorn_operators,
    _tensors,
)

_OP = "dual_softmax"
_DTYPES = (*_arrays.FEATURE_DTYPES, "float64")


def dual_softmax(
    scores: Any,
    *,
    temperature: float = 1.0,
    num_valid: Any = None,
    check_finite: bool = False,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """`log P_ij = 2 S_ij / T - LSE_j(S_i. / T) - LSE_i(S_.j / T)`: mutual matches without iterations.

    On the interface of `sinkhorn`. For tensors that need a gradient the result has one (first order).

    Args:
        scores: S (..., m, n) float32, float16 or bfloat16; -inf forbids a pair. m or n = 0 raises.
        temperature: T, positive.
        num_valid: (rows, columns) that count, from the first on; each None (all), an int, or integers of
            the leading shape (...). The others are -inf in the result, whose other values are, bit for
            bit, those of the call without them.
        check_finite: on a GPU, refuse NaN and +infinity, which waits for the device; the CPU always does.
        num_threads: threads of the native code; the result does not depend on it.
        implementation: "native" (CPU), "triton", or "reference" (torch, float64).

    Returns:
        (..., m, n) log P of the kind and dtype of `scores`; -inf beyond num_valid and at scores of -inf,
        which have and get no gradient. float64 tensors are computed in float64; NumPy arrays of float64
        are taken as float32.

    Raises:
        ValueError: shapes that do not fit, NaN or +infinity, temperature or num_valid out of range.
        TypeError: something that is no array of real numbers.

    Source: Rocco et al., Neighbourhood Consensus Networks (2018); Sun et al., LoFTR (2021), Eq. 2, whose
    temperature is 0.1.
    """
    temperature = _levels.as_positive(temperature, "temperature")
    threads = _arrays.thread_count(num_threads)
    if implementation == "reference":
        _dispatch.select(_OP, implementation, {"scores": scores})
        return _reference(scores, num_valid, temperature, threads)
    tensor = _arrays.is_torch(scores)
    if _dispatch.on_tensors(_OP, implementation, {"scores": scores}) or (
        tensor and (str(scores.dtype) == "torch.float64" or _tensors.wants_gradient((scores,)))
    ):
        options = temperature, threads, implementation or ""
        return _with_torch(scores, num_valid, check_finite, options)
    s = _arrays.as_array(scores, "scores", dtype=_arrays.FEATURE_DTYPES, finite=False)
    shape = _check_shape(s.shape)
    counts = _counts(num_valid, s.shape)
    out = _run_native(s, shape, counts, temperature, threads)[0]
    return _sinkhorn_operators.as_given(out.reshape(s.shape), s)


def _check_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(B, m, n)."""
    if len(shape) < 2:
        raise ValueError(f"scores must have shape (..., m, n), got {shape}")
    if shape[-1] == 0 or shape[-2] == 0:
        raise ValueError(f"scores must have at least one row and one column, got shape {shape}")
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def _counts(num_valid: Any, shape: tuple[int, ...]) -> list[np.ndarray | None]:
    pair = zip(_sinkhorn.split_valid(num_valid), shape[-2:], ("rows", "columns"))
    return [_sinkhorn.valid_counts(x, shape[:-2], size, what) for x, size, what in pair]


def _native_problem(
    s: _arrays.ArrayIn, shape: tuple[int, ...], counts: list[Any], temperature: float, threads: int
) -> tuple[Any, ...]:
    """The form of bindings/dual_softmax.cpp."""
    valid = (0 if x is None else _arrays.pointer(x) for x in counts)
    return (_arrays.pointer(s.data), s.code, *shape, *valid, temperature, threads)


def _run_native(
    s: _arrays.ArrayIn, shape: tuple[int, ...], counts: list[Any], temperature: float, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    b, m, n = shape
    out = np.empty(shape, s.data.dtype)
    rows, columns = np.empty((b, m), np.float32), np.empty((b, n), np.float32)
    problem = _native_problem(s, shape, counts, temperature, threads)
    _raise(_native.dual_softmax(problem, *(_arrays.pointer(x) for x in (out, rows, columns))))
    return out, rows, columns


def _raise(status: int) -> None:
    """Twin of DualSoftmaxStatus in csrc/cpu/dual_softmax.h."""
    if status == 1:
        raise MemoryError("dual_softmax: out of memory")
    if status == 2:
        raise ValueError("scores holds NaN or +infinity, or leaves float32 divided by temperature")


def _reference(scores: Any, num_valid: Any, temperature: float, threads: int) -> Any:
    import torch

    given = isinstance(scores, torch.Tensor)
    wide = (
        scores.double()
        if given
        else torch.from_numpy(_arrays.as_array(scores, "scores", finite=False).data)
    )
    out = _with_torch(wide, num_valid, False, (temperature, threads, ""))
    return out if given else out.numpy()


# ---------------------------------------------------------------------- torch: the operator and its gradient


def _with_torch(
    scores: Any, num_valid: Any, check_finite: bool, options: tuple[float, int, str]
) -> Any:
    """`options` are the operator's last arguments: temperature, num_threads, implementation."""
    _library.ensure()
    torch = _arrays.torch_module()
    s = _tensors.check(scores, "scores", dtype=_DTYPES)
    flat = s.reshape(_check_shape(tuple(s.shape)))
    formula = s.device.type == "cpu" and s.dtype == torch.float64 and not _dispatch.traced()
    if (check_finite or formula) and bool((~(s.detach() < torch.inf)).any()):
        raise ValueError("scores holds NaN or +infinity")
    pair = zip(_sinkhorn.split_valid(num_valid), s.shape[-2:], ("rows", "columns"))
    counts = [_sinkhorn_operators.valid_tensor(x, s, size, what) for x, size, what in pair]
    if _tensors.wants_gradient((flat,)):
        out = _library.functions[_OP].apply(flat, *counts, *options)
    else:
        out = torch.ops.pyloc_core.dual_softmax(flat, *counts, *options)[0]
    return out.reshape(s.shape)


def _chosen(scores: Any, implementation: str) -> str:
    """What runs the operator on a tensor; float64 takes the plain formula on every device."""
    if str(scores.dtype) == "torch.float64":
        return "formula"
    return _dispatch.select(_OP, implementation, {"scores": scores})


def _native_arguments(
    scores: Any, rows: Any, columns: Any
) -> tuple[_arrays.ArrayIn, tuple[int, ...], list[Any]]:
    s = _arrays.as_array(scores, "scores", dtype=_arrays.FEATURE_DTYPES, finite=False)
    counts = [None if x is None else x.contiguous().numpy() for x in (rows, columns)]
    return s, tuple(scores.shape), counts


def _forward_op(
    scores: Any, num_rows: Any, num_columns: Any, temperature: float, num_threads: int,
    implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    chosen = _chosen(scores, implementation)
    if chosen == "native":
        torch = _arrays.torch_module()
        s, shape, counts = _native_arguments(scores, num_rows, num_columns)
        out, *rest = _run_native(s, shape, counts, temperature, num_threads)
        return _sinkhorn_operators.as_given(out, s), *map(torch.from_numpy, rest)
    call = scores, num_rows, num_columns, temperature
    if chosen == "formula":
        return tuple(_dispatch.reference_module(_OP).dual_softmax(*call))
    return tuple(_dispatch.device_module(_OP, chosen).forward(*call))


def _forward_fake(scores: Any, *_: Any) -> tuple[Any, ...]:
    torch = _arrays.torch_module()
    kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
    b, m, n = scores.shape
    return (
        scores.new_empty(scores.shape),
        scores.new_empty(b, m, dtype=kind),
        scores.new_empty(b, n, dtype=kind),
    )


def _backward_op(
    scores: Any, num_rows: Any, num_columns: Any, row_log_sum: Any, column_log_sum: Any, slope: Any,
    temperature: float, num_threads: int, implementation: str,
) -> Any:  # fmt: skip
    chosen = _chosen(scores, implementation)
    call = scores, num_rows, num_columns, row_log_sum, column_log_sum, slope, temperature
    if chosen == "formula":
        return _dispatch.reference_module(_OP).dual_softmax_backward(*call)
    if chosen != "native":
        return _dispatch.device_module(_OP, chosen).backward(*call)
    torch = _arrays.torch_module()
    s, shape, counts = _native_arguments(scores, num_rows, num_columns)
    saved = [x.float().contiguous().numpy() for x in (row_log_sum, column_log_sum, slope)]
    gradient = np.empty(scores.shape, np.float32)
    native = _native_problem(s, shape, counts, temperature, num_threads)
    _raise(_native.dual_softmax_backward(native, *(_arrays.pointer(x) for x in (*saved, gradient))))
    return torch.from_numpy(gradient).to(scores.dtype)


def _backward_fake(scores: Any, *_: Any) -> Any:
    return scores.new_empty(scores.shape)


_library.define(
    _OP,
    "(Tensor scores, Tensor? num_rows, Tensor? num_columns, float temperature, int num_threads, "
    "str implementation) -> (Tensor log_assignment, Tensor row_log_sum, Tensor column_log_sum)",
    run=_forward_op,
    fake=_forward_fake,
)
_library.define(
    _OP + "_backward",
    "(Tensor scores, Tensor? num_rows, Tensor? num_columns, Tensor row_log_sum, "
    "Tensor column_log_sum, Tensor d_log_assignment, float temperature, int num_threads, "
    "str implementation) -> Tensor",
    run=_backward_op,
    fake=_backward_fake,
)
_library.define_gradient(_OP, tensors=3)
