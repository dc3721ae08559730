# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From posed images to depth maps, previews, a point cloud and a mesh on disk.

Maps wait on disk between the steps (estimate, check, fusion), so that memory does not grow with their
number; only the images, shrunk, stay in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.depth import consistency
from pyloc_core.depth.consistency import DepthMap, confirmed, without_speckles
from pyloc_core.depth.depth_files import FORMATS, read_depth, write_depth, write_ply
from pyloc_core.depth.point_check import PointCheck, check_points
from pyloc_core.depth.point_cloud import fuse_points
from pyloc_core.depth.posed_images import PosedImage, poses_from
from pyloc_core.depth.preview import depth_picture
from pyloc_core.depth.view_choice import choose_sources
from pyloc_core.depth_planes import depth_range

Float32 = npt.NDArray[np.float32]
# (reference, sources, near, far) -> depth (H, W), 0 where unknown, and confidence (H, W) in 0 .. 1.
Estimate = Callable[[PosedImage, Sequence[PosedImage], float, float], tuple[Float32, Float32]]

_MAPS_IN_MEMORY = 24


@dataclass(frozen=True)
class DepthOptions:
    """What `make_depth_maps` is asked for.

    Attributes:
        sources: views that a depth is estimated from, at most.
        near, far: range of depths; None for that of the model's points, or of the cameras without points.
        least_views: other views that must confirm a depth; fewer where a view has fewer sources.
        max_reprojection, max_depth_change: when a view confirms it (pixels, relative).
        min_confidence: depths below are dropped before the check.
        speckle: patches of connected depths smaller than this share of the pixels are dropped after it.
        format: of the maps, one of `FORMATS`.
        cloud, mesh: write points.ply, mesh.ply.
        voxel: of the mesh, in units of the model; None for one that suits the maps.
    """

    sources: int = 8
    near: float | None = None
    far: float | None = None
    least_views: int = consistency.LEAST_VIEWS
    max_reprojection: float = consistency.MAX_REPROJECTION
    max_depth_change: float = consistency.MAX_DEPTH_CHANGE
    min_confidence: float = 0.15
    speckle: float = 5e-5
    format: str = "npy"
    cloud: bool = True
    mesh: bool = False
    voxel: float | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.sources < 1 or self.least_views < 1:
            raise ValueError("sources and least_views must be at least 1")
        for name in ("near", "far", "voxel", "max_reprojection", "max_depth_change"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 <= self.min_confidence <= 1 or not 0 <= self.speckle < 1:
            raise ValueError("min_confidence and speckle must lie between 0 and 1")
        if self.near is not None and self.far is not None and self.near >= self.far:
            raise ValueError(f"near must be less than far, got {self.near} and {self.far}")


@dataclass(frozen=True)
class ImageReport:
    """What became of an image: its sources by name, range, seconds, the share of pixels with a depth
    before and after the check by other views, and the comparison with the model's points for both."""

    name: str
    sources: list[str]
    near: float
    far: float
    seconds: float
    estimated: float
    kept: float
    before: PointCheck
    after: PointCheck


@dataclass(frozen=True)
class DepthReport:
    """Of all images, and how many points and triangles were written (None: not asked for)."""

    images: list[ImageReport]
    skipped: list[str]
    seconds: float
    points: int | None = None
    triangles: int | None = None


def make_depth_maps(
    views: Sequence[PosedImage],
    estimate: Estimate,
    out: str | Path,
    options: DepthOptions | None = None,
    *,
    say: Callable[[str], None] | None = None,
    progress: bool = False,
) -> DepthReport:
    """Estimate, check and write the depth of every view; then fuse them.

    Writes into `out`: raw/ and confidence/ (before the check), depth/ (after it), preview/ (pictures of
    both), cameras.json (PINHOLE cameras and poses of the maps), report.json, points.ply, mesh.ply.
    Views without sources are named through `say` and left out. An earlier run's maps of the same names are
    overwritten, its other files removed first; report.json comes last: where it is, the run was finished.

    Raises ValueError when no view has a source, a view has neither points nor a range from cameras, or a
    view's name leads out of `out`.
    """
    options = options or DepthOptions()
    start = time.perf_counter()
    work = _Work(views, Path(out), options)
    for view in views:
        if PurePath(view.name).is_absolute() or ".." in PurePath(view.name).parts:
            raise ValueError(f"image name {view.name!r} leads out of the folder that is written to")
    work.out.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "cameras.json", "points.ply", "mesh.ply"):
        (work.out / name).unlink(missing_ok=True)  # of an earlier run, whose maps are overwritten
    for index, (view, chosen) in enumerate(zip(views, choose_sources(views, options.sources))):
        if chosen:
            work.sources[index] = chosen
        elif say is not None:
            say(f"{view.name}: no other image sees what it sees, skipped")
    if not work.sources:
        raise ValueError("no two images see the same part of the scene")
    todo = list(work.sources)
    for index in _bar(todo, "estimating", progress):
        work.estimate(index, estimate)
    for index in _bar(todo, "checking", progress):
        work.check(index)
    work.write_cameras()
    points = work.write_cloud() if options.cloud else None
    triangles = work.write_mesh() if options.mesh else None
    skipped = [view.name for index, view in enumerate(views) if index not in work.sources]
    report = DepthReport(
        [work.report(index) for index in todo], skipped, time.perf_counter() - start, points,
        triangles,
    )  # fmt: skip
    text = json.dumps(_plain(asdict(report)), indent=1)
    (work.out / "report.json").write_text(text + "\n")
    return report


