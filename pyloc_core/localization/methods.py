# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Ways from the same descriptors of the same points to a pose, to compare with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.camera import Camera
from pyloc_core.localization.features import Features
from pyloc_core.localization.localizer import Localizer
from pyloc_core.localization.reference_patches import Patches
from pyloc_core.localization.result import Localization
from pyloc_core.localization.selection import best_of
from pyloc_core.maps import LossMaps
from pyloc_core.ops.estimate_pose_from_matches import estimate_pose_from_matches
from pyloc_core.ops.match import match
from pyloc_core.ops.refine_pose_featuremetric import refine_pose_featuremetric
from pyloc_core.ops.refine_pose_reprojection import refine_pose_reprojection
from pyloc_core.pose import PoseEstimate

Array = npt.NDArray[np.float64]
# Inlier threshold of the estimators on matches, in cells of the map the matches come from.
THRESHOLD_CELLS = 1.5


@dataclass(frozen=True)
class Comparison:
    """One photo, localized; the other methods start from its points, descriptors and coarse pose."""

    localizer: Localizer
    found: Localization
    pixels: npt.NDArray[Any]
    camera: Camera
    levels: list[Features]
    seed: int
    num_threads: int | None

    @property
    def xyz(self) -> Array:
        return self.found.xyz

    @cached_property
    def patches(self) -> Patches:
        """The fine descriptors of the first fine round: those of the coarse pose."""
        coarse = np.asarray(self.found.coarse.cam_from_world)
        describe = self.localizer._fine.describe
        return describe(self.found.point_indices, self.camera, coarse)

    @cached_property
    def coarse_peaks(self) -> tuple[Array, npt.NDArray[np.int64]]:
        """Image points (n, 2) of the coarse maps' best cells, and their points (n,)."""
        if self.found.coarse_maps is None:
            return np.zeros((0, 2)), np.zeros(0, np.int64)
        peaks = self.found.coarse_maps.argmin()
        rows = np.flatnonzero(np.asarray(peaks.gain) > 0)
        level = self.levels[0]
        xy = level.pixels(np.asarray(peaks.xy)[rows])
        return np.asarray(xy), rows

    @cached_property
    def fine_peaks(self) -> tuple[Array, npt.NDArray[np.int64]]:
        """Sub-cell peaks of the fine correlation over the whole image, best view of each point."""
        level, patches = self.levels[-1], self.patches
        found = match(
            patches.descriptors, level.values, temperature=1 / float(self.localizer.descriptor.beta[-1]),
            subcell="quadratic", num_threads=self.num_threads,
        )  # fmt: skip
        score = np.asarray(found.log_probability, np.float64)
        best = best_of(patches.owner, score, len(self.xyz))
        rows = np.flatnonzero(best >= 0)
        xy = level.pixels(np.asarray(found.xy)[best[rows]])
        return np.asarray(xy), rows


def argmax_poselib(problem: Comparison) -> PoseEstimate:
    """PoseLib on the best cells of the coarse maps."""
    return _poselib(problem, *problem.coarse_peaks, problem.levels[0].stride)


def argmax_subcell_poselib(problem: Comparison) -> PoseEstimate:
    """PoseLib on sub-cell peaks of the fine descriptors over the whole image."""
    return _poselib(problem, *problem.fine_peaks, problem.levels[-1].stride)


def argmax_window_poselib(problem: Comparison) -> PoseEstimate:
    """PoseLib on sub-cell peaks in the windows that the coarse pose gave to NRE."""
    maps = problem.localizer.fine_maps(
        problem.found, problem.levels, problem.camera,
        np.asarray(problem.found.coarse.cam_from_world), problem.num_threads,
    )  # fmt: skip
    peaks = maps.argmin()
    rows = np.flatnonzero(np.asarray(peaks.gain) > 0)
    cell = np.asarray(peaks.xy)[rows].astype(float)
    level = problem.levels[-1]
    xy = level.pixels(cell + _quadratic(maps[rows], cell))
    return _poselib(problem, np.asarray(xy), rows, level.stride)


def reprojection(problem: Comparison) -> PoseEstimate:
    """RE: the same sub-cell matches, own consensus, Cauchy refinement of the reprojection error."""
    xy, rows = problem.fine_peaks
    xyz, threshold = problem.xyz[rows], THRESHOLD_CELLS * problem.levels[-1].stride
    first = estimate_pose_from_matches(
        xy, xyz, problem.camera, max_error=threshold, seed=problem.seed,
        num_threads=problem.num_threads,
    )  # fmt: skip
    if not first.success:
        return first
    return refine_pose_reprojection(
        xy, xyz, problem.camera, first.cam_from_world, scale=0.5 * problem.levels[-1].stride,
        num_threads=problem.num_threads,
    )  # fmt: skip


def featuremetric(problem: Comparison) -> PoseEstimate:
    """FPR: featuremetric refinement from the coarse pose on the fine descriptors."""
    patches, level = problem.patches, problem.levels[-1]
    return refine_pose_featuremetric(
        patches.descriptors, level.values, problem.xyz[patches.owner], level.camera(problem.camera),
        problem.found.coarse.cam_from_world, num_threads=problem.num_threads,
    )  # fmt: skip


BASELINES: dict[str, Callable[[Comparison], PoseEstimate]] = {
    "argmax_poselib": argmax_poselib,
    "argmax_subcell_poselib": argmax_subcell_poselib,
    "argmax_window_poselib": argmax_window_poselib,
    "re": reprojection,
    "fpr": featuremetric,
}


def timed(method: str, problem: Comparison) -> tuple[PoseEstimate, float]:
    """A baseline's pose and the seconds it took after the shared description and coarse stage."""
    start = time.perf_counter()
    estimate = BASELINES[method](problem)
    return estimate, time.perf_counter() - start


def _poselib(
    problem: Comparison, xy: Array, rows: npt.NDArray[np.int64], stride: float
) -> PoseEstimate:
    poselib = require("poselib", "the PoseLib baseline")
    if len(rows) < 4:
        return PoseEstimate.failed("fewer than 4 matches", len(rows))
    options = {
        "max_reproj_error": THRESHOLD_CELLS * stride, "seed": problem.seed, "min_iterations": 1000,
    }  # fmt: skip
    pose, info = poselib.estimate_absolute_pose(
        xy, problem.xyz[rows], problem.camera.to_dict(), options, {}
    )
    inliers = np.asarray(info["inliers"], bool)
    if not np.isfinite(pose.Rt).all() or inliers.sum() < 4:
        return PoseEstimate.failed("PoseLib found fewer than 4 inliers", len(rows))
    return PoseEstimate(
        cam_from_world=np.asarray(pose.Rt), success=True, reason="PoseLib", cost=0.0,
        gain=float(inliers.sum()), inlier_probability=inliers.astype(np.float64),
        covariance=np.full((6, 6), np.inf), iterations=int(info["iterations"]),
        num_consistent=int(inliers.sum()),
    )  # fmt: skip


def _quadratic(maps: LossMaps, cell: Array) -> Array:
    """Offset (n, 2) within half a cell to the peak of a parabola through the gains around each cell."""
    moves = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], float)
    loss = np.asarray(maps.evaluate(cell[None] + moves[:, None]))
    middle, low, high = loss[0], loss[[1, 3]], loss[[2, 4]]
    bend = low - 2 * middle + high
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = np.where(bend > 1e-9, 0.5 * (low - high) / bend, 0.0)
    return np.clip(offset, -0.5, 0.5).T
