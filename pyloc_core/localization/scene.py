# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of photos with known cameras and leave-one-out problems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.localization.images import reader_for
from pyloc_core.localization.map import Map
from pyloc_core.localization.options import MapOptions

Array = npt.NDArray[np.float64]
_NEEDED = (
    "query", "image_names", "width", "height", "K", "k1", "R_ref", "t_ref", "median_depth",
    "point3D_ids", "xyz", "obs_ptr", "obs_image",
)  # fmt: skip


@dataclass(frozen=True)
class Query:
    """One leave-one-out problem: a model without the query, and what is known of the query.

    `cam_from_world` and `median_depth` serve scoring alone.
    """

    name: str
    image: Path
    camera: Camera
    cam_from_world: Array
    median_depth: float
    xyz: Array
    point_ids: npt.NDArray[np.int64]
    obs_ptr: npt.NDArray[np.int64]
    obs_view: npt.NDArray[np.int64]
    view_names: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """A folder with images/, cameras.json and loo/*.npz (one per query)."""

    folder: Path
    cameras: dict[str, Camera]
    cam_from_world: dict[str, Array]
    problems: tuple[Path, ...]

    @classmethod
    def open(cls, folder: str | Path) -> Scene:
        """Read cameras.json and list the problems. ValueError names what is missing or damaged."""
        folder = Path(folder)
        path = folder / "cameras.json"
        try:
            entries = json.loads(path.read_text())
        except FileNotFoundError:
            raise ValueError(f"{folder} is no scene: cameras.json is missing") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {path}: {error}") from None
        try:
            cameras = {name: Camera.from_dict(entry) for name, entry in entries.items()}
            poses = {
                name: np.column_stack([entry["R_cam_from_world"], entry["t_cam_from_world"]])
                for name, entry in entries.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} does not describe cameras: {error}") from None
        problems = tuple(sorted((folder / "loo").glob("*.npz")))
        if not problems:
            raise ValueError(f"{folder / 'loo'} holds no leave-one-out problem (*.npz)")
        return cls(folder, cameras, poses, problems)

    def query(self, problem: Path) -> Query:
        """Read one problem. The query's own observations are not in it; its view is dropped."""
        try:
            with np.load(problem, allow_pickle=False) as archive:
                data: dict[str, Any] = {name: archive[name] for name in _NEEDED}
        except Exception as error:  # numpy raises zipfile, zlib, OS and value errors
            raise ValueError(f"cannot read {problem}: {error}") from None
        name = str(data["query"])
        names = [str(n) for n in data["image_names"]]
        absent = sorted(set(names) - set(self.cameras))
        if absent:
            raise ValueError(f"{problem} names image {absent[0]}, which cameras.json lacks")
        others = [n for n in names if n != name]
        position = np.array([others.index(n) if n != name else -1 for n in names])
        view = position[data["obs_image"]]
        if (view < 0).any():
            raise ValueError(f"{problem} holds observations of its own query")
        return Query(
            name=name,
            image=self.folder / "images" / name,
            camera=_camera(data),
            cam_from_world=np.column_stack([data["R_ref"], data["t_ref"]]),
            median_depth=float(data["median_depth"]),
            xyz=data["xyz"],
            point_ids=data["point3D_ids"].astype(np.int64),
            obs_ptr=data["obs_ptr"].astype(np.int64),
            obs_view=view,
            view_names=tuple(others),
        )

    def build_map(self, query: Query, descriptor: Any, options: MapOptions) -> Map:
        """The map of everything but the query."""
        names: Sequence[str] = query.view_names
        read = reader_for(descriptor)
        return Map.from_arrays(
            query.xyz, query.obs_ptr, query.obs_view, image_names=names,
            cameras=[self.cameras[n] for n in names],
            cam_from_world=np.array([self.cam_from_world[n] for n in names]),
            images=lambda view: read(self.folder / "images" / names[view]),
            point_ids=query.point_ids, descriptor=descriptor, options=options,
        )  # fmt: skip


def _camera(data: dict[str, Any]) -> Camera:
    """The query's camera as the problem states it: K and one radial coefficient."""
    K, k1 = data["K"], float(data["k1"])
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    width, height = int(data["width"]), int(data["height"])
    if k1 == 0:
        return Camera("PINHOLE", width, height, (fx, fy, cx, cy))
    return Camera("OPENCV", width, height, (fx, fy, cx, cy, k1, 0.0, 0.0, 0.0))
