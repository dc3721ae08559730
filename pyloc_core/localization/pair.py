# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Localization of one image against another whose keypoints have 3D points: networks that look at pairs.

A `Descriptor` describes every image by itself, so that maps can be built from it. A network such as
NeurHal needs both images at once and cannot; it is a `PairMatcher`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera, as_camera
from pyloc_core.geometry import Size, check_size, map_from_image
from pyloc_core.localization.features import Descriptor, Features
from pyloc_core.localization.images import check_image
from pyloc_core.maps import LossMaps
from pyloc_core.maps_device import DeviceLossMaps
from pyloc_core.ops.estimate_pose import estimate_pose
from pyloc_core.ops.loss_maps import loss_maps
from pyloc_core.ops.refine_pose import refine_pose
from pyloc_core.pose import PoseEstimate, transform_points

Array = npt.NDArray[np.float64]
# Standard deviation of the agreeing points' projections, in cells, below which a pose is not believed.
MIN_SPREAD = 2.0


@dataclass(frozen=True)
class PairFeatures:
    """Descriptors of source keypoints and features of a target image, comparable by their dot product.

    Attributes:
        descriptors: (N, D).
        features: (D, H, W), of the target and, with a negative `origin`, of the space around it.
        origin: (x0, y0) map point of cell [0, 0].
        image_cells: (h, w) cells, from map point (0, 0) on, over `covers`.
        covers: (height, width) in pixels of the resized target that those cells cover.
        resized: (height, width) that the target was brought to.
        corner: point (x, y) of the resized target where the first of these cells begins, as in `Features`.
    """

    descriptors: Any
    features: Any
    origin: tuple[int, int]
    image_cells: Size
    covers: Size
    resized: Size
    corner: tuple[float, float] = (0.0, 0.0)

    @property
    def size(self) -> Size:
        """(H, W) in cells, padding included."""
        return int(self.features.shape[1]), int(self.features.shape[2])

    @property
    def log_uniform(self) -> float:
        """ln(H W): the NRE of a map without preference."""
        return float(np.log(self.size[0] * self.size[1]))

    @property
    def _image(self) -> Features:
        """Where the cells of the image lie: `Features` without values."""
        cells = np.broadcast_to(np.float32(0), (1, *self.image_cells))
        return Features(cells, self.covers, self.corner)

    def camera(self, camera: Camera) -> Camera:
        """The target's camera over the pixels that the image's cells cover: what pose operators take."""
        scaled = camera if camera.size == self.resized else camera.resized(self.resized)
        return self._image.camera(scaled)

    def to_map(self, xy: Any, image_size: Size) -> Array:
        """Map points (N, 2) of pixels of the target as it was given, (height, width)."""
        ratio = np.array(self.resized[::-1]) / np.array(check_size(image_size)[::-1])
        return self._image.cells(np.asarray(xy, np.float64) * ratio)

    def to_image(self, xy: Any, image_size: Size) -> Array:
        """Pixels of the target as it was given: the inverse of `to_map`."""
        ratio = np.array(self.resized[::-1]) / np.array(check_size(image_size)[::-1])
        return self._image.pixels(xy) / ratio

    def loss_maps(
        self, *, max_entries: int | None = None, num_threads: int | None = None
    ) -> LossMaps:
        """One loss map per keypoint; ln|O| counts the padded cells too."""
        maps = loss_maps(
            _detached(self.descriptors), _detached(self.features), origin=self.origin,
            image_cells=self.image_cells, max_entries=max_entries, num_threads=num_threads,
        )  # fmt: skip
        # Poses of single pairs are found on the host; the features stay where they are.
        return maps.cpu() if isinstance(maps, DeviceLossMaps) else maps


@runtime_checkable
class PairMatcher(Protocol):
    """Any object that compares keypoints of one image with every place of another."""

    def match_pair(self, source: Any, target: Any, xy: Any) -> PairFeatures:
        """Of images (H, W, 3) or (H, W), uint8, and pixels (N, 2) of the source."""


@dataclass(frozen=True)
class DescriptorMatcher:
    """A `Descriptor` as a `PairMatcher`: its coarse level, without anything outside the image.

    What NeurHal is compared with (thesis, figures 5.4 and 5.6, "S2D").
    """

    descriptor: Descriptor
    scale: float = 1.0  # see `Descriptor.describe`

    def match_pair(self, source: Any, target: Any, xy: Any) -> PairFeatures:
        """Descriptors times `beta`, so that the softmax has the sharpness that the descriptor asks for."""
        described = self.descriptor.describe(source, np.asarray(xy, np.float64), [self.scale])[0]
        level = self.descriptor.dense(target)[0]
        h = np.asarray(described, np.float32)[:, 0] * np.float32(self.descriptor.beta[0])
        size: Size = (target.shape[0], target.shape[1])
        return PairFeatures(h, level.values, (0, 0), level.size, level.covers, size, level.corner)


@dataclass(frozen=True)
class PairOptions:
    """How a pair is localized; defaults are those of NeurHal (thesis, appendix C.3.3).

    Attributes:
        iterations: bound on the triplets of P3P; None for `estimate_pose`'s own stop.
        top_fraction: share of the maps, most peaked first, that triplets are drawn from.
        sigma: of the coarse graduated non-convexity over all keypoints, first and last. There is no fine
            stage.
        max_entries: live cells kept per map.
    """

    iterations: int | None = 5000
    top_fraction: float = 0.2
    sigma: tuple[float, float] = (2.0, 0.6)
    max_entries: int | None = None


