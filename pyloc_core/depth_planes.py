# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth planes of a sweep: their range from the cameras, their places, and the range found by a first
estimate.

Source: Izquierdo et al., "MVSAnywhere: Zero-Shot Multi-View Stereo" (CVPR 2025), section 3.4 (thesis,
section 9.1.4). The constants are those of the published program; where it and the text differ (the
second range), the program is followed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyloc_core import _array_kinds
from pyloc_core._array_kinds import Kind
from pyloc_core._checks import integer, number
from pyloc_core.geometry import check_size

# Disparities that bound the first range, as shares of the image width.
MAX_DISPARITY, MIN_DISPARITY = 1.0, 0.01
# Baselines below this share of the longest one are the same place twice: they bound no depth.
NEGLIGIBLE = 1e-4
# The second range: quantiles of the first estimate, and how far the range reaches beyond them.
LOW_QUANTILE, HIGH_QUANTILE = 0.05, 0.95
LOW_MARGIN, HIGH_MARGIN = 0.75, 1.25
# Depths within 5 % of an end are at it; more than 5 % of the pixels there move it outwards by 2.
AT_NEAR, AT_FAR, CROWDED, EXPANSION = 1.05, 0.95, 0.05, 2.0

_EXACT = ("float64", "float32")


def depth_range(
    K: Any,
    source_from_reference: Any,
    size: tuple[int, int],
    *,
    max_disparity: float = MAX_DISPARITY,
    min_disparity: float = MIN_DISPARITY,
    negligible_baseline: float = NEGLIGIBLE,
    check_finite: bool = False,
) -> tuple[Any, Any]:
    """The depths that some source view can measure, from the cameras alone.

    With b the baselines and f the focal length in pixels of an image W wide, a point at depth d moves by
    about b f / d pixels: near = min(b) f / (max_disparity W), far = max(b) f / (min_disparity W).

    Args:
        K: (..., 3, 3) intrinsics in image pixels; f is K[0, 0]. The published program takes those of the
            first source view, not of the reference.
        source_from_reference: (..., V, 3, 4) or (..., V, 4, 4) relative poses; their unit of length is
            that of the depths.
        size: (H, W) of the image that `K` belongs to.
        max_disparity, min_disparity: shares of W, max > min > 0.
        negligible_baseline: views with a baseline of zero, or below this share of the item's longest, are
            left out: they see no parallax, and near would be 0. 0 leaves out exact zeros alone.
        check_finite: look at values on a GPU too, which waits for it.

    Returns:
        (near, far), each of the leading shape: arrays of the kind of the poses, in float64, or float32
        where K and poses are float32. On a GPU an item without any baseline gets NaN.

    Raises:
        ValueError: shapes, values that are not finite, a focal length that is not positive, an item whose
            baselines are all zero, disparities out of order.

    Source: Izquierdo et al. (2025), section 3.4; disparities of the published program.
    """
    _, width = check_size(size)
    high = number("max_disparity", max_disparity, positive=True)
    low = number("min_disparity", min_disparity, positive=True)
    if low >= high:
        raise ValueError(f"min_disparity must be below max_disparity, got {low} and {high}")
    share = number("negligible_baseline", negligible_baseline)
    if share >= 1:
        raise ValueError(f"negligible_baseline must be below 1, got {share}")
    kind = _array_kinds.kind_of(source_from_reference, K)
    poses = kind.take(source_from_reference, "source_from_reference", _EXACT)
    matrix = kind.take(K, "K", _EXACT)
    _check_cameras(matrix, poses)
    if check_finite and not kind.can_look:
        kind.check_finite(matrix, "K", look=True)
        kind.check_finite(poses, "source_from_reference", look=True)
    focal = matrix[..., 0, 0]
    kind.refuse(focal <= 0, "K must have a positive focal length K[0, 0]", look=check_finite)
    with kind.quiet():  # what overflows is refused below
        shortest, longest = _baselines(kind, poses[..., :3, 3], share, check_finite)
        near, far = shortest * (focal / (high * width)), longest * (focal / (low * width))
    kind.refuse(
        ~kind.xp.isfinite(far) | (near <= 0),
        "K and source_from_reference give a depth range that is no positive finite number",
        look=check_finite,
    )
    return near, far


