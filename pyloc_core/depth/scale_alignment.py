# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The scale between the depths of a structure-from-motion model and those of a depth network.

Method of SfM-TTR (Izquierdo and Civera, CVPR 2023; thesis, section 8.1.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _checks

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

THRESHOLD = 0.5  # tau, thesis, section 8.2.1
ESTIMATORS = ("weighted_least_squares", "least_squares", "mean_of_medians")
_UNSURE = (
    4  # neighbours of an interval's end: the ends are right to one or two units in the last place
)
SUPERVISION = ("relaxed", "consensus", "all")


@dataclass(frozen=True, eq=False)
class ScaleAlignment:
    """A scale with which SfM depths become network depths, and what agrees with it.

    Attributes:
        success: a scale was found; otherwise `scale` is 1 and nobody is an inlier.
        scale: network depth = scale * SfM depth.
        consensus: (N,) bool, the points that the scale was estimated from.
        inliers: (N,) bool, the points to refine a network with.
        best_sample: index of the point whose ratio won, the first of equals; -1 without samples.
        samples: (M,) int64, the points whose ratios were tried, in order.
        counts: (M,) int64, how many points agree with the ratio of each sample.
        reason: why there is no scale, empty on success.
    """

    success: bool
    scale: float
    consensus: Any
    inliers: Any
    best_sample: int
    samples: Any
    counts: Any
    reason: str = ""


def align_scale(
    sfm_depths: Any,
    network_depths: Any,
    *,
    threshold: float = THRESHOLD,
    trials: int | None = None,
    seed: int = 0,
    estimator: str = "weighted_least_squares",
    supervision: str = "relaxed",
    image_index: Any = None,
    min_consensus: int = 3,
) -> ScaleAlignment:
    """The scale s of `network_depths = s * sfm_depths`, robust to outliers and errors that grow with depth.

    A point's ratio y / t is a sample of s. Point (t, y) agrees with s where `(s t - y)^2 / (s t) < threshold`
    (Eq. 8.5; strictly, as in the published program, where the thesis writes <=). The first sample
    with the most agreeing points gives the consensus, from which s follows by least squares with weights
    1 / y^2 (Eqs. 8.6 and 8.7), in closed form `sum(t / y) / sum((t / y)^2)`. The network is then refined
    with all points where `|s t - y| / (s t) < threshold`, which are more: depths that are wrong are to be
    corrected. `threshold` is a length, in units of the network's depth, in the first test and a ratio in the
    second; the published value 0.5 stands for metres and for 50 per cent.

    Every point is tried as a sample by default: a point agrees with the s of an interval, and one sweep over
    the ends of all intervals gives the count of every sample in O(N log N).

    Args:
        sfm_depths: (N,), positive, of the points of all images together, in any unit. NumPy or torch (CPU).
        network_depths: (N,), positive, the network's depths of the same points.
        threshold: tau.
        trials: None for every sample, or the number of samples to draw, with replacement (published: 20).
        seed: of the drawing.
        estimator: "weighted_least_squares", "least_squares" (equal weights), or "mean_of_medians" of the
            ratios of each image (Luo et al., SIGGRAPH 2020), which tries no samples: its consensus are the
            points that agree with the scale.
        supervision: what `inliers` are: "relaxed" as above, the "consensus", or "all" points.
        image_index: (N,) integers, the image of each point; only for "mean_of_medians", None for one image.
        min_consensus: success takes at least so many agreeing points.

    Returns:
        ScaleAlignment with arrays of the kind of the depths. `success` is False for no points, or fewer
        than `min_consensus` that agree.

    Raises:
        ValueError: depths that are not positive and finite or not of one length; unknown options.
        TypeError: arguments of another type.
    """
    sfm = _depths(sfm_depths, "sfm_depths")
    network = _depths(network_depths, "network_depths")
    _arrays.check_equal_length(len(sfm.data), "sfm_depths", len(network.data), "network_depths")
    _checks.known_name("estimator", estimator, ESTIMATORS)
    _checks.known_name("supervision", supervision, SUPERVISION)
    tau = _checks.number("threshold", threshold, positive=True)
    least = _checks.integer("min_consensus", min_consensus, 1)
    samples = _samples(len(sfm.data), trials, seed)
    images = _images(image_index, len(sfm.data), estimator)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        found = _align(
            sfm.data, network.data, samples, tau, (estimator, supervision, images, least)
        )
    wrapped = {
        name: _arrays.like(getattr(found, name), sfm, network)
        for name in ("consensus", "inliers", "samples", "counts")
    }
    return ScaleAlignment(
        found.success, found.scale, best_sample=found.best_sample, reason=found.reason, **wrapped
    )


def _align(
    t: Array, y: Array, samples: Integers, tau: float, how: tuple[str, str, Integers | None, int]
) -> ScaleAlignment:
    """The same on checked arrays; `how` is estimator, supervision, images, min_consensus."""
    estimator, supervision, images, least = how
    if estimator == "mean_of_medians":
        samples = samples[:0]
    best, counts, scale = -1, np.zeros(0, np.int64), float("nan")
    consensus = np.zeros(len(t), bool)
    if len(samples):
        counts = agreement_counts(t, y, y[samples] / t[samples], tau)
        best = int(samples[np.argmax(counts)])  # argmax takes the first of equals
        consensus = agrees(t, y, y[best] / t[best], tau)
    elif len(t):
        scale = _mean_of_medians(t, y, images)
        consensus = agrees(t, y, scale, tau)
    agreeing = int(consensus.sum())
    if estimator != "mean_of_medians" and agreeing:
        scale = _least_squares(t[consensus], y[consensus], estimator == "weighted_least_squares")
    if agreeing < least or not (np.isfinite(scale) and scale > 0):
        reason = f"{agreeing} of {len(t)} points agree on a scale, {least} are needed"
        nobody = np.zeros(len(t), bool)
        return ScaleAlignment(False, 1.0, nobody, nobody.copy(), best, samples, counts, reason)
    inliers = {
        "relaxed": np.abs(scale * t - y) / (scale * t) < tau,
        "consensus": consensus.copy(),
        "all": np.ones(len(t), bool),
    }[supervision]
    return ScaleAlignment(True, float(scale), consensus, inliers, best, samples, counts)


def agrees(t: Array, y: Array, scale: Any, tau: float) -> Mask:
    """Which points agree with a scale: Eq. 8.5."""
    aligned = scale * t
    return np.asarray((aligned - y) ** 2 / aligned < tau)


def agreement_counts(t: Array, y: Array, scales: Array, tau: float) -> Integers:
    """How many points agree with each scale (M,): the numbers that `agrees` counts, in O((N + M) log M).

    With a = s t the condition a^2 - (2 y + tau) a + y^2 < 0 holds between the roots of the left side, hence
    for s in an open interval. Its ends are found among the sorted scales. The scales next to an end, where
    rounding decides, are tested themselves, so that the counts are those of the test.
    """
    ordered, inverse = np.unique(scales, return_inverse=True)
    upper = 0.5 * ((2 * y + tau) + np.sqrt(tau * (4 * y + tau)))
    first = np.searchsorted(ordered, y / upper * (y / t), side="right")
    stop = np.maximum(np.searchsorted(ordered, upper / t, side="left"), first)
    sure = first + _UNSURE
    last = np.maximum(stop - _UNSURE, sure)  # the scales from `sure` to `last` are inside, if any
    size = len(ordered)
    change = np.bincount(np.minimum(sure, size), minlength=size + 1)
    change -= np.bincount(np.minimum(last, size), minlength=size + 1)
    counts = np.cumsum(change)[:size]
    for begin, end in ((first - _UNSURE, sure), (last, stop + _UNSURE)):
        for step in range(2 * _UNSURE):
            at = begin + step
            inside = (at >= 0) & (at < np.minimum(end, size))
            inside[inside] = agrees(t[inside], y[inside], ordered[at[inside]], tau)
            counts += np.bincount(at[inside], minlength=size)
    return counts[inverse.reshape(-1)]


def _least_squares(t: Array, y: Array, weighted: bool) -> float:
    """Eq. 8.6 with the weights of Eq. 8.7, or with equal ones."""
    if not weighted:
        return float((t * y).sum() / (t * t).sum())
    ratio = t / y
    return float(ratio.sum() / (ratio * ratio).sum())


def _mean_of_medians(t: Array, y: Array, images: Integers | None) -> float:
    ratio = y / t
    if images is None:
        return float(np.median(ratio))
    order = np.argsort(images, kind="stable")
    borders = np.flatnonzero(np.diff(images[order])) + 1
    return float(np.mean([np.median(part) for part in np.split(ratio[order], borders)]))


def _depths(x: Any, name: str) -> _arrays.ArrayIn:
    depths = _arrays.as_array(x, name, shape=("N",))
    if not (depths.data > 0).all():
        raise ValueError(f"{name} must be positive, the least is {depths.data.min()}")
    return depths


def _samples(count: int, trials: int | None, seed: int) -> Integers:
    """Indices of the points to try as samples, in order."""
    if trials is None:
        return np.arange(count)
    drawn = _checks.integer("trials", trials, 1) if count else 0
    # Philox is counter-based: the first k of many trials are the k of few.
    generator = np.random.Generator(np.random.Philox(key=_checks.integer("seed", seed, 0)))
    return generator.integers(0, max(count, 1), drawn)


def _images(index: Any, count: int, estimator: str) -> Integers | None:
    if index is None:
        return None
    if estimator != "mean_of_medians":
        raise ValueError(f"image_index is for the estimator 'mean_of_medians', not {estimator!r}")
    images = np.asarray(index)
    if images.shape != (count,) or (count and images.dtype.kind not in "iu"):
        raise ValueError(
            f"image_index must be ({count},) integers, got {images.dtype} {images.shape}"
        )
    return images.astype(np.int64)
