# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Entropic optimal transport between given masses by Sinkhorn's iteration."""

from __future__ import annotations

from typing import Any

from pyloc_core import _sinkhorn, _sinkhorn_operators


def sinkhorn(
    scores: Any,
    log_row_mass: Any,
    log_column_mass: Any,
    *,
    iterations: int = 100,
    tolerance: float | None = None,
    num_valid: Any = None,
    gradient: str = "unrolled",
    check_finite: bool = False,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Log of the plan P = exp(S + u + v) whose rows and columns sum to the given masses.

    `u_i = log a_i - LSE_j(S_ij + v_j)`, then `v_j = log b_j - LSE_i(S_ij + u_i)`, v = 0 at first: column sums
    are exact after every iteration, row sums in the limit. It runs on exp(S - row maximum) and products
    with it, and item by item in the log domain where their range asks for that. For tensors that need a
    gradient the result has one (first order), for scores and masses.

    Args:
        scores: S (..., m, n) float32, float16 or bfloat16; -inf forbids a pair. m or n = 0 raises.
        log_row_mass: log a (..., m) or (m,), natural logarithm; -inf is no mass.
        log_column_mass: log b (..., n) or (n,).
        iterations: at most so many, each of rows, then columns.
        tolerance: an item stops when its largest |row sum - row mass| is at most `tolerance` times its
            largest row mass; rows that carry nothing do not count. None: all iterations.
        num_valid: (rows, columns) that count, from the first on; each None (all), an int, or integers of
            the leading shape (...). The others are -inf in the result, whose other values are, bit for
            bit, those of the call without them.
        gradient: "unrolled", the exact derivative of the iterations that ran, which keeps their u and v;
            or "implicit", that of the limit, taken at the last u and v.
        check_finite: on a GPU, refuse what is refused on the CPU anyway, which waits for the device.
        num_threads: threads of the native code; the result does not depend on it.
        implementation: "native" (CPU), "triton", or "reference" (torch, float64).

    Returns:
        (..., m, n) log P of the kind and dtype of `scores`; -inf where nothing is carried: beyond
        num_valid, in rows and columns of mass zero (which take no part, not even in the first iteration)
        or without a finite score, and at scores of -inf. Such entries have and get no gradient.
        float64 tensors are computed in float64 by the plain formula (for gradient checks); NumPy arrays
        of float64 are taken as float32.

    Raises:
        ValueError: shapes that do not fit, NaN or +infinity, total masses that differ by more than 1e-3
            of the larger, options out of range, arrays on different devices.
        TypeError: something that is no array of real numbers, or an option of the wrong type.

    Source: Sinkhorn and Knopp (1967); Cuturi, Sinkhorn Distances (2013); as a layer, Sarlin et al.,
    SuperGlue (2020). Implicit gradient: Luise et al. (2018), Eisenberger et al. (2022).
    """
    options = _sinkhorn.as_options(
        iterations, tolerance, gradient, num_threads, implementation, check_finite
    )
    return _sinkhorn_operators.transport(
        scores, log_row_mass, log_column_mass, None, _sinkhorn.NO_DUSTBIN, num_valid, options
    )
