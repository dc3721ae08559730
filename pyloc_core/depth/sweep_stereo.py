# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth of one view from its neighbours without weights: plane sweep, semi-global smoothing, cascade.

Two sweeps over planes of constant inverse depth: a coarse one over the whole range at half the size,
one over a few planes around its answer, per pixel, at full size. In each the score of a plane is the
mean correlation of the best views (Kang, Szeliski and Chai, CVPR 2001: a part of the views does not see
what others hide), smoothed by semi-global matching, its peak placed between planes by a parabola.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import pyloc_core
from pyloc_core._extras import require
from pyloc_core.depth.patch_descriptors import grey_picture, patch_descriptors
from pyloc_core.depth.posed_images import PosedImage, poses_from
from pyloc_core.depth.semi_global import aggregate
from pyloc_core.geometry import Size, scale_intrinsics

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

# Planes swept at once, so that the scores of all views fit in memory: about 64 MB of them.
_SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class SweepStereo:
    """Estimator of depth, called with a view, its sources and the range of depths.

    Attributes:
        coarse_scale: size of the first sweep's maps relative to the image.
        planes: of the first sweep; None for one per pixel that a point moves in the source where it moves
            most typically, within `plane_limits`.
        fine_planes: of the second sweep, half a coarse step apart; 0 for no second sweep.
        best_views: a plane's score is the mean over so many views, the best ones.
        radius: of the patches, in pixels.
        step, jump: penalties of the semi-global smoothing, in units of correlation.
    """

    coarse_scale: float = 0.5
    planes: int | None = None
    plane_limits: tuple[int, int] = (64, 256)
    fine_planes: int = 9
    best_views: int = 3
    radius: int = 2
    step: float = 0.1
    jump: float = 1.2
    num_threads: int | None = None

    def __call__(
        self, reference: PosedImage, sources: Sequence[PosedImage], near: float, far: float
    ) -> tuple[Float32, Float32]:
        """Depth (H, W), 0 where no source sees the pixel, and confidence (H, W): the mean correlation of
        the best views at that depth, 0 to 1."""
        if not sources:
            raise ValueError(f"{reference.name}: no sources to sweep against")
        if not 0 < near < far < np.inf:
            raise ValueError(f"need 0 < near < far, got {near} and {far}")
        problem = _Problem.of(reference, sources, self.coarse_scale, self)
        count = self.planes or self._plane_count(problem, near, far)
        inverse = np.linspace(1 / near, 1 / far, count)
        index, score, seen = problem.solve((1 / inverse).astype(np.float32))
        spacing = (inverse[-1] - inverse[0]) / (count - 1)
        found = (inverse[0] + spacing * index).astype(np.float32)
        if self.fine_planes == 0:
            return _enlarged(found, seen, score, reference.size)
        middle = _upsampled(found, reference.size, abs(spacing))
        seen_there = _nearest(seen.astype(np.uint8), reference.size) > 0
        fine = _Problem.of(reference, sources, 1.0, self)
        offsets = (np.arange(self.fine_planes) - (self.fine_planes - 1) / 2) * spacing / 2
        least = np.float32(1 / far / 2)
        planes = np.maximum(middle + offsets[:, None, None].astype(np.float32), least)
        index, score, seen = fine.solve(1 / planes)
        shift = (index - (self.fine_planes - 1) / 2) * (spacing / 2)
        depth = 1 / np.maximum(middle + shift.astype(np.float32), least)
        seen &= seen_there
        return np.where(seen, depth, 0).astype(np.float32), np.where(seen, score, 0)

    def _plane_count(self, problem: _Problem, near: float, far: float) -> int:
        moved = problem.movement(near, far)
        return int(np.clip(np.ceil(moved) + 1, *self.plane_limits))


