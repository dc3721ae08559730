# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Monte Carlo check of the covariance of refine_pose on the synthetic problems.

    python benchmarks/covariance_check.py --seeds 60 --out benchmarks/results/covariance_check

For every setting: mean and median of the normalised estimation error squared (6 degrees of freedom: 6 when
calibrated, asked for between 4 and 9), of the covariance returned (inverse curvature times dispersion), of
the inverse curvature alone, and of the inverse of the steps' matrix A (a majoriser, shown for contrast).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import pyloc_core as pl
from pyloc_core import _arrays, _native
from pyloc_core.camera import camera_native_args

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    ("make_problem", count, outliers) for count in (300, 60) for outliers in (0.0, 0.3, 0.5, 0.7)
] + [
    ("make_local_problem", count, outliers)
    for count in (300, 60)
    for outliers in (0.0, 0.3, 0.5, 0.7)
]
SIGMA = {"make_problem": 2.0, "make_local_problem": 8.0}


def load_problems(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("nre_problem", path / "nre_problem.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nre_problem"] = module
    spec.loader.exec_module(module)
    return module


def difference(pose: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The left update from pose to truth: rotation vector, translation."""
    dR = truth[:, :3] @ pose[:, :3].T
    rotation = np.array([dR[2, 1] - dR[1, 2], dR[0, 2] - dR[2, 0], dR[1, 0] - dR[0, 1]]) / 2
    return np.r_[rotation, truth[:, 3] - pose[:, 3]]


def native(maps: pl.LossMaps, p: Any, start: np.ndarray, sigma: float) -> tuple[Any, ...]:
    """Pose, covariance, dispersion, success, and A at the pose, from the native functions."""
    pose, covariance, gains = np.empty((3, 4)), np.empty((6, 6)), np.empty(len(maps))
    sums, pointer = np.empty(28), _arrays.pointer
    camera = camera_native_args(p.K)
    points, start = np.ascontiguousarray(p.points3d), np.ascontiguousarray(start)
    found = _native.refine_pose(
        maps.native_args(),
        pointer(points),
        camera,
        pointer(start),
        (sigma, 0.6, 200, 0.1, 1e-5, 0),
        1,
        pointer(pose),
        pointer(covariance),
        pointer(gains),
    )
    _native.gnc_assemble(
        maps.native_args(), pointer(points), camera, pointer(pose), 0.6, 1, 1, pointer(sums)
    )
    A = np.zeros((6, 6))
    A[np.tril_indices(6)] = sums[1:22]
    return pose, covariance, found[2], found[10], A + np.tril(A, -1).T


def run(module: Any, kind: str, count: int, outliers: float, seeds: int) -> dict[str, Any]:
    ours, curvature, majoriser, wrong = [], [], [], 0
    for seed in range(seeds):
        p = getattr(module, kind)(seed, M=count, outlier_ratio=outliers)
        maps = pl.LossMaps.from_dense(
            p.maps,
            log_cardinality=math.log(p.cardinality),
            origins=p.origins,
            size=p.map_size,
            max_entries=256,
        )
        start = np.hstack([p.R_init, p.t_init[:, None]])
        truth = np.hstack([p.R_gt, p.t_gt[:, None]])
        pose, covariance, dispersion, success, A = native(maps, p, start, SIGMA[kind])
        if not success:  # refine_pose then gives no covariance
            wrong += 1
            continue
        d = difference(pose, truth)
        ours.append(float(d @ np.linalg.solve(covariance, d)))
        curvature.append(ours[-1] * dispersion)
        majoriser.append(float(d @ A @ d))
    return {
        "problem": kind,
        "maps": count,
        "outliers": outliers,
        "runs": len(ours),
        "left_out": wrong,
        "mean": float(np.mean(ours)),
        "median": float(np.median(ours)),
        "mean_curvature_only": float(np.mean(curvature)),
        "mean_majoriser": float(np.mean(majoriser)),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Covariance of refine_pose on synthetic problems",
        "",
        "Made by `benchmarks/covariance_check.py`. Normalised estimation error squared, 6 degrees of "
        "freedom. `make_problem`: coarse maps; `make_local_problem`: fine windows. Left out: runs "
        "that refine_pose itself does not call a success. Smoothing by sigma = 0.6 flattens peaks of standard "
        "deviation s by (1 + 0.36 / s^2)^2 (1.85 at s = 1), which is why the curvature alone claims "
        "too little; the dispersion estimated from the maps' own gradients corrects for it.",
        "",
        "| problem | maps | outliers | runs | left out | mean | median | curvature alone | majoriser A |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['problem']} | {r['maps']} | {r['outliers']} | {r['runs']} | {r['left_out']} | "
            f"**{r['mean']:.2f}** | {r['median']:.2f} | {r['mean_curvature_only']:.2f} | "
            f"{r['mean_majoriser']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=60)
    shared = Path(os.environ.get("PYLOC_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--problems", type=Path, default=shared / "problems")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/covariance_check")
    options = parser.parse_args()
    module = load_problems(options.problems)
    rows = [run(module, *setting, options.seeds) for setting in SETTINGS]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
