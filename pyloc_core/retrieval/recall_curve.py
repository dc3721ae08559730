# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Recall against the decision threshold, as data and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays
from pyloc_core._extras import require
from pyloc_core.retrieval.checks import (
    check_same_dimension,
    checked_ks,
    checked_points,
    checked_ranks,
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RecallCurve:
    """Recall against the decision threshold: values (T, len(ks)) at thresholds (T,)."""

    thresholds: Floats
    ks: tuple[int, ...]
    values: Floats

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON; None where there are no queries."""
        values = np.where(np.isnan(self.values), None, self.values)  # type: ignore[call-overload]
        return {
            "thresholds": self.thresholds.tolist(),
            "recall": {str(k): values[:, i].tolist() for i, k in enumerate(self.ks)},
        }


def recall_curve(
    ranked: Any,
    query_positions: Any,
    database_positions: Any,
    thresholds: Any,
    ks: Sequence[int] = (1, 5, 10),
) -> RecallCurve:
    """Recall@k for many thresholds at once: how many wrong answers are near misses (thesis, figure 5.3).

    Args:
        ranked: (Q, k) database indices, as of `recall`; every query counts.
        query_positions, database_positions: (Q, 2) and (N, 2) metres (or 3), or (Q,) and (N,) frames.
        thresholds: (T,) in metres or frames, inclusive.
        ks: at most as large as the k of `ranked`.
    """
    array = checked_ranks(ranked)
    wanted = checked_ks(ks, array)
    queries = checked_points("query_positions", query_positions, frames=True)
    database = checked_points("database_positions", database_positions, frames=True)
    check_same_dimension(queries, database)
    limits = _arrays.as_array(thresholds, "thresholds", finite=False).data.ravel()
    if not np.isfinite(limits).all() or (limits < 0).any():
        raise ValueError("thresholds must be finite and not negative")
    if len(queries) != len(array):
        raise ValueError(f"query_positions has {len(queries)} queries, ranked {len(array)}")
    if array.size and array.max() >= len(database):
        raise ValueError(
            f"ranked has index {array.max()}, database_positions {len(database)} images"
        )
    values = np.full((len(limits), len(wanted)), np.nan)
    if len(array) and not len(database):
        values = np.zeros_like(values)  # all -1: nothing was found
    elif len(array):
        d = database[np.maximum(array, 0)] - queries[:, None]
        distance = np.where(array >= 0, np.sqrt((d * d).sum(-1)), np.inf)
        nearest = np.minimum.accumulate(distance, 1)[:, [k - 1 for k in wanted]]
        values = np.array([(nearest <= limit).mean(0) for limit in limits]).reshape(-1, len(wanted))
    return RecallCurve(limits, wanted, values)


def plot_recall_curve(
    curves: dict[str, RecallCurve], path: str | Path, *, rule: float = 25.0, unit: str = "m"
) -> Path:
    """Draw named curves into a picture; a line marks the usual threshold. Needs matplotlib."""
    require("matplotlib", "drawing the curve")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = ("#2a6fb0", "#c25a3c", "#4b9560", "#7a5ca8")
    for (name, curve), style in zip(curves.items(), ("-", "--", ":", "-.") * len(curves)):
        for i, k in enumerate(curve.ks):
            label = f"R@{k}" if len(curves) == 1 else f"{name}, R@{k}"
            axes.plot(curve.thresholds, 100 * curve.values[:, i], style, label=label,
                      color=colours[i % len(colours)], linewidth=1.6)  # fmt: skip
    axes.axvline(rule, color="#555555", linestyle="--", linewidth=1.0)
    axes.set(xlabel=f"decision threshold ({unit})", ylabel="recall (%)")
    axes.set_ylim(None, 101)
    if curves:
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
    return target
