# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a pair matcher as in the thesis, section 5.4: what it says of correspondents that are seen,
hidden or outside, and what poses come of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core.localization.depth_views import (
    LABEL_NAMES,
    DepthView,
    correspondents,
    keypoint_grid,
    visual_overlap,
)
from pyloc_core.localization.pair import PairFeatures, PairMatcher, PairOptions, localize_maps
from pyloc_core.localization.rgbd_folder import RgbdFolder
from pyloc_core.ops.match import match
from pyloc_core.ops.nre_loss import nre_loss
from pyloc_core.pose import pose_error

Array = npt.NDArray[np.float64]
# Metres and degrees within which a pose is correct (appendix C.1.2, figures 5.7 and 5.10).
THRESHOLDS = ((0.5, 10.0), (1.5, 20.0))
NRE_EDGES = np.linspace(0.0, 20.0, 81)  # nats; larger ones count in the last bin
ERROR_EDGES = np.concatenate(
    [np.arange(0.0, 100.0, 2.0), [100.0, 200.0, 400.0, 800.0, np.inf]]
)  # pixels


class PairSample(NamedTuple):
    """A source and a target: names, images (H, W, 3) uint8, and views with depth."""

    names: tuple[str, str]
    images: tuple[Any, Any]
    views: tuple[DepthView, DepthView]


@dataclass(frozen=True)
class KeypointScores:
    """What the matcher says of the keypoints of one pair.

    `label` (N,); `nre` (N,) nats at the true correspondent, NaN where it lies beyond the map; `error` (N,)
    pixels of the target from the map's best cell to the correspondent; `points` (N, 3); `uniform` ln of the
    number of cells.
    """

    label: npt.NDArray[np.uint8]
    nre: Array
    error: Array
    points: Array
    uniform: float


def samples(folder: RgbdFolder, pairs: Sequence[tuple[str, str]]) -> Iterable[PairSample]:
    """The listed pairs of a folder, read one after the other."""
    for a, b in pairs:
        frames = folder.frames[a], folder.frames[b]
        yield PairSample((a, b), tuple(f.image() for f in frames), tuple(f.view() for f in frames))  # type: ignore[arg-type]


def score_keypoints(
    features: PairFeatures,
    label: npt.NDArray[np.uint8],
    points: Array,
    seen: Array,
    target_size: Any,
) -> KeypointScores:
    """NRE and argmax error of keypoints whose correspondents `seen` (N, 2), target pixels, are known."""
    h, dense = (_host(values) for values in (features.descriptors, features.features))
    targets = features.to_map(seen, target_size)
    nre = np.asarray(
        nre_loss(h, dense, targets, origin=features.origin, outside="mask"), np.float64
    )
    x0, y0 = features.origin
    inside = targets - [x0, y0]
    within = ((inside >= 0) & (inside <= np.array(features.size[::-1]) - 1)).all(1)
    best = np.asarray(match(h, dense).xy, np.float64) + [x0, y0]
    error = np.linalg.norm(features.to_image(best, target_size) - seen, axis=1)
    return KeypointScores(label, np.where(within, nre, np.nan), error, points, features.log_uniform)


def evaluate_pair(
    matcher: PairMatcher, sample: PairSample, *, spacing: int = 16, options: PairOptions | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], KeypointScores]:  # fmt: skip
    """One pair: the row of the results, and its keypoints.

    Keypoints lie on a grid of the source; those without depth, at steps of depth, or whose correspondent
    is unknown are left out. The pose is estimated from all others.
    """
    source, target = sample.views
    grid = keypoint_grid(source.camera.size, spacing)
    found = correspondents(source, target, grid)
    keep = np.isin(found.label, list(LABEL_NAMES)) & ~source.steep(grid)
    label, seen, points = found.label[keep], found.xy[keep], found.points[keep]
    features = matcher.match_pair(*sample.images, grid[keep])
    scores = score_keypoints(features, label, points, seen, target.camera.size)
    pose = localize_maps(features, points, target.camera, options=options, seed=seed).estimate
    row: dict[str, Any] = {
        "source": sample.names[0],
        "target": sample.names[1],
        "overlap": visual_overlap(source, target, spacing=spacing),
        **{name: int((label == code).sum()) for code, name in LABEL_NAMES.items()},
        "success": bool(pose.success),
        "reason": pose.reason,
    }
    for name, estimate in (("", pose.cam_from_world), ("identity_", source.cam_from_world)):
        degrees, distance = pose_error(estimate, target.cam_from_world)
        row[f"{name}rotation_error_deg"], row[f"{name}centre_error"] = (
            float(degrees),
            float(distance),
        )
    return row, scores


