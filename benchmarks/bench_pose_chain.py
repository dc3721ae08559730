# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From given loss maps to the final pose: MSAC, coarse refinement, fine refinement. One thread.

1000 points, coarse maps of 75 x 100 cells, fine windows of 64 x 64 cells in a map of 600 x 800, at most 256
entries per map, 30 % wrong votes. In `localize` the fine windows follow from the coarse pose; here they are
given, a few cells off the projections. There is no counterpart to run beside it: the published program takes
about 20 s for the same three stages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loss_map_problems import make_maps, make_scene

import pyloc_core as pl

CAMERA = pl.Camera("PINHOLE", 1600, 1200, (1200.0, 1200.0, 800.0, 600.0))


@pytest.fixture(scope="module")
def problem() -> tuple[Any, pl.LossMaps, pl.LossMaps]:
    scene = make_scene(11, 1000, CAMERA, 0.3)
    coarse = make_maps(scene, (75, 100), 1, max_entries=256)
    fine = make_maps(scene, (600, 800), 2, window=64, mode_std=1.5, max_entries=256)
    return scene, coarse, fine


def chain(scene: Any, coarse: pl.LossMaps, fine: pl.LossMaps) -> tuple[pl.PoseEstimate, ...]:
    one = {"num_threads": 1}
    first = pl.estimate_pose(coarse, scene.points, CAMERA, **one)
    second = pl.refine_pose(coarse, scene.points, CAMERA, first.cam_from_world, **one)
    third = pl.refine_pose(fine, scene.points, CAMERA, second.cam_from_world, sigma_max=8.0, **one)
    return first, second, third


@pytest.mark.parametrize("stages", ["msac", "msac_coarse", "msac_coarse_fine"])
def test_chain(benchmark: Any, problem: tuple[Any, ...], stages: str) -> None:
    benchmark.group = "pose from given maps, 1000 points"
    scene, coarse, fine = problem
    one = {"num_threads": 1}
    first, second, third = chain(*problem)
    errors = [pl.pose_error(e.cam_from_world, scene.truth)[0] for e in (first, second, third)]
    assert errors[0] < 1.0 and errors[1] < 0.1 and errors[2] < 0.02, errors
    assert np.isfinite(third.covariance).all()
    if stages == "msac":
        benchmark(pl.estimate_pose, coarse, scene.points, CAMERA, **one)
    elif stages == "msac_coarse":
        benchmark(
            lambda: pl.refine_pose(
                coarse, scene.points, CAMERA,
                pl.estimate_pose(coarse, scene.points, CAMERA, **one).cam_from_world, **one,
            )
        )  # fmt: skip
    else:
        benchmark(chain, *problem)
    benchmark.extra_info |= {
        "rotation_errors_deg": [round(e, 4) for e in errors],
        "entries_per_map": [round(float(m.entries_per_map.mean())) for m in (coarse, fine)],
        "steps": [first.iterations, second.iterations, third.iterations],
    }
