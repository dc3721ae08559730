# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Geographic distance sensitivity: how descriptor distances grow with the distance of the cameras.

Izquierdo and Civera, "Close, but not there", ECCV 2024; thesis of S. Izquierdo, section 5.1 and figure
5.5. A model retrieves the nearest image first when P(d_e smaller | d_g smaller) is high: a steep mean
and a small dispersion near the decision threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _checks
from pyloc_core._extras import require
from pyloc_core.retrieval.checks import checked_points

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

EDGES = tuple(2.5 * i for i in range(41))  # metres: 0 to 100
_PARTNERS = 256  # per anchor: no crowded place decides alone
_TRIPLETS = 128  # per anchor
_VALUES = 1 << 22  # descriptor values held at once
_LARGEST = 1e15  # of a descriptor: the square of a distance stays finite in float32


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Descriptor distance against geographic distance.

    edges: (B + 1,) metres or frames. mean, std: (B,) of the Euclidean descriptor distance; NaN in an
    empty bin. count: (B,) pairs. far_mean, far_std, far_count: of random pairs at edges[-1] or beyond.
    order: P(d_e smaller | d_g smaller) over triplets of a query and two of its neighbours within edges[-1],
    equal descriptor distances counting half; NaN without triplets. order_by_bin: (B,) the same where the
    nearer neighbour lies in the bin. order_count: (B,) triplets.
    """

    edges: Floats
    mean: Floats
    std: Floats
    count: Indices
    far_mean: float
    far_std: float
    far_count: int
    order: float
    order_by_bin: Floats
    order_count: Indices

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON; None for NaN."""
        result: dict[str, Any] = {}
        for name, value in vars(self).items():
            plain = value.tolist() if isinstance(value, np.ndarray) else [value]
            plain = [None if v != v else v for v in plain]
            result[name] = plain if isinstance(value, np.ndarray) else plain[0]
        return result


def distance_sensitivity(
    descriptors: Any,
    positions: Any,
    edges: Any = EDGES,
    *,
    database_descriptors: Any = None,
    database_positions: Any = None,
    max_pairs: int = 500_000,
    far_pairs: int = 50_000,
    seed: int = 0,
) -> Sensitivity:
    """Mean and standard deviation of descriptor distance per bin of geographic distance.

    Near pairs come from a spatial index, frame after frame in random order until there are enough; at most
    256 partners of a frame are used, drawn at random. Far pairs are drawn at random. Memory is bounded
    whatever the number of frames: a few million descriptor values are gathered at a time.

    Args:
        descriptors: (F, D) of the queries.
        positions: (F, 2) or (F, 3) metres; or (F,) frame numbers of aligned sequences.
        edges: (B + 1,) rising, metres or frames; a bin holds its lower edge.
        database_descriptors, database_positions: (N, D) and (N, ...), partners of the queries, such as
            another season. None: partners are the other frames of the same set.
        max_pairs: near pairs after which no further frame is looked at.
        far_pairs: random pairs to draw; those nearer than edges[-1] are dropped.
        seed: of the order, the partners, the far pairs and the triplets.

    Raises:
        ValueError: shapes that do not fit, NaN, edges that do not rise, negative numbers of pairs.
        TypeError: what is no number. All of them name the argument.
        MissingExtra: scipy is not installed.
    """
    limits = _edges(edges)
    x, p = _side("", descriptors, positions)
    apart = database_descriptors is not None or database_positions is not None
    y, r = _side("database_", database_descriptors, database_positions) if apart else (x, p)
    if x.shape[1] != y.shape[1] or p.shape[1] != r.shape[1]:
        raise ValueError(
            f"database_descriptors and database_positions must have {x.shape[1]} and {p.shape[1]} "
            f"columns like the queries, got {y.shape[1]} and {r.shape[1]}"
        )
    max_pairs = _checks.integer("max_pairs", max_pairs, 0)
    far_pairs = _checks.integer("far_pairs", far_pairs, 0)
    rng = np.random.default_rng(_checks.integer("seed", seed, 0))
    near, order = _Bins(limits), _Bins(limits)
    if len(x) and len(y):
        index = require("scipy.spatial", "pairs of near frames").cKDTree(r)
        for anchor in rng.permutation(len(x)):
            if near.count.sum() >= max_pairs:
                break
            partners = np.array(index.query_ball_point(p[anchor], limits[-1]), np.int64)
            partners = np.sort(partners if apart else partners[partners != anchor])
            if len(partners) > _PARTNERS:
                partners = rng.choice(partners, _PARTNERS, replace=False)
            metres = _length(r[partners] - p[anchor])
            distance = _descriptor_distance(x, np.full(len(partners), anchor), y, partners)
            near.add(metres, distance)
            _add_triplets(order, metres, distance, rng)
    far = _far_distances(x, p, y, r, limits[-1], far_pairs, rng)
    mean, std = near.moments()
    share, _ = order.moments()
    total = order.count.sum()
    return Sensitivity(
        limits, mean, std, near.count,
        float(far.mean()) if len(far) else float("nan"),
        float(far.std()) if len(far) else float("nan"), len(far),
        float(order.total.sum() / total) if total else float("nan"), share, order.count,
    )  # fmt: skip


