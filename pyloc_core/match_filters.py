# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which matches to keep: by probability, by matching back, by mutual choice."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pyloc_core import _arrays, _tensors
from pyloc_core.ops.match import Matches, match


class CyclicCheck(NamedTuple):
    """Matches that were matched back, of the kind that was passed in.

    Attributes:
        valid: (N,) bool, the way back ends less than `max_distance` from where the match began.
        distance: (N,) float64 in cells (Eq. A.1).
        xy: (N, 2) float64, where the way back ends (Eq. A.2).
    """

    valid: Any
    distance: Any
    xy: Any


class MutualMatches(NamedTuple):
    """Pairs of descriptors that are each other's best, of the kind that was passed in.

    Attributes:
        indices: (K, 2) int64, row of the first and of the second array, rising.
        similarity: (K,) float32 dot product.
    """

    indices: Any
    similarity: Any


def filter_matches(
    matches: Matches,
    *,
    min_probability: float = 0.0,
    min_quantile_ratio: float | None = None,
    max_entropy: float | None = None,
) -> Any:
    """Which matches pass every test that is asked for.

    Args:
        matches: of `match`; N of them.
        min_probability: tau in [0, 1): keep where the probability of the best cell exceeds it (S2DNet
            uses 0.2 on HPatches and 0 on InLoc).
        min_quantile_ratio: keep where the ratio of the best correlation to the one at the rank is at
            least this (S2DHM: 1 / 0.9**2); needs `match(..., quantile=...)`.
        max_entropy: keep where the entropy in nats is at most this; needs `match(..., entropy=True)`.

    Returns:
        (N,) bool of the kind of the matches. What is NaN does not pass.

    Raises:
        TypeError: matches that did not come from `match`.
        ValueError: a threshold out of range, or one on a value that the matches do not hold.

    Source: Germain et al., "S2DNet" (2020), thesis Eq. 3.5; "S2DHM" (2019), Eq. 3.1.
    """
    if not isinstance(matches, Matches):
        raise TypeError(f"matches must come from match(), got {type(matches).__name__}")
    if not 0 <= min_probability < 1:
        raise ValueError(f"min_probability must lie in [0, 1), got {min_probability!r}")
    log_probability = _vector(matches.log_probability, "matches.log_probability")
    least = math.log(min_probability) if min_probability > 0 else -math.inf
    keep = log_probability > least
    if min_quantile_ratio is not None:
        ratio = _vector(matches.quantile_ratio, "matches.quantile_ratio", "quantile=...")
        _check_number(min_quantile_ratio, "min_quantile_ratio")
        _check_length(ratio, log_probability, "matches.quantile_ratio")
        keep = keep & (ratio >= min_quantile_ratio)
    if max_entropy is not None:
        entropy = _vector(matches.entropy, "matches.entropy", "entropy=True")
        _check_number(max_entropy, "max_entropy")
        _check_length(entropy, log_probability, "matches.entropy")
        keep = keep & (entropy <= max_entropy)
    return keep


