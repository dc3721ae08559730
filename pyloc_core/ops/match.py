# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse-to-dense matching: the best cell of a feature map for every descriptor."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyloc_core import _arrays, _dispatch, _levels, _library, _native


class Matches(NamedTuple):
    """What `match` keeps of every correlation map; arrays of the kind that was passed in.

    Attributes:
        xy: (N, 2) float64, column and row of the best cell in map coordinates (the centre of cell
            [row, col] is (col, row)); whole numbers unless `subcell` was asked for. Of equal cells the
            first in row-major order.
        log_probability: (N,) float32, ln C_n at that cell, in nats, at most 0. Its exponential is
            what a probability threshold (thesis Eq. 3.5) is applied to.
        quantile_ratio: (N,) float32, or None without `quantile`: the best correlation over the one
            at the rank (Eq. 3.1). A match is kept when it is large; S2DHM's published program keeps
            ratios of at least 1 / 0.9**2. Infinite where the best is positive and the other is not.
        entropy: (N,) float32 in nats, or None: between 0 (one cell) and ln(H W) (flat).
    """

    xy: Any
    log_probability: Any
    quantile_ratio: Any
    entropy: Any


def match(
    descriptors: Any,
    features: Any,
    *,
    size: tuple[int, int] | None = None,
    temperature: float = 1.0,
    quantile: float | None = None,
    entropy: bool = False,
    subcell: str | None = None,
    num_threads: int | None = None,
    check_finite: bool = False,
    implementation: str | None = None,
) -> Matches:
    """Find every descriptor in a dense feature map, without storing a correlation map.

    With c_n(p) = <h_n, F(p)> / T and C_n = softmax over all cells of c_n, gives the argmax of C_n and
    ln C_n there. Cells are streamed: beside inputs and outputs a call holds a few MB, whatever H W is
    (the ratio test adds 8 bytes per descriptor and rank, at most 128 MB, and beyond that repeats
    passes). Arithmetic is float32 with float32 accumulators or better; bfloat16 operands use the
    processor's bfloat16 products where it has them.

    Args:
        descriptors: (N, D) float32, float16 or bfloat16 (a torch tensor, or a NumPy array of
            ml_dtypes.bfloat16); other real dtypes are converted to float32. Or a list, one per level.
        features: (D, H, W), or a list, one per level with its own D, H and W. Memory laid out as
            (H, W, D) is read without a copy.
        size: (H, W) of the map; default the size of the level with most cells. The correlation maps
            of levels of another size are resized bilinearly (half-pixel centres, clamped at the
            border) and all levels are summed, on the fly.
        temperature: T > 0.
        quantile: f in (0, 1]: also give the ratio test against the value at rank max(1, int(f H W)),
            1 being the largest.
        entropy: also give the entropy of C_n.
        subcell: "quadratic" refines xy to the maximum of the quadratic through the 3 x 3 correlations
            around the best cell, at most one cell away.
        num_threads: threads to use; the result does not depend on it.
        check_finite: on the CPU values are always checked. On a GPU that would wait for the device: it
            is done on request, and without it a NaN makes the results of its descriptors NaN.
        implementation: "native", "triton" (CUDA tensors) or "reference" (torch, float64, stores
            N H W values).

    Returns:
        Matches; N = 0 gives empty arrays. No gradient flows through it. For a cyclic (mutual) check,
        Eq. A.1, take the query's descriptors at `xy`, match them back into the map that the
        descriptors came from, and keep what returns to within a cell of its origin.

    Raises:
        ValueError: shapes that do not fit, D, H or W of 0, NaN or infinite values, magnitudes whose
            products leave float32, T, quantile or size out of range.
        TypeError: something that is no array, or an array that holds no real numbers.

    Source: Germain, Bourmaud, Lepetit, "Sparse-to-dense hypercolumn matching" (2019), thesis Eq. 3.1;
    "S2DNet" (2020), Eq. 3.2, 3.3.
    """
    temperature = _levels.as_positive(temperature, "temperature")
    if subcell not in (None, "quadratic"):
        raise ValueError(f"subcell must be None or 'quadratic', got {subcell!r}")
    threads = _arrays.thread_count(num_threads)
    arrays = {"descriptors": descriptors, "features": features}
    if _dispatch.on_tensors("match", implementation, arrays):
        tensors = _levels.as_tensor_levels(descriptors, features, size, check_finite)
        rank = _rank(quantile, tensors.size)
        return _tensor_match(
            tensors, temperature, rank, subcell is not None, entropy, threads, implementation
        )
    levels = _levels.as_levels(descriptors, features, size)
    rank = _rank(quantile, levels.size)
    if _dispatch.use_reference("match", implementation):
        pairs = _levels.as_tensors(levels, descriptors, features)
        found = _dispatch.reference_module("match").match(
            pairs, levels.size, temperature, rank, subcell is not None
        )
        results = [each.detach().numpy() for each in found]
    else:
        results = _native_match(levels, temperature, rank, subcell is not None, entropy, threads)
    xy, log_probability, ratio, entropies = (_arrays.like(r, *levels.sources) for r in results)
    return Matches(xy, log_probability, ratio if rank else None, entropies if entropy else None)


