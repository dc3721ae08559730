# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI: raw sequences with poses of the inertial unit, and the depth benchmark's maps.

Geiger et al., "Vision meets Robotics: The KITTI Dataset" (2013); Uhrig et al., "Sparsity Invariant CNNs"
(2017) for the depth maps. Below RAW, one folder per day:

    DATE/calib_cam_to_cam.txt, calib_velo_to_cam.txt, calib_imu_to_velo.txt
    DATE/DRIVE/image_02/data/0000000005.png   or .jpg
    DATE/DRIVE/oxts/data/0000000005.txt       latitude longitude altitude roll pitch yaw ...

and below DEPTH, SPLIT/DRIVE/proj_depth/groundtruth/image_02/0000000005.png, metres times 256.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pyloc_core.depth.layouts.depth_set import (
    Array,
    DepthSample,
    DepthSet,
    SampleView,
    existing,
    from_pixel_centres,
    only,
)
from pyloc_core.depth.layouts.true_depth import read_png_depth
from pyloc_core.pose import as_cam_from_world

UNITS_PER_METRE = 256.0
EARTH_RADIUS = 6378137.0  # metres, of the data set's own projection


def read_kitti(
    raw: str | Path,
    depth: str | Path | None = None,
    *,
    split: str = "val",
    camera: int = 2,
    offsets: Sequence[int] = (-1, 1, -2, 2, -3, 3),
    frames: Sequence[tuple[str, int]] | None = None,
    name: str = "kitti",
) -> DepthSet:
    """Frames with a depth map, with neighbours in the sequence as sources.

    Args:
        raw: the folder of the days. depth: the folder of the splits; None for the same.
        split: "train" or "val", the folder below `depth`.
        camera: 2 or 3, the colour cameras.
        offsets: of the source frames in the sequence, best first; those that are not there are left out.
        frames: (drive, frame) of the references, as the benchmark lists them; None for every frame with a
            depth map and a source.

    Raises:
        FileNotFoundError: what is missing. ValueError: a calibration of another form.
    """
    root, maps = Path(raw), Path(raw if depth is None else depth) / split
    chosen = _listed(maps, camera) if frames is None else list(frames)
    samples = []
    drives: dict[
        str, tuple[Array, Array, Array]
    ] = {}  # K, camera from unit, first frame: read once
    for drive, number in chosen:
        day = root / drive[:10]
        if drive not in drives:
            first = only("*.txt", day / drive / "oxts" / "data")[0]
            drives[drive] = (*_calibration(day, camera), _oxts(first))
        K, camera_from_imu, origin = drives[drive]
        views = {}
        for frame in (number, *(number + offset for offset in offsets)):
            path = _image(day / drive / f"image_{camera:02d}" / "data", frame)
            oxts = day / drive / "oxts" / "data" / f"{frame:010d}.txt"
            if path.is_file() and oxts.is_file():
                world_from_imu = _pose_of_oxts(_oxts(oxts), origin)
                pose = as_cam_from_world((camera_from_imu @ np.linalg.inv(world_from_imu))[:3])
                views[frame] = SampleView(f"{drive}/{frame:010d}", path, K, pose)
            elif frame == number:
                raise FileNotFoundError(f"no such frame: {path} with {oxts}")
        sources = tuple(views[number + o] for o in offsets if number + o in views)
        if sources or frames is not None:
            file = existing(_depth_path(maps, drive, camera) / f"{number:010d}.png")
            read = partial(read_png_depth, file, UNITS_PER_METRE)
            samples.append(DepthSample(views[number].name, views[number], sources, read))
    if not samples:
        raise FileNotFoundError(f"{maps} holds no depth map of a frame of {root} with a source")
    return DepthSet(name, tuple(samples))


def _image(folder: Path, frame: int) -> Path:
    """As downloaded, or converted to save space."""
    small = folder / f"{frame:010d}.jpg"
    return small if small.is_file() else folder / f"{frame:010d}.png"


def _depth_path(maps: Path, drive: str, camera: int) -> Path:
    return maps / drive / "proj_depth" / "groundtruth" / f"image_{camera:02d}"


def _listed(maps: Path, camera: int) -> list[tuple[str, int]]:
    return [
        (drive.name, int(file.stem))
        for drive in only("*_sync", maps)
        for file in only("*.png", _depth_path(maps, drive.name, camera))
    ]


def _calibration(day: Path, camera: int) -> tuple[Array, Array]:
    """K of the rectified images, and (4, 4) from the inertial unit to that camera."""
    cams = _table(day / "calib_cam_to_cam.txt")
    P = _values(cams, f"P_rect_{camera:02d}", 12, day).reshape(3, 4)
    rectify = np.eye(4)
    rectify[:3, :3] = _values(cams, "R_rect_00", 9, day).reshape(3, 3)
    shift = np.eye(4)  # the rectified cameras differ by a translation, P's last column
    shift[:3, 3] = np.linalg.solve(P[:, :3], P[:, 3])
    lidar = _rigid(day / "calib_velo_to_cam.txt")
    return from_pixel_centres(P[:, :3]), shift @ rectify @ lidar @ _rigid(
        day / "calib_imu_to_velo.txt"
    )


def _table(path: Path) -> dict[str, str]:
    lines = existing(path).read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _values(table: dict[str, str], key: str, count: int, where: Path) -> Array:
    try:
        found = np.array([float(word) for word in table[key].split()])
    except (KeyError, ValueError):
        raise ValueError(f"{where}: the calibration has no numbers {key}") from None
    if len(found) != count:
        raise ValueError(f"{where}: {key} must hold {count} numbers, got {len(found)}")
    return found


def _rigid(path: Path) -> Array:
    table, matrix = _table(path), np.eye(4)
    matrix[:3, :3] = _values(table, "R", 9, path).reshape(3, 3)
    matrix[:3, 3] = _values(table, "T", 3, path)
    return matrix


def _oxts(path: Path) -> Array:
    try:
        found = np.array([float(word) for word in existing(path).read_text().split()[:6]])
    except ValueError:
        raise ValueError(f"{path} does not begin with six numbers") from None
    if len(found) != 6:
        raise ValueError(f"{path} does not begin with six numbers")
    return found


def _pose_of_oxts(values: Array, origin: Array) -> Array:
    """(4, 4) world from inertial unit: Mercator projection at the latitude of the first frame."""
    scale = np.cos(np.radians(origin[0]))
    roll, pitch, yaw = values[3:]
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(a), np.sin(a)) for a in (roll, pitch, yaw))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = about_z @ about_y @ about_x
    pose[:3, 3] = _mercator(values, scale) - _mercator(origin, scale)
    return pose


def _mercator(values: Array, scale: float) -> Array:
    latitude, longitude, altitude = values[:3]
    east = scale * EARTH_RADIUS * np.radians(longitude)
    north = scale * EARTH_RADIUS * np.log(np.tan(np.radians(90 + latitude) / 2))
    return np.array([east, north, altitude])
