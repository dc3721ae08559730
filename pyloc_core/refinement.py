# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From the outcome of a least-squares pose refinement, native or reference, to a PoseEstimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays
from pyloc_core.pose import PoseEstimate

# Twin of pyloc::LevenbergStop.
_CONVERGED, _MAX_ITERATIONS, _NO_DECREASE, _NOT_FINITE, _ABORTED = range(5)
_REASONS = {
    _CONVERGED: "converged",
    _MAX_ITERATIONS: "reached max_iterations",
    _NO_DECREASE: "converged: no step lowers the cost",
}


@dataclass
class Refinement:
    """Where a refinement ended; the arrays are written by the native code."""

    cam_from_world: npt.NDArray[np.float64]  # (3, 4)
    covariance: npt.NDArray[np.float64]  # (6, 6), infinite unless observed
    inlier_probability: npt.NDArray[np.float64]  # (N,)
    stop: int = _ABORTED
    observed: bool = False
    cost: float = 0.0
    gain: float = 0.0
    num_usable: int = 0
    num_consistent: int = 0
    iterations: int = 0

    @classmethod
    def allocate(cls, start: npt.NDArray[np.float64], count: int) -> Refinement:
        return cls(np.array(start, order="C"), np.full((6, 6), np.inf), np.zeros(count))

    def fill(self, status: tuple[Any, ...]) -> None:
        """The tuple of csrc/bindings/refined_pose.h."""
        (
            self.stop, self.observed, self.cost, self.gain, self.num_usable, self.num_consistent,
            self.iterations,
        ) = status  # fmt: skip

    @property
    def aborted(self) -> bool:
        """The native code met data it cannot use."""
        return self.stop == _ABORTED

    @classmethod
    def from_reference(cls, refined: Any, weights: npt.NDArray[np.float64]) -> Refinement:
        minimum = refined.minimum
        inlier = refined.inlier_probability.numpy()
        usable = minimum.used.numpy() & (weights > 0)
        observed = refined.covariance is not None
        return cls(
            cam_from_world=minimum.cam_from_world.numpy(),
            covariance=refined.covariance.numpy() if observed else np.full((6, 6), np.inf),
            inlier_probability=inlier,
            stop=_CONVERGED if minimum.converged else _MAX_ITERATIONS,
            observed=observed,
            cost=minimum.cost,
            gain=float(inlier[weights > 0].sum()),
            num_usable=int(usable.sum()),
            num_consistent=int((usable & (inlier >= 0.5)).sum()),
            iterations=minimum.iterations,
        )


def as_weights(weights: Any, count: int) -> npt.NDArray[np.float64] | None:
    """(N,) finite factors that are not negative."""
    if weights is None:
        return None
    values = _arrays.as_array(weights, "weights", shape=("N",)).data
    _arrays.check_equal_length(len(values), "weights", count, "points3d")
    if (values < 0).any():
        raise ValueError(f"weights must not be negative, got {values.min()}")
    return values


def estimate_from(
    found: Refinement, start: npt.NDArray[np.float64], seconds: float
) -> PoseEstimate:
    """A refinement succeeds when at least 3 points take part and determine all of the pose."""
    reason = _failure(found)
    timings = {"refine": seconds}
    if reason is not None:
        return PoseEstimate.failed(
            reason,
            len(found.inlier_probability),
            cam_from_world=start,
            cost=found.cost if np.isfinite(found.cost) else 0.0,
            timings=timings,
            num_usable=found.num_usable,
            num_consistent=found.num_consistent,
        )
    return PoseEstimate(
        cam_from_world=found.cam_from_world,
        success=True,
        reason=_REASONS[found.stop],
        cost=found.cost,
        gain=found.gain,
        inlier_probability=found.inlier_probability,
        covariance=found.covariance,
        iterations=found.iterations,
        timings=timings,
        num_usable=found.num_usable,
        num_consistent=found.num_consistent,
    )


def _failure(found: Refinement) -> str | None:
    if found.stop == _NOT_FINITE or not np.isfinite(found.cam_from_world).all():
        return "the cost is not finite: coordinates are too large"
    if found.num_usable < 3:
        return f"only {found.num_usable} points take part in the pose, 3 are needed"
    if not found.observed:
        return (
            "the points leave a direction of the pose undetermined (collinear or duplicate points)"
        )
    return None
