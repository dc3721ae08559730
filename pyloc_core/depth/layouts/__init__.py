# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Readers for the layouts of depth benchmarks. The data come from their authors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyloc_core import _checks
from pyloc_core.depth.layouts.depth_set import DepthSample, DepthSet, SampleView
from pyloc_core.depth.layouts.eth3d import read_eth3d
from pyloc_core.depth.layouts.kitti import read_kitti
from pyloc_core.depth.layouts.mvsnet import (
    read_blendedmvs,
    read_dtu,
    read_mvsnet,
    read_tanks_and_temples,
)
from pyloc_core.depth.layouts.scannet import read_scannet

__all__ = [
    "LAYOUTS",
    "DepthSample",
    "DepthSet",
    "SampleView",
    "read_blendedmvs",
    "read_depth_layout",
    "read_dtu",
    "read_eth3d",
    "read_kitti",
    "read_mvsnet",
    "read_scannet",
    "read_tanks_and_temples",
]

# Name -> reader of a folder, whose options are all keyword-only (KITTI takes the depth's folder too).
LAYOUTS: dict[str, Callable[..., DepthSet]] = {
    "blendedmvs": read_blendedmvs,
    "dtu": read_dtu,
    "eth3d": read_eth3d,
    "kitti": read_kitti,
    "mvsnet": read_mvsnet,
    "scannet": read_scannet,
    "tanks_and_temples": read_tanks_and_temples,
}


def read_depth_layout(layout: str, folder: str | Path, **options: Any) -> DepthSet:
    """The reader of this name on a folder. ValueError for an unknown name, with the nearest known one."""
    _checks.known_name("layout", layout, LAYOUTS)
    return LAYOUTS[layout](folder, **options)
