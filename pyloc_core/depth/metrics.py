# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of a depth map against the truth: the Robust Multi-View Depth benchmark's and KITTI's.

Both give numbers per image; `mean_errors` averages over images, as both benchmarks do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays
from pyloc_core._checks import known_name, number

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Schroeppel et al. (2022): inlier threshold; range of depths to which its program clips predictions.
INLIER_THRESHOLD = 1.03
BENCHMARK_CLIP = (0.1, 100.0)
# Eigen et al. (2014): the range of KITTI's depths in metres.
KITTI_RANGE = (1e-3, 80.0)
# Rows and columns of a KITTI image that count, as shares of its size.
CROPS = {
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),  # Eigen, Puhrsch, Fergus (2014)
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),  # Garg et al. (2016)
}
ALIGNMENTS = ("median", "least_squares", "least_squares_shift", "least_squares_inverse")


@dataclass(frozen=True)
class BenchmarkErrors:
    """Errors of the Robust Multi-View Depth benchmark, in percent; NaN without a pixel to compare.

    Attributes:
        abs_rel: mean of |d - t| / t.
        inliers: share of pixels with max(d / t, t / d) < 1.03, the benchmark's tau.
        density: share of the pixels with truth that have a prediction; 0 for a prediction that is missing
            everywhere, NaN without truth.
        scale: what the alignment multiplied the prediction by; 1 without one.
        pixels: how many were compared.
    """

    abs_rel: float
    inliers: float
    density: float
    scale: float
    pixels: int


@dataclass(frozen=True)
class KittiErrors:
    """Errors of the KITTI depth evaluation; NaN without a pixel to compare.

    Attributes:
        abs_rel, sq_rel: mean of |d - t| / t and of (d - t)^2 / t.
        rmse, rmse_log: root mean square of d - t and of ln d - ln t.
        a1, a2, a3: share of pixels with max(d / t, t / d) below 1.25, 1.25^2, 1.25^3.
        scale: what the alignment multiplied the prediction by; 1 without one.
        pixels: how many were compared.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    a1: float
    a2: float
    a3: float
    scale: float
    pixels: int


def benchmark_errors(
    prediction: Any,
    truth: Any,
    *,
    alignment: str | None = None,
    clip: tuple[float, float] | None = BENCHMARK_CLIP,
    threshold: float = INLIER_THRESHOLD,
    valid: Any = None,
    sparse: bool = False,
) -> BenchmarkErrors:
    """Errors of one image as the Robust Multi-View Depth benchmark defines them.

    Args:
        prediction: (h, w) or with leading dimensions of 1; another size than the truth's is read at the
            nearest pixel.
        truth: (H, W); 0, negative or not finite where unknown.
        alignment: None, or how the prediction is fitted to the truth first: "median" (ratio of the
            medians, the benchmark's), "least_squares" (a factor), "least_squares_shift" (factor and
            shift), "least_squares_inverse" (factor and shift of the inverse depth, for networks that know
            it up to these; Ranftl et al. 2020).
        clip: predictions are moved into this range after the alignment; None leaves them.
        threshold: of the inliers, > 1.
        valid: (H, W) bool, pixels that count besides; None for all.
        sparse: predictions of 0 or not finite are missing, and left out. Otherwise 0 is a prediction
            like any other, and what is not finite is refused.

    Raises:
        ValueError: shapes, options, a prediction that is not finite where the truth is known.

    Source: Schroeppel et al., "A Benchmark and a Baseline for Robust Multi-view Depth Estimation" (2022);
    clipping, resizing and the order of the steps as in its program.
    """
    if not number("threshold", threshold) > 1:
        raise ValueError(f"threshold must be above 1, got {threshold}")
    d, t, use, known, scale = compared(prediction, truth, alignment, clip, valid, sparse)
    density = 100.0 * float(use.sum()) / int(known.sum()) if known.any() else float("nan")
    if not len(t):
        return BenchmarkErrors(float("nan"), float("nan"), density, float("nan"), 0)
    with np.errstate(divide="ignore"):
        ratio = np.where(d > 0, np.maximum(d / t, t / d), np.inf)
    abs_rel, inliers = 100.0 * np.mean(abs(d - t) / t), 100.0 * np.mean(ratio < threshold)
    return BenchmarkErrors(float(abs_rel), float(inliers), density, scale, len(t))


def compared(
    prediction: Any,
    truth: Any,
    alignment: str | None,
    clip: tuple[float, float] | None,
    valid: Any,
    sparse: bool,
) -> tuple[Array, Array, Mask, Mask, float]:
    """What `benchmark_errors` compares: depths (N,), aligned and clipped, their truths (N,), where both are
    (H, W), where the truth is known (H, W), and the alignment's factor."""
    low_high = _bounds(clip, "clip")
    target, known = _truth(truth, valid)
    depth = resize_depth(as_map(prediction, "prediction"), target.shape, "nearest")
    use = known & np.isfinite(depth) & (depth != 0) if sparse else known
    if not use.any():
        return np.zeros(0), np.zeros(0), use, known, float("nan")
    d, scale = align(_finite(depth[use]), target[use], alignment)
    return np.clip(d, *low_high) if low_high else d, target[use], use, known, scale