def _check_cameras(K: Any, poses: Any) -> None:
    if K.ndim < 2 or tuple(K.shape[-2:]) != (3, 3):
        raise ValueError(f"K must have shape (..., 3, 3), got {tuple(K.shape)}")
    shape = tuple(poses.shape)
    if len(shape) < 3 or shape[-2:] not in ((3, 4), (4, 4)):
        raise ValueError(
            f"source_from_reference must have shape (..., V, 3, 4) or (..., V, 4, 4), got {shape}"
        )
    if shape[-3] == 0:
        raise ValueError("source_from_reference must hold at least one view, got V = 0")
    if tuple(K.shape[:-2]) not in ((), shape[:-3]):
        raise ValueError(
            f"K must have the leading shape {shape[:-3]} of source_from_reference, got "
            f"{tuple(K.shape)}"
        )


def _baselines(kind: Kind, translation: Any, share: float, look: bool) -> tuple[Any, Any]:
    """Shortest and longest baseline (...) of the views (..., V, 3) that move."""
    xp = kind.xp
    largest = xp.amax(abs(translation), axis=-1)  # scaled first: squares overflow
    safe = xp.where(largest > 0, largest, xp.ones_like(largest))
    squared = ((translation / safe[..., None]) ** 2).sum(-1)
    # The square root has no derivative at 0: a view that stands still must not spoil the others' ones.
    length = largest * xp.where(largest > 0, squared, xp.ones_like(squared)) ** 0.5
    longest = xp.amax(length, axis=-1)
    still = "source_from_reference: all baselines are zero, so no view can measure a depth"
    kind.refuse(longest <= 0, still, look=look)
    moving = (length > 0) & (length > share * longest[..., None])
    shortest = xp.amin(xp.where(moving, length, xp.full_like(length, float("inf"))), axis=-1)
    nan = xp.full_like(longest, float("nan"))
    return xp.where(longest > 0, shortest, nan), xp.where(longest > 0, longest, nan)


def log_depth_planes(near: Any, far: Any, count: int, *, check_finite: bool = False) -> Any:
    """`count` depths from near to far, both included, in equal steps of the logarithm.

    d_k = near^(1 - k / (count - 1)) far^(k / (count - 1)).

    Args:
        near, far: numbers or arrays (...,) of the same shape, 0 < near < far.
        count: D >= 2.
        check_finite: look at values on a GPU too, which waits for it.

    Returns:
        (..., D) rising depths: an array of the kind of near and far, in float64, or float32 where near
        and far are float32. Gradients flow to near and far.

    Raises:
        ValueError: count < 2, near or far not positive, not finite or not in order. TypeError: other things.

    Source: Izquierdo et al. (2025), section 3.4: 64 planes.
    """
    planes = integer("count", count, 2)
    kind = _array_kinds.kind_of(near, far)
    near, far = _range(kind, near, far, _EXACT, check_finite)
    steps = kind.cast(kind.arange(planes), _array_kinds.dtype_name(near)) / (planes - 1)
    return near[..., None] ** (1 - steps) * far[..., None] ** steps


def _range(kind: Kind, near: Any, far: Any, dtype: tuple[str, ...], look: bool) -> tuple[Any, Any]:
    near, far = kind.take(near, "near", dtype), kind.take(far, "far", dtype)
    if tuple(near.shape) != tuple(far.shape):
        raise ValueError(
            f"near and far must have the same shape, got {tuple(near.shape)} and {tuple(far.shape)}"
        )
    for name, value in (("near", near), ("far", far)):
        bad = ~((value > 0) & (value < float("inf")))
        kind.refuse(bad, f"{name} must be positive and finite", look=look)
    kind.refuse(near >= far, "near must be less than far", look=look)
    return near, far


