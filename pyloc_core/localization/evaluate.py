# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out evaluation: every photo of a scene against the model of the others."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.localization.images import fit_size, reader_for
from pyloc_core.localization.localizer import Localizer
from pyloc_core.localization.methods import BASELINES, Comparison, timed
from pyloc_core.localization.options import LocalizerOptions, MapOptions
from pyloc_core.localization.result import Localization
from pyloc_core.localization.scene import Query, Scene
from pyloc_core.pose import PoseEstimate, pose_error

METHODS = (*BASELINES, "nre_coarse", "nre")


def evaluate(
    data_folder: str | Path,
    methods: Sequence[str] | None = None,
    *,
    descriptor: Any = None,
    map_options: MapOptions | None = None,
    localizer_options: LocalizerOptions | None = None,
    queries: Sequence[str] | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Localize every photo of a folder with every method.

    The map of a photo holds the other images only; points and reference images are chosen without
    its observations or pose, by one set of options for every scene.

    Args:
        data_folder: images/, cameras.json (name -> camera and pose) and loo/*.npz.
        methods: of `METHODS`; None for all. `nre` is `Localizer.localize` as a user gets it,
            `nre_coarse` its pose before the fine stage. The others get the same descriptors of the same
            points: `argmax_poselib` the coarse maps' best cells; `argmax_subcell_poselib` and `re`
            sub-cell peaks of the fine correlation over the whole image; `argmax_window_poselib` such
            peaks in the windows around nre's coarse pose, from which `fpr` starts too.
        queries: names of photos; None for all.
        progress: show a bar.

    Returns:
        Rows {"query", "method", "success", "rotation_error_deg", "centre_error",
        "centre_error_over_depth", "seconds"}. `seconds` is the whole time for nre and nre_coarse, and
        for the others what they took after description and coarse stage (re shares the matches that
        argmax_subcell_poselib has paid for). Rows of nre add "nees", the
        squared error of the pose in units of its covariance (6 is expected), and "stages".

    Raises:
        ValueError: an unknown method or query, a folder without problems, a damaged file.
    """
    wanted = _known(methods, METHODS, "method")
    scene = Scene.open(data_folder)
    problems = [scene.query(path) for path in scene.problems]
    if queries is not None:
        chosen = _known(queries, [p.name for p in problems], "query")
        problems = [p for p in problems if p.name in chosen]
    rows: list[dict[str, Any]] = []
    for query in _progress(problems, progress):
        model = scene.build_map(query, descriptor, map_options or MapOptions())
        localizer = Localizer(model, descriptor, options=localizer_options)
        rows += _run(localizer, query, wanted, seed, num_threads)
    return rows


def _run(
    localizer: Localizer, query: Query, methods: list[str], seed: int, num_threads: int | None
) -> list[dict[str, Any]]:
    image = reader_for(localizer.descriptor)(query.image)
    found = localizer.localize_detailed(image, query.camera, seed=seed, num_threads=num_threads)
    pixels = fit_size(image, localizer.map.options.max_size)
    scaled = query.camera
    if pixels.shape[:2] != scaled.size:
        scaled = scaled.resized(pixels.shape[:2])
    baselines = [m for m in methods if m in BASELINES]
    levels = list(localizer.descriptor.dense(pixels)) if baselines else []
    problem = Comparison(localizer, found, pixels, scaled, levels, seed, num_threads)
    rows = []
    for method in methods:
        if method in BASELINES:
            estimate, seconds = timed(method, problem)
        else:
            estimate = found.estimate if method == "nre" else found.coarse
            seconds = float(estimate.timings["total"])
        rows.append(_row(query, method, estimate, seconds))
        if method == "nre":
            rows[-1] |= _details(query, found)
    return rows


def _row(query: Query, method: str, estimate: PoseEstimate, seconds: float) -> dict[str, Any]:
    angle, distance = pose_error(np.asarray(estimate.cam_from_world), query.cam_from_world)
    return {
        "query": query.name,
        "method": method,
        "success": bool(estimate.success),
        "rotation_error_deg": angle,
        "centre_error": distance,
        "centre_error_over_depth": distance / query.median_depth,
        "seconds": seconds,
    }


def _details(query: Query, found: Localization) -> dict[str, Any]:
    estimate = found.estimate
    return {
        "nees": normalised_error(estimate, query.cam_from_world),
        "points": len(found.point_indices),
        "consistent": int(estimate.num_consistent),
        "stages": {name: float(value) for name, value in estimate.timings.items()},
    }


def normalised_error(
    estimate: PoseEstimate, reference_cam_from_world: npt.NDArray[np.float64]
) -> float | None:
    """`e^T covariance^-1 e` of the left update e that turns the estimate into the reference pose.

    Its mean is 6 where the covariance is right; None where it is not known.
    """
    covariance = np.asarray(estimate.covariance)
    if not np.isfinite(covariance).all():
        return None
    pose = np.asarray(estimate.cam_from_world)
    turn = reference_cam_from_world[:, :3] @ pose[:, :3].T
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    sine, cosine = 0.5 * np.linalg.norm(axis), 0.5 * (np.trace(turn) - 1)
    angle = np.arctan2(sine, cosine)
    rotation = 0.5 * axis * (angle / sine if sine > 1e-12 else 1.0)
    error = np.concatenate([rotation, reference_cam_from_world[:, 3] - pose[:, 3]])
    return float(error @ np.linalg.solve(covariance, error))


def summarize(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per method: queries, successes, and medians and maxima of the errors over all queries.

    A query without success counts as an infinite error.
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["method"], []).append(row)
    summary = {}
    for method, group in grouped.items():
        ok = np.array([row["success"] for row in group])
        angle, centre = (
            np.where(ok, [row[name] for row in group], np.inf)
            for name in ("rotation_error_deg", "centre_error_over_depth")
        )
        summary[method] = {
            "queries": len(group),
            "successes": int(ok.sum()),
            "median_rotation_error_deg": float(np.median(angle)),
            "median_centre_error_over_depth": float(np.median(centre)),
            "max_rotation_error_deg": float(angle.max()),
            "max_centre_error_over_depth": float(centre.max()),
            "median_seconds": float(np.median([row["seconds"] for row in group])),
        }
    return summary


def format_table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown table of `summarize`."""
    lines = [
        "| method | success | rotation, median deg | centre / depth, median | rotation, max deg | "
        "centre / depth, max | seconds, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, s in summarize(rows).items():
        lines.append(
            f"| {method} | {s['successes']}/{s['queries']} | {s['median_rotation_error_deg']:.4f} | "
            f"{s['median_centre_error_over_depth']:.5f} | {s['max_rotation_error_deg']:.3f} | "
            f"{s['max_centre_error_over_depth']:.5f} | {s['median_seconds']:.3f} |"
        )
    return "\n".join(lines)


def _known(names: Sequence[str] | None, known: Sequence[str], what: str) -> list[str]:
    if names is None:
        return list(known)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
            raise ValueError(f"unknown {what} {name!r}{hint}")
    return [name for name in known if name in names]


def _progress(items: list[Query], show: bool) -> Iterable[Query]:
    if not show:
        return items
    tqdm = require("tqdm", "a progress bar").tqdm
    return tqdm(items, desc="Localizing", unit="photo")  # type: ignore[no-any-return]
