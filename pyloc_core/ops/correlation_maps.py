# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dense correlation and correspondence maps, for looking at and for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyloc_core import _arrays, _dispatch, _levels, _native


def correlation_maps(
    descriptors: Any,
    features: Any,
    *,
    size: tuple[int, int] | None = None,
    temperature: float = 1.0,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Correlation maps c_n(p) = sum over levels of <h_n, F(p)> / T, stored densely.

    Args:
        descriptors: (N, D) float32, float16 or bfloat16, or a list, one per level; see `match`.
        features: (D, H, W), or a list, one per level.
        size: (H, W) of the maps; default the size of the level with most cells. Maps of levels of
            another size are resized bilinearly (half-pixel centres, clamped at the border).
        temperature: T > 0.
        num_threads: threads to use; the result does not depend on it.
        implementation: "native" or "reference" (torch, float64, differentiable for torch tensors).

    Returns:
        (N, H, W) float32 (reference: float64), of the kind of the arguments. The native result
        carries no gradient; the reference's does.

    Raises:
        ValueError: shapes that do not fit, D, H or W of 0, NaN or infinite values, magnitudes whose
            products leave float32, T or size out of range.
        TypeError: something that is no array, or an array that holds no real numbers.

    Source: Germain et al., "S2DNet" (2020), thesis Eq. 3.3.
    """
    return _dense(descriptors, features, size, temperature, num_threads, implementation, False)


def correspondence_maps(
    descriptors: Any,
    features: Any,
    *,
    size: tuple[int, int] | None = None,
    temperature: float = 1.0,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Correspondence maps C_n = softmax over all cells of the correlation map c_n.

    Arguments, result and errors are those of `correlation_maps`; every map sums to one.

    Source: Germain et al., "S2DNet" (2020), thesis Eq. 3.2.
    """
    return _dense(descriptors, features, size, temperature, num_threads, implementation, True)


def _dense(
    descriptors: Any,
    features: Any,
    size: tuple[int, int] | None,
    temperature: float,
    num_threads: int | None,
    implementation: str | None,
    softmax: bool,
) -> Any:
    levels = _levels.as_levels(descriptors, features, size)
    temperature = _levels.as_positive(temperature, "temperature")
    threads = _arrays.thread_count(num_threads)
    if _dispatch.use_reference("correlation_maps", implementation):
        tensors = _levels.as_tensors(levels, descriptors, features)
        module = _dispatch.reference_module("correlation_maps")
        form = module.correspondence_maps if softmax else module.correlation_maps
        maps = form(tensors, levels.size, temperature)
        return maps if any(a.is_torch for a in levels.sources) else maps.numpy()
    out = np.empty((levels.count, *levels.size), np.float32)
    status = _native.correlation_maps(
        levels.native(),
        levels.count,
        *levels.size,
        temperature,
        softmax,
        _arrays.pointer(out),
        threads,
    )
    levels.check_status(status)
    return _arrays.like(out, *levels.sources)
