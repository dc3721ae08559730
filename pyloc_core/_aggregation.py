# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of SALAD's and NetVLAD's aggregation, checked, and the native kernels on NumPy arrays.

Values are looked at by the kernels, which read every element anyway; where a kernel reports that something
was not finite, the message finds out what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyloc_core import _arrays, _dispatch, _native, _tensors

# Twin of AggregateStatus in csrc/cpu/salad_aggregate.h.
_OUT_OF_MEMORY, _BAD_SCORES, _BAD_SUMS = 1, 2, 3


def as_scalar(x: Any, name: str) -> float:
    """A finite number: a float, or an array of shape ()."""
    if isinstance(x, (int, float)) and -math.inf < x < math.inf:  # what torch.compile can trace
        return float(x)
    value = _arrays.as_array(x, name).data
    if value.shape != ():
        raise ValueError(f"{name} must be a number or an array of shape (), got {value.shape}")
    return float(value)


def counts(x: Any, leading: tuple[int, ...], least: int, most: int) -> np.ndarray | None:
    """num_valid as (B,) int64 within `least` and `most`, or None."""
    if x is None:
        return None
    found = _arrays.as_array(x, "num_valid", dtype="int64", finite=False).data
    exact = _arrays.as_array(x, "num_valid").data
    if found.shape not in ((), leading) or (found != exact).any():
        raise ValueError(f"num_valid must be an int, or integers {leading}, got {x!r}")
    found = np.array(np.broadcast_to(found, leading), np.int64).reshape(-1)
    if found.size and not (found.min() >= least and found.max() <= most):
        raise ValueError(f"num_valid must lie within {least} and {most}, got {x!r}")
    return found


def count_tensor(x: Any, leading: tuple[int, ...], least: int, most: int, device: Any) -> Any:
    """The same as (B,) int64 on a device, whose values are not looked at while they lie there."""
    if x is None:
        return None
    torch = _arrays.torch_module()
    if isinstance(x, int):
        if not least <= x <= most:
            raise ValueError(f"num_valid must lie within {least} and {most}, got {x}")
        return torch.full((math.prod(leading),), x, dtype=torch.int64, device=device)
    if _dispatch.traced() or (_arrays.is_torch(x) and x.device.type != "cpu"):
        x = torch.as_tensor(x)  # a list or an array, while torch.compile traces
        if x.is_floating_point() or tuple(x.shape) not in ((), leading):
            raise ValueError(f"num_valid must be an int, or integers {leading}, got {x!r}")
        return x.long().expand(leading).reshape(-1).contiguous().to(device)
    found = counts(x, leading, least, most)
    assert found is not None
    return _tensors.on_device(found, "num_valid", device)


def check_pair(
    first: tuple[int, ...], first_name: str, second: tuple[int, ...], second_name: str
) -> None:
    """Two arrays (..., rows, n) of the same patches, neither of them without rows or patches."""
    for shape, name in ((first, first_name), (second, second_name)):
        if len(shape) < 2:
            raise ValueError(f"{name} must have at least two dimensions, got shape {shape}")
        if 0 in shape[-2:]:
            raise ValueError(f"{name} must have at least one row and one patch, got shape {shape}")
    if first[:-2] != second[:-2] or first[-1] != second[-1]:
        raise ValueError(
            f"{first_name} and {second_name} must agree in their leading dimensions and in the number "
            f"of patches (last), got {first} and {second}"
        )


