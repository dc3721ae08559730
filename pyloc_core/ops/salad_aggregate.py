# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD: patches assigned to clusters and a dustbin by optimal transport, and the descriptor made of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyloc_core import (
    _aggregation,
    _arrays,
    _dispatch,
    _salad_operators,
    _sinkhorn,
    _sinkhorn_operators,
    _tensors,
)

_OP = "salad_aggregate"


def salad_assign(
    scores: Any,
    dustbin: Any,
    *,
    iterations: int = 3,
    num_valid: Any = None,
    check_finite: bool = False,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Log of the assignment of n patches to m clusters and, last row, the dustbin.

    Optimal transport (`sinkhorn`) of the scores with a row of the dustbin's score below them: every
    cluster takes 1, the dustbin n - m, every patch gives 1. Column sums are exact after every iteration,
    row sums in the limit. For tensors that need a gradient the result has one (first order).

    Args:
        scores: S (..., m, n), n > m; float32, float16 or bfloat16. -inf: that patch is not for that
            cluster.
        dustbin: z, a number or an array of shape (). It moves nothing, see `salad_aggregate`.
        iterations: of rows, then columns; 3 is published.
        num_valid: patches that count, from the first on: an int, or integers of the leading shape (...),
            m + 1 to n; None for all. The others are -inf in the result, whose other values have the bits
            of the call without them.
        check_finite, num_threads, implementation: as in `sinkhorn`.

    Returns:
        (..., m + 1, n) log P of the kind and dtype of `scores`. float64 tensors are computed in float64 by
        the plain formula; NumPy arrays of float64 are taken as float32.

    Raises:
        ValueError: n <= m, shapes that do not fit, num_valid or iterations out of range, NaN or +infinity.
        TypeError: something that is no array of real numbers.

    Source: Izquierdo, Civera, "Optimal transport aggregation for visual place recognition" (SALAD), CVPR
    2024, Eq. 3; masses and order of the released program.
    """
    options = _sinkhorn.as_options(
        iterations,
        num_threads=num_threads,
        implementation=implementation,
        check_finite=check_finite,
    )
    if _arrays.is_torch(scores):
        wide = implementation == "reference"
        valid, rows, columns, fill = _on_device(scores, dustbin, num_valid, wide)
    else:
        valid, rows, columns, fill = _on_host(scores, dustbin, num_valid)
    return _sinkhorn_operators.transport(
        scores, rows, columns, fill, _sinkhorn.DUSTBIN_ROW, (None, valid), options
    )


def _on_host(scores: Any, dustbin: Any, num_valid: Any) -> tuple[Any, Any, Any, float]:
    """num_valid (...), ln of the masses of rows and columns, and the dustbin's score."""
    found = _arrays.as_array(scores, "scores", dtype=_arrays.FEATURE_DTYPES, finite=False)
    *leading, m, n = _aggregation.check_transport(found.shape)
    valid = _aggregation.counts(num_valid, tuple(leading), m + 1, n)
    valid = None if valid is None else valid.reshape(leading)
    rest = np.log((np.array([n]) if valid is None else valid[..., None]) - m)
    rows = np.concatenate([np.zeros((*rest.shape[:-1], m)), rest], -1)
    return valid, rows, np.zeros(n), _aggregation.as_scalar(dustbin, "dustbin")


def _on_device(scores: Any, dustbin: Any, num_valid: Any, wide: bool) -> tuple[Any, Any, Any, Any]:
    """The same as tensors where the scores are."""
    torch = _arrays.torch_module()
    *leading, m, n = _aggregation.check_transport(tuple(scores.shape))
    kind = torch.float64 if wide or scores.dtype == torch.float64 else torch.float32
    fill = _salad_operators.dustbin_tensor(dustbin, scores.device)
    nothing, columns = (torch.zeros(k, dtype=kind, device=scores.device) for k in (m, n))
    valid = _aggregation.count_tensor(num_valid, tuple(leading), m + 1, n, scores.device)
    if valid is None:
        rows = torch.nn.functional.pad(nothing, (0, 1), value=math.log(n - m))
    else:
        valid = valid.reshape(leading)
        rows = torch.cat([nothing.expand(*leading, m), (valid - m).to(kind).log()[..., None]], -1)
    return valid, rows, columns, fill


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
    options = _sinkhorn.as_options(iterations, num_threads=num_threads)
    steps, threads = options.iterations, options.threads
    arrays = {"scores": scores, "features": features, "token": token, "dustbin": dustbin}
    if _needs_torch(arrays, implementation):
        given = (steps, threads, implementation or "")
        return _salad_operators.with_torch(arrays, num_valid, check_finite, given)
    problem = _aggregation.check_salad(scores, features, token, dustbin, num_valid, steps, threads)
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
