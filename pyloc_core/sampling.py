# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the consensus operators share: arguments in, the outcome as a PoseEstimate out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.pose import PoseEstimate, as_cam_from_world

MAX_ITERATIONS = 100_000_000


def starting_poses(initial: Any) -> npt.NDArray[np.float64]:
    """(K, 3, 4) of None, one pose or several. Raises ValueError for what is not a pose."""
    if initial is None:
        return np.empty((0, 3, 4))
    single = callable(getattr(initial, "matrix", None)) or np.ndim(initial) < 3
    poses = [initial] if single else list(initial)
    cleaned = [as_cam_from_world(pose, "initial") for pose in poses]
    return np.ascontiguousarray(np.stack(cleaned)) if cleaned else np.empty((0, 3, 4))


def batch_starting_poses(initial: Any, problems: int) -> npt.NDArray[np.float64]:
    """(B, K, 3, 4) of None, one pose for each of B problems, or K for each."""
    if initial is None:
        return np.empty((problems, 0, 3, 4))
    each = [starting_poses(poses) for poses in initial]
    if len(each) != problems or len({len(poses) for poses in each}) > 1:
        raise ValueError(
            f"initial must hold one pose, or equally many, for each of {problems} problems, got "
            f"{[len(poses) for poses in each]}"
        )
    return np.stack(each) if each else np.empty((0, 0, 3, 4))


def sampling_options(
    iterations: int | None, confidence: float, seed: int
) -> tuple[int, float, int]:
    """Checked; iterations 0 stands for the adaptive stop."""
    if iterations is not None:
        if isinstance(iterations, bool) or not isinstance(iterations, (int, np.integer)):
            raise TypeError(f"iterations must be an int or None, got {iterations!r}")
        if not 1 <= iterations <= MAX_ITERATIONS:
            raise ValueError(f"iterations must be between 1 and {MAX_ITERATIONS}, got {iterations}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an int, got {seed!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be between 0 and 2**64 - 1, got {seed}")
    return int(iterations or 0), float(confidence), int(seed)


def reason_messages(what: str) -> tuple[str, ...]:
    """Why a consensus loop ended, by status; `what` voted ("usable maps", "matches")."""
    return (
        f"converged: {{num_consistent}} of {{num_usable}} {what} agree after {{iterations}} triplets",
        f"too few {what}: {{num_usable}}, at least 4 are needed",
        "no pose: all {iterations} triplets were degenerate",
        f"only {{num_consistent}} of {{num_usable}} {what} agree with the best pose, which could be "
        "chance",
        f"the {{num_consistent}} {what} that agree do not fix the pose",
    )


def estimate_from(
    found: dict[str, Any],
    what: str,
    stages: tuple[str, ...],
    probability: npt.NDArray[np.float64],
    covariance: npt.NDArray[np.float64],
    starts: npt.NDArray[np.float64],
) -> PoseEstimate:
    """From the native or reference outcome `found`; `what` voted."""
    status = found["status"]
    timings = dict(zip(stages, found["seconds"]))
    usable, consistent = int(found["num_usable"]), int(found["num_consistent"])
    iterations = int(found["iterations"])
    reason = reason_messages(what)[status].format(
        num_usable=usable, num_consistent=consistent, iterations=iterations
    )
    if status in (1, 2):
        return PoseEstimate.failed(
            reason,
            len(probability),
            cam_from_world=starts[0].copy() if len(starts) else None,
            cost=found["cost"],
            timings=timings,
            num_usable=usable,
            iterations=iterations,
        )
    return PoseEstimate(
        cam_from_world=np.array(found["cam_from_world"]).reshape(3, 4),
        success=status == 0,
        reason=reason,
        cost=found["cost"],
        gain=found["gain"],
        inlier_probability=probability,
        covariance=covariance if status == 0 else np.full((6, 6), np.inf),
        iterations=iterations,
        timings=timings,
        num_usable=usable,
        num_consistent=consistent,
    )
