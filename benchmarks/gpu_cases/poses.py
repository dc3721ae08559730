# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of pose problems over loss maps for the cases of the pose operators."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyloc_core as pl

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
from loss_map_problems import make_maps, make_scene

CAMERA = pl.Camera("PINHOLE", 640, 480, (500.0, 510.0, 322.0, 238.0))
OPERATOR = None  # no operator of its own


def batch(
    seed: int, problems: int, count: int, distinct: int = 8, **options: Any
) -> dict[str, Any]:
    """Arguments on the host: maps, points3d, camera (13,), problem_ptr, starts, truths.

    `distinct` scenes are made and repeated, so that large batches do not take minutes to make.
    """
    rng = np.random.default_rng(seed)
    size = options.pop("size", (60, 80))
    scenes = [make_scene(seed + i, count, CAMERA, 0.3) for i in range(min(problems, distinct))]
    maps = [make_maps(s, size, seed + i, max_entries=256, **options) for i, s in enumerate(scenes)]
    which = np.arange(problems) % len(scenes)
    truths = np.stack([scenes[i].truth for i in which])
    starts = []
    for truth in truths:
        turn = pl.rotation_from_quaternion(np.r_[1.0, rng.standard_normal(3) * 0.008])
        starts.append(turn @ truth + np.c_[np.zeros((3, 3)), rng.normal(0, 0.05, 3)])
    return {
        "maps": pl.LossMaps.concatenate([maps[i] for i in which]),
        "points3d": np.concatenate([scenes[i].points for i in which]),
        "camera": np.array([pl.camera.camera_native_args(CAMERA, size)]).repeat(problems, 0),
        "problem_ptr": np.arange(problems + 1) * count,
        "starts": np.array(starts),
        "truths": truths,
    }


def on_device(arguments: dict[str, Any], device: Any) -> dict[str, Any]:
    """The same as tensors, without the truths."""
    moved = {
        k: torch.from_numpy(np.ascontiguousarray(v)).to(device)
        for k, v in arguments.items()
        if k not in ("maps", "truths")
    }
    return moved | {"maps": arguments["maps"].to(device)}


def problem(arguments: dict[str, Any], b: int) -> tuple[Any, np.ndarray]:
    """Maps and points of one problem, on the host."""
    begin, end = arguments["problem_ptr"][b : b + 2]
    return arguments["maps"][int(begin) : int(end)], arguments["points3d"][begin:end]


def pose_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())