def cyclic_check(
    xy: Any,
    descriptors: Any,
    features: Any,
    *,
    max_distance: float = 1.0,
    size: tuple[int, int] | None = None,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> CyclicCheck:
    """Match back what was matched from map A to map B, and keep what returns to where it began.

    Args:
        xy: (N, 2) where the matches began, map coordinates of A.
        descriptors: (N, D) the features of B at the cells that were found (or a list, one per level).
        features: (D, H, W) map A, or a list, one per level; see `match`.
        max_distance: nu > 0 in cells; the published value is 1 pixel.
        size: (H, W) of the map in which `xy` is given; see `match`.
        num_threads, implementation: see `match`.

    Returns:
        CyclicCheck; N = 0 gives empty arrays.

    Raises:
        ValueError, TypeError: arguments that do not fit, by name.

    Source: Germain et al., "S2DNet" (2020), thesis Eq. A.1 to A.3.
    """
    _check_number(max_distance, "max_distance")
    if max_distance <= 0:
        raise ValueError(f"max_distance must be positive, got {max_distance!r}")
    back = match(
        descriptors, features, size=size, num_threads=num_threads, implementation=implementation
    )
    if _on_device(back.xy):
        begin = _tensors.check(xy, "xy", shape=("N", 2), device=back.xy.device)
    else:
        found = _arrays.as_array(xy, "xy", shape=("N", 2))
        begin = found.data
        if _arrays.is_torch(back.xy):
            begin = _arrays.torch_module().from_numpy(begin)
        elif found.is_torch:
            back = back._replace(xy=_arrays.torch_module().from_numpy(back.xy))
            begin = _arrays.torch_module().from_numpy(begin)
    _arrays.check_equal_length(len(begin), "xy", len(back.xy), "descriptors")
    with np.errstate(over="ignore"):  # what is that far away is infinitely far
        distance = ((back.xy - begin) ** 2).sum(-1) ** 0.5
    return CyclicCheck(distance < max_distance, distance, back.xy)


def mutual_matches(
    first: Any,
    second: Any,
    *,
    min_similarity: float | None = None,
    num_threads: int | None = None,
) -> MutualMatches:
    """Pairs of descriptors each of which is the other's best, by dot product.

    Args:
        first: (N, D) float32, float16 or bfloat16.
        second: (M, D).
        min_similarity: keep pairs whose dot product is at least this.
        num_threads: see `match`.

    Returns:
        MutualMatches; empty when N or M is 0. Of equal similarities the first in order counts. The
        N x M similarities are not stored. On a device this waits for it: it alone knows how many
        pairs there are. What holds NaN there is in no pair.

    Raises:
        ValueError, TypeError: arguments that do not fit, by name.
    """
    if min_similarity is not None:
        _check_number(min_similarity, "min_similarity")
    if _on_device(first) or _on_device(second):
        a = _tensors.check(first, "first", shape=("N", "D"), dtype=_arrays.FEATURE_DTYPES)
        b = _tensors.check(
            second,
            "second",
            shape=("N", "D"),
            dtype=str(a.dtype).removeprefix("torch."),
            device=a.device,
        )
        return _mutual(a, b, min_similarity, num_threads, _arrays.torch_module())
    kinds = [_arrays.as_array(x, n, shape=("N", "D"), dtype=_arrays.FEATURE_DTYPES)
             for x, n in ((first, "first"), (second, "second"))]  # fmt: skip
    a, b = (_float32(kind) for kind in kinds)
    found = _mutual(a, b, min_similarity, num_threads, np)
    return MutualMatches(*(_arrays.like(np.asarray(each), *kinds) for each in found))


def _mutual(a: Any, b: Any, least: float | None, num_threads: int | None, xp: Any) -> MutualMatches:
    """With arrays of NumPy, or tensors of one device (`xp`)."""
    if a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise ValueError(
            f"first and second must share D > 0, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not len(a) or not len(b):
        a, b = a[:0], b[:0]
        forth = rows = xp.zeros_like(a[:, 0], dtype=xp.int64)
    else:
        forth, back = _best(a, b, num_threads, xp), _best(b, a, num_threads, xp)
        every = xp.arange(len(a)) if xp is np else xp.arange(len(a), device=a.device)
        # -1: NaN entered its row; then no pair holds it.
        rows = xp.where((back[forth.clip(0)] == every) & (forth >= 0))[0]
        forth = forth[rows]
    similarity = (a[rows] * b[forth]).sum(-1)
    if least is not None:
        good = similarity >= least
        rows, forth, similarity = rows[good], forth[good], similarity[good]
    return MutualMatches(xp.stack([rows, forth], -1), similarity)


def _best(queries: Any, among: Any, num_threads: int | None, xp: Any) -> Any:
    """(N,) row of `among` (M, D) with the largest dot product: a map of one row. -1 for NaN."""
    found = match(queries, among.T[:, None, :], num_threads=num_threads).xy[:, 0]
    return found.astype(np.int64) if xp is np else found.nan_to_num(nan=-1.0).long()


def _float32(array: _arrays.ArrayIn) -> Any:
    if array.dtype == "bfloat16":
        return _arrays.bfloat16_to_float32(array.data)
    return np.asarray(array.data, np.float32)


def _on_device(x: Any) -> bool:
    return _arrays.is_torch(x) and x.device.type != "cpu"


def _vector(x: Any, name: str, how: str = "") -> Any:
    """(N,) values as they are, checked; ValueError when `match` was not asked for them."""
    if x is None:
        raise ValueError(f"there is no {name}: call match with {how}")
    if _on_device(x):
        return _tensors.check(x, name, shape=("N",), dtype=("float32", "float64"))
    array = _arrays.as_array(x, name, shape=("N",), dtype=("float32", "float64"), finite=False)
    return _arrays.like(array.data, array)


def _check_length(a: Any, b: Any, name: str) -> None:
    _arrays.check_equal_length(len(a), name, len(b), "matches.log_probability")


def _check_number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
