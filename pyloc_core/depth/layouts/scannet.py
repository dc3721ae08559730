# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""ScanNet (Dai et al., 2017): the folders of its exporter, one per scene.

SCENE/color/0.jpg, SCENE/depth/0.png (millimetres), SCENE/pose/0.txt (camera to world, 4 x 4)
SCENE/intrinsic/intrinsic_color.txt, intrinsic_depth.txt
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pyloc_core._checks import integer, known_name
from pyloc_core.depth.layouts.depth_set import DepthSample, DepthSet, SampleView, from_pixel_centres
from pyloc_core.depth.layouts.true_depth import read_png_depth
from pyloc_core.depth.sources import NUM_SOURCES, keyframes, select_sources
from pyloc_core.localization.rgbd_folder import read_rgbd_folder

UNITS_PER_METRE = 1000.0


def read_scannet(
    folder: str | Path,
    *,
    scenes: Sequence[str] | None = None,
    choose: str = "neighbours",
    offsets: Sequence[int] = (-1, 1, -2, 2, -3, 3, 4),
    count: int = NUM_SOURCES,
    step: int = 1,
    name: str = "scannet",
) -> DepthSet:
    """Frames of every scene, with sources of the same scene.

    Args:
        folder: of the scenes, or one scene.
        scenes: names of the scenes to read; None for all folders with a color/ in them.
        choose: "neighbours" for the frames at `offsets` in the order of the numbers, as the Robust MVD
            benchmark takes them (three before, four after); "keyframes" for `select_sources`, looking both
            ways, the variant of the thesis' Table 9.3.
        count: most sources, for keyframes.
        step: every how many frames is a reference.

    Frames whose pose is not finite are neither references nor sources. The colour images are larger than
    the depth maps and show the same: comparisons read the prediction at the depth map's pixels.

    Raises:
        FileNotFoundError, ValueError: naming what is missing or of another form.
    """
    known_name("way to choose", choose, ("neighbours", "keyframes"))
    integer("step", step, 1)
    root = Path(folder)
    if (root / "color").is_dir():
        found = [root]
    elif scenes is None:
        found = sorted(p.parent for p in root.glob("*/color"))
    else:
        found = [root / scene for scene in scenes]
    samples = [s for scene in found for s in _scene(scene, choose, offsets, count, step)]
    if not samples:
        raise FileNotFoundError(f"{root} holds no scene with color/, depth/, pose/ and intrinsic/")
    return DepthSet(name, tuple(samples))


def _scene(
    scene: Path, choose: str, offsets: Sequence[int], count: int, step: int
) -> list[DepthSample]:
    frames = sorted(
        read_rgbd_folder(scene).frames.values(),
        key=lambda f: (int(f.name) if f.name.isdigit() else -1, f.name),
    )
    views = [
        SampleView(
            f"{scene.name}/{f.name}", f.image_path, from_pixel_centres(f.K), f.cam_from_world
        )
        for f in frames
    ]
    poses = np.array([view.cam_from_world for view in views]).reshape(-1, 3, 4)
    known = keyframes(poses) if choose == "keyframes" else None
    samples = []
    for i in range(0, len(views), step):
        if choose == "keyframes":
            chosen = select_sources(poses, i, count, future=True, frames=known)
        else:
            chosen = [i + offset for offset in offsets if 0 <= i + offset < len(views)]
        read = partial(read_png_depth, frames[i].depth_path, UNITS_PER_METRE)
        if chosen:
            sources = tuple(views[j] for j in chosen)
            samples.append(DepthSample(views[i].name, views[i], sources, read))
    return samples
