# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Success of pose estimators on synthetic loss maps, over outlier rates, multimodal rates and starts.

    python benchmarks/synthetic_success.py --seeds 100 --out benchmarks/results/synthetic_success

Methods:
  nre       refine_pose from the start, sigma from 2 to 0.6 (the thesis' coarse schedule)
  nre_wide  the same from sigma 16
  re        one-hot maps at the argmin cells through refine_pose (Eq. 4.11), sigma from 2 to 0.6
  re_wide   the same from sigma 16
  poselib   poselib.estimate_absolute_pose on the argmin cells, without a start
  chain     estimate_pose, then refine_pose: what a user without a start runs
A run is a success within 1 degree and 0.25 units of camera centre (points are 4 to 20 units away). "flag"
is how often the estimator itself reported success; "false" how often it did so without being right.
Needs the folder of the synthetic problems (--problems, or PYLOC_SHARED).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import pyloc_core as pl

ROOT = Path(__file__).resolve().parents[1]
RATIOS = (0.3, 0.5, 0.7)
STARTS = (2.0, 5.0, 10.0, 20.0)
SIGMAS = {"": 2.0, "_wide": 16.0}
MAX_DEGREES, MAX_CENTRE = 1.0, 0.25
CHAIN = hasattr(pl, "estimate_pose")


def load_problems(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("nre_problem", path / "nre_problem.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nre_problem"] = module
    spec.loader.exec_module(module)
    return module


def one_hot(maps: pl.LossMaps) -> pl.LossMaps:
    """Eq. 4.11: the whole gain ln|O| on the best cell."""
    xy = maps.argmin().xy.astype(np.int16)
    gain = np.full(len(maps), maps.log_cardinality, np.float32)
    return pl.LossMaps(
        np.arange(len(maps) + 1), xy, gain, size=maps.size, log_cardinality=maps.log_cardinality
    )


def starts_of(module: Any, seed: int, count: int, size: tuple[int, int]) -> dict[float, np.ndarray]:
    """The starts that make_problem would give for every rotation: the maps do not depend on it."""
    h, w = size
    found = {}
    for degrees in STARTS:
        rng = np.random.Generator(np.random.PCG64(seed))
        _X, _K, R, t, _xy = module._scene(rng, count, h, w, 0.75 * w, (4.0, 20.0), 2.0)
        R0, t0 = module._perturb(rng, R, t, degrees, 0.2)
        found[degrees] = np.hstack([R0, t0[:, None]])
    return found


def poselib_pose(xy: np.ndarray, points: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> Any:
    import poselib

    camera = {
        "model": "PINHOLE",
        "width": size[1],
        "height": size[0],
        "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
    }
    pose, info = poselib.estimate_absolute_pose(
        xy.astype(np.float64), points, camera, {"max_reproj_error": 2.0}, {}
    )
    return pose.Rt, info["num_inliers"] > 0


def run_problem(task: tuple[str, int, int, float, float]) -> list[dict[str, Any]]:
    problems, seed, count, outliers, multimodal = task
    module = load_problems(Path(problems))
    p = module.make_problem(seed, M=count, outlier_ratio=outliers, multimodal_ratio=multimodal)
    starts = starts_of(module, seed, count, p.map_size)
    assert np.allclose(starts[2.0][:, :3], p.R_init), "the generator's order of draws has changed"
    truth = np.hstack([p.R_gt, p.t_gt[:, None]])
    maps = pl.LossMaps.from_dense(
        p.maps, log_cardinality=float(np.log(p.cardinality)), max_entries=256
    )
    hot = one_hot(maps)
    rows: list[dict[str, Any]] = []

    def add(method: str, start: float | None, pose: Any, flag: bool, begin: float) -> None:
        seconds = time.perf_counter() - begin
        degrees, centre = pl.pose_error(pose, truth)
        right = degrees < MAX_DEGREES and centre < MAX_CENTRE
        rows.append(
            {
                "outliers": outliers,
                "multimodal": multimodal,
                "start": start,
                "method": method,
                "seed": seed,
                "degrees": degrees,
                "centre": centre,
                "right": right,
                "flag": bool(flag),
                "seconds": seconds,
            }
        )

    begin = time.perf_counter()
    add("poselib", None, *poselib_pose(maps.argmin().xy, p.points3d, p.K, p.map_size), begin)
    if CHAIN:
        begin = time.perf_counter()
        rough = pl.estimate_pose(maps, p.points3d, p.K, num_threads=1)
        fine = pl.refine_pose(maps, p.points3d, p.K, rough.cam_from_world, num_threads=1)
        add("chain", None, fine.cam_from_world, fine.success, begin)
    for degrees, start in starts.items():
        for name, which in (("nre", maps), ("re", hot)):
            for suffix, sigma in SIGMAS.items():
                begin = time.perf_counter()
                found = pl.refine_pose(
                    which, p.points3d, p.K, start, sigma_max=sigma, num_threads=1
                )
                add(name + suffix, degrees, found.cam_from_world, found.success, begin)
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["outliers"], row["multimodal"], row["method"], row["start"])
        groups.setdefault(key, []).append(row)
    table = []
    for (outliers, multimodal, method, start), group in groups.items():
        right = [r for r in group if r["right"]]
        table.append(
            {
                "outliers": outliers,
                "multimodal": multimodal,
                "method": method,
                "start": start,
                "runs": len(group),
                "success": len(right) / len(group),
                "flag": float(np.mean([r["flag"] for r in group])),
                "false": float(np.mean([r["flag"] and not r["right"] for r in group])),
                "median_degrees": float(np.median([r["degrees"] for r in right]))
                if right
                else None,
                "median_centre": float(np.median([r["centre"] for r in right])) if right else None,
                "median_ms": 1e3 * float(np.median([r["seconds"] for r in group])),
            }
        )
    return table


def markdown(table: list[dict[str, Any]], seeds: int, count: int) -> str:
    cell = {(r["outliers"], r["multimodal"], r["method"], r["start"]): r for r in table}
    columns: list[tuple[str, float | None]] = [("poselib", None)]
    columns += [("chain", None)] if CHAIN else []
    columns += [(m, s) for s in STARTS for m in ("nre", "nre_wide", "re", "re_wide")]
    lines = [
        f"# Success on synthetic loss maps, {seeds} seeds per setting, {count} maps of 75 x 100",
        "",
        "Made by `benchmarks/synthetic_success.py`, whose head explains the methods. Per cent of runs "
        f"within {MAX_DEGREES} degree and {MAX_CENTRE} units; in brackets the median rotation error of "
        "those, degrees.",
        "",
    ]
    for start in (None, *STARTS):
        names = [m for m, s in columns if s == start]
        title = "Without a start" if start is None else f"Start {start:g} degrees and 0.2 units off"
        lines += [f"## {title}", "", "| outliers | multimodal | " + " | ".join(names) + " |"]
        lines.append("|" + "---|" * (2 + len(names)))
        for o in RATIOS:
            for m in RATIOS:
                entries = [cell[o, m, name, start] for name in names]
                shown = [
                    f"{100 * e['success']:.0f} ({e['median_degrees']:.3f})" if e["success"] else "0"
                    for e in entries
                ]
                lines.append(f"| {o} | {m} | " + " | ".join(shown) + " |")
        lines.append("")
    lines += ["## The estimator's own verdict", ""]
    lines += [
        "| method | runs | right | reported | reported and wrong | median ms |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(m for m, _ in columns):
        group = [r for r in table if r["method"] == method]
        runs = sum(r["runs"] for r in group)
        share = [sum(r["runs"] * r[k] for r in group) / runs for k in ("success", "flag", "false")]
        speed = float(np.median([r["median_ms"] for r in group]))
        shown = " | ".join(f"{100 * s:.1f} %" for s in share)
        lines.append(f"| {method} | {runs} | {shown} | {speed:.2f} |")
    lines += [
        "",
        "PoseLib has no verdict of its own: any inlier counts. It is timed with its default options.",
    ]
    return "\n".join(lines) + "\n"


def plot(table: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = {"nre": "C0-o", "nre_wide": "C0--s", "re": "C1-o", "re_wide": "C1--s"}
    flat = {"poselib": "k:", "chain": "C2-"}
    figure, axes = plt.subplots(3, 3, figsize=(11, 9), sharex=True, sharey=True)
    for i, outliers in enumerate(RATIOS):
        for j, multimodal in enumerate(RATIOS):
            axis = axes[i, j]
            here = [r for r in table if (r["outliers"], r["multimodal"]) == (outliers, multimodal)]
            for method, style in (styles | flat).items():
                of_method = sorted(
                    (r for r in here if r["method"] == method), key=lambda r: r["start"] or 0
                )
                if not of_method:
                    continue
                y = [100 * r["success"] for r in of_method]
                x = [r["start"] for r in of_method]
                if method in flat:
                    x, y = list(STARTS), y * len(STARTS)
                axis.plot(x, y, style, label=method, markersize=4)
            axis.set_title(f"outliers {outliers}, multimodal {multimodal}", fontsize=9)
            axis.set_ylim(-4, 104)
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("rotation error of the start, degrees")
    for axis in axes[:, 0]:
        axis.set_ylabel("success, %")
    axes[0, 0].legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--maps", type=int, default=300)
    parser.add_argument("--processes", type=int, default=2)
    shared = Path(os.environ.get("PYLOC_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--problems", type=Path, default=shared / "problems")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/synthetic_success")
    options = parser.parse_args()
    tasks = [
        (str(options.problems), seed, options.maps, outliers, multimodal)
        for outliers in RATIOS
        for multimodal in RATIOS
        for seed in range(options.seeds)
    ]
    rows: list[dict[str, Any]] = []
    with get_context("spawn").Pool(options.processes) as pool:
        for part in pool.imap(run_problem, tasks, chunksize=4):
            rows += part
    table = summarise(rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps({"rows": table}, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(markdown(table, options.seeds, options.maps))
    plot(table, options.out.with_suffix(".png"))
    print(options.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
