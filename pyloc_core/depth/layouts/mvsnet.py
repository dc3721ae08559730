# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""MVSNet's layout (Yao et al., 2018), in which DTU, BlendedMVS and Tanks and Temples are passed on.

SCENE/cams/00000000_cam.txt   "extrinsic" 4 x 4 camera from world, "intrinsic" 3 x 3,
                              "depth_min depth_interval [planes depth_max]"
SCENE/pair.txt (or cams/pair.txt)   number of views; per view its index and "n source score ..."
SCENE/images/00000000.jpg     and a depth map per view: .pfm, .npy, .npz or 16 bit .png
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyloc_core.depth.layouts.depth_set import (
    DepthSample,
    DepthSet,
    SampleView,
    existing,
    from_pixel_centres,
)
from pyloc_core.depth.layouts.true_depth import read_true_depth
from pyloc_core.pose import as_cam_from_world

_IMAGES = (".jpg", ".png", ".jpeg", ".JPG")
_DEPTHS = (".pfm", ".npz", ".npy", ".bin", ".png")


def read_mvsnet(
    folder: str | Path,
    *,
    scenes: Sequence[str] | None = None,
    count: int | None = None,
    images: str = "images",
    cameras: str = "cams",
    depths: str = "depths",
    unit: float = 1.0,
    centres_at_integers: bool = False,
    name: str = "mvsnet",
) -> DepthSet:
    """Views of pair.txt with a depth map, with the sources that it lists.

    Args:
        folder: of the scenes, or one scene.
        scenes: names to read; None for all folders with a pair.txt.
        count: most sources; None for all that are listed.
        images, cameras, depths: the folders' names in a scene; in `depths` {scene} stands for the scene's
            name, as in "../../Depths_raw/{scene}" for DTU, whose maps come apart.
        unit: metres per unit of the poses and of the depths (0.001 for DTU's millimetres).
        centres_at_integers: the stored intrinsics count from 0 at the first pixel's centre. Those made
            from COLMAP models do not.

    Raises:
        FileNotFoundError, ValueError: naming what is missing or of another form.
    """
    root = Path(folder)
    if scenes is not None:
        found = [root / scene for scene in scenes]
    elif _pair_file(root, cameras) is not None:
        found = [root]
    else:
        found = sorted(p for p in root.iterdir() if p.is_dir() and _pair_file(p, cameras))
    samples: list[DepthSample] = []
    for scene in found:
        pairs = _pair_file(scene, cameras)
        if pairs is None:
            raise FileNotFoundError(f"{scene} holds no pair.txt")
        views: dict[int, tuple[SampleView, tuple[float, float] | None]] = {}
        for reference, sources in _pairs(pairs):
            file = _find(scene / depths.format(scene=scene.name), reference, _DEPTHS)
            if file is None:
                continue
            for index in (reference, *sources[:count]):
                if index not in views:
                    views[index] = _view(scene, index, images, cameras, unit, centres_at_integers)
            read = partial(read_true_depth, file, unit)
            chosen = tuple(views[i][0] for i in sources[:count])
            view, limits = views[reference]
            samples.append(DepthSample(view.name, view, chosen, read, limits))
    if not samples:
        raise FileNotFoundError(f"{root} holds no view of a pair.txt with a map in {depths}/")
    return DepthSet(name, tuple(samples))


def read_dtu(folder: str | Path, **options: Any) -> DepthSet:
    """DTU (Aanaes et al., 2016) in MVSNet's layout: millimetres. Options of `read_mvsnet`."""
    return read_mvsnet(folder, **{"unit": 1e-3, "name": "dtu", **options})


def read_blendedmvs(folder: str | Path, **options: Any) -> DepthSet:
    """BlendedMVS (Yao et al., 2020): its own folder names. Options of `read_mvsnet`."""
    own = {"images": "blended_images", "depths": "rendered_depth_maps", "name": "blendedmvs"}
    return read_mvsnet(folder, **{**own, **options})


def read_tanks_and_temples(folder: str | Path, **options: Any) -> DepthSet:
    """Tanks and Temples (Knapitsch et al., 2017) in MVSNet's layout. Options of `read_mvsnet`."""
    return read_mvsnet(folder, **{"name": "tanks_and_temples", **options})


def _pair_file(scene: Path, cameras: str) -> Path | None:
    places = (scene / "pair.txt", scene / cameras / "pair.txt")
    return next((place for place in places if place.is_file()), None)


def _find(folder: Path, index: int, endings: Sequence[str]) -> Path | None:
    stems = (f"{index:08d}", f"depth_map_{index:04d}", f"{index:04d}")
    files = (folder / f"{stem}{ending}" for stem in stems for ending in endings)
    return next((file for file in files if file.is_file()), None)


def _pairs(path: Path) -> list[tuple[int, list[int]]]:
    """(reference, sources) in the order of the file."""
    try:
        words = [float(word) for word in path.read_text().split()]
        at, result = 1, []
        for _ in range(int(words[0])):
            reference, number = int(words[at]), int(words[at + 1])
            listed = words[at + 2 : at + 2 + 2 * number]
            if len(listed) != 2 * number:
                raise IndexError
            result.append((reference, [int(source) for source in listed[::2]]))
            at += 2 + 2 * number
    except (ValueError, IndexError):
        raise ValueError(f"{path} is no list of views and their sources") from None
    return result


def _view(
    scene: Path, index: int, images: str, cameras: str, unit: float, centres: bool
) -> tuple[SampleView, tuple[float, float] | None]:
    path = existing(scene / cameras / f"{index:08d}_cam.txt")
    words = path.read_text().split()
    try:
        numbers = [float(word) for word in words if word not in ("extrinsic", "intrinsic")]
        pose = as_cam_from_world(np.array(numbers[:16]).reshape(4, 4), str(path))
        K = np.array(numbers[16:25]).reshape(3, 3)
    except ValueError as error:
        raise ValueError(f"{path} is no camera of MVSNet's layout: {error}") from None
    pose[:, 3] *= unit
    image = _find(scene / images, index, _IMAGES)
    if image is None:
        raise FileNotFoundError(f"{scene / images} holds no image {index:08d}")
    view = SampleView(
        f"{scene.name}/{index:08d}", image, from_pixel_centres(K) if centres else K, pose
    )
    return view, _limits(numbers[25:], unit)


def _limits(numbers: list[float], unit: float) -> tuple[float, float] | None:
    """The last line: near, interval, and where given the number of planes and far."""
    if len(numbers) >= 4:
        near, far = numbers[0], numbers[3]
    elif len(numbers) == 3:
        near, far = numbers[0], numbers[0] + numbers[1] * (numbers[2] - 1)
    else:
        return None
    return (near * unit, far * unit) if 0 < near < far else None
