# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Tables and the plot of benchmarks/sfm_ttr.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

BINS = ((0, 5), (5, 10), (10, 20), (20, 40), (40, 1000))
LABELS = ("< 5", "5 to 10", "10 to 20", "20 to 40", "> 40")
NUMBERS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1")
# Tables 8.2 and 8.3 of the thesis: abs rel, RMSE in metres.
THESIS = {
    "before": (0.072, 3.134), "SfM-TTR": (0.060, 2.260), "mean of medians": (0.074, 2.509),
    "strict inliers": (0.065, 2.787), "least squares": (0.064, 2.346), "weights off": (0.062, 2.310),
    "whole network": (0.062, 2.297),
}  # fmt: skip
HEADS = ("abs rel", "sq rel", "RMSE", "RMSE log", "delta < 1.25")


def of_bins(data: dict[str, Any], row: str, which: int) -> np.ndarray:
    """(scenes, bins): 0 abs rel, 1 RMSE."""
    return np.array([[b[which] for b in scene["rows"][row]["bins"]] for scene in data["scenes"]])


def of_scenes(data: dict[str, Any], row: str, name: str, kind: str = "metric") -> np.ndarray:
    return np.array([scene["rows"][row][kind][name] for scene in data["scenes"]])


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(r) + " |" for r in [heads, ["---"] * len(heads), *rows]]


def by_depth(data: dict[str, Any], rows: list[str]) -> list[str]:
    """Mean over scenes; in how many of them the row is better than before."""
    count, lines = len(data["scenes"]), []
    before = of_bins(data, "before", 0)
    for row in rows:
        rel, rmse = of_bins(data, row, 0), of_bins(data, row, 1)
        better = (rel < before).sum(0)
        cells = [
            f"{100 * np.nanmean(rel[:, b]):.1f} / {np.nanmean(rmse[:, b]):.2f}"
            + ("" if row == "before" else f" ({better[b]}/{count})")
            for b in range(len(BINS))
        ]
        lines.append([row, *cells])
    return table(["", *(f"{label} m" for label in LABELS)], lines)


def overall(data: dict[str, Any], rows: list[str], kind: str) -> list[str]:
    lines = []
    for row in rows:
        values = [of_scenes(data, row, name, kind).mean() for name in NUMBERS]
        lines.append([row, *(f"{v:.3f}" for v in values)])
    return table(["", *HEADS], lines)


def paired(data: dict[str, Any], rows: list[str]) -> list[str]:
    """Differences from SfM-TTR, scene by scene."""
    count, lines = len(data["scenes"]), []
    for row in rows:
        cells = []
        for kind in ("metric", "median"):
            d = of_scenes(data, row, "abs_rel", kind) - of_scenes(data, "SfM-TTR", "abs_rel", kind)
            error = d.std(ddof=1) / count**0.5 if count > 1 else float("nan")
            cells.append(f"{100 * d.mean():+.2f} ± {100 * error:.2f} ({(d > 0).sum()}/{count})")
        scales = [scene["rows"][row].get("scale") for scene in data["scenes"]]
        cells.append("" if None in scales else f"{np.mean(scales):.3f}")
        lines.append([row, *cells])
    heads = ["", "metric: abs rel, points, worse in", "median-scaled", "scale x unit (exact: 1)"]
    return table(heads, lines)


def beside_the_thesis(data: dict[str, Any]) -> list[str]:
    """The chapter's numbers for AdaBins, the metric network among its four, and whether the signs agree."""
    lines = []
    for row, thesis in THESIS.items():
        found = [of_scenes(data, row, name).mean() for name in ("abs_rel", "rmse")]
        cells = [f"{v[0]:.3f} / {v[1]:.3f}" for v in (thesis, found)]
        lines.append([row, *cells, *(_verdict(data, row, name) for name in ("abs_rel", "rmse"))])
    heads = ["abs rel / RMSE", "thesis, AdaBins on KITTI", "here", "abs rel here", "RMSE here"]
    return table(heads, lines)


