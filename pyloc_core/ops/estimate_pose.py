# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Initial pose from loss maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyloc_core import _arrays, _dispatch, _native
from pyloc_core.camera import camera_native_args
from pyloc_core.maps import LossMaps
from pyloc_core.pose import PoseEstimate
from pyloc_core.sampling import estimate_from, sampling_options, starting_poses

_STAGES = ("prepare", "solve", "score", "finish")


def estimate_pose(
    maps: LossMaps,
    points3d: Any,
    camera: Any,
    *,
    iterations: int | None = None,
    confidence: float = 0.9999,
    top_fraction: float = 0.25,
    seed: int = 0,
    initial: Any = None,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> PoseEstimate:
    """Pose that explains loss maps, found without a start and without an inlier threshold.

    M-estimator sample consensus over P3P hypotheses: three maps are drawn from the most peaked ones,
    P3P on their best cells gives up to four poses (Eq. 4.8), each scored by its summed bilinear gain
    (Eq. 4.6) over the most peaked maps. The eight best are ranked once more over all usable maps, in
    float64. A map is usable when its peak gain is more than 1 nat above a flat map's. Hypotheses are
    given up early only where the peaks of the unvisited maps prove that they cannot win.

    The pose is the best hypothesis, not an optimum: pass it to `refine_pose`. Its covariance is
    therefore infinite.

    Args:
        maps: N loss maps, one per point; full maps, padded ones or windows.
        points3d: (N, 3) points in the world.
        camera: a Camera in image pixels (or what `as_camera` takes), or a (3, 3) K in map coordinates.
        iterations: triplets to draw; None stops when, with `confidence`, one triplet of maps that
            agree with the best pose has been drawn (between 128 and 20000 triplets). A map agrees
            when its bilinear gain is at least half its peak.
        confidence: in (0, 1).
        top_fraction: share of the usable maps, most peaked first, to sample and score (at least 16).
        seed: of the counter-based generator; the same seed gives the same bits on any thread count.
        initial: (3, 4), or (K, 3, 4): poses to score as hypotheses too.
        num_threads: None for the default of the process.
        implementation: "native" (default) or "reference".

    Returns:
        PoseEstimate with cam_from_world (3, 4) float64 (world to camera). `cost` and `gain` are
        Eq. 4.6 over all N maps in nats; `inlier_probability` is 1 - exp(-gain_n). `success` is False,
        with the reason, when fewer than 4 maps are usable, when every triplet is degenerate, and when
        so few maps agree that a wrong pose could have done as well (csrc/include/pyloc/consensus.h).

    Raises:
        ValueError, TypeError: arguments that do not fit, by name.

    Source: Germain et al., "Neural Reprojection Error", CVPR 2021, section 3.3 and the thesis'
    section 4.4.1; Torr and Zisserman, "MLESAC", CVIU 2000. The published program draws with weights
    and repetition; here the triplets are uniform and distinct.
    """
    if not isinstance(maps, LossMaps):
        raise TypeError(f"maps must be LossMaps, got {type(maps).__name__}")
    points = _arrays.as_array(points3d, "points3d", shape=("N", 3))
    _arrays.check_equal_length(len(maps), "maps", len(points.data), "points3d")
    intrinsics = camera_native_args(camera, maps.image_cells, maps.origin)
    maps = maps.without_origin()
    starts = starting_poses(initial)
    count, stop, seed = sampling_options(iterations, confidence, seed)
    if not 0.0 < top_fraction <= 1.0:
        raise ValueError(f"top_fraction must lie in (0, 1], got {top_fraction}")
    options = (count, stop, float(top_fraction), seed)
    threads = _arrays.thread_count(num_threads)
    gain = np.zeros(len(maps))
    if _dispatch.use_reference("estimate_pose", implementation):
        reference = _dispatch.reference_module("estimate_pose")
        found = reference.estimate_pose(maps, points.data, intrinsics, starts, options, gain)
    else:
        found = _native.estimate_pose(
            maps.native_args(),
            _arrays.pointer(points.data),
            intrinsics,
            _arrays.pointer(starts),
            len(starts),
            (*options, threads),
            _arrays.pointer(gain),
        )
    nothing_known = np.full((6, 6), np.inf)  # a hypothesis is no optimum
    estimate = estimate_from(found, "usable maps", _STAGES, -np.expm1(-gain), nothing_known, starts)
    return estimate.like(points)