@dataclass(frozen=True)
class PairLocalization:
    """The pose of a target image, and what it was made of.

    Attributes:
        estimate: after refinement, in the frame of the 3D points; the consensus pose, with its reason,
            where refinement had nothing to start from. No success where all points project to one place.
        consensus: the pose after P3P alone.
        maps: N loss maps, one per keypoint.
        camera: over the pixels that the maps' image cells cover: what belongs to `maps`.
    """

    estimate: PoseEstimate
    consensus: PoseEstimate
    maps: LossMaps
    camera: Camera


def localize_pair(
    matcher: PairMatcher,
    source_image: Any,
    keypoints: Any,
    points3d: Any,
    target_image: Any,
    target_camera: Any,
    *,
    options: PairOptions | None = None,
    seed: int = 0,
    num_threads: int | None = None,
) -> PairLocalization:
    """Pose of a target image from keypoints of a source image with known 3D points.

    P3P on the most peaked loss maps, then graduated non-convexity over all of them.

    Args:
        matcher: what compares the images, such as `models.create("neurhal")`.
        source_image, target_image: (H, W, 3) or (H, W), uint8.
        keypoints: (N, 2) pixels of the source.
        points3d: (N, 3) their points, for example lifted by the source's depth (`DepthView.lift`).
        target_camera: `Camera` (or what `as_camera` takes) of the target image.

    Raises:
        ValueError, TypeError: images, keypoints and points that do not fit, by name.
    """
    camera = as_camera(target_camera)
    source, target = (
        check_image(image, name)
        for image, name in ((source_image, "source_image"), (target_image, "target_image"))
    )
    if target.shape[:2] != camera.size:
        raise ValueError(f"target_image is {target.shape[:2]} and target_camera {camera.size}")
    xy, xyz = np.asarray(keypoints, np.float64), np.asarray(points3d, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        raise ValueError(f"keypoints must be finite (N, 2), got shape {xy.shape}")
    if xyz.shape != (len(xy), 3) or not np.isfinite(xyz).all():
        raise ValueError(f"points3d must be finite ({len(xy)}, 3), got shape {xyz.shape}")
    begin = time.perf_counter()
    features = matcher.match_pair(source, target, xy)
    matched = time.perf_counter() - begin
    found = localize_maps(
        features, xyz, camera, options=options, seed=seed, num_threads=num_threads
    )
    timings = {"match_pair": matched, **found.estimate.timings}
    return replace(found, estimate=replace(found.estimate, timings=timings))


def localize_maps(
    features: PairFeatures,
    points3d: Array,
    camera: Camera,
    *,
    options: PairOptions | None = None,
    seed: int = 0,
    num_threads: int | None = None,
) -> PairLocalization:
    """`localize_pair` of images that were compared already."""
    begin = time.perf_counter()
    entries = (options or PairOptions()).max_entries
    maps = features.loss_maps(max_entries=entries, num_threads=num_threads)
    seconds = {"loss_maps": time.perf_counter() - begin}
    found = pose_from_maps(
        maps, points3d, features.camera(camera), options=options, seed=seed, num_threads=num_threads
    )
    timings = {**seconds, **found.estimate.timings}
    return replace(found, estimate=replace(found.estimate, timings=timings))


def pose_from_maps(
    maps: LossMaps,
    points3d: Array,
    over: Camera,
    *,
    options: PairOptions | None = None,
    seed: int = 0,
    num_threads: int | None = None,
) -> PairLocalization:
    """P3P on the most peaked maps, refinement over all; `over` as in `PairLocalization.camera`."""
    chosen = options or PairOptions()
    clock = [time.perf_counter()]
    first = estimate_pose(
        maps, points3d, over, iterations=chosen.iterations, top_fraction=chosen.top_fraction, seed=seed,
        num_threads=num_threads,
    )  # fmt: skip
    clock.append(time.perf_counter())
    final = first
    if first.success:
        final = refine_pose(
            maps, points3d, over, first.cam_from_world, sigma_max=chosen.sigma[0],
            sigma_min=chosen.sigma[1], num_threads=num_threads,
        )  # fmt: skip
    final = _spread_checked(final, maps, points3d, over)
    clock.append(time.perf_counter())
    seconds = dict(zip(("consensus", "refine"), np.diff(clock).tolist()))
    return PairLocalization(replace(final, timings=seconds), first, maps, over)


def _spread_checked(
    estimate: PoseEstimate, maps: LossMaps, points3d: Array, over: Camera
) -> PoseEstimate:
    """No success where the agreeing points all project to one place.

    A matcher that answers alike for all keypoints (an untrained network does) makes maps that agree on a
    camera far away from everything, from where the points are one.
    """
    if not estimate.success:
        return estimate
    agree = np.asarray(estimate.inlier_probability) > 0.5
    local = transform_points(estimate.cam_from_world, points3d[agree])
    xy, _ = over.project(local)
    cells = np.asarray(map_from_image(xy, over.size, maps.image_cells))
    spread = float(np.sqrt(cells.var(0).sum())) if len(cells) else 0.0
    if spread >= MIN_SPREAD:
        return estimate
    reason = f"the maps put all points at one place ({spread:.1f} cells wide): they say nothing of the pose"
    covariance = np.full((6, 6), np.inf)
    return replace(estimate, success=False, reason=reason, covariance=covariance)


def _detached(values: Any) -> Any:
    """Without a graph."""
    return values.detach() if hasattr(values, "detach") else values
