# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Posed RGB-D images in a folder, laid out as ScanNet's exporter writes them.

    color/NAME.jpg or .png        the image
    depth/NAME.png                16 bit, millimetres along the optical axis, 0 where unknown
    pose/NAME.txt                 4 x 4, camera to world, metres; frames whose pose is not finite are skipped
    intrinsic/intrinsic_color.txt 3 x 3 or 4 x 4, pixels of color/ counted from 0 at the first one's centre
    intrinsic/intrinsic_depth.txt the same of depth/, optional: by default the colour camera, resized
    pairs.txt                     lines "NAME NAME", source and target, optional

The depth images are registered to the colour images: one centre, one orientation. NAME is the same in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.camera import Camera
from pyloc_core.localization.depth_views import DepthView, visual_overlap
from pyloc_core.localization.images import read_image
from pyloc_core.pose import as_cam_from_world, inverse_pose

MILLIMETRES = 1000.0


@dataclass(frozen=True)
class RgbdFrame:
    """One frame: where its files are, and its pose."""

    name: str
    image_path: Path
    depth_path: Path
    K: npt.NDArray[np.float64]
    depth_K: npt.NDArray[np.float64] | None
    cam_from_world: npt.NDArray[np.float64]

    def image(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB."""
        return read_image(self.image_path)

    def view(self) -> DepthView:
        """Camera, depth in metres, pose. ValueError for a depth image of another kind."""
        with require("PIL.Image", "reading images").open(self.image_path) as picture:
            width, height = picture.size
        depth = _read_depth(self.depth_path)
        own = None if self.depth_K is None else _camera(self.depth_K, depth.shape)
        return DepthView(depth, _camera(self.K, (height, width)), self.cam_from_world, own)


@dataclass(frozen=True)
class RgbdFolder:
    """The frames of a folder by name, the pairs that it lists, and how many frames have no pose."""

    frames: dict[str, RgbdFrame]
    pairs: list[tuple[str, str]]
    without_pose: int

    def sample_pairs(
        self, count: int, *, overlap: tuple[float, float] = (0.02, 0.8), bins: int = 8, seed: int = 0,
        tries: int = 2000,
    ) -> list[tuple[str, str]]:  # fmt: skip
        """Ordered pairs whose overlap lies within a range, spread over its bins (appendix C.3.2).

        Looks at up to `tries` random pairs, each at the cost of their labels on a grid.
        """
        names = sorted(self.frames)
        every = [(a, b) for a in names for b in names if a != b]
        order = np.random.default_rng(seed).permutation(len(every))[:tries]
        views = {name: self.frames[name].view() for name in names} if len(names) <= 200 else {}
        kept: list[list[tuple[str, str]]] = [[] for _ in range(bins)]
        room = -(-count // bins)
        for i in order:
            a, b = every[i]
            pair = [views.get(name) or self.frames[name].view() for name in (a, b)]
            share = (visual_overlap(*pair) - overlap[0]) / (overlap[1] - overlap[0])
            if 0 <= share <= 1:
                kept[min(int(share * bins), bins - 1)].append((a, b))
            if sum(min(len(k), room) for k in kept) >= count:
                break
        # Bins that stayed short are made up from those with more.
        chosen = [pair for each in kept for pair in each[:room]]
        rest = [pair for each in kept for pair in each[room:]]
        return (chosen + rest)[:count]


def read_rgbd_folder(folder: str | Path) -> RgbdFolder:
    """The frames of a folder in the layout above; nothing but poses and intrinsics is read yet.

    Raises ValueError that names the file which is missing or does not fit.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"no such folder: {root}")
    images = sorted(p for p in (root / "color").glob("*") if p.suffix in {".jpg", ".jpeg", ".png"})
    if not images:
        raise ValueError(f"{root / 'color'} holds no .jpg or .png images")
    K = _matrix(root / "intrinsic" / "intrinsic_color.txt")[:3, :3]
    depth_file = root / "intrinsic" / "intrinsic_depth.txt"
    depth_K = _matrix(depth_file)[:3, :3] if depth_file.is_file() else None
    frames, without_pose = {}, 0
    for path in images:
        depth, pose_file = root / "depth" / f"{path.stem}.png", root / "pose" / f"{path.stem}.txt"
        if not depth.is_file():
            raise ValueError(f"there is no depth image {depth}")
        world_from_cam = _matrix(pose_file, finite=False)
        if not np.isfinite(world_from_cam).all():
            without_pose += 1
            continue
        name = f"the inverse of {pose_file}"
        pose = as_cam_from_world(inverse_pose(as_cam_from_world(world_from_cam[:3], name)), name)
        frames[path.stem] = RgbdFrame(path.stem, path, depth, K, depth_K, pose)
    return RgbdFolder(frames, _pairs(root / "pairs.txt", frames), without_pose)


def _matrix(path: Path, *, finite: bool = True) -> npt.NDArray[np.float64]:
    try:
        found = np.atleast_2d(np.loadtxt(path, dtype=np.float64))
    except OSError:
        raise ValueError(f"there is no {path}") from None
    except ValueError as error:
        raise ValueError(f"{path} does not hold a matrix: {error}") from None
    if found.shape not in ((3, 3), (3, 4), (4, 4)) or (finite and not np.isfinite(found).all()):
        raise ValueError(f"{path} must hold a finite 3 x 3 or 4 x 4 matrix, got {found.shape}")
    return found


def _pairs(path: Path, frames: dict[str, RgbdFrame]) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    pairs = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        unknown = [name for name in words if name not in frames]
        if len(words) != 2 or unknown:
            what = f"{unknown[0]} is no frame with a pose" if unknown else "two names are expected"
            raise ValueError(f"{path}, line {number}: {what}")
        pairs.append((words[0], words[1]))
    return pairs


def _read_depth(path: Path) -> npt.NDArray[np.float32]:
    module = require("PIL.Image", "reading images")
    try:
        with module.open(path) as picture:
            values: npt.NDArray[Any] = np.asarray(picture)
    except Exception as error:  # Pillow raises many types for damaged files
        raise ValueError(f"cannot read depth image {path}: {error}") from None
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.dtype == np.uint8:
        raise ValueError(f"{path} must be a 16-bit grey image, got {values.dtype} {values.shape}")
    return (values / MILLIMETRES).astype(np.float32)


def _camera(K: npt.NDArray[np.float64], size: Sequence[int]) -> Camera:
    """Pixels counted from 0 become COLMAP's, whose first centre is (0.5, 0.5)."""
    params = (K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5)
    return Camera("PINHOLE", int(size[1]), int(size[0]), params)