def check_transport(scores: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of scores (..., m, n) of a transport to m clusters and a dustbin, or an error."""
    if len(scores) < 2 or 0 in scores[-2:]:
        raise ValueError(
            f"scores must have shape (..., m, n) with at least one row and one patch, got {scores}"
        )
    m, n = scores[-2:]
    if n <= m:
        raise ValueError(
            f"scores must have more patches than clusters, since the dustbin takes n - m: got m = {m}, "
            f"n = {n}"
        )
    return scores


def check_salad_shapes(
    scores: tuple[int, ...], features: tuple[int, ...], token: tuple[int, ...] | None
) -> tuple[int, int, int, int, int]:
    """(B, m, n, l, t), or an error that names the argument."""
    check_pair(scores, "scores", features, "features")
    *_, m, n = check_transport(scores)
    leading, t = scores[:-2], 0
    if token is not None:
        if token[:-1] != leading or len(token) != len(leading) + 1 or token[-1] == 0:
            wanted = (*leading, "t")
            raise ValueError(f"token must have shape {wanted} with t at least 1, got {token}")
        t = token[-1]
    return math.prod(leading), m, n, features[-2], t


@dataclass(frozen=True)
class Salad:
    """Checked arguments of salad_aggregate; shape is (B, m, n, l, t)."""

    scores: _arrays.ArrayIn
    features: _arrays.ArrayIn
    token: _arrays.ArrayIn | None
    dustbin: float
    num_columns: np.ndarray | None
    shape: tuple[int, int, int, int, int]
    iterations: int
    threads: int

    def native(self) -> tuple[Any, ...]:
        def pointer(array: np.ndarray | None) -> int:
            return 0 if array is None else _arrays.pointer(array)

        token = self.token
        return (
            pointer(self.scores.data), pointer(self.features.data),
            0 if token is None else pointer(token.data),
            self.scores.code, self.features.code, 0 if token is None else token.code,
            *self.shape, pointer(self.num_columns), self.dustbin, self.iterations, self.threads,
        )  # fmt: skip


def check_salad(
    scores: Any, features: Any, token: Any, dustbin: Any, num_valid: Any, iterations: int, threads: int
) -> Salad:  # fmt: skip
    """Everything but the values of scores and features, which the kernel looks at."""
    kinds = {"dtype": _arrays.FEATURE_DTYPES, "finite": False}
    s = _arrays.as_array(scores, "scores", **kinds)  # type: ignore[arg-type]
    f = _arrays.as_array(features, "features", **kinds)  # type: ignore[arg-type]
    g = None if token is None else _arrays.as_array(token, "token", dtype=_arrays.FEATURE_DTYPES)
    shape = check_salad_shapes(s.shape, f.shape, None if g is None else g.shape)
    valid = counts(num_valid, s.shape[:-2], shape[1] + 1, shape[2])
    return Salad(s, f, g, as_scalar(dustbin, "dustbin"), valid, shape, iterations, threads)


def run_salad(problem: Salad, keep: bool) -> tuple[np.ndarray, ...]:
    """descriptor (B, t + l m) and aggregate (B, l, m), float32; with `keep` u (T, B, m + 1) and
    v (T, B, n) as well."""
    b, m, n, depth, t = problem.shape
    out = [np.empty((b, t + depth * m), np.float32), np.empty((b, depth, m), np.float32)]
    if keep:
        steps = problem.iterations
        out += [np.empty((steps, b, m + 1), np.float32), np.empty((steps, b, n), np.float32)]
    pointers = [_arrays.pointer(a) for a in out] + [0] * (4 - len(out))
    status = _native.salad_aggregate(problem.native(), *pointers)
    others = {"features": problem.features}
    if problem.token is not None:
        others["token"] = problem.token
    raise_status(status, "salad_aggregate", "scores", others)
    return tuple(out)


def run_salad_backward(
    problem: Salad, aggregate: np.ndarray, d_descriptor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of scores and features, in their dtypes (bfloat16 as uint16), and token (B, t) float32."""
    b, m, n, depth, t = problem.shape
    gradients = (
        np.empty((b, m, n), problem.scores.data.dtype),
        np.empty((b, depth, n), problem.features.data.dtype),
        np.empty((b, t), np.float32),
    )
    given = (aggregate, d_descriptor, *gradients)
    status = _native.salad_aggregate_backward(problem.native(), *map(_arrays.pointer, given))
    raise_status(status, "salad_aggregate", "scores", {"features": problem.features})
    return gradients


def as_kind(out: np.ndarray, like: _arrays.ArrayIn) -> Any:
    """A float32 result in the kind and dtype of an argument."""
    if like.is_torch:
        torch = _arrays.torch_module()
        return torch.from_numpy(out).to(getattr(torch, like.dtype))
    return out.astype("float16") if like.dtype == "float16" else out


def as_tensor_of(array: np.ndarray, dtype: Any) -> Any:
    """A gradient as tensor of the dtype; uint16 holds bfloat16."""
    return _arrays.tensor_of(array).to(dtype)


def as_double(given: Any, array: _arrays.ArrayIn) -> Any:
    """A checked argument as float64 tensor: the caller's own where it is one, with its gradient."""
    if _arrays.is_torch(given):
        return given.double()
    wide = _arrays.bfloat16_to_float32(array.data) if array.dtype == "bfloat16" else array.data
    return _arrays.torch_module().from_numpy(wide.astype("float64"))


def needs_formula_or_gradient(tensors: list[Any]) -> bool:
    """Whether tensors on the CPU go through the operator all the same."""
    return any(str(x.dtype) == "torch.float64" for x in tensors) or _tensors.wants_gradient(tensors)


def raise_status(
    status: int, op: str, scores_name: str, others: dict[str, _arrays.ArrayIn]
) -> None:
    """Raise what a kernel reported."""
    if status == 0:
        return
    if status == _OUT_OF_MEMORY:
        raise MemoryError(f"{op}: out of memory")
    if status == _BAD_SCORES:
        raise ValueError(f"{scores_name} holds NaN or infinite values")
    assert status == _BAD_SUMS
    for name, array in others.items():
        if not _arrays.all_finite(array):
            raise ValueError(f"{name} holds NaN or infinite values")
    raise ValueError(f"{' or '.join(others)} are too large: their sums leave float32")


# ---------------------------------------------------------------------- NetVLAD


def check_netvlad_shapes(
    features: tuple[int, ...], logits: tuple[int, ...], centroids: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """(B, D, K, n), or an error that names the argument."""
    check_pair(features, "features", logits, "logits")
    wanted = (logits[-2], features[-2])
    if centroids != wanted:
        raise ValueError(f"centroids must have shape (K, D) = {wanted}, got {centroids}")
    return math.prod(features[:-2]), features[-2], logits[-2], features[-1]


@dataclass(frozen=True)
class Netvlad:
    """Checked arguments of netvlad_aggregate; shape is (B, D, K, n)."""

    features: _arrays.ArrayIn
    logits: _arrays.ArrayIn
    centroids: _arrays.ArrayIn
    num_columns: np.ndarray | None
    shape: tuple[int, int, int, int]
    threads: int

    def native(self) -> tuple[Any, ...]:
        pointer, valid = _arrays.pointer, self.num_columns
        return (
            pointer(self.features.data), pointer(self.logits.data), self.features.code,
            self.logits.code, pointer(self.centroids.data), *self.shape,
            0 if valid is None else pointer(valid), self.threads,
        )  # fmt: skip


def check_netvlad(
    features: Any, logits: Any, centroids: Any, num_valid: Any, threads: int
) -> Netvlad:
    """Everything but the values of features and logits, which the kernel looks at."""
    kinds = {"dtype": _arrays.FEATURE_DTYPES, "finite": False}
    f = _arrays.as_array(features, "features", **kinds)  # type: ignore[arg-type]
    s = _arrays.as_array(logits, "logits", **kinds)  # type: ignore[arg-type]
    c = _arrays.as_array(centroids, "centroids", dtype="float32")
    shape = check_netvlad_shapes(f.shape, s.shape, c.shape)
    valid = counts(num_valid, f.shape[:-2], 1, shape[3])
    return Netvlad(f, s, c, valid, shape, threads)


def run_netvlad(problem: Netvlad, keep: bool) -> tuple[np.ndarray, ...]:
    """descriptor (B, K D), residual (B, K, D), float32, and with `keep` log_sum (B, n)."""
    b, depth, clusters, n = problem.shape
    out = [np.empty((b, clusters * depth), np.float32), np.empty((b, clusters, depth), np.float32)]
    if keep:
        out.append(np.empty((b, n), np.float32))
    pointers = [_arrays.pointer(a) for a in out] + [0] * (3 - len(out))
    status = _native.netvlad_aggregate(problem.native(), *pointers)
    raise_status(status, "netvlad_aggregate", "logits", {"features": problem.features})
    return tuple(out)


def run_netvlad_backward(
    problem: Netvlad, residual: np.ndarray, d_descriptor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of features and logits, in their dtypes (bfloat16 as uint16), and centroids float32."""
    b, depth, clusters, n = problem.shape
    gradients = (
        np.empty((b, depth, n), problem.features.data.dtype),
        np.empty((b, clusters, n), problem.logits.data.dtype),
        np.empty((clusters, depth), np.float32),
    )
    given = (residual, d_descriptor, *gradients)
    status = _native.netvlad_aggregate_backward(problem.native(), *map(_arrays.pointer, given))
    raise_status(status, "netvlad_aggregate", "logits", {"features": problem.features})
    return gradients