def refine_depth_range(
    depth: Any, near: Any, far: Any, *, valid: Any = None, check_finite: bool = False
) -> tuple[Any, Any]:
    """The range of a second sweep from the depth that the first one found (the cascade's rule).

    The new range is [0.75 q05, 1.25 q95] of the depths, kept within the old one; but where more than 5 %
    of the pixels lie above 0.95 far the far end becomes 2 far, and where more than 5 % lie below 1.05
    near the near end becomes near / 2. Each image by itself.

    Args:
        depth: (..., H, W) first estimate; what lies outside [near, far] counts as the end it passed.
        near, far: numbers, or arrays of the leading shape: the range of the first sweep.
        valid: (..., H, W) bool, pixels that count; None for all. Other pixels may hold anything. An image
            without any keeps its range.
        check_finite: look at values on a GPU too, which waits for it.

    Returns:
        (near, far) of the leading shape, always 0 < near < far: an array of the kind of `depth`, in
        float32, or float64 where `depth` is float64. Quantiles interpolate linearly, as torch.quantile
        and numpy.quantile do, for images of any size; gradients flow through them.

    Raises:
        ValueError: shapes, depths that are not finite, a range that is none.

    Source: the published program of Izquierdo et al. (2025); the text takes the smallest and largest
    depth.
    """
    kind = _array_kinds.kind_of(depth)
    depth = kind.take(depth, "depth", ("float32", "float64"), finite=valid is None)
    if depth.ndim < 2 or 0 in depth.shape[-2:]:
        raise ValueError(
            f"depth must have shape (..., H, W), H and W > 0, got {tuple(depth.shape)}"
        )
    near, far = _range(kind, near, far, (_array_kinds.dtype_name(depth),), check_finite)
    if tuple(near.shape) not in ((), tuple(depth.shape[:-2])):
        raise ValueError(
            f"near and far must be numbers or have the leading shape {tuple(depth.shape[:-2])} of "
            f"depth, got {tuple(near.shape)}"
        )
    near, far = near[..., None], far[..., None]
    flat = depth.reshape(*depth.shape[:-2], depth.shape[-2] * depth.shape[-1])
    counts = _valid(kind, valid, depth)
    if valid is not None or (check_finite and not kind.can_look):
        wrong = counts & ~kind.xp.isfinite(flat)
        kind.refuse(wrong, "depth holds NaN or infinite values", look=check_finite)
    number_valid = kind.cast(counts.sum(-1, keepdims=True), "float64")
    ends = kind.xp.minimum(kind.xp.maximum(flat, near), far)
    some = number_valid > 0
    # What does not count sorts to the end, behind the quantiles.
    ordered = kind.xp.where(counts | ~some, ends, kind.xp.full_like(ends, float("inf")))
    ordered = _sorted(kind, ordered)
    low = kind.xp.maximum(near, LOW_MARGIN * _quantile(kind, ordered, number_valid, LOW_QUANTILE))
    high = kind.xp.minimum(far, HIGH_MARGIN * _quantile(kind, ordered, number_valid, HIGH_QUANTILE))
    at_near = (counts & (flat < AT_NEAR * near)).sum(-1, keepdims=True) > CROWDED * number_valid
    at_far = (counts & (flat > AT_FAR * far)).sum(-1, keepdims=True) > CROWDED * number_valid
    low = kind.xp.where(at_near, near / EXPANSION, kind.xp.where(some, low, near))
    high = kind.xp.where(at_far, far * EXPANSION, kind.xp.where(some, high, far))
    return low[..., 0], high[..., 0]


def _valid(kind: Kind, valid: Any, depth: Any) -> Any:
    """(..., H W) bool."""
    if valid is None:
        flat = depth.reshape(*depth.shape[:-2], depth.shape[-2] * depth.shape[-1])
        return kind.xp.ones_like(flat, dtype=bool)
    mask = kind.take(valid, "valid", ("bool",))
    if tuple(mask.shape) != tuple(depth.shape):
        raise ValueError(
            f"valid must have the shape {tuple(depth.shape)} of depth, got {mask.shape}"
        )
    return mask.reshape(*mask.shape[:-2], mask.shape[-2] * mask.shape[-1])


def _sorted(kind: Kind, values: Any) -> Any:
    """Along the last axis. NumPy sorts ten times as fast as torch on one thread of a CPU."""
    if kind.is_torch and (values.requires_grad or not kind.can_look):
        return values.sort(-1).values
    return kind.xp.from_numpy(np.sort(values.numpy())) if kind.is_torch else np.sort(values)


def _quantile(kind: Kind, ordered: Any, count: Any, share: float) -> Any:
    """(..., 1) linearly interpolated quantile of the first `count` of sorted values (..., N)."""
    xp = kind.xp
    rank = share * (count - 1) * (count > 0)
    below = kind.cast(xp.floor(rank), "int64")
    above = xp.minimum(below + 1, kind.cast(count, "int64") - 1)
    above = xp.maximum(above, below)
    part = kind.cast(rank - xp.floor(rank), _array_kinds.dtype_name(ordered))
    take = xp.gather if kind.is_torch else _take_along
    first, second = take(ordered, -1, below), take(ordered, -1, above)
    return first + part * (second - first)


def _take_along(array: Any, axis: int, index: Any) -> Any:
    return np.take_along_axis(array, index, axis)
