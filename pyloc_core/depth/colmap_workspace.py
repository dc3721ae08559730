# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth maps as a dense workspace of COLMAP, so that its fusion and meshing go on from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyloc_core._extras import require
from pyloc_core.depth.consistency import DepthMap
from pyloc_core.depth.depth_files import read_depth, write_depth
from pyloc_core.depth.point_cloud import depth_normals
from pyloc_core.depth.posed_images import PosedImage

_KIND = "geometric"  # what COLMAP calls maps that passed a check by other views


def write_workspace(
    folder: str | Path, views: Sequence[PosedImage], maps: str | Path, format: str = "npy"
) -> int:
    """Write images/, sparse/ and stereo/ of a workspace; returns how many maps it has.

    Args:
        folder: of the workspace, made where it is not there.
        views: as the maps were made from.
        maps: output folder of `make_depth_maps`, whose checked maps, in `format`, are taken.

    Views without a map are left out. `colmap stereo_fusion --workspace_path FOLDER` or
    `pycolmap.stereo_fusion` reads the folder, with the input type "geometric".
    """
    folder, maps = Path(folder), Path(maps)
    image_module = require("PIL.Image", "writing images")
    paths = {view.name: maps / "depth" / f"{view.name}.{format}" for view in views}
    used = [view for view in views if paths[view.name].is_file()]
    for view in used:
        depth = read_depth(paths[view.name])
        seen = DepthMap(depth, np.ones_like(depth), view.camera, view.cam_from_world, view.name)
        stereo = folder / "stereo"
        write_depth(stereo / "depth_maps" / f"{view.name}.{_KIND}.bin", depth)
        write_depth(stereo / "normal_maps" / f"{view.name}.{_KIND}.bin", depth_normals(seen))
        picture = folder / "images" / view.name
        picture.parent.mkdir(parents=True, exist_ok=True)
        # Lossless would be better, but the model names the file, and with it the format.
        image_module.fromarray(view.image).save(picture, quality=95)
    names = "".join(f"{view.name}\n" for view in used)
    (folder / "stereo" / "fusion.cfg").write_text(names)
    sparse = folder / "sparse"
    sparse.mkdir(parents=True, exist_ok=True)
    _model(used).write(str(sparse))
    return len(used)


def _model(views: Sequence[PosedImage]) -> Any:
    """A `pycolmap.Reconstruction` of the PINHOLE views and the points that two of them observe."""
    pycolmap = require("pycolmap", "writing a COLMAP model")
    model = pycolmap.Reconstruction()
    tracks: dict[int, list[tuple[int, int]]] = {}
    xyz: dict[int, Any] = {}
    for number, view in enumerate(views, 1):
        camera = view.camera
        model.add_camera_with_trivial_rig(
            pycolmap.Camera(
                camera_id=number, model=camera.model, width=camera.width, height=camera.height,
                params=list(camera.params),
            )
        )  # fmt: skip
        xy, _, chosen = view.project_points()
        for row, index in enumerate(chosen.tolist()):
            point = int(view.point_ids[index])
            tracks.setdefault(point, []).append((number, row))
            xyz[point] = view.points[index]
        image = pycolmap.Image(name=view.name, keypoints=xy, camera_id=number, image_id=number)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(view.cam_from_world))
    for point, track in tracks.items():
        if len(track) > 1:
            elements = [pycolmap.TrackElement(image, row) for image, row in track]
            model.add_point3D(xyz[point], pycolmap.Track(elements), np.zeros(3, np.uint8))
    return model
