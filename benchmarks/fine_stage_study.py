# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What limits the fine stage on real photos: its final sigma, the weights of its maps, the reference poses.

    python benchmarks/fine_stage_study.py SCENE_FOLDER [...]

Refines the fine maps of every leave-one-out problem again with other final sigmas and with rescaled maps,
and prints the offset of the fine peaks at the reference poses. Source of the figures in
results/leave_one_out.md.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import pyloc_core as pc
from pyloc_core.localization import Localizer, MapOptions
from pyloc_core.localization.images import read_gray
from pyloc_core.localization.scene import Scene

Array = np.ndarray[Any, Any]
STEPS = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], float)


def around_peak(maps: pc.LossMaps) -> tuple[Array, Array, Array]:
    """Peak cells (N, 2), their losses (N,) and those of the neighbours (4, N), nats."""
    cells = np.asarray(maps.argmin().xy, float)
    near = np.stack([maps.evaluate(cells + step) for step in STEPS])
    return cells, np.asarray(maps.evaluate(cells)), near


def equal_curvature(maps: pc.LossMaps) -> Array:
    _, peak, near = around_peak(maps)
    return 1 / np.clip(near.mean(0) - peak, 0.2, None)


WEIGHTS: dict[str, Callable[[pc.LossMaps], Array]] = {
    "as they are": lambda maps: np.ones(len(maps)),
    "equal peaks": lambda maps: 8 / np.maximum(maps.peak_gain, 0.5),
    "equal curvature": equal_curvature,
}


def rescaled(maps: pc.LossMaps, factor: Array) -> pc.LossMaps:
    gain = maps.gain * np.repeat(factor, maps.entries_per_map)
    return pc.LossMaps(
        maps.row_ptr, maps.xy, gain.astype(np.float32), size=maps.size, window=maps.window,
        log_cardinality=maps.log_cardinality, origins=maps.origins,
        flat_gain=(maps.flat_gain * factor).astype(np.float32),
    )  # fmt: skip


def peak_offsets(found: Any, reference: Array) -> str:
    """Median and standard error of sub-cell peak minus projection at the reference pose, pixels."""
    maps = found.fine_maps
    cells, peak, near = around_peak(maps)
    ahead, back = near[[0, 2]], near[[1, 3]]
    bend = np.maximum(ahead - 2 * peak + back, 1e-6)
    cells += np.clip(0.5 * (back - ahead) / bend, -0.5, 0.5).T
    seen = pc.image_from_map(cells, found.fine_camera.size, maps.size)
    expected, front = found.fine_camera.project(pc.transform_points(reference, found.xyz))
    residual = seen - expected
    kept = front & (maps.peak_gain > 0) & (np.linalg.norm(residual, axis=1) < 4)
    residual = residual[kept]
    median = np.median(residual, 0)
    spread = 1.4826 * np.median(np.abs(residual - median), 0)
    error = 1.25 * spread / np.sqrt(len(residual))
    return f"offset {median.round(3)} px, standard error {error.round(3)}, {len(residual)} points"


def study(folder: Path) -> None:
    scene, errors = Scene.open(folder), defaultdict(list)
    for path in scene.problems:
        query = scene.query(path)
        localizer = Localizer(scene.build_map(query, None, MapOptions()))
        found = localizer.localize_detailed(read_gray(query.image), query.camera, seed=0)
        print(f"{scene.folder.name} {query.name}: {peak_offsets(found, query.cam_from_world)}")
        for name, weight in WEIGHTS.items():
            maps = rescaled(found.fine_maps, weight(found.fine_maps))
            for sigma in (0.6, 0.8, 1.0, 1.3, 1.7):
                again = pc.refine_pose(
                    maps, found.xyz, found.fine_camera, found.estimate.cam_from_world,
                    sigma_max=2.0, sigma_min=sigma,
                )  # fmt: skip
                angle, centre = pc.pose_error(again.cam_from_world, query.cam_from_world)
                errors[name, sigma].append((angle, centre / query.median_depth))
    for (name, sigma), values in errors.items():
        angle, centre = np.median(values, 0)
        print(f"{folder.name}: {name}, final sigma {sigma}: {angle:.4f} deg, {centre:.5f}")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        study(Path(argument))