def _verdict(data: dict[str, Any], row: str, name: str) -> str:
    """Whether a row is worse than SfM-TTR, as all of them are in the thesis."""
    d = of_scenes(data, row, name) - of_scenes(data, "SfM-TTR", name)
    if not d.any():
        return ""
    error = d.std(ddof=1) / len(d) ** 0.5 if len(d) > 1 else float("nan")
    within = ", within the standard error" if abs(d.mean()) < error else ""
    return ("worse, as there" if d.mean() > 0 else "better, not as there") + within


def write(data: dict[str, Any]) -> str:
    scenes, machine = data["scenes"], data["machine"]
    refinements = [row for row in scenes[0]["rows"] if row != "before"]
    ablations = [r for r in refinements if not r.startswith("Ph") and r != "SfM-TTR"]
    points = np.array([scene["points"] for scene in scenes])
    sparse = [
        ["points per frame", *(f"{v:.0f}" for v in points[..., 0].mean(0))],
        ["median error, per cent", *(f"{100 * v:.1f}" for v in np.nanmedian(points[..., 1], 0))],
    ]
    main_rows = ["before", "SfM-TTR", "Ph-TTR", "Ph-TTR per frame", "Ph-TTR true scale"]
    steps, train_seconds = data["training"]
    trained = f", {train_seconds:.0f} s" if train_seconds else ""
    lines = [
        "# Test-time refinement of a small depth network, on drawn drives", "",
        f"Made by `benchmarks/sfm_ttr.py` on {machine['date']}, {machine['cpu']}, one thread, PyTorch "
        f"{data['torch']}. A U-Net of {data['parameters']} parameters, trained for {steps} batches of 8 "
        f"pictures of {data['size'][0]} x {data['size'][1]} (1000 pictures of 250 drives{trained}), refined "
        f"on {len(scenes)} other drives of 24 frames, for every second frame, each from the same weights: 200 "
        "steps of Adam, 1e-4, BatchNorm still.", "",
        "The SfM model is simulated: exact poses, tracks with noise of 0.6 px at 8 times the network's "
        "resolution, 20 per cent of wrong tracks (half of them on moving things), COLMAP's filters (1.5 "
        "degrees, 4 px), unit 1 / 0.37 m. Points by true depth:", "",
        *table(["", *(f"{label} m" for label in LABELS)], sparse), "",
        "## By depth", "",
        "abs rel in per cent / RMSE in metres of the metric depth, mean of the drives; in brackets in how "
        "many of them abs rel fell. Both refinements change the encoder alone. The photometric one has the "
        "true poses and the scale that SfM-TTR's alignment found, or, in the last row, the true scale; "
        "per frame: another network for each frame, 17 steps.", "",
        *by_depth(data, main_rows), "",
        "![errors by depth](sfm_ttr.png)", "",
        "## Whole images, metric depth", "", *overall(data, ["before", *refinements], "metric"), "",
        "## Whole images, median-scaled", "", *overall(data, ["before", *refinements], "median"), "",
        "## Left out, one at a time: differences from SfM-TTR", "",
        "abs rel in percentage points, mean ± standard error over drives, and in how many it is worse.", "",
        *paired(data, ablations), "",
        "## Beside the chapter", "",
        "Another network and other data: the order is what can be compared.", "",
        *beside_the_thesis(data),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def draw(data: dict[str, Any], path: Path) -> None:
    """Errors by depth, as Figure 8.2 has them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for which, (axis, label) in enumerate(zip(axes, ("abs rel, per cent", "RMSE, m"))):
        for row, style in (("before", "k--"), ("Ph-TTR", "r-"), ("SfM-TTR", "b-")):
            values = np.nanmean(of_bins(data, row, which), 0) * (100 if which == 0 else 1)
            axis.plot(LABELS, values, style, label=row, lw=3 if row == "SfM-TTR" else 1.5)
        axis.set_xlabel("depth, m")
        axis.set_ylabel(label)
        axis.set_ylim(0)
    axes[0].legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
