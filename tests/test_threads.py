# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Threads: the same bits for every number of them, and for many Python threads calling at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from pose_problems import bilinear, reprojection_problem, smooth_features
from public_calls import Call, all_calls, arrays_in, loss_maps_problem
from sweep_scenes import scene

import pyloc_core as pl

SMALL = {call.name: call for call in all_calls() if call.threaded}


def larger() -> dict[str, dict[str, np.ndarray]]:
    """Arguments that fill several chunks of every kernel."""
    rng = np.random.default_rng(11)
    features = smooth_features(rng, 20, (60, 80), waves=3).astype(np.float32)
    xy = rng.uniform(1, 58, (1500, 2))
    descriptors = (8 * bilinear(features, xy)).astype(np.float32)
    matching = {"descriptors": descriptors[:600], "features": features}
    maps, problem = loss_maps_problem(600, 12)
    many = reprojection_problem(20_000, 13, outliers=0.3)
    few = reprojection_problem(1500, 14, outliers=0.4)
    rays = many.camera.unproject(many.points2d)[:19_998].reshape(-1, 3, 3)
    maps_xy = pl.map_from_image(problem.points2d, (768, 1024), (30, 40))
    pose = {"points3d": problem.points3d, "cam_from_world": problem.start}
    return {
        "match": matching,
        "correlation_maps": matching,
        "correspondence_maps": matching,
        "loss_maps": matching,
        "local_loss_maps": {**matching, "centers": xy[:600]},
        "cyclic_check": {**matching, "xy": xy[:600]},
        "mutual_matches": {"first": descriptors[:600], "second": descriptors[300:]},
        "nre_loss": {**matching, "targets": xy[:600]},
        "p3p": {"bearings": rays, "points3d": many.points3d[:19_998].reshape(-1, 3, 3)},
        "estimate_pose": {"maps": maps, "points3d": problem.points3d},
        "score_poses": {
            "maps": maps,
            "points3d": problem.points3d,
            "cam_from_world": problem.start + rng.normal(0, 1e-3, (1500, 3, 4)),
        },
        "refine_pose": {"maps": maps, **pose},
        "estimate_pose_from_matches": {"points2d": few.points2d, "points3d": few.points3d},
        "refine_pose_reprojection": {
            "points2d": many.points2d,
            "points3d": many.points3d,
            "cam_from_world": many.start,
            "weights": rng.uniform(0, 2, 20_000),
        },
        "refine_pose_featuremetric": {
            "descriptors": descriptors,
            "features": features,
            "points3d": few.points3d,
            "cam_from_world": few.start,
        },
        "gated_attention": {
            name: rng.normal(size=(1, 2, size, 12)).astype(np.float32)
            for name, size in (("queries", 500), ("keys", 300), ("values", 300))
        },
        "dual_softmax": {"scores": rng.normal(size=(1, 300, 200)).astype(np.float32)},
        "sinkhorn": {
            "scores": rng.normal(size=(1, 300, 200)).astype(np.float32),
            "log_row_mass": np.full(300, -np.log(300)),
            "log_column_mass": np.full(200, -np.log(200)),
        },
        "salad_aggregate": {
            "scores": rng.normal(size=(6, 16, 300)).astype(np.float32),
            "features": rng.normal(size=(6, 20, 300)).astype(np.float32),
        },
        "salad_assign": {"scores": rng.normal(size=(6, 16, 300)).astype(np.float32)},
        "netvlad_aggregate": {
            "features": rng.normal(size=(6, 20, 300)).astype(np.float32),
            "logits": rng.normal(size=(6, 16, 300)).astype(np.float32),
            "centroids": rng.normal(size=(16, 20)).astype(np.float32),
        },
        "metadata_cost_volume": {
            "reference": rng.normal(size=(3, 40, 50)).astype(np.float32),
            "sources": rng.normal(size=(2, 3, 41, 37)).astype(np.float32),
        },
        "plane_sweep": vars(scene((2, 3, 20, 24, 12), (30, 40), (20, 50))),
        "LossMaps.from_dense": {"maps": maps},
        "LossMaps.evaluate": {"maps": maps, "xy": maps_xy},
        "LossMaps.mass": {"maps": maps, "centers": maps_xy},
    }


@pytest.fixture(scope="module")
def arguments() -> dict[str, dict[str, np.ndarray]]:
    return larger()


def bits(result: Any) -> list[bytes]:
    return [np.ascontiguousarray(a).tobytes() for a in arrays_in(result)]


def test_every_threaded_function_has_larger_arguments() -> None:
    assert set(SMALL) <= set(larger())


@pytest.mark.parametrize("name", SMALL)
def test_the_number_of_threads_changes_no_bit(name, arguments) -> None:
    call: Call = SMALL[name]
    for arrays in (call.arrays, arguments[name]):
        one = call(**arrays, num_threads=1)
        assert arrays_in(one)
        for count in (2, 3, 8, None):
            assert bits(call(**arrays, num_threads=count)) == bits(one), f"{count} threads"


@pytest.mark.parametrize("name", SMALL)
def test_eight_python_threads_at_once_agree(name, arguments) -> None:
    call: Call = SMALL[name]
    expected = bits(call(**arguments[name], num_threads=1))
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(lambda k=k: call(**arguments[name], num_threads=1 + k % 3))
            for k in range(16)
        ]
        for job in jobs:
            assert bits(job.result(timeout=120)) == expected


def test_different_operators_at_once_agree(arguments) -> None:
    """One pool serves them all; none may see another's work."""
    expected = {name: bits(call(**call.arrays)) for name, call in SMALL.items()}
    with ThreadPoolExecutor(8) as pool:
        jobs = {
            (name, k): pool.submit(lambda c=call: c(**c.arrays))
            for k in range(4)
            for name, call in SMALL.items()
        }
        for (name, _), job in jobs.items():
            assert bits(job.result(timeout=120)) == expected[name]


def test_changing_the_default_does_not_change_results(arguments) -> None:
    before = pl.get_num_threads()
    call = SMALL["refine_pose_reprojection"]
    arrays = arguments["refine_pose_reprojection"]
    expected = bits(call(**arrays))
    try:
        for count in (1, 4):
            pl.set_num_threads(count)
            assert bits(call(**arrays)) == expected
    finally:
        pl.set_num_threads(before)
