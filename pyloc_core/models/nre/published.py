# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The released NRE program step by step, with what it does differently from the paper and from here.

Each fact is one about the public repository of Germain et al., "Neural Reprojection Error" (CVPR 2021), at
its commit fde4e62 of 2021-07-04; nothing of it is copied, this is an independent
implementation. docs/published_quirks.md lists the differences and what the defaults of this package do.

Cameras are the 13 numbers of `camera_native_args` in cells of a map, whose centres are integer points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera, camera_native_args
from pyloc_core.geometry import Size
from pyloc_core.maps import LossMaps
from pyloc_core.ops.correlation_maps import correspondence_maps
from pyloc_core.ops.local_loss_maps import local_loss_maps
from pyloc_core.ops.p3p import p3p
from pyloc_core.ops.refine_pose import refine_pose
from pyloc_core.pose import PoseEstimate

Array = npt.NDArray[np.float64]
CameraNumbers = tuple[float, ...]

EPSILON = 2.0**-23  # ln(x) of a tensor is ln(x + 2^-23), the machine epsilon of float32
NEAR = 1e-4  # points nearer than this read ln|O|
DEPTH_SHIFT = 1e-8  # added to every depth
WEIGHT_SHIFT = 1e-6  # in the denominator of the normalised weights
RE_LOSS = 1e-3  # what the one-hot maps hold at their best cell
FINE_MARGIN = 8  # image pixels that a prior must lie inside the fine image
NO_BOUND = 1_000_000  # iterations: the program has no bound
_MAPS_AT_ONCE = 256


@dataclass(frozen=True)
class PublishedOptions:
    """The released configuration.

    Attributes:
        top_fraction: share of the maps, smallest minimum first, that the initial pose uses.
        triplets: drawn for P3P.
        sigma_coarse, sigma_fine: first and last sigma, cells. The thesis has 8.0 to 0.6 for the fine
            stage (appendix B.2.3), the configuration 2.0 to 0.6.
        window: of the fine stage, a multiple of 16; the patch has one more cell. The thesis has 64.
        displaced: False stores fine entries where they belong, and not window // 2 cells further.
        one_hot: the RE mode of the program (`use_re`): reprojection error to the best cell.
    """

    top_fraction: float = 0.25
    triplets: int = 5000
    sigma_coarse: tuple[float, float] = (2.0, 0.6)
    sigma_fine: tuple[float, float] = (2.0, 0.6)
    window: int = 16
    displaced: bool = True
    one_hot: bool = False

    def __post_init__(self) -> None:
        if self.window < 16 or self.window % 16:
            raise ValueError(f"window must be a multiple of 16, got {self.window}")
        if not 0 < self.top_fraction <= 1:
            raise ValueError(f"top_fraction must lie in (0, 1], got {self.top_fraction}")
        if self.triplets < 1:
            raise ValueError(f"triplets must be positive, got {self.triplets}")


class DenseStage(NamedTuple):
    """What the coarse descriptors say of N points: `probability` (N, H, W) float32, the softmax; `maps`;
    `entropy` (N,) nats."""

    probability: npt.NDArray[np.float32]
    maps: LossMaps
    entropy: Array


def dense_stage(descriptors: Any, features: Any, *, one_hot: bool = False) -> DenseStage:
    """Dense maps of descriptors (N, D) in features (D, H, W): correlation by dot product, no temperature.

    L = min(-ln(C + 2^-23), ln|O|), |O| = H W + 1; entries at ln|O| are dropped, all others kept.
    """
    probability = np.asarray(correspondence_maps(descriptors, features), np.float32)
    count, *size = probability.shape
    cardinality = math.log(size[0] * size[1] + 1)
    loss, entropy = np.empty_like(probability), np.empty(count)
    for start in range(0, count, _MAPS_AT_ONCE):
        part = slice(start, start + _MAPS_AT_ONCE)
        log_c = np.log(probability[part].astype(np.float64) + EPSILON)
        entropy[part] = -(np.exp(log_c) * log_c).sum((1, 2))
        loss[part] = np.minimum(-log_c, cardinality)
    if one_hot:
        loss = _one_hot(loss, cardinality)
    return DenseStage(probability, LossMaps.from_dense(loss, log_cardinality=cardinality), entropy)