class _Bins:
    """Running count, sum and sum of squares per bin."""

    def __init__(self, edges: Floats) -> None:
        self.edges = edges
        self.count = np.zeros(len(edges) - 1, np.int64)
        self.total, self.squares = np.zeros((2, len(edges) - 1))

    def add(self, at: Floats, value: Floats) -> None:
        where = np.searchsorted(self.edges, at, "right") - 1
        inside = (where >= 0) & (where < len(self.count))
        where, value = where[inside], value[inside]
        size = len(self.count)
        self.count += np.bincount(where, minlength=size)
        self.total += np.bincount(where, value, size)
        self.squares += np.bincount(where, value * value, size)

    def moments(self) -> tuple[Floats, Floats]:
        """(B,) mean and standard deviation; NaN where there is nothing."""
        with np.errstate(invalid="ignore"):
            mean = self.total / self.count
            return mean, np.sqrt(np.maximum(self.squares / self.count - mean * mean, 0.0))


def _add_triplets(order: _Bins, metres: Floats, distance: Floats, rng: np.random.Generator) -> None:
    """Random pairs of partners of one anchor: whether the nearer one has the nearer descriptor."""
    if len(metres) < 2:
        return
    i = rng.integers(0, len(metres), _TRIPLETS)
    j = (i + rng.integers(1, len(metres), _TRIPLETS)) % len(metres)
    swap = metres[i] > metres[j]
    i, j = np.where(swap, j, i), np.where(swap, i, j)
    ranked = (metres[i] < metres[j]) & (metres[j] < order.edges[-1])
    i, j = i[ranked], j[ranked]
    right = np.where(distance[i] == distance[j], 0.5, (distance[i] < distance[j]).astype(float))
    order.add(metres[i], right)


def _far_distances(
    x: npt.NDArray[Any], p: Floats, y: npt.NDArray[Any], r: Floats, beyond: float, count: int,
    rng: np.random.Generator,
) -> Floats:  # fmt: skip
    """Descriptor distances of random pairs that are at least `beyond` apart."""
    if not (len(x) and len(y) and count):
        return np.zeros(0)
    i, j = rng.integers(0, len(x), count), rng.integers(0, len(y), count)
    kept = _length(r[j] - p[i]) >= beyond
    return _descriptor_distance(x, i[kept], y, j[kept])


def _descriptor_distance(
    x: npt.NDArray[Any], i: Indices, y: npt.NDArray[Any], j: Indices
) -> Floats:
    """(n,) Euclidean distances of x[i] and y[j], float32 inside."""
    step = max(_VALUES // x.shape[1], 1)
    parts = [
        np.linalg.norm(x[i[s : s + step]].astype(np.float32) - y[j[s : s + step]], axis=1)
        for s in range(0, len(i), step)
    ]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def _length(d: Floats) -> Floats:
    return np.asarray(np.sqrt((d * d).sum(-1)))


def _edges(edges: Any) -> Floats:
    array = _arrays.as_array(edges, "edges", finite=False).data
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"edges must be (B + 1,) with at least one bin, got shape {array.shape}")
    if not np.isfinite(array).all() or array[0] < 0 or (np.diff(array) <= 0).any():
        raise ValueError("edges must be finite, not negative, and rise")
    return array


def _side(prefix: str, descriptors: Any, positions: Any) -> tuple[npt.NDArray[Any], Floats]:
    if descriptors is None or positions is None:
        raise ValueError("database_descriptors and database_positions must be given together")
    x = _arrays.as_array(
        descriptors, f"{prefix}descriptors", dtype=("float32", "float64", "float16"), finite=False
    ).data
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"{prefix}descriptors must be (n, D), got shape {x.shape}")
    p = checked_points(f"{prefix}positions", positions, frames=True)
    if len(p) != len(x):
        raise ValueError(f"{prefix}positions has {len(p)} frames, {prefix}descriptors {len(x)}")
    for start in range(0, len(x), 4096):
        largest = np.abs(x[start : start + 4096]).max(1).astype(np.float64)
        bad = np.flatnonzero(~(largest <= _LARGEST))  # NaN too
        if len(bad):
            raise ValueError(
                f"{prefix}descriptors has a row that is not finite or beyond {_LARGEST:g}, "
                f"row {start + bad[0]}"
            )
    return x, p


def plot_sensitivity(
    results: Mapping[str, Sensitivity], path: str | Path, *, rule: float = 25.0, unit: str = "m"
) -> Path:
    """Draw mean and standard deviation of named results, as in figure 5.5. Needs matplotlib.

    The far pairs stand to the right of the bins; a dashed line marks the decision threshold `rule`.
    """
    require("matplotlib", "drawing the sensitivity")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = ("#c25a3c", "#2a6fb0", "#4b9560", "#7a5ca8")
    for n, (name, result) in enumerate(results.items()):
        colour = colours[n % len(colours)]
        centre = (result.edges[1:] + result.edges[:-1]) / 2
        seen = result.count > 0
        low, high = result.mean - result.std, result.mean + result.std
        label = f"{name} (order kept: {100 * result.order:.0f} %)"
        axes.plot(centre[seen], result.mean[seen], color=colour, linewidth=1.6, label=label)
        axes.fill_between(centre[seen], low[seen], high[seen], color=colour, alpha=0.2, linewidth=0)
        if result.far_count:
            width = result.edges[-1] - result.edges[0]
            at = result.edges[-1] + width * (0.05 + 0.02 * n)
            axes.errorbar(at, result.far_mean, result.far_std, fmt="o", color=colour, markersize=4)
    if results:
        last = max(float(result.edges[-1]) for result in results.values())
        axes.axvline(last, color="#999999", linewidth=0.8)
        axes.annotate(" farther", (last, 0.01), xycoords=("data", "axes fraction"), fontsize=8)
        axes.axvline(rule, color="#555555", linestyle="--", linewidth=1.0)
        axes.legend(frameon=False, fontsize=8, loc="lower center")
    axes.set(xlabel=f"geographic distance ({unit})", ylabel="descriptor distance")
    axes.set_ylim(0, None)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
    return target