class _Work:
    """One run: its folder, and what is known of each view so far."""

    def __init__(self, views: Sequence[PosedImage], out: Path, options: DepthOptions) -> None:
        self.views, self.out, self.options = views, out, options
        self.sources: dict[int, list[int]] = {}
        self._facts: dict[int, dict[str, Any]] = {}
        self.raw = lru_cache(_MAPS_IN_MEMORY)(self._read_raw)
        self.final = lru_cache(_MAPS_IN_MEMORY)(self._read_final)

    def path(self, folder: str, index: int, ending: str) -> Path:
        return self.out / folder / f"{self.views[index].name}.{ending}"

    def estimate(self, index: int, estimate: Estimate) -> None:
        view, sources = self.views[index], [self.views[i] for i in self.sources[index]]
        began = time.perf_counter()
        near, far = range_of(view, sources, self.options.near, self.options.far)
        depth, confidence = estimate(view, sources, near, far)
        seconds = time.perf_counter() - began
        write_depth(self.path("raw", index, self.options.format), depth)
        write_depth(self.path("confidence", index, self.options.format), confidence)
        self._facts[index] = {
            "sources": [source.name for source in sources], "near": near, "far": far,
            "seconds": seconds, "estimated": float((depth > 0).mean()),
            "before": check_points(view, depth),
        }  # fmt: skip

    def check(self, index: int) -> None:
        options, view = self.options, self.views[index]
        others = [self.raw(i) for i in self.sources[index] if i in self.sources]
        depth = np.zeros(view.size, np.float32)
        if others:
            depth, _ = confirmed(
                self.raw(index), others, least_views=min(options.least_views, len(others)),
                max_reprojection=options.max_reprojection,
                max_depth_change=options.max_depth_change,
            )  # fmt: skip
            depth = without_speckles(depth, round(options.speckle * depth.size))
        write_depth(self.path("depth", index, options.format), depth)
        self._facts[index] |= {
            "kept": float((depth > 0).mean()),
            "after": check_points(view, depth),
        }
        image_module = require("PIL.Image", "writing previews")
        for folder, values in (("preview", depth), ("preview_raw", self.raw(index).depth)):
            path = self.path(folder, index, "png")
            path.parent.mkdir(parents=True, exist_ok=True)
            image_module.fromarray(depth_picture(values)).save(path)

    def write_cameras(self) -> None:
        cameras = {
            self.views[i].name: {
                **self.views[i].camera.to_dict(),
                "cam_from_world": self.views[i].cam_from_world.tolist(),
            }
            for i in self.sources
        }
        (self.out / "cameras.json").write_text(json.dumps(cameras, indent=1) + "\n")

    def write_cloud(self) -> int:
        order, position = self._order()
        neighbours = [[position[j] for j in self.sources[i] if j in position] for i in order]
        cloud = fuse_points(
            _Maps(self.final, order), neighbours, lambda k: self.views[order[k]].image,
            max_depth_change=self.options.max_depth_change,
        )  # fmt: skip
        write_ply(self.out / "points.ply", cloud.points, cloud.normals, cloud.colours)
        return len(cloud)

    def write_mesh(self) -> int:
        from pyloc_core.depth.tsdf_mesh import mesh_of_depths

        order, _ = self._order()
        mesh = mesh_of_depths(
            _Maps(self.final, order), lambda k: self.views[order[k]].image,
            voxel=self.options.voxel,
        )  # fmt: skip
        write_ply(self.out / "mesh.ply", mesh.vertices, mesh.normals, mesh.colours, mesh.triangles)
        return len(mesh.triangles)

    def report(self, index: int) -> ImageReport:
        return ImageReport(self.views[index].name, **self._facts[index])

    def _order(self) -> tuple[list[int], dict[int, int]]:
        order = list(self.sources)
        return order, {index: k for k, index in enumerate(order)}

    def _map(self, index: int, depth: Float32, confidence: Float32) -> DepthMap:
        view = self.views[index]
        return DepthMap(depth, confidence, view.camera, view.cam_from_world, view.name)

    def _read_raw(self, index: int) -> DepthMap:
        ending = self.options.format
        confidence = read_depth(self.path("confidence", index, ending))
        depth = read_depth(self.path("raw", index, ending))
        sure = np.where(confidence >= self.options.min_confidence, depth, np.float32(0))
        return self._map(index, sure, confidence)

    def _read_final(self, index: int) -> DepthMap:
        depth = read_depth(self.path("depth", index, self.options.format))
        return self._map(index, depth, np.ones_like(depth))


