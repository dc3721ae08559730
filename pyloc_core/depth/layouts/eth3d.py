# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""ETH3D's high-resolution multi-view training scenes (Schoeps et al., CVPR 2017).

    SCENE/images/dslr_images/*.JPG
    SCENE/dslr_calibration_jpg/cameras.txt, images.txt, points3D.txt      COLMAP's text model
    SCENE/ground_truth_depth/dslr_images/*.JPG                            bare float32, size of the image

and the same with `dslr_images_undistorted` and `dslr_calibration_undistorted`, without depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pyloc_core._extras import require
from pyloc_core.depth.layouts.depth_set import Array, DepthSample, DepthSet, SampleView
from pyloc_core.depth.layouts.true_depth import read_raw_depth
from pyloc_core.depth.sources import NUM_SOURCES, sources_from_model

_ONE_FOCAL = {
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
}


def read_eth3d(
    folder: str | Path,
    *,
    scenes: Sequence[str] | None = None,
    count: int = NUM_SOURCES,
    images: str = "dslr_images",
    calibration: str = "dslr_calibration_jpg",
    name: str = "eth3d",
) -> DepthSet:
    """Images with a depth map, with sources by shared points (`sources_from_model`).

    The depth maps belong to the distorted images, whose cameras have a thin prism model: K is its pinhole
    part, as the Robust MVD benchmark uses it. The thesis' Table 9.3 undistorts images and depth first.

    Args:
        folder: of the scenes, or one scene.
        scenes: names to read; None for all with the calibration in them.
        count: most sources.
        images, calibration: the folders' names.

    Raises:
        FileNotFoundError, ValueError: naming what is missing or of another form. MissingExtra: no pycolmap.
    """
    root = Path(folder)
    if (root / calibration).is_dir():
        found = [root]
    elif scenes is None:
        found = sorted(p.parent for p in root.glob(f"*/{calibration}"))
    else:
        found = [root / scene for scene in scenes]
    samples = [s for scene in found for s in _scene(scene, images, calibration, count)]
    if not samples:
        raise FileNotFoundError(f"{root} holds no image of {calibration} with a depth map")
    return DepthSet(name, tuple(samples))


def _scene(scene: Path, images: str, calibration: str, count: int) -> list[DepthSample]:
    pycolmap = require("pycolmap", "reading ETH3D's calibration")
    if not (scene / calibration).is_dir():
        raise FileNotFoundError(f"no such folder: {scene / calibration}")
    try:
        model = pycolmap.Reconstruction(str(scene / calibration))
    except Exception as error:  # pycolmap raises RuntimeError and others for damaged files
        raise ValueError(
            f"cannot read the COLMAP model in {scene / calibration}: {error}"
        ) from None
    chosen = sources_from_model(model, count)
    views, sizes = {}, {}
    for image in model.images.values():
        if not image.has_pose:
            continue
        camera = model.cameras[image.camera_id]
        path = _image_path(scene, images, image.name)
        pose = np.array(image.cam_from_world().matrix())
        label = f"{scene.name}/{Path(image.name).name}"
        views[image.name] = SampleView(label, path, _pinhole(camera), pose)
        sizes[image.name] = (int(camera.height), int(camera.width))
    samples = []
    for key, view in sorted(views.items()):
        file = scene / "ground_truth_depth" / images / Path(key).name
        sources = tuple(views[other] for other in chosen.get(key, []))
        if file.is_file() and sources:
            read = partial(read_raw_depth, file, sizes[key])
            samples.append(DepthSample(view.name, view, sources, read))
    return samples


def _image_path(scene: Path, images: str, name: str) -> Path:
    """The model's names begin with the folder of the images."""
    whole = scene / "images" / name
    return whole if whole.is_file() else scene / "images" / images / Path(name).name


def _pinhole(camera: object) -> Array:
    """The pinhole part of a COLMAP camera; its principal point counts from the corner already."""
    p = np.asarray(camera.params, np.float64)  # type: ignore[attr-defined]
    name = str(getattr(camera.model, "name", camera.model))  # type: ignore[attr-defined]
    fx, fy, cx, cy = (p[0], p[0], p[1], p[2]) if name in _ONE_FOCAL else p[:4]
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