def kitti_errors(
    prediction: Any,
    truth: Any,
    *,
    alignment: str | None = "median",
    crop: str | None = None,
    depth_range: tuple[float, float] = KITTI_RANGE,
    valid: Any = None,
) -> KittiErrors:
    """Errors of one image as the KITTI depth literature defines them.

    Args:
        prediction: (h, w) or with leading dimensions of 1; another size than the truth's is read
            bilinearly (pixel centres at half integers).
        truth: (H, W); 0, negative or not finite where unknown.
        alignment: as in `benchmark_errors`. "median" is the rule for networks without a scale.
        crop: None, "garg" or "eigen": the part of the image that counts.
        depth_range: truths outside it do not count; predictions are moved into it after the alignment.
        valid: (H, W) bool, pixels that count besides.

    Raises:
        ValueError: shapes, options, a prediction that is not finite.

    Sources: Eigen, Puhrsch, Fergus (2014); Garg et al. (2016) for the crop; median scaling: Zhou et al.
    (2017).
    """
    low, high = _bounds(depth_range, "depth_range") or KITTI_RANGE
    target, known = _truth(truth, valid)
    use = known & (target > low) & (target < high) & crop_mask(target.shape, crop)
    if not use.any():
        nan = float("nan")
        return KittiErrors(nan, nan, nan, nan, nan, nan, nan, nan, 0)
    depth = resize_depth(as_map(prediction, "prediction"), target.shape, "bilinear")
    d, t = _finite(depth[use]), target[use]
    d, scale = align(d, t, alignment)
    d = np.clip(d, low, high)
    ratio = np.maximum(d / t, t / d)
    logs = np.log(d) - np.log(t)
    within = [float(np.mean(ratio < 1.25**power)) for power in (1, 2, 3)]
    return KittiErrors(
        abs_rel=float(np.mean(abs(d - t) / t)),
        sq_rel=float(np.mean((d - t) ** 2 / t)),
        rmse=float(np.mean((d - t) ** 2) ** 0.5),
        rmse_log=float(np.mean(logs**2) ** 0.5),
        a1=within[0],
        a2=within[1],
        a3=within[2],
        scale=scale,
        pixels=len(t),
    )


_Errors = TypeVar("_Errors", BenchmarkErrors, KittiErrors)


def mean_errors(errors: Sequence[_Errors]) -> _Errors:
    """Mean over images of each number, and the sum of the pixels. Images without a pixel are left out; of the
    density only those without truth, so that an image in which nothing was predicted lowers it.

    Raises ValueError without any image.
    """
    if not errors:
        raise ValueError("errors must hold at least one image")
    kind = type(errors[0])
    values: dict[str, Any] = {}
    for field in fields(kind):
        column = [
            getattr(each, field.name)
            for each in errors
            if each.pixels > 0
            or (field.name == "density" and not np.isnan(getattr(each, field.name)))
        ]
        if field.name == "pixels":
            values["pixels"] = sum(column)
        else:
            values[field.name] = float(np.mean(column)) if column else float("nan")
    return kind(**values)


