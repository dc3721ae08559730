# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The main job from end to end on one folder: build a map, localize a held-out photo, show it."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._build import build_info, get_num_threads
from pyloc_core.camera import Camera
from pyloc_core.localization.poses_file import pose_entry, standard_deviations, write_poses
from pyloc_core.pose import PoseEstimate, pose_error

Say = Callable[[str], None]


@dataclass(frozen=True)
class HeldOut:
    """A folder's leave-one-out problem of one photo; the reference pose is for scoring only."""

    query: str
    image: Path
    camera: Camera
    points: dict[str, npt.NDArray[Any]]  # xyz, obs_ptr, obs_image, obs_xy, point3D_ids
    image_names: list[str]
    cameras: list[Camera]
    cam_from_world: npt.NDArray[np.float64]  # (V, 3, 4) of the reference views
    reference: npt.NDArray[np.float64]  # (3, 4) of the query
    median_depth: float


@dataclass(frozen=True)
class DemoResult:
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
    picture: bool = True,
    say: Say = print,
) -> DemoResult:
    """Localize one photo of a folder against a map made of the folder's other photos.

    Args:
        data: folder with images/, cameras.json and loo/ (docs/cli.md); None renders the package's
            own scene into `out`/scene.
        query: photo to localize, by file name or stem; default the first held-out one.
        out: where map, picture and poses.json go.
        say: called with every line of the report.

    Raises ValueError for a folder or query that does not fit, MissingExtra for missing packages.
    """
    from pyloc_core.localization import Localizer, Map

    out = Path(out)
    info = build_info()
    threads = num_threads or get_num_threads()
    say(f"pyloc_core {info['version']}, {info['isa']} kernels, {threads} thread(s)")
    units = "units"
    if data is None:
        from pyloc_core.localization.demo_data import write_demo

        start = time.perf_counter()
        data = write_demo(out / "scene", seed=seed)
        say(f"scene     {data}, rendered in {time.perf_counter() - start:.1f} s")
    held_out = load_held_out(data, query)
    units = _units(Path(data))
    start = time.perf_counter()
    built = _build(Map, Path(data), held_out)
    folder = out / f"map_without_{Path(held_out.query).stem}"
    built.save(folder)
    say(
        f"map       {len(built)} points, {len(held_out.image_names) - 1} reference photos, built in "
        f"{time.perf_counter() - start:.1f} s, saved to {folder}"
    )
    localizer = Localizer(Map.load(folder))
    localizer.localize(held_out.image, held_out.camera, seed=seed, num_threads=num_threads)  # warm
    found = localizer.localize_detailed(
        held_out.image, held_out.camera, seed=seed, num_threads=num_threads
    )
    result = _score(found.estimate, held_out, out)
    _report(held_out, result, units, say)
    write_poses(result.poses, [pose_entry(held_out.query, held_out.camera, found.estimate)])
    say(f"pose file {result.poses}")
    if picture:
        _draw(held_out, found, result, units)
        say(f"picture   {result.picture}")
    return result


