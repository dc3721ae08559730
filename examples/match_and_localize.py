# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From pictures to a pose, twice: matching by hand, and the localizer.

Renders the package's own scene (small) into a temporary folder, so it needs no data.

    python examples/match_and_localize.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import pyloc_core as pc
from pyloc_core.localization import DenseRootSIFT, Localizer, MapOptions, read_image
from pyloc_core.localization.demo_data import write_demo
from pyloc_core.localization.scene import Query, Scene


def match_by_hand(scene: Scene, query: Query) -> pc.PoseEstimate:
    """Describe points in one reference picture, find them in the query, solve for the pose."""
    sift = DenseRootSIFT()
    problem = np.load(scene.folder / "loo" / f"{Path(query.name).stem}.npz")
    names = problem["image_names"].tolist()
    reference = names.index("view_05.jpg")
    here = np.flatnonzero(problem["obs_image"] == reference)
    points = np.searchsorted(problem["obs_ptr"], here, side="right") - 1

    picture = read_image(scene.folder / "images" / names[reference])
    descriptors = sift.describe(picture, problem["obs_xy"][here], [1.0])[0][:, 0]  # (N, D)
    coarse = sift.dense(read_image(query.image))[0]  # features (D, H, W)
    matches = pc.match(descriptors, coarse.values, temperature=1 / sift.beta[0])
    print(f"{len(here)} points of {names[reference]} searched in {coarse.size} cells")
    print(f"median probability of the best cell: {np.exp(np.median(matches.log_probability)):.2f}")
    sure = np.asarray(matches.log_probability) > np.log(0.2)
    pixels = pc.image_from_map(matches.xy[sure].astype(float), coarse.covers, coarse.size)
    return pc.estimate_pose_from_matches(pixels, query.xyz[points[sure]], query.camera, seed=0)


def localize(scene: Scene, query: Query) -> pc.PoseEstimate:
    """The same photo by the whole pipeline: retrieval, loss maps, consensus, refinement."""
    place = scene.build_map(query, None, MapOptions())
    return Localizer(place).localize(query.image, query.camera, seed=0)


def main() -> dict[str, tuple[float, float]]:
    """Prints the errors; returns them by method, (degrees, metres)."""
    errors = {}
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene.open(write_demo(folder, points=800, scale=0.6))
        query = scene.query(Path(folder) / "loo" / "query_01.npz")
        for name, method in (("by hand", match_by_hand), ("localizer", localize)):
            estimate = method(scene, query)
            errors[name] = pc.pose_error(estimate.cam_from_world, query.cam_from_world)
            angle, distance = errors[name]
            print(f"{name:<10} {angle:.3f} deg, {distance:.4f} m  ({estimate.reason})")
    return errors


if __name__ == "__main__":
    main()