def evaluate_hallucination(
    matcher: PairMatcher, pairs: Iterable[PairSample], *, spacing: int = 16,
    options: PairOptions | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The evaluation of section 5.4 over pairs of posed depth images.

    Returns a dictionary that JSON can hold:
        "keypoints": per label (identified, inpainted, outpainted) their number, how many lie beyond the
            padded map, mean and median NRE in nats and argmax error in pixels, the share whose NRE is below
            that of a uniform map, and both histograms ("edges", "counts"; the last bin is open).
        "uniform": mean of ln|cells|, the NRE of a uniform map.
        "pairs": a row per pair: overlap, keypoints per label, pose errors, those of the source's own pose
            ("identity": what not moving would give).
        "pose": for each threshold the share of correct poses among pairs of overlap up to x, over x. A pose
            without success is wrong.
    """
    rows, every = [], []
    for sample in pairs:
        row, scores = evaluate_pair(matcher, sample, spacing=spacing, options=options, seed=seed)
        rows.append(row)
        every.append(scores)
    return {
        "spacing": spacing,
        "uniform": float(np.mean([s.uniform for s in every])) if every else None,
        "keypoints": {name: _summary(every, code) for code, name in LABEL_NAMES.items()},
        "pairs": rows,
        "pose": [_curve(rows, *threshold) for threshold in THRESHOLDS],
    }


def _summary(scores: Sequence[KeypointScores], code: int) -> dict[str, Any]:
    empty = np.zeros(0)
    nre, error, uniform = (
        np.concatenate([empty, *parts])
        for parts in (
            [s.nre[s.label == code] for s in scores],
            [s.error[s.label == code] for s in scores],
            [np.full((s.label == code).sum(), s.uniform) for s in scores],
        )
    )
    there = np.isfinite(nre)
    return {
        "count": len(nre),
        "beyond_map": int((~there).sum()),
        "nre": _histogram(nre[there], NRE_EDGES),
        "below_uniform": float((nre < uniform)[there].mean()) if there.any() else None,
        "argmax_error": _histogram(error, ERROR_EDGES),
    }


def _histogram(values: Array, edges: Array) -> dict[str, Any]:
    counts = np.histogram(np.minimum(values, edges[np.isfinite(edges)][-1]), edges)[0]
    return {
        "mean": float(values.mean()) if len(values) else None,
        "median": float(np.median(values)) if len(values) else None,
        "edges": [float(e) for e in edges if np.isfinite(e)],
        "counts": counts.tolist(),
    }


def _curve(rows: Sequence[dict[str, Any]], metres: float, degrees: float) -> dict[str, Any]:
    """Share of correct poses among pairs with overlap of at most x, for x = every overlap."""
    order = sorted(rows, key=lambda row: row["overlap"])
    curve: dict[str, Any] = {"metres": metres, "degrees": degrees}
    curve["overlap"] = [row["overlap"] for row in order]
    for name, prefix in (("estimated", ""), ("identity", "identity_")):
        right = [
            (row["success"] or bool(prefix))
            and row[f"{prefix}centre_error"] <= metres
            and row[f"{prefix}rotation_error_deg"] <= degrees
            for row in order
        ]
        curve[name] = (np.cumsum(right) / np.arange(1, len(right) + 1)).tolist() if right else []
    return curve


def _host(values: Any) -> Any:
    """NumPy, float32."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, np.float32)
