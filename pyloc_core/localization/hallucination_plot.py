# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of `evaluate_hallucination`: NRE histograms, argmax errors, poses against overlap."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyloc_core._extras import require

COLOURS = {"identified": "#2a6fb0", "inpainted": "#c25a3c", "outpainted": "#4b9560"}


def save_plots(results: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write nre_cost.png, argmax_error.png and pose_success.png of the results into a folder.

    Raises MissingExtra without matplotlib.
    """
    require("matplotlib", "drawing the results")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    written = []
    drawings = {"nre_cost": _nre, "argmax_error": _errors, "pose_success": _poses}
    for name, draw in drawings.items():
        figure = Figure(figsize=(6.4, 4.0), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, results)
        written.append(root / f"{name}.png")
        figure.savefig(written[-1])
    return written


def _nre(figure: Any, results: Mapping[str, Any]) -> None:
    """Histograms of the NRE at the true correspondent, as in figure 5.3, left."""
    axes = figure.add_subplot()
    for name, summary in results["keypoints"].items():
        counts = np.array(summary["nre"]["counts"], float)
        edges = np.array(summary["nre"]["edges"])
        label = f"{name} ({summary['count']})"
        share = counts / max(counts.sum(), 1)
        axes.stairs(share, edges, label=label, color=COLOURS[name], linewidth=1.6)
    if results["uniform"] is not None:
        axes.axvline(results["uniform"], color="#555555", linestyle="--", label="uniform map")
    axes.set(xlabel="NRE at the correspondent (nats)", ylabel="share of keypoints")
    axes.legend(frameon=False, fontsize=8)


def _errors(figure: Any, results: Mapping[str, Any]) -> None:
    """Share of keypoints whose best cell lies within x pixels of the correspondent, as in figure 5.8."""
    axes = figure.add_subplot()
    for name, summary in results["keypoints"].items():
        counts = np.array(summary["argmax_error"]["counts"], float)
        edges = np.array(summary["argmax_error"]["edges"])
        share = np.cumsum(counts)[: len(edges) - 1] / max(counts.sum(), 1)
        axes.plot(edges[1:], share, label=name, color=COLOURS[name], linewidth=1.6)
    axes.set(xlabel="distance of the best cell (pixels)", ylabel="share of keypoints",
             xlim=(0, 200), ylim=(0, 1))  # fmt: skip
    axes.legend(frameon=False, fontsize=8)


def _poses(figure: Any, results: Mapping[str, Any]) -> None:
    """Correct poses among pairs of overlap up to x, as in figure 5.6; "identity": the source's own pose."""
    panels = figure.subplots(1, len(results["pose"]), sharey=True, squeeze=False)[0]
    for axes, curve in zip(panels, results["pose"]):
        for name, style in (("estimated", "-"), ("identity", ":")):
            axes.plot(curve["overlap"], curve[name], style, color="#333333", label=name)
        title = f"{curve['metres']:g} m, {curve['degrees']:g}°"
        axes.set(title=title, xlabel="overlap up to", ylim=(0, 1.02))
    panels[0].set_ylabel("share of correct poses")
    panels[0].legend(frameon=False, fontsize=8)
