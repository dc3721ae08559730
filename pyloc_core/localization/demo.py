# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The main job from end to end on one folder: build a map, localize a held-out photo, show it."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyloc_core._build import build_info, get_num_threads
from pyloc_core._extras import require
from pyloc_core.localization.images import read_image
from pyloc_core.localization.localizer import Localizer
from pyloc_core.localization.map import Map
from pyloc_core.localization.options import MapOptions
from pyloc_core.localization.poses_file import pose_entry, standard_deviations, write_poses
from pyloc_core.localization.result import Localization
from pyloc_core.localization.scene import Query, Scene
from pyloc_core.pose import PoseEstimate, pose_error

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """The pose of the held-out photo, its error against the folder's own pose, and what was written."""

    query: str
    estimate: PoseEstimate
    rotation_error_deg: float
    centre_error: float
    centre_error_over_depth: float
    picture: Path
    poses: Path


def run_demo(
    data: str | Path | None = None,
    *,
    query: str | None = None,
    out: str | Path = "demo_output",
    seed: int = 0,
    num_threads: int | None = None,
    say: Say = print,
) -> DemoResult:
    """Localize one photo of a folder against a map made of the folder's other photos.

    Args:
        data: folder with images/, cameras.json and loo/ (docs/data.md); None renders the package's
            own scene into `out`/scene.
        query: photo to localize, by file name or stem; default the first held-out one.
        out: where map, picture and poses go.
        seed: of the scene and of the sampling.
        say: called with every line of the report.

    Raises ValueError for a folder or query that does not fit, MissingExtra for missing packages.
    """
    require("matplotlib", "the demo's picture")  # before the work, not after it
    out, info = Path(out), build_info()
    threads = num_threads or get_num_threads()
    say(f"pyloc_core {info['version']}, {info['isa']} kernels, {threads} thread(s)")
    if data is None:
        data = _own_scene(out / "scene", seed, say)
    scene = Scene.open(data)
    held_out = find_query(scene, query)
    folder = out / f"map_without_{Path(held_out.name).stem}"
    start = time.perf_counter()
    scene.build_map(held_out, None, MapOptions()).save(folder)
    seconds = time.perf_counter() - start
    model = Map.load(folder)
    say(
        f"map       {folder}: {len(model)} points, {len(model.image_names)} photos without "
        f"{held_out.name}, built in {seconds:.1f} s"
    )
    localizer = Localizer(model)
    found = localizer.localize_detailed(
        held_out.image, held_out.camera, seed=seed, num_threads=num_threads
    )
    result = _score(found.estimate, held_out, out)
    _report(held_out, result, _units(scene.folder), say)
    entry = pose_entry(held_out.name, held_out.camera, found.estimate)
    write_poses(result.poses, [entry])
    say(f"poses     {result.poses}")
    _draw(held_out, found, result, _units(scene.folder))
    say(f"picture   {result.picture}")
    return result


def find_query(scene: Scene, name: str | None) -> Query:
    """The problem of a photo, by file name or stem; None: the first called query_*, or the first.

    Raises ValueError with the closest name when there is no such photo.
    """
    problems = {path.stem: path for path in scene.problems}
    if name is None:
        stem = next((s for s in problems if s.startswith("query")), next(iter(problems)))
    else:
        stem = name if name in problems else Path(name).stem
    if stem not in problems:
        close = difflib.get_close_matches(stem, problems, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(problems)}"
        raise ValueError(f"{scene.folder / 'loo'} has no problem of {name}; {hint}")
    return scene.query(problems[stem])


def _own_scene(folder: Path, seed: int, say: Say) -> Path:
    from pyloc_core.localization.demo_data import write_demo

    start = time.perf_counter()
    write_demo(folder, seed=seed)
    say(f"scene     {folder}: rendered in {time.perf_counter() - start:.1f} s")
    return folder


def _units(folder: Path) -> str:
    try:
        stated = str(json.loads((folder / "scene.json").read_text()).get("units", ""))
    except (OSError, ValueError):
        stated = ""
    return "m" if stated.startswith("metre") else "units"


def _score(estimate: PoseEstimate, held_out: Query, out: Path) -> DemoResult:
    rotation, centre = pose_error(estimate.cam_from_world, held_out.cam_from_world)
    stem = Path(held_out.name).stem
    return DemoResult(
        query=held_out.name,
        estimate=estimate,
        rotation_error_deg=rotation,
        centre_error=centre,
        centre_error_over_depth=centre / held_out.median_depth,
        picture=out / f"{stem}.png",
        poses=out / f"{stem}.json",
    )


def _report(held_out: Query, result: DemoResult, units: str, say: Say) -> None:
    estimate, camera = result.estimate, held_out.camera
    say(f"query     {held_out.name}: {camera.width} x {camera.height}, {camera.model}")
    say(f"result    {'localized' if estimate.success else 'NOT localized'}: {estimate.reason}")
    for index, row in enumerate(np.asarray(estimate.cam_from_world)):
        label = "pose" if index == 0 else ""
        note = "   cam_from_world [R | t]" if index == 0 else ""
        say(f"{label:<10}" + " ".join(f"{value:11.6f}" for value in row) + note)
    say(
        f"error     {result.rotation_error_deg:.4f} deg; centre {result.centre_error:.5f} {units},"
        f" {result.centre_error_over_depth:.5f} of the median depth"
    )
    rotation_std, centre_std = standard_deviations(estimate)
    say(f"expected  {rotation_std:.4f} deg; centre {centre_std:.5f} {units} (one sigma)")
    say(
        f"points    {len(estimate.inlier_probability)} looked for, {estimate.num_usable} with a usable"
        f" map, {estimate.num_consistent} agree with the pose"
    )
    stages = {stage: value for stage, value in estimate.timings.items() if stage != "total"}
    say(f"time      {1e3 * estimate.timings['total']:.0f} ms")
    for stage, seconds in stages.items():
        say(f"          {stage:<14}{1e3 * seconds:8.1f} ms")


def _draw(held_out: Query, found: Localization, result: DemoResult, units: str) -> None:
    from pyloc_core.localization.plot import plot_localization

    title = (
        f"{held_out.name}:  {result.rotation_error_deg:.3f} deg,  "
        f"centre {result.centre_error:.4f} {units}"
    )
    plot_localization(read_image(held_out.image), found, result.picture, title=title)