def _native_match(
    levels: _levels.Levels,
    temperature: float,
    rank: int,
    subcell: bool,
    entropy: bool,
    threads: int,
) -> list[Any]:
    n = levels.count
    xy = np.empty((n, 2), np.float64)
    log_probability, ratio, entropies = (np.empty(n, np.float32) for _ in range(3))
    status = _native.match(
        levels.native(),
        n,
        levels.size[0],
        levels.size[1],
        temperature,
        rank,
        subcell,
        _arrays.pointer(xy),
        _arrays.pointer(log_probability),
        _arrays.pointer(ratio),
        _arrays.pointer(entropies) if entropy else 0,
        threads,
    )
    levels.check_status(status)
    return [xy, log_probability, ratio, entropies]


def _tensor_match(
    levels: _levels.TensorLevels,
    temperature: float,
    rank: int,
    subcell: bool,
    entropy: bool,
    threads: int,
    implementation: str | None,
) -> Matches:
    _library.ensure()
    xy, log_probability, ratio, entropies = _arrays.torch_module().ops.pyloc_core.match(
        levels.descriptors, levels.features, *levels.size, temperature, rank, entropy, subcell,
        threads, implementation or "",
    )  # fmt: skip
    return Matches(xy, log_probability, ratio if rank else None, entropies if entropy else None)


def _run(
    descriptors: list[Any], features: list[Any], height: int, width: int, temperature: float,
    rank: int, entropy: bool, subcell: bool, threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    arrays = {"descriptors": descriptors, "features": features}
    chosen = _dispatch.select("match", implementation, arrays)
    size = (height, width)
    if chosen in ("triton", "cuda"):
        module = _dispatch.device_module("match", chosen)
        return tuple(module.match(descriptors, features, size, temperature, rank, entropy, subcell))
    found = match(
        descriptors, features, size=size, temperature=temperature, entropy=entropy,
        quantile=min(1.0, (rank + 0.5) / (height * width)) if rank else None,
        subcell="quadratic" if subcell else None, num_threads=threads or None, implementation=chosen,
    )  # fmt: skip
    some = found.log_probability
    return tuple(some.new_empty(0) if each is None else each for each in found)


def _fake(
    descriptors: list[Any], features: list[Any], height: int, width: int, temperature: float,
    rank: int, entropy: bool, *rest: Any,
) -> tuple[Any, ...]:  # fmt: skip
    some, torch = descriptors[0], _arrays.torch_module()
    n = some.shape[0]

    def new(*shape: int) -> Any:
        return some.new_empty(shape, dtype=torch.float32)

    xy = some.new_empty((n, 2), dtype=torch.float64)
    return xy, new(n), new(n if rank else 0), new(n if entropy else 0)


_library.define(
    "match",
    "(Tensor[] descriptors, Tensor[] features, int height, int width, float temperature, int rank,"
    " bool entropy, bool subcell, int threads, str implementation)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    run=_run,
    fake=_fake,
)


def _rank(quantile: float | None, size: tuple[int, int]) -> int:
    """Rank (1 the largest) of the value that the ratio test compares with; 0 for no test."""
    if quantile is None:
        return 0
    fraction = _levels.as_positive(quantile, "quantile")
    if fraction > 1:
        raise ValueError(f"quantile must lie in (0, 1], got {quantile!r}")
    return max(1, int(fraction * size[0] * size[1]))
