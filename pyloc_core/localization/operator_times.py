# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""How fast the operators are on this machine, beside what one would write in NumPy.

A short look for users; the measurements with method are in benchmarks/.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pyloc_core as pc

N, D, H, W = 300, 128, 120, 160  # points, descriptor size, cells: a 640 x 480 photo at stride 4
BETA = 40.0


@dataclass(frozen=True)
class Problem:
    """Synthetic data of one photo: descriptors that fit the features at the true projections."""

    descriptors: Any  # (N, D) float32, unit
    features: Any  # (D, H, W) float32, unit
    cells: Any  # (N, 2) true projections, map cells
    points: Any  # (N, 3)
    K: Any  # (3, 3), map cells
    pose: Any  # (3, 4)


def make_problem(seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((D, H, W)).astype(np.float32)
    features /= np.linalg.norm(features, axis=0)
    cells = rng.uniform((8, 8), (W - 9, H - 9), (N, 2))
    at = np.round(cells).astype(int)
    noise = rng.standard_normal((N, D)) * 0.4 / np.sqrt(D)
    descriptors = features[:, at[:, 1], at[:, 0]].T + noise
    lost = rng.uniform(size=N) < 0.3  # points that another thing hides
    descriptors[lost] = rng.standard_normal((int(lost.sum()), D))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    K = np.array([[150.0, 0, 79.5], [0, 150.0, 59.5], [0, 0, 1]])
    rotation = pc.rotation_from_quaternion(np.array([0.97, 0.1, -0.2, 0.05]))
    pose = np.column_stack([rotation, [0.3, -0.1, 0.5]])
    rays = np.column_stack([cells, np.ones(N)]) @ np.linalg.inv(K).T
    points = pc.transform_points(pc.inverse_pose(pose), rays * rng.uniform(3, 9, (N, 1)))
    return Problem(descriptors.astype(np.float32), features, cells, points, K, pose)


def measure(seconds: float = 0.5, seed: int = 0) -> list[dict[str, Any]]:
    """Rows {"operator", "problem", "milliseconds", "plain", "plain_milliseconds", "ratio"}.

    Medians of calls for `seconds` each, with the default number of threads (NumPy's matrix product
    takes its own). `plain` names what it is compared with; None where there is nothing plain.
    """
    p = make_problem(seed)
    maps = pc.loss_maps(p.descriptors, p.features, temperature=1 / BETA)
    dense = np.asarray(maps.dense(), np.float32)
    start = pc.estimate_pose(maps, p.points, p.K, seed=seed).cam_from_world
    size = f"{N} x {D} on {H} x {W}"
    cases: list[tuple[str, str, Callable[[], Any], str | None, Callable[[], Any] | None]] = [
        ("match", size,
         lambda: pc.match(p.descriptors, p.features, temperature=1 / BETA),
         "NumPy, all maps at once", lambda: plain_match(p.descriptors, p.features)),
        ("loss_maps", size,
         lambda: pc.loss_maps(p.descriptors, p.features, temperature=1 / BETA),
         "NumPy, dense", lambda: plain_loss_maps(p.descriptors, p.features)),
        ("local_loss_maps", f"{N} windows of 32",
         lambda: pc.local_loss_maps(
             p.descriptors, p.features, p.cells, window=32, scale=1.0, temperature=1 / BETA),
         "NumPy, window by window", lambda: plain_windows(p.descriptors, p.features, p.cells, 32)),
        ("LossMaps.evaluate", f"{N} points",
         lambda: maps.evaluate(p.cells), "NumPy, bilinear", lambda: plain_evaluate(dense, p.cells)),
        ("estimate_pose", f"{N} maps, 500 triplets",
         lambda: pc.estimate_pose(maps, p.points, p.K, iterations=500, seed=seed), None, None),
        ("refine_pose", f"{N} maps", lambda: pc.refine_pose(maps, p.points, p.K, start), None, None),
    ]  # fmt: skip
    rows = [_row(*case, seconds) for case in cases]
    return [*rows, _p3p_row(seconds, seed)]


def _p3p_row(seconds: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2, 2, (10_000, 3, 3)) + [0, 0, 6]
    bearings = points / np.linalg.norm(points, axis=2, keepdims=True)
    world = points @ pc.rotation_from_quaternion(np.array([0.9, 0.3, -0.2, 0.2])) + [1.0, 2.0, 3.0]
    plain: Callable[[], Any] | None = None
    try:
        solve = importlib.import_module("poselib").p3p
    except ImportError:
        pass
    else:

        def one_by_one() -> None:
            for x, X in zip(bearings[:500], world[:500]):
                solve(x, X)

        plain = one_by_one
    name = "poselib.p3p, called one by one" if plain else None
    row = _row("p3p", "10000 problems", lambda: pc.p3p(bearings, world), name, plain, seconds)
    if plain:
        row["plain_milliseconds"] *= len(points) / 500
        row["ratio"] = row["plain_milliseconds"] / row["milliseconds"]
    return row


def _row(
    operator: str,
    problem: str,
    ours: Callable[[], Any],
    plain: str | None,
    theirs: Callable[[], Any] | None,
    seconds: float,
) -> dict[str, Any]:
    mine = 1e3 * _median(ours, seconds)
    other = None if theirs is None else 1e3 * _median(theirs, seconds)
    return {
        "operator": operator,
        "problem": problem,
        "milliseconds": mine,
        "plain": plain,
        "plain_milliseconds": other,
        "ratio": None if other is None else other / mine,
    }


def _median(call: Callable[[], Any], seconds: float) -> float:
    call()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def plain_log_probabilities(descriptors: Any, features: Any) -> Any:
    """(N, H W) ln C, everything in memory at once."""
    logits = BETA * (descriptors @ features.reshape(features.shape[0], -1))
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def plain_match(descriptors: Any, features: Any) -> tuple[Any, Any]:
    """Best cell (N, 2) and its ln C (N,)."""
    logs = plain_log_probabilities(descriptors, features)
    best = logs.argmax(axis=1)
    width = features.shape[2]
    return np.stack([best % width, best // width], axis=1), logs[np.arange(len(logs)), best]


def plain_loss_maps(descriptors: Any, features: Any) -> Any:
    """(N, H, W) loss maps, Eq. 4.7."""
    logs = plain_log_probabilities(descriptors, features)
    unseen = np.float32(np.log(1 + logs.shape[1]))
    return np.minimum(-logs, unseen).reshape(-1, *features.shape[1:])


def plain_windows(descriptors: Any, features: Any, cells: Any, window: int) -> list[Any]:
    """One loss map (h, w) per point, cut off at the border."""
    unseen = np.log(1 + features.shape[1] * features.shape[2])
    maps = []
    for descriptor, (x, y) in zip(descriptors, np.floor(cells).astype(int) - window // 2):
        part = features[:, max(0, y) : y + window, max(0, x) : x + window]
        logits = BETA * np.tensordot(descriptor, part, 1)
        logits -= logits.max()
        maps.append(np.minimum(np.log(np.exp(logits).sum()) - logits, unseen))
    return maps


def plain_evaluate(dense: Any, cells: Any) -> Any:
    """Bilinear values (N,) of dense maps at points that lie inside."""
    corner = np.floor(cells).astype(int)
    (x, y), (fx, fy), n = corner.T, (cells - corner).T, np.arange(len(dense))
    top = (1 - fx) * dense[n, y, x] + fx * dense[n, y, x + 1]
    bottom = (1 - fx) * dense[n, y + 1, x] + fx * dense[n, y + 1, x + 1]
    return (1 - fy) * top + fy * bottom


def processor() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return str(pc.build_info()["machine"])


def format_times(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, with the machine above it."""
    info = pc.build_info()
    lines = [
        f"{processor()}, {info['isa']} kernels, {pc.get_num_threads()} threads, "
        f"NumPy {info['numpy']}, pyloc_core {info['version']}",
        "",
        "| operator | problem | time | compared with | its time | ratio |",
        "|---|---|---:|---|---:|---:|",
    ]
    for row in rows:
        theirs = "" if row["ratio"] is None else f"{row['plain_milliseconds']:.3f} ms"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}"
        lines.append(
            f"| {row['operator']} | {row['problem']} | {row['milliseconds']:.3f} ms "
            f"| {row['plain'] or ''} | {theirs} | {ratio} |"
        )
    return "\n".join(lines)
