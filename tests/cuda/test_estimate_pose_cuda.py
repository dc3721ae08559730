# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""estimate_pose and score_poses on the GPU against the CPU: the same hypothesis, stop and verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_estimate_pose_batch import FISHEYE, OPENCV, PINHOLE, RAGGED, Batch, check_same, make_batch
from test_score_poses import Problem, bound, expected_costs, make_problem

import pyloc_core as pl
from pyloc_core import _problems


def on_gpu(batch: Batch, device: Any) -> dict[str, Any]:
    import torch

    rows = _problems.camera_rows(batch.cameras, batch.maps, len(batch.cameras))
    return {
        "maps": batch.maps.to(device),
        "points3d": torch.tensor(batch.points, device=device),
        "camera": torch.tensor(rows, device=device),
        "problem_ptr": torch.tensor(batch.problem_ptr, device=device),
    }


def check_batch(batch: Batch, device: Any, **options: Any) -> pl.PoseEstimates:
    found = pl.estimate_pose(**on_gpu(batch, device), **options)
    assert found.cam_from_world.device == device
    expected = pl.estimate_pose(
        batch.maps, batch.points, batch.cameras, problem_ptr=batch.problem_ptr, **options
    )
    for ours, theirs in zip(found, expected, strict=True):
        check_same(ours, theirs)
    return found


@pytest.mark.parametrize("iterations", [None, 1, 700])
def test_chooses_what_the_cpu_chooses(cuda: Any, iterations: int | None) -> None:
    batch = make_batch(RAGGED, 300, cameras=(PINHOLE, OPENCV, FISHEYE))
    for seed in (0, 2**64 - 1):
        check_batch(batch, cuda, iterations=iterations, seed=seed, top_fraction=0.5)


@pytest.mark.parametrize("outliers", [0.3, 0.75, 0.85, 0.95])
def test_stops_where_the_cpu_stops(cuda: Any, outliers: float) -> None:
    """Adaptive stops in every round; more problems than share a pass."""
    batch = make_batch([30 + i % 40 for i in range(140)], 310, outliers=outliers, size=(24, 32))
    check_batch(batch, cuda, confidence=0.99, top_fraction=1.0)


@pytest.mark.parametrize(
    "size,window", [((45, 60), 16), ((90, 121), 33), ((150, 200), None), ((300, 400), None)]
)
def test_windows_and_maps_too_large_for_shared_memory(
    cuda: Any, size: tuple[int, int], window: int | None
) -> None:
    batch = make_batch([60, 50], 320, size=size, window=window, outliers=0.3)
    assert check_batch(batch, cuda).success.all()


def test_one_problem_initial_poses_and_one_camera_for_all(cuda: Any) -> None:
    import torch

    batch = make_batch([80], 330, outliers=0.7)
    maps, points = batch.maps.to(cuda), torch.tensor(batch.points, device=cuda)
    for initial in (None, batch.truths[0], torch.tensor(batch.truths, device=cuda)):
        found = pl.estimate_pose(maps, points, PINHOLE, initial=initial, iterations=2)
        on_host = initial.cpu().numpy() if isinstance(initial, torch.Tensor) else initial
        expected = pl.estimate_pose(
            batch.maps, batch.points, PINHOLE, initial=on_host, iterations=2
        )
        assert len(found) == 1 and found.problem_ptr.tolist() == [0, 80]
        check_same(found[0], expected)


def test_same_bits_every_time_and_in_a_graph(cuda: Any) -> None:
    import torch

    batch = make_batch([70, 0, 90], 340, outliers=0.6)
    call = on_gpu(batch, cuda)
    first = pl.estimate_pose(**call)
    poses = first.cam_from_world[:, None].contiguous()
    costs = pl.score_poses(**call, cam_from_world=poses)
    again = pl.estimate_pose(**call)
    assert torch.equal(first.cam_from_world, again.cam_from_world)
    assert torch.equal(first.inlier_probability, again.inlier_probability)
    stream = torch.cuda.Stream(cuda)
    stream.wait_stream(torch.cuda.current_stream(cuda))
    with torch.cuda.stream(stream):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = pl.estimate_pose(**call)
            scored = pl.score_poses(**call, cam_from_world=captured.cam_from_world[:, None])
        captured.cam_from_world.zero_()
        graph.replay()
    torch.cuda.synchronize(cuda)
    assert torch.equal(captured.cam_from_world, first.cam_from_world)
    assert torch.equal(scored, costs)


def test_nothing_waits_for_the_device(cuda: Any) -> None:
    import torch

    batch = make_batch([50, 60], 350)
    call = on_gpu(batch, cuda)
    pl.estimate_pose(**call)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = pl.estimate_pose(**call)
        pl.score_poses(**call, cam_from_world=found.cam_from_world[:, None])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.success.all()


@pytest.mark.parametrize("camera", [PINHOLE, OPENCV, FISHEYE], ids=["pinhole", "opencv", "fisheye"])
@pytest.mark.parametrize("size,window", [((45, 60), None), ((300, 400), None), ((90, 121), 33)])
def test_scores(cuda: Any, camera: pl.Camera, size: tuple[int, int], window: int | None) -> None:
    import torch

    problem: Problem = make_problem(3, size=size, window=window, camera=camera, count=60)
    poses = torch.tensor(problem.poses, device=cuda)
    points = torch.tensor(problem.points, device=cuda)
    found = pl.score_poses(problem.maps.to(cuda), points, camera, poses)
    assert found.device == cuda and found.dtype == torch.float64
    np.testing.assert_allclose(found.cpu(), expected_costs(problem), atol=bound(problem))


def test_many_poses(cuda: Any) -> None:
    import torch

    problem = make_problem(4, count=5, each=600)
    points, poses = (torch.tensor(a, device=cuda) for a in (problem.points, problem.poses))
    found = pl.score_poses(problem.maps.to(cuda), points, problem.camera, poses)
    np.testing.assert_allclose(found.cpu(), expected_costs(problem), atol=bound(problem))


def test_bad_values_spoil_only_what_they_touch(cuda: Any) -> None:
    import torch

    batch = make_batch([60, 60], 360, outliers=0.0)
    call = on_gpu(batch, cuda)
    good = pl.estimate_pose(**call)
    points = call["points3d"].clone()
    points[5, 1] = float("nan")
    points[60:] = float("inf")
    found = pl.estimate_pose(**{**call, "points3d": points})
    assert found.success.tolist() == [True, False]
    assert bool(found.cam_from_world.isfinite().all()) and found.inlier_probability[5] == 0
    assert pl.pose_error(found[0].cam_from_world, good[0].cam_from_world)[0] < 2
    with pytest.raises(ValueError, match="points3d holds NaN"):
        pl.estimate_pose(**{**call, "points3d": points}, check_finite=True)
    for ptr in ([0, 70, 50], [-5, 10, 999], [120, 30, 0]):
        lying = torch.tensor(ptr, device=cuda)
        found = pl.estimate_pose(**{**call, "problem_ptr": lying}, iterations=64)
        assert bool(found.cam_from_world.isfinite().all())


def test_devices_are_not_mixed(cuda: Any) -> None:
    import torch

    batch = make_batch([20], 370)
    points = torch.tensor(batch.points, device=cuda)
    with pytest.raises(ValueError, match="maps are on the host"):
        pl.estimate_pose(batch.maps, points, PINHOLE)
    with pytest.raises(ValueError, match="points3d must be on"):
        pl.estimate_pose(batch.maps.to(cuda), points.cpu(), PINHOLE)
