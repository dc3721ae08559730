# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Tuples from folders of posed RGB-D frames, as ScanNet's exporter lays them out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.camera import Camera
from pyloc_core.depth.sources import keyframes, select_sources
from pyloc_core.localization.depth_views import DepthView
from pyloc_core.localization.rgbd_folder import RgbdFrame, read_rgbd_folder
from pyloc_core.training.options import check_int
from pyloc_core.training.rendered_scenes import DepthScene

cv2 = require("cv2", "training")


class FrameScenes:
    """A scene per frame that has enough sources: the frame and those that `depth.select_sources` chooses
    among the keyframes before and after it. Files are read when a scene is asked for.

    Args:
        folders: one per sequence, in the layout of `localization.rgbd_folder`; the frames follow each other
            as the numbers in their names.
        size: (H, W) to which images are resized, and at which depth is read.
        sources: of a frame, all the same number; frames with fewer are left out and counted in `left_out`.
        unit: length of 1 unit of the poses in metres, for the choice of sources.

    Raises:
        ValueError: a folder in another layout, no frame with enough sources.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        size: tuple[int, int] = (480, 640),
        sources: int = 7,
        unit: float = 1.0,
    ) -> None:
        check_int("sources", sources, 1)
        self.size, self.left_out = size, 0
        self.folders = [str(folder) for folder in folders]
        self._tuples: list[list[RgbdFrame]] = []
        for folder in self.folders:
            frames = read_rgbd_folder(folder).frames
            ordered = [frames[name] for name in sorted(frames, key=_natural)]
            poses = np.array([frame.cam_from_world for frame in ordered]).reshape(-1, 3, 4)
            known = keyframes(poses, unit=unit)  # once, and not for every frame again
            for number, frame in enumerate(ordered):
                chosen = select_sources(
                    poses, number, sources, future=True, unit=unit, frames=known
                )
                if len(chosen) == sources:
                    self._tuples.append([frame, *(ordered[i] for i in chosen)])
                else:
                    self.left_out += 1
        if not self._tuples:
            raise ValueError(f"no frame of {', '.join(self.folders)} has {sources} sources")

    def __len__(self) -> int:
        return len(self._tuples)

    def __repr__(self) -> str:
        return f"FrameScenes({self.folders}, size={self.size})"

    def __getitem__(self, index: int) -> DepthScene:
        frames = self._tuples[index]
        h, w = self.size
        images, depths, cameras = [], [], []
        for frame in frames:
            view = frame.view()
            cameras.append(view.camera.resized(self.size))
            image = frame.image()
            how = cv2.INTER_AREA if image.shape[0] >= h else cv2.INTER_LINEAR
            images.append(cv2.resize(image, (w, h), interpolation=how))
            depths.append(_depth_at(view, cameras[-1]))
        poses = np.stack([frame.cam_from_world for frame in frames])
        return DepthScene(np.stack(images), np.stack(depths), poses, tuple(cameras), "frames")


def _depth_at(view: DepthView, camera: Camera) -> npt.NDArray[np.float32]:
    """(H, W) depth of the nearest depth pixel along each pixel's ray; 0 where unknown."""
    x, y = np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5
    resized = DepthView(view.depth, camera, view.cam_from_world, view.depth_camera)
    found = resized.read_depth(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
    return np.nan_to_num(found).reshape(camera.height, camera.width).astype(np.float32)


def _natural(name: str) -> list[tuple[int, str]]:
    """Order by the numbers in a name: 9 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