def _one_hot(loss: npt.NDArray[np.float32], cardinality: float) -> npt.NDArray[np.float32]:
    flat = np.full((len(loss), loss[0].size if len(loss) else 1), cardinality, np.float32)
    flat[np.arange(len(loss)), loss.reshape(len(loss), -1).argmin(1)] = RE_LOSS
    return flat.reshape(loss.shape)


def project(
    camera: CameraNumbers, points: Array, poses: Array
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Map coordinates (M, N, 2) of points (N, 3) under poses (M, 3, 4), and which have z >= 1e-4.

    Depth is held at 1e-4 from below, and 1e-8 is added. Distortion by k1, k2, p1, p2.
    """
    _, fx, fy, cx, cy, k1, k2, p1, p2 = camera[:9]
    local = np.einsum("mij,nj->mni", poses[..., :3], points) + poses[:, None, :, 3]
    z = np.maximum(local[..., 2], NEAR) + DEPTH_SHIFT
    u, v = local[..., 0] / z, local[..., 1] / z
    r2 = u * u + v * v
    radial = 1 + k1 * r2 + k2 * r2 * r2
    ud = u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u)
    vd = v * radial + p1 * (r2 + 2 * v * v) + 2 * p2 * u * v
    return np.stack([fx * ud + cx, fy * vd + cy], -1), local[..., 2] >= NEAR


def dense_costs(maps: LossMaps, points: Array, camera: CameraNumbers, poses: Array) -> Array:
    """Summed losses (M,) of poses (M, 3, 4): bilinear, clamped to the map's border, so that a point
    outside the image reads the border and not ln|O|; points behind the camera read ln|O|."""
    xy, ahead = project(camera, points, poses)
    loss = np.asarray(maps.evaluate(xy, compat="published"))
    return np.asarray(np.where(ahead, loss, maps.log_cardinality).sum(1))


def sampling_weights(entropy: Array) -> Array:
    """Negative entropy, brought to [0, 1] by minimum and maximum."""
    negative = -np.asarray(entropy, np.float64)
    low, high = (negative.min(), negative.max()) if len(negative) else (0.0, 0.0)
    return np.asarray((negative - low) / (high - low + WEIGHT_SHIFT))


def kept_maps(maps: LossMaps, top_fraction: float) -> npt.NDArray[np.int64]:
    """int(top_fraction N) maps with the smallest minimum, best first."""
    order = np.argsort(np.asarray(maps.argmin().loss), kind="stable")
    return order[: int(top_fraction * len(maps))]


def initial_pose(
    stage: DenseStage, points: Array, camera: CameraNumbers, options: PublishedOptions, seed: int
) -> Array | None:
    """(3, 4) of least cost over the kept maps; None where no triplet gives a pose.

    Three draws with replacement per triplet, each weighted by `sampling_weights` of the kept maps: the
    members of a triplet may coincide, and then give nothing. P3P on the best cells.
    """
    kept = kept_maps(stage.maps, options.top_fraction)
    if not len(kept):
        return None
    weights = sampling_weights(stage.entropy[kept])
    share = weights / weights.sum() if weights.sum() > 0 else np.full(len(kept), 1 / len(kept))
    draws = np.random.default_rng(seed).choice(len(kept), (options.triplets, 3), p=share)
    maps, xyz = stage.maps[kept], np.ascontiguousarray(points[kept])
    cells = np.asarray(maps.argmin().xy, np.float64)
    bearings = np.asarray(_in_cells(camera).unproject(cells))
    found = p3p(bearings[draws], xyz[draws])
    poses = found.cam_from_world[found.valid]
    if not len(poses):
        return None
    costs = np.concatenate(
        [dense_costs(maps, xyz, camera, poses[i : i + 1024]) for i in range(0, len(poses), 1024)]
    )
    return np.asarray(poses[costs.argmin()], np.float64)


def _in_cells(camera: CameraNumbers) -> Camera:
    """The camera whose image points are map coordinates."""
    return Camera("OPENCV", 1, 1, camera[1:9])


def refined(
    maps: LossMaps, points: Array, camera: Camera, start: Array, sigma: tuple[float, float]
) -> PoseEstimate:
    """The program's graduated non-convexity (`refine_pose`, published)."""
    return refine_pose(
        maps, points, camera, start, sigma_max=sigma[0], sigma_min=sigma[1], compat="published",
        max_iterations=NO_BOUND,
    )  # fmt: skip


def coarse_norms(probability: npt.NDArray[np.float32], xy: Array, window: int) -> Array:
    """Probability (N,) around coarse positions (N, 2): the slice [y - p : y + p, x - p : x + p] about
    the rounded position, p = window / 16. That is 2 p cells a side and not symmetric; a slice that
    begins at a negative index counts from the end, and so is mostly empty."""
    reach = window // 16
    out = np.zeros(len(xy))
    for n, (x, y) in enumerate(np.rint(xy)):
        if abs(x) < 1e6 and abs(y) < 1e6:  # NaN is not
            rows = slice(int(y) - reach, int(y) + reach)
            out[n] = probability[n][rows, int(x) - reach : int(x) + reach].sum()
    return np.minimum(out, 1.0)


class FineStage(NamedTuple):
    """Maps of the points (K,) whose prior lies inside the fine image."""

    maps: LossMaps
    rows: npt.NDArray[np.int64]


def fine_stage(
    descriptors: Any, features: Any, priors: Array, norms: Array, *, image_size: Size,
    options: PublishedOptions,
) -> FineStage:  # fmt: skip
    """Fine maps about priors (N, 2), pixels of the fine image (H, W) counted from 0.

    Priors within 8 pixels of the image's border are left out. A window is centred where the scaled
    prior, truncated, lies (no half pixel); its softmax takes zeros from outside the map and is
    multiplied by norm / window; then see `local_loss_maps`. The program indexes the norms, one per
    coarse point, with the mask of the fine ones, which fails unless all are inside: here by point.
    """
    height, width = image_size
    x, y = np.nan_to_num(priors, nan=-1.0).T
    inside = (x >= FINE_MARGIN) & (x < width - FINE_MARGIN)
    rows = np.flatnonzero(inside & (y >= FINE_MARGIN) & (y < height - FINE_MARGIN))
    map_h, map_w = features.shape[1:]
    maps = local_loss_maps(
        np.asarray(descriptors)[rows], features, priors[rows] * [map_w / width, map_h / height],
        window=options.window, coarse_mass=norms[rows], max_entries="all",
        compat="published" if options.displaced else "published_placed",
    )  # fmt: skip
    if options.one_hot:
        maps = _one_hot_rows(maps)
    return FineStage(maps, rows)


def _one_hot_rows(maps: LossMaps) -> LossMaps:
    """Only the best entry of every map, at 1e-3."""
    peaks = maps.argmin()
    alive = maps.entries_per_map > 0
    return LossMaps(
        np.concatenate([[0], np.cumsum(alive)]), np.asarray(peaks.xy)[alive].astype(np.int16),
        np.full(int(alive.sum()), maps.log_cardinality - RE_LOSS, np.float32), size=maps.size,
        log_cardinality=maps.log_cardinality, window=maps.window, origins=maps.origins,
    )  # fmt: skip


def in_map(camera: Camera, image_size: Size, map_size: Size) -> tuple[Camera, CameraNumbers]:
    """A camera of any size brought to an image (H, W), and its numbers in cells of a map.

    K_feature has the half-pixel term that keypoints lack. Zero skew; distortion by k1, k2, p1, p2.
    """
    resized = camera if camera.size == image_size else camera.resized(image_size)
    numbers = camera_native_args(resized, map_size)
    if numbers[0] == 2.0 or any(numbers[9:]):
        raise ValueError(
            f"the published program knows distortion by k1, k2, p1 and p2, not {camera.model}"
        )
    return resized, numbers