def load_held_out(folder: str | Path, query: str | None = None) -> HeldOut:
    """The leave-one-out problem of `query` (file name or stem) in a dataset folder.

    Raises ValueError that names the missing or damaged file, or the closest query.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"no such folder: {root}")
    problems = {path.stem: path for path in sorted((root / "loo").glob("*.npz"))}
    if not problems:
        raise ValueError(f"{root} holds no leave-one-out problems (loo/*.npz)")
    if query is None:
        stem = next((s for s in problems if s.startswith("query")), next(iter(problems)))
    else:
        stem = query if query in problems else Path(query).stem
    if stem not in problems:
        close = difflib.get_close_matches(stem, problems, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(problems)}"
        raise ValueError(f"{root / 'loo'} has no {query}; {hint}")
    try:
        cameras = json.loads((root / "cameras.json").read_text())
        with np.load(problems[stem], allow_pickle=False) as file:
            values = {key: file[key] for key in file.files}
    except Exception as error:  # zip, json and OS errors of damaged files
        raise ValueError(f"cannot read the problem of {stem} in {root}: {error}") from None
    try:
        return _held_out(root, values, cameras)
    except KeyError as error:
        raise ValueError(f"{problems[stem]} or {root / 'cameras.json'} lacks {error}") from None


def _held_out(root: Path, values: dict[str, Any], cameras: Mapping[str, Any]) -> HeldOut:
    names = [str(name) for name in values["image_names"]]
    name = str(values["query"])
    poses = [
        np.column_stack([cameras[n]["R_cam_from_world"], cameras[n]["t_cam_from_world"]])
        for n in names
    ]
    return HeldOut(
        query=name,
        image=root / "images" / name,
        camera=Camera.from_dict(cameras[name]),
        points={k: values[k] for k in ("xyz", "obs_ptr", "obs_image", "obs_xy", "point3D_ids")},
        image_names=names,
        cameras=[Camera.from_dict(cameras[n]) for n in names],
        cam_from_world=np.array(poses),
        reference=np.column_stack([values["R_ref"], values["t_ref"]]),
        median_depth=float(values["median_depth"]),
    )


def _build(map_type: Any, root: Path, held_out: HeldOut) -> Any:
    """A map of the other photos: the query's picture and pose do not go in."""
    from pyloc_core.localization import read_image

    points, query = held_out.points, held_out.image_names.index(held_out.query)
    keep = [i for i in range(len(held_out.image_names)) if i != query]
    if (points["obs_image"] == query).any():
        raise ValueError(f"the problem of {held_out.query} holds observations of the query itself")
    renumber = np.full(len(held_out.image_names), -1)
    renumber[keep] = np.arange(len(keep))
    names = [held_out.image_names[i] for i in keep]
    return map_type.from_arrays(
        points["xyz"],
        points["obs_ptr"],
        renumber[points["obs_image"]],
        points["obs_xy"],
        image_names=names,
        cameras=[held_out.cameras[i] for i in keep],
        cam_from_world=held_out.cam_from_world[keep],
        images=lambda i: read_image(root / "images" / names[i]),
        point_ids=points["point3D_ids"],
    )


def _units(root: Path) -> str:
    try:
        stated = str(json.loads((root / "scene.json").read_text()).get("units", ""))
    except (OSError, ValueError):
        stated = ""
    return "m" if stated.startswith("metre") else "units"


def _score(estimate: PoseEstimate, held_out: HeldOut, out: Path) -> DemoResult:
    rotation, centre = pose_error(estimate.cam_from_world, held_out.reference)
    stem = Path(held_out.query).stem
    return DemoResult(
        estimate=estimate,
        rotation_error_deg=rotation,
        centre_error=centre,
        centre_error_over_depth=centre / held_out.median_depth,
        picture=out / f"{stem}.png",
        poses=out / f"{stem}.json",
    )


def _report(held_out: HeldOut, result: DemoResult, units: str, say: Say) -> None:
    estimate, camera = result.estimate, held_out.camera
    say(f"query     {held_out.query}, {camera.width} x {camera.height}, {camera.model}")
    say(f"result    {'localized' if estimate.success else 'NOT localized'}: {estimate.reason}")
    say("pose      cam_from_world = [R | t]")
    for row in np.asarray(estimate.cam_from_world):
        say("          " + " ".join(f"{value:11.6f}" for value in row))
    say(
        f"error     {result.rotation_error_deg:.4f} deg, centre {result.centre_error:.5f} {units}"
        f" = {result.centre_error_over_depth:.5f} of the median depth"
    )
    rotation_std, centre_std = standard_deviations(estimate)
    say(f"expected  {rotation_std:.4f} deg, centre {centre_std:.5f} {units} (one sigma)")
    say(
        f"points    {len(estimate.inlier_probability)} used, {estimate.num_usable} with a usable map,"
        f" {estimate.num_consistent} agree with the pose"
    )
    stages = {k: v for k, v in estimate.timings.items() if k != "total"}
    total = estimate.timings.get("total", sum(stages.values()))
    say(f"time      {1e3 * total:.0f} ms in all")
    for stage, seconds in stages.items():
        say(f"          {stage:<14}{1e3 * seconds:9.1f} ms")


def _draw(held_out: HeldOut, found: Any, result: DemoResult, units: str) -> None:
    from pyloc_core.localization import read_image
    from pyloc_core.localization.plot import plot_localization

    title = (
        f"{held_out.query}:  {result.rotation_error_deg:.3f} deg,  "
        f"centre {result.centre_error:.4f} {units}"
    )
    plot_localization(read_image(held_out.image), found, result.picture, title=title)
