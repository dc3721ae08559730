# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Files in which benchmarks keep depth: (H, W) float32, 0 where unknown.

What the package writes itself is `depth_files`' business; here are the others, and what is unknown in any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyloc_core._extras import require
from pyloc_core.depth.depth_files import read_depth
from pyloc_core.depth.layouts.depth_set import DepthMap, existing


def _known(depth: Any, path: Path) -> DepthMap:
    values = np.asarray(depth, np.float32)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values.reshape([n for n in values.shape if n != 1])
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{path} holds no depth map: shape {values.shape}")
    return np.where(np.isfinite(values) & (values > 0), values, np.float32(0))


def read_png_depth(path: Path, units_per_metre: float) -> DepthMap:
    """16 bit PNG: the value over `units_per_metre`; 256 in KITTI, 1000 in ScanNet."""
    with require("PIL.Image", "reading depth images").open(existing(path)) as picture:
        values = np.asarray(picture)
    if values.ndim != 2 or values.dtype == np.uint8:
        raise ValueError(f"{path} is no 16 bit depth image: {values.dtype} {values.shape}")
    return _known(values / units_per_metre, path)


def read_raw_depth(path: Path, size: tuple[int, int]) -> DepthMap:
    """Bare little-endian float32 of a size (H, W) that is known from elsewhere: ETH3D's."""
    values = np.fromfile(existing(path), "<f4")
    if values.size != size[0] * size[1]:
        raise ValueError(f"{path} holds {values.size} values, {size[0]} x {size[1]} were expected")
    return _known(values.reshape(size), path)


def read_npz_depth(path: Path) -> DepthMap:
    """NumPy's archive of one array."""
    with np.load(existing(path), allow_pickle=False) as loaded:
        if len(loaded.files) != 1:
            raise ValueError(f"{path} must hold one array, it holds {loaded.files}")
        return _known(loaded[loaded.files[0]], path)


def read_true_depth(path: Path, unit: float = 1.0) -> DepthMap:
    """By the ending: .pfm, .npy, .bin (COLMAP's), .npz or 16 bit .png, in `unit` metres."""
    if path.suffix == ".png":
        return read_png_depth(path, 1 / unit)
    if path.suffix == ".npz":
        return read_npz_depth(path) * np.float32(unit)
    return _known(read_depth(existing(path)), path) * np.float32(unit)
