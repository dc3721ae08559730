# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of a localization: reprojected points by inlier probability, and a few loss maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.geometry import image_from_map, map_from_image
from pyloc_core.maps import LossMaps

Array = npt.NDArray[np.float64]
INK, PAPER, ACCENT = "#1b1f24", "#ffffff", "#e5484d"


def plot_localization(
    image: npt.NDArray[Any], localization: Any, path: str | Path, *, title: str = "", maps: int = 3
) -> Path:
    """Draw what a `Localization` found over its photo and write it as a picture file.

    Args:
        image: (H, W) or (H, W, 3) uint8 RGB, the photo.
        localization: result of `Localizer.localize_detailed`.
        path: file to write; its ending names the format.
        title: line on top.
        maps: how many points to show loss maps of.

    Left, every point at its reprojection, coloured by its inlier probability. Right, for a few
    points, the coarse loss map over the photo and the fine one of its window; the cross is the
    reprojection under the final pose, the circle the map's own minimum.
    """
    require("matplotlib", "drawing a picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    xy, front = localization.project()
    xy, front = np.asarray(xy), np.asarray(front)
    probability = np.asarray(localization.estimate.inlier_probability, np.float64)
    height, width = image.shape[:2]
    inside = front & ((xy >= 0) & (xy < (width, height))).all(1)
    chosen = _chosen(probability, inside, localization, maps)
    figure = Figure(figsize=_figure_size(width / height, bool(chosen)), dpi=110, facecolor=PAPER)
    FigureCanvasAgg(figure)
    columns = [2.0 * width / height, width / height * 0.72, 0.72] if chosen else [1.0]
    grid = figure.add_gridspec(
        max(1, len(chosen)), len(columns), width_ratios=columns, wspace=0.07, hspace=0.2,
        left=0.015, right=0.985, bottom=0.09, top=0.90,
    )  # fmt: skip
    main = figure.add_subplot(grid[:, 0])
    _draw_points(figure, main, image, xy[inside], probability[inside])
    for row, point in enumerate(chosen):
        label = chr(ord("A") + row)
        main.annotate(
            label, xy[point], xytext=(9, 9), textcoords="offset points", color=PAPER, weight="bold",
            fontsize=11, bbox={"boxstyle": "circle,pad=0.2", "fc": INK, "ec": PAPER, "lw": 0.8},
            arrowprops={"arrowstyle": "-", "color": PAPER, "lw": 0.8},
        )  # fmt: skip
        coarse, fine = figure.add_subplot(grid[row, 1]), figure.add_subplot(grid[row, 2])
        note = f"{label}   inlier probability {probability[point]:.2f}"
        _draw_coarse(coarse, image, localization.coarse_maps, point, xy[point], note)
        _draw_fine(fine, localization.fine_maps, point, xy[point], (height, width))
    if title:
        figure.text(0.015, 0.955, title, color=INK, fontsize=12, weight="bold", va="center")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _figure_size(ratio: float, with_maps: bool) -> tuple[float, float]:
    height = 6.6
    width = height * 0.84 * (ratio * 1.32 + 0.36 if with_maps else ratio) + 0.9
    return float(np.clip(width, 6.0, 17.0)), height


def _chosen(
    probability: Array, inside: npt.NDArray[np.bool_], localization: Any, count: int
) -> list[int]:
    """Points to look into: a clear inlier, a middling one, and one that the pose rejects."""
    if localization.coarse_maps is None:
        return []
    candidates = np.flatnonzero(inside & (localization.coarse_maps.peak_gain > 0))
    if not candidates.size or count < 1:
        return []
    order = candidates[np.argsort(-probability[candidates], kind="stable")]
    at = np.linspace(0.08, 0.92, count) * (len(order) - 1)
    return [int(order[i]) for i in np.unique(at.astype(int))]


def _draw_points(figure: Any, axes: Any, image: Any, xy: Array, probability: Array) -> None:
    grey = np.asarray(image, np.float32)
    grey = grey if grey.ndim == 2 else grey.mean(axis=-1)
    axes.imshow(0.75 * grey + 20, cmap="gray", vmin=0, vmax=255, extent=_extent(image.shape))
    order = np.argsort(probability, kind="stable")  # inliers on top
    dots = axes.scatter(
        xy[order, 0], xy[order, 1], c=probability[order], cmap="RdYlGn", vmin=0, vmax=1, s=15,
        edgecolors=INK, linewidths=0.35,
    )  # fmt: skip
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), xticks=[], yticks=[])
    axes.set_anchor("W")
    bar = figure.colorbar(
        dots, ax=axes, orientation="horizontal", fraction=0.03, pad=0.02, aspect=50
    )
    bar.set_label(f"inlier probability of {len(xy)} reprojected points", color=INK, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _draw_coarse(axes: Any, image: Any, maps: LossMaps, point: int, xy: Array, note: str) -> None:
    """The coarse map over the photo: bright where the descriptor fits."""
    row = maps[np.array([point])]
    size = (image.shape[0], image.shape[1])
    grey = np.asarray(image, np.float32)
    grey = grey if grey.ndim == 2 else grey.mean(axis=-1)
    axes.imshow(grey * 0.45, cmap="gray", vmin=0, vmax=255, extent=_extent(image.shape))
    gain = maps.log_cardinality - np.asarray(row.dense())[0]
    alpha = np.clip(gain / max(1e-6, float(gain.max())), 0, 1)
    axes.imshow(
        gain, cmap="inferno", alpha=alpha, extent=_extent(image.shape), interpolation="nearest"
    )
    peak = np.asarray(image_from_map(np.asarray(row.argmin().xy, np.float64), size, maps.size))[0]
    _marks(axes, xy, peak)
    axes.set(xlim=(0, size[1]), ylim=(size[0], 0), xticks=[], yticks=[])
    axes.set_title(note, fontsize=9, color=INK, loc="left", pad=3)


def _draw_fine(
    axes: Any, maps: LossMaps | None, point: int, xy: Array, image_size: tuple[int, int]
) -> None:
    """The loss in the window of the fine map, in nats."""
    axes.set(xticks=[], yticks=[])
    if maps is None or maps.peak_gain[point] <= 0:
        axes.text(0.5, 0.5, "no fine map", ha="center", va="center", fontsize=9, color=INK)
        axes.set_aspect("equal")
        return
    row = maps[np.array([point])]
    origin = (0, 0) if row.origins is None else row.origins[0]
    loss = np.asarray(row.dense())[0]
    h, w = loss.shape
    extent = (origin[0] - 0.5, origin[0] + w - 0.5, origin[1] + h - 0.5, origin[1] - 0.5)
    axes.imshow(loss, cmap="inferno_r", extent=extent, interpolation="nearest")
    here = np.asarray(map_from_image(xy[None], image_size, maps.size))[0]
    _marks(axes, here, np.asarray(row.argmin().xy, np.float64)[0])
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set_title(f"fine window, {loss.min():.1f} to {loss.max():.1f} nats", fontsize=9, pad=3)


def _marks(axes: Any, reprojection: Array, peak: Array) -> None:
    axes.plot(*peak, "o", mfc="none", mec="#30a46c", ms=9, mew=1.6)
    axes.plot(*reprojection, "+", color=ACCENT, ms=11, mew=1.8)


def _extent(shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    return (0.0, float(shape[1]), float(shape[0]), 0.0)
