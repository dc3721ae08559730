# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of a localization: reprojected points by inlier probability, and a few loss maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.camera import Camera
from pyloc_core.geometry import image_from_map, map_from_image
from pyloc_core.localization.result import Localization
from pyloc_core.maps import LossMaps
from pyloc_core.pose import transform_points

Array = npt.NDArray[np.float64]
INK, PAPER, HERE, THERE = "#1b1f24", "#ffffff", "#ff3b30", "#34c759"
# Inches: margin, title, photo, colour bar with labels, gap, title of a small map, line below them.
MARGIN, TITLE, PHOTO, BAR, GAP, CAPTION, LEGEND = 0.22, 0.4, 5.4, 0.62, 0.2, 0.25, 0.24


def plot_localization(
    image: npt.NDArray[Any],
    localization: Localization,
    path: str | Path,
    *,
    title: str = "",
    maps: int = 3,
) -> Path:
    """Draw what a `Localization` found over its photo and write it as a picture file.

    Args:
        image: (H, W) or (H, W, 3) uint8 RGB, the photo.
        localization: result of `Localizer.localize_detailed`.
        path: file to write; its ending names the format.
        title: line on top.
        maps: how many points to show loss maps of.

    Left, every point at its reprojection, coloured by its inlier probability. Right, for a few
    points, the coarse loss map over the photo and the fine one in its window; the cross is the
    reprojection under the final pose, the circle the map's own minimum.
    """
    require("matplotlib", "drawing a picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    xy, front = localization.project()
    probability = np.asarray(localization.estimate.inlier_probability, np.float64)
    height, width = image.shape[:2]
    inside = front & ((xy >= 0) & (xy < (width, height))).all(1)
    chosen = _chosen(probability, inside, localization, maps)
    page = _Page(width / height, len(chosen))
    figure = Figure(figsize=page.size, dpi=110, facecolor=PAPER)
    FigureCanvasAgg(figure)
    main = figure.add_axes(page.photo)
    dots = _draw_points(main, image, xy[inside], probability[inside])
    bar = figure.colorbar(dots, cax=figure.add_axes(page.bar), orientation="horizontal")
    bar.set_label(
        f"inlier probability of {int(inside.sum())} points at their reprojections", fontsize=9
    )
    bar.ax.tick_params(labelsize=8, length=2)
    for row, point in enumerate(chosen):
        name = chr(ord("A") + row)
        _label(main, name, xy[point], (width, height))
        coarse, fine = (figure.add_axes(page.small(row, column)) for column in (0, 1))
        coarse.set_title(f"{name}   p = {probability[point]:.2f}", **_caption())
        _draw_coarse(coarse, image, localization, point)
        _draw_fine(fine, localization, point)
    page.write(figure, title, bool(chosen))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


class _Page:
    """Where things go, in fractions of a figure whose size fits the photo."""

    def __init__(self, ratio: float, rows: int) -> None:
        self.ratio, self.rows = ratio, rows
        tall = PHOTO + BAR
        self.small_height = (tall - LEGEND - rows * CAPTION) / max(1, rows)
        self.wide = PHOTO * ratio
        columns = self.small_height * (ratio + 1) + 2 * GAP if rows else 0.0
        self.size = (2 * MARGIN + self.wide + columns, 2 * MARGIN + TITLE + tall)
        self.photo = self._box(0.0, BAR, self.wide, PHOTO)
        self.bar = self._box(0.0, BAR - 0.2, self.wide, 0.12)

    def small(self, row: int, column: int) -> tuple[float, float, float, float]:
        h = self.small_height
        left = self.wide + GAP + column * (h * self.ratio + GAP)
        bottom = PHOTO + BAR - (row + 1) * (h + CAPTION)
        return self._box(left, bottom, h * (1.0 if column else self.ratio), h)

    def write(self, figure: Any, title: str, with_maps: bool) -> None:
        top = 1 - (MARGIN + 0.5 * TITLE - 0.1) / self.size[1]
        size = 12 if self.size[0] > 9 else 10
        figure.text(
            MARGIN / self.size[0], top, title, color=INK, fontsize=size, weight="bold", va="center"
        )
        if with_maps:
            left, low, _, _ = self._box(self.wide + GAP, 0.02, 0.0, 0.0)
            note = "+ final pose    o best cell    bright: low loss"
            figure.text(left, low, note, color=INK, fontsize=8, va="bottom")

    def _box(self, x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        wide, tall = self.size
        return (MARGIN + x) / wide, (MARGIN + y) / tall, w / wide, h / tall


def _caption() -> dict[str, Any]:
    return {"fontsize": 8.5, "color": INK, "loc": "left", "pad": 3}


def _chosen(
    probability: Array, inside: npt.NDArray[np.bool_], localization: Localization, count: int
) -> list[int]:
    """Points to look into: a clear inlier, a middling one, and one that the pose rejects."""
    if localization.coarse_maps is None:
        return []
    candidates = np.flatnonzero(inside & (localization.coarse_maps.peak_gain > 0))
    if not candidates.size or count < 1:
        return []
    order = candidates[np.argsort(-probability[candidates], kind="stable")]
    at = np.append(np.linspace(0.1, 0.6, count)[: count - 1], 0.98) * (len(order) - 1)
    return [int(order[i]) for i in np.unique(at.astype(int))]


def _grey(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    grey = np.asarray(image, np.float32)
    return grey if grey.ndim == 2 else grey.mean(axis=-1)


def _draw_points(axes: Any, image: npt.NDArray[Any], xy: Array, probability: Array) -> Any:
    _photo(axes, 0.75 * _grey(image) + 20)
    order = np.argsort(probability, kind="stable")  # inliers on top
    return axes.scatter(
        xy[order, 0], xy[order, 1], c=probability[order], cmap="RdYlGn", vmin=0, vmax=1, s=15,
        edgecolors=INK, linewidths=0.35,
    )  # fmt: skip


def _photo(axes: Any, grey: npt.NDArray[np.float32]) -> None:
    height, width = grey.shape
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def _label(axes: Any, name: str, at: Array, size: tuple[int, int]) -> None:
    dx, dy = (-11 if at[0] > 0.9 * size[0] else 11), (-11 if at[1] < 0.1 * size[1] else 11)
    axes.annotate(
        name, at, xytext=(dx, dy), textcoords="offset points", color=PAPER, weight="bold",
        fontsize=10, bbox={"boxstyle": "circle,pad=0.2", "fc": INK, "ec": PAPER, "lw": 0.8},
        arrowprops={"arrowstyle": "-", "color": PAPER, "lw": 0.8},
    )  # fmt: skip


def _draw_coarse(
    axes: Any, image: npt.NDArray[Any], localization: Localization, point: int
) -> None:
    """The coarse map over the photo: bright where the descriptor fits."""
    maps = localization.coarse_maps
    assert maps is not None
    _photo(axes, 0.45 * _grey(image))
    row = maps[np.array([point])]
    gain = maps.log_cardinality - np.asarray(row.dense())[0]
    strength = np.sqrt(np.clip(gain / max(1e-6, float(gain.max())), 0, 1))
    # The map covers whole cells, which may reach over the photo's border.
    over, camera = localization.coarse_camera, localization.camera
    scale = np.array([camera.fx / over.fx, camera.fy / over.fy])
    left, top = camera.K[:2, 2] - over.K[:2, 2] * scale
    right, bottom = left + over.width * scale[0], top + over.height * scale[1]
    axes.imshow(
        strength, cmap="YlOrBr_r", vmin=-0.6, vmax=1, alpha=strength, extent=(left, right, bottom, top),
        aspect="auto", interpolation="nearest",
    )  # fmt: skip
    peak = image_from_map(np.asarray(row.argmin().xy, np.float64), over.size, maps.size)
    _marks(
        axes, _reprojection(localization, camera, point), np.asarray(peak)[0] * scale + [left, top]
    )
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))


def _draw_fine(axes: Any, localization: Localization, point: int) -> None:
    """The loss in the window of the fine map, in nats."""
    maps = localization.fine_maps
    axes.set(xticks=[], yticks=[])
    if maps is None or maps.peak_gain[point] <= 0:
        axes.set_title("no fine map", **_caption())
        axes.set_facecolor("#f0f0f0")
        return
    row: LossMaps = maps[np.array([point])]
    x0, y0 = (0, 0) if row.origins is None else row.origins[0]
    loss = np.asarray(row.dense())[0]
    h, w = loss.shape
    extent = (x0 - 0.5, x0 + w - 0.5, y0 + h - 0.5, y0 - 0.5)
    axes.imshow(loss, cmap="inferno_r", extent=extent, aspect="auto", interpolation="nearest")
    over = localization.fine_camera
    xy = _reprojection(localization, over, point)
    here = np.asarray(map_from_image(xy[None], over.size, maps.size))[0]
    _marks(axes, here, np.asarray(row.argmin().xy, np.float64)[0])
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set_title(f"fine: {loss.min():.1f} to {loss.max():.1f} nats", **_caption())


def _reprojection(localization: Localization, camera: Camera, point: int) -> Array:
    pose = localization.estimate.cam_from_world
    xy, _ = camera.project(transform_points(pose, localization.xyz[point : point + 1]))
    return np.asarray(xy)[0]


def _marks(axes: Any, reprojection: Array, peak: Array) -> None:
    axes.plot(*peak, "o", mfc="none", mec=THERE, ms=9, mew=1.5)
    axes.plot(*reprojection, "+", color=HERE, ms=10, mew=1.6)