@dataclass(frozen=True)
class _Problem:
    """One view and its sources as maps: what a sweep takes."""

    features: Float32  # (C, H, W)
    sources: list[Float32]  # V of (C, Hs, Ws), of different sizes
    K: Array
    K_sources: list[Array]
    source_from_reference: list[Array]
    guide: Float32  # (H, W)
    options: SweepStereo

    @classmethod
    def of(
        cls,
        reference: PosedImage,
        sources: Sequence[PosedImage],
        scale: float,
        options: SweepStereo,
    ) -> _Problem:
        size = _scaled(reference.size, scale)
        guide = grey_picture(reference.image, size)
        maps, matrices = [], []
        for source in sources:
            own = _scaled(source.size, scale)
            maps.append(_described(source, own, options.radius))
            matrices.append(np.asarray(scale_intrinsics(source.camera.K, source.size, own)))
        K = np.asarray(scale_intrinsics(reference.camera.K, reference.size, size))
        features = _described(reference, size, options.radius)
        poses = list(poses_from(reference, sources))
        return cls(features, maps, K, matrices, poses, guide, options)

    def movement(self, near: float, far: float) -> float:
        """Median over the sources of the pixels that a typical point moves between near and far."""
        height, width = self.guide.shape
        y, x = np.meshgrid(np.linspace(0, height, 5), np.linspace(0, width, 5), indexing="ij")
        rays = np.linalg.inv(self.K) @ np.stack([x.ravel(), y.ravel(), np.ones(25)])
        spans = []
        for K, pose in zip(self.K_sources, self.source_from_reference):
            ends = [K @ (pose[:, :3] @ (rays * d) + pose[:, 3:]) for d in (near, far)]
            front = (ends[0][2] > 0) & (ends[1][2] > 0)
            if front.any():
                a, b = (end[:2, front] / end[2, front] for end in ends)
                spans.append(np.median(np.linalg.norm(a - b, axis=0)))
        return float(np.median(spans)) if spans else 0.0

    def solve(self, depths: Float32) -> tuple[Float32, Float32, npt.NDArray[np.bool_]]:
        """Best plane (H, W), a fraction, its score before smoothing (H, W), and where any source sees."""
        scores, seen = self.scores(depths)
        options = self.options
        smooth = aggregate(1 - scores, self.guide, step=options.step, jump=options.jump)
        best = smooth.argmin(0)
        index = best.astype(np.float32) + _parabola(smooth, best)
        score = np.take_along_axis(scores, best[None], 0)[0]
        return index, np.clip(score, 0, 1), np.asarray(seen.any(0))

    def scores(self, depths: Float32) -> tuple[Float32, npt.NDArray[np.bool_]]:
        """Mean of the best views' correlations (D, H, W), 0 where none sees the point; seen (D, H, W)."""
        height, width = self.guide.shape
        scores = np.zeros((len(depths), height, width), np.float32)
        seen = np.zeros(scores.shape, bool)
        at_once = max(1, _SCORES_AT_ONCE // (len(self.sources) * height * width))
        for start in range(0, len(depths), at_once):
            part = slice(start, start + at_once)
            views = [self._one_view(v, depths[part]) for v in range(len(self.sources))]
            scores[part], seen[part] = best_mean(views, self.options.best_views)
        return scores, seen

    def _one_view(self, v: int, depths: Float32) -> Float32:
        """Correlations (D, H, W) with one source, -2 where it does not see the point."""
        volume, mask = pyloc_core.plane_sweep(
            self.features, self.sources[v][None], self.K, self.K_sources[v][None],
            self.source_from_reference[v][None], depths, reduce="none", return_mask=True,
            num_threads=self.options.num_threads,
        )  # fmt: skip
        return np.where(mask[0], volume[0], np.float32(-2))


def best_mean(views: list[Float32], count: int) -> tuple[Float32, npt.NDArray[np.bool_]]:
    """Mean over the `count` largest of V arrays, of those that are not -2 (not seen); 0 without any."""
    best = [np.full_like(views[0], -2) for _ in range(min(count, len(views)))]
    for view in views:
        rest = view
        for k, holder in enumerate(best):  # insertion into a short sorted list, all pixels at once
            best[k], rest = np.maximum(holder, rest), np.minimum(holder, rest)
    total, number = np.zeros_like(best[0]), np.zeros_like(best[0])
    for holder in best:
        there = holder > -2
        total += np.where(there, holder, 0)
        number += there
    return np.asarray(total / np.maximum(number, 1), np.float32), number > 0


def _scaled(size: Size, scale: float) -> Size:
    return max(8, round(size[0] * scale)), max(8, round(size[1] * scale))


def _described(view: PosedImage, size: Size, radius: int) -> Float32:
    features = patch_descriptors(grey_picture(view.image, size), radius)
    if view.seen is not None:
        features *= _nearest(view.seen.astype(np.uint8), size)
    return features


def _parabola(cost: Float32, best: npt.NDArray[np.intp]) -> Float32:
    """Fraction of a plane (H, W) from the best plane to the lowest point of the parabola through it and
    its neighbours; 0 at the ends of the range."""
    last = len(cost) - 1
    inner = np.clip(best, 1, max(last - 1, 1))[None]
    if last < 2:
        return np.zeros(best.shape, np.float32)
    left, middle, right = (np.take_along_axis(cost, inner + k, 0)[0] for k in (-1, 0, 1))
    bend = left - 2 * middle + right
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(bend > 1e-9, (left - right) / (2 * bend), 0)
    return np.where(inner[0] == best, np.clip(shift, -0.5, 0.5), 0).astype(np.float32)


def _nearest(values: npt.NDArray[Any], size: Size) -> npt.NDArray[Any]:
    cv2 = require("cv2", "resizing maps")
    return np.asarray(cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT))


def _upsampled(inverse: Float32, size: Size, spacing: float) -> Float32:
    """Inverse depths at another size: bilinear on surfaces, nearest where that would mix two of them."""
    cv2 = require("cv2", "resizing maps")
    blend = cv2.resize(inverse, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    near = _nearest(inverse, size)
    return np.where(np.abs(blend - near) <= spacing, blend, near).astype(np.float32)


def _enlarged(
    inverse: Float32, seen: npt.NDArray[np.bool_], score: Float32, size: Size
) -> tuple[Float32, Float32]:
    there = _nearest(seen.astype(np.uint8), size) > 0
    depth = 1 / _upsampled(inverse, size, 0.0)
    return np.where(there, depth, 0).astype(np.float32), np.where(there, _nearest(score, size), 0)
