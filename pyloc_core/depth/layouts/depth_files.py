# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Files that hold a depth map: 16 bit PNG, PFM, bare float32, NumPy's. (H, W) float32, 0 where unknown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from pyloc_core._extras import require
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


def read_pfm(path: Path) -> DepthMap:
    """Portable float map of one channel: "Pf", width and height, scale (negative: little endian), rows from
    the lowest up."""
    data = existing(path).read_bytes()
    head = re.match(rb"(P[fF])\s+(\d+)\s+(\d+)\s+([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s", data)
    if head is None or head[1] != b"Pf":
        raise ValueError(f"{path} is no float map of one channel")
    width, height = int(head[2]), int(head[3])
    kind = "<f4" if float(head[4]) < 0 else ">f4"
    if len(data) - head.end() != 4 * width * height:
        raise ValueError(f"{path} is truncated or damaged: {width} x {height} values are missing")
    values = np.frombuffer(data, kind, offset=head.end()).reshape(height, width)
    return _known(values[::-1], path)


def read_raw_depth(path: Path, size: tuple[int, int]) -> DepthMap:
    """Bare little-endian float32 of a size (H, W) that is known from elsewhere: ETH3D's."""
    values = np.fromfile(existing(path), "<f4")
    if values.size != size[0] * size[1]:
        raise ValueError(f"{path} holds {values.size} values, {size[0]} x {size[1]} were expected")
    return _known(values.reshape(size), path)


def read_array_depth(path: Path) -> DepthMap:
    """.npy, or .npz with one array."""
    loaded = np.load(existing(path), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return _known(loaded, path)
    with loaded:
        if len(loaded.files) != 1:
            raise ValueError(f"{path} must hold one array, it holds {loaded.files}")
        return _known(loaded[loaded.files[0]], path)


def read_depth_file(path: Path, *, scale: float = 1.0, units_per_metre: float = 1000.0) -> DepthMap:
    """By the ending: .pfm, .npy, .npz (times `scale`) or .png (over `units_per_metre`)."""
    if path.suffix == ".png":
        return read_png_depth(path, units_per_metre)
    readers = {".pfm": read_pfm, ".npy": read_array_depth, ".npz": read_array_depth}
    if path.suffix not in readers:
        raise ValueError(f"{path}: depth maps end in .pfm, .npy, .npz or .png")
    return np.asarray(readers[path.suffix](path) * np.float32(scale))