def align(depth: Array, truth: Array, alignment: str | None) -> tuple[Array, float]:
    """Depths (N,) fitted to the truth (N,), and the factor; see `benchmark_errors`."""
    if alignment is None:
        return depth, 1.0
    known_name("alignment", alignment, ALIGNMENTS)
    if alignment == "median":
        middle = float(np.median(depth))
        scale = float(np.median(truth)) / middle if middle else 0.0
        return (depth * scale, scale) if np.isfinite(scale) and scale > 0 else (depth, float("nan"))
    if alignment == "least_squares":
        power = float(depth @ depth)
        return (depth * (depth @ truth / power), float(depth @ truth / power)) if power else (
            depth, float("nan"),
        )  # fmt: skip
    inverse = alignment == "least_squares_inverse"
    if inverse and (depth <= 0).any():
        raise ValueError("prediction must be positive for alignment 'least_squares_inverse'")
    x, y = (1 / depth, 1 / truth) if inverse else (depth, truth)
    solution = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)[0]
    fitted = x * solution[0] + solution[1]
    if inverse:  # beyond infinity is as far as it gets: clipping brings it back
        fitted = np.where(fitted > 0, 1 / np.where(fitted > 0, fitted, 1), np.finfo(np.float64).max)
    return fitted, float(solution[0])


def crop_mask(size: tuple[int, ...], crop: str | None) -> Mask:
    """(H, W) bool: the part of a KITTI image that counts; everything for None."""
    mask = np.ones(size, bool)
    if crop is None:
        return mask
    known_name("crop", crop, CROPS)
    height, width = size
    top, bottom, left, right = CROPS[crop]
    mask[:] = False
    rows = slice(int(top * height), int(bottom * height))
    mask[rows, int(left * width) : int(right * width)] = True
    return mask


def resize_depth(depth: Array, size: tuple[int, ...], how: str) -> Array:
    """A map (h, w) read at the pixels of a map of another size: "nearest" or "bilinear".

    Pixel centres lie at half integers in both (torch's align_corners=False); beyond the outermost
    centres the outermost pixels go on.
    """
    known_name("way to resize", how, ("nearest", "bilinear"))
    if depth.shape == tuple(size):
        return depth
    (rows, row_part), (columns, column_part) = (
        _taps(have, want) for have, want in zip(depth.shape, size, strict=True)
    )
    if how == "nearest":
        y, x = rows + (row_part >= 0.5), columns + (column_part >= 0.5)
        return depth[np.minimum(y, depth.shape[0] - 1)][:, np.minimum(x, depth.shape[1] - 1)]
    below, beside = (
        np.minimum(rows + 1, depth.shape[0] - 1),
        np.minimum(columns + 1, depth.shape[1] - 1),
    )
    lines = depth[rows] * (1 - row_part)[:, None] + depth[below] * row_part[:, None]
    return np.asarray(lines[:, columns] * (1 - column_part) + lines[:, beside] * column_part)


def _taps(have: int, want: int) -> tuple[npt.NDArray[np.int64], Array]:
    """First pixel and weight of the next one, for each of `want` positions."""
    place = np.clip((np.arange(want) + 0.5) * have / want - 0.5, 0, have - 1)
    first = np.floor(place).astype(np.int64)
    return first, place - first


def as_map(x: Any, name: str) -> Array:
    """A map (h, w) in float64 from an array or tensor on any device, leading dimensions of 1 dropped."""
    if _arrays.is_torch(x):
        x = x.detach().cpu()
    data = _arrays.as_array(x, name, finite=False).data
    if data.ndim > 2 and set(data.shape[:-2]) == {1}:
        data = data.reshape(data.shape[-2:])
    if data.ndim != 2 or 0 in data.shape:
        raise ValueError(f"{name} must have shape (H, W), got {data.shape}")
    return data


def _truth(truth: Any, valid: Any) -> tuple[Array, Mask]:
    target = as_map(truth, "truth")
    known = np.isfinite(target) & (target > 0)
    if valid is not None:
        mask = as_map(valid, "valid") > 0
        if mask.shape != target.shape:
            raise ValueError(f"valid must have the shape {target.shape} of truth, got {mask.shape}")
        known &= mask
    return target, known


def _finite(depth: Array) -> Array:
    if not np.isfinite(depth).all():
        raise ValueError("prediction holds NaN or infinite values where the truth is known")
    return depth


def _bounds(bounds: tuple[float, float] | None, name: str) -> tuple[float, float] | None:
    if bounds is None:
        return None
    low, high = (number(name, value, positive=True) for value in bounds)
    if low >= high:
        raise ValueError(f"{name} must rise, got {bounds}")
    return low, high
