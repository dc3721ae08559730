# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a confidence knows where the depth is wrong: errors that remain as the least sure pixels go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.depth.metrics import BENCHMARK_CLIP, as_map, compared, resize_depth

Array = npt.NDArray[np.float64]

STEPS = 100  # of the benchmark: 0 %, 1 % ... 99 % removed


@dataclass(frozen=True)
class Sparsification:
    """Mean relative error of the pixels that are left, over that of all pixels.

    Attributes:
        removed: (100,) share of the pixels removed.
        error: (100,) with the least confident ones removed first.
        oracle: (100,) with those of the largest error removed first: no confidence does better.
        ause: area between the two, 0 for a confidence that orders as the error does; NaN without a pixel
            to compare. A confidence that knows nothing has the area between 1 and the oracle.
    """

    removed: Array
    error: Array
    oracle: Array
    ause: float


def sparsification(
    prediction: Any,
    truth: Any,
    confidence: Any,
    *,
    alignment: str | None = None,
    clip: tuple[float, float] | None = BENCHMARK_CLIP,
    valid: Any = None,
    sparse: bool = False,
) -> Sparsification:
    """Sparsification curves of one image and the area under their difference, as the Robust Multi-View
    Depth benchmark takes them.

    Args:
        confidence: (h, w), larger where the prediction is surer (minus an uncertainty will do); read at
            the nearest pixel where it has another size than the truth. Equal ones go in reading order.
        Others as of `benchmark_errors`.

    Raises:
        ValueError: as `benchmark_errors`; a confidence that is not finite where depths are compared.

    Sources: Ilg et al., "Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow" (2018);
    Schroeppel et al. (2022).
    """
    d, t, use, _, _ = compared(prediction, truth, alignment, clip, valid, sparse)
    sure = resize_depth(as_map(confidence, "confidence"), use.shape, "nearest")[use]
    if not np.isfinite(sure).all():
        raise ValueError("confidence holds NaN or infinite values where depths are compared")
    error = abs(d - t) / t
    removed = np.arange(STEPS) / STEPS
    by_confidence, by_error = (_left(error, key) for key in (sure, -error))
    return Sparsification(
        removed, by_confidence, by_error, float((by_confidence - by_error).sum() / STEPS)
    )


def _left(error: Array, key: Array) -> Array:
    """(100,) mean of what is left after the pixels of the smallest keys, over the mean of all."""
    if not len(error):
        return np.full(STEPS, np.nan)
    kept = error[np.argsort(key, kind="stable")]
    tails = np.cumsum(kept[::-1])[::-1] / np.arange(len(kept), 0, -1)
    whole = tails[0]
    first = (len(kept) * np.arange(STEPS)) // STEPS
    return np.asarray(tails[first] / whole if whole > 0 else np.ones(STEPS))
