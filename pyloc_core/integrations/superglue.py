# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The assignment layer of SuperGlue-style matchers, a drop-in for `log_optimal_transport`.

A dustbin row and a dustbin column take the keypoints without a partner. From Sarlin et al. (2020), section
3.2 (Eq. 9 and 10): every keypoint has mass 1, the row's dustbin can take all n keypoints of the second image,
the column's all m of the first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyloc_core import _arrays, _sinkhorn, _sinkhorn_operators, _tensors

__all__ = ["log_optimal_transport"]


def log_optimal_transport(
    scores: Any,
    alpha: Any,
    iters: int,
    *,
    num_valid: Any = None,
    tolerance: float | None = None,
    gradient: str = "unrolled",
    check_finite: bool = False,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Log assignment (B, m + 1, n + 1) of keypoints to keypoints or to the dustbins, in units of keypoints.

    Sinkhorn's iteration with masses that add up to 1, the result multiplied back by m + n: the same as
    masses 1 for keypoints, n for the dustbin row and m for the dustbin column. So exp of the result sums
    to 1 over the row of every keypoint of the first image (in the limit) and over the column of every
    keypoint of the second (always).

    Args:
        scores: (B, m, n), or any leading dimensions, float32, float16 or bfloat16.
        alpha: score of the dustbins, a scalar or one per item; gets a gradient, as the scores do.
        iters: iterations, rows first.
        num_valid: (keypoints in the first image, in the second) that count, as in `sinkhorn`: the
            dustbins then hold as many as count. The published function has no such option.
        tolerance, gradient, check_finite, num_threads, implementation: as in `sinkhorn`.

    Raises:
        ValueError, TypeError: as `sinkhorn`; NaN or +infinity in `alpha`.

    Source: Sarlin, DeTone, Malisiewicz, Rabinovich, SuperGlue (2020), section 3.2.
    """
    options = _sinkhorn.as_options(
        iters, tolerance, gradient, num_threads, implementation, check_finite
    )
    shape = _shape(scores)
    rows, columns = _sinkhorn.split_valid(num_valid)
    m = shape[-2] if rows is None else rows
    n = shape[-1] if columns is None else columns
    return _sinkhorn_operators.transport(
        scores,
        _masses(shape[-2], n, scores),
        _masses(shape[-1], m, scores),
        _scalar(alpha, scores),
        _sinkhorn.DUSTBINS,
        num_valid,
        options,
    )


def _shape(scores: Any) -> tuple[int, ...]:
    shape = tuple(scores.shape) if hasattr(scores, "shape") else np.shape(scores)
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ValueError(f"scores must have shape (..., m, n), neither m nor n 0, got {shape}")
    return shape


def _scalar(alpha: Any, scores: Any) -> Any:
    if not _arrays.is_torch(scores) or _arrays.is_torch(alpha):
        return alpha
    return _arrays.torch_module().full((), float(alpha), device=scores.device)


def _masses(size: int, others: Any, scores: Any) -> Any:
    """log 1 for `size` keypoints and log `others`, the other image's keypoints, for the dustbin."""
    torch = _arrays.torch_module()
    if not _arrays.is_torch(scores):
        counts = np.asarray(others, np.float64)
        masses = np.zeros((*counts.shape, size + 1), np.float32)
        masses[..., -1] = np.log(counts, where=counts > 0, out=np.full(counts.shape, -np.inf))
        return masses
    kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
    if isinstance(others, int):  # made on the device: nothing waits
        masses = torch.zeros(size + 1, device=scores.device, dtype=kind)
        masses[-1] = math.log(others) if others > 0 else -math.inf
        return masses
    counts = _tensors.as_tensor(others)
    if counts.device.type == "cpu" and scores.device.type != "cpu":
        counts = _tensors.on_device(counts.numpy(), "num_valid", scores.device)
    ones = torch.zeros((*counts.shape, size), device=scores.device, dtype=kind)
    return torch.cat([ones, counts.double().log()[..., None].to(kind)], -1)