class _Maps(Sequence[DepthMap]):
    """Maps that are read when they are looked at."""

    def __init__(self, read: Callable[[int], DepthMap], order: Sequence[int]) -> None:
        self._read, self._order = read, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, k: Any) -> Any:
        return self._read(self._order[k])


def range_of(
    view: PosedImage,
    sources: Sequence[PosedImage],
    near: float | None = None,
    far: float | None = None,
) -> tuple[float, float]:
    """Depths to look at: as given, else of the points in view, else what the cameras can measure.

    Raises ValueError when near is not less than far, naming the view.
    """
    if near is None or far is None:
        found = view.point_range() or _camera_range(view, sources)
        near, far = near or found[0], far or found[1]
    if not near < far:
        raise ValueError(f"{view.name}: near must be less than far, got {near:.4g} and {far:.4g}")
    return near, far


def _camera_range(view: PosedImage, sources: Sequence[PosedImage]) -> tuple[float, float]:
    apart = [np.linalg.norm(s.center - view.center) for s in sources]
    least = 1e-9 * max(1.0, float(np.linalg.norm(view.center)))  # rounding of poses is no baseline
    moved = [s for s, distance in zip(sources, apart) if distance > least]
    if not moved:
        raise ValueError(f"{view.name}: no source has a baseline, and no points tell the range")
    try:
        near, far = depth_range(view.camera.K, poses_from(view, moved), view.size)
    except ValueError as error:
        raise ValueError(f"{view.name}: {error}") from None
    return float(near), float(far)


def _bar(items: Sequence[int], what: str, show: bool) -> Iterable[int]:
    tqdm = require("tqdm", "the progress bar").tqdm
    return tqdm(items, desc=what, unit="image", disable=not show)  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """NaN, which JSON does not know, as null."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
