# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""refine_pose on the GPU against the CPU: the same decisions, the same poses to float tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loss_map_problems import make_maps, make_scene

import pyloc_core as pl

CAMERAS = (
    pl.Camera("PINHOLE", 640, 480, (500.0, 510.0, 322.0, 238.0)),
    pl.Camera("RADIAL", 640, 480, (480.0, 318.0, 241.0, -0.08, 0.02)),
    pl.Camera("OPENCV_FISHEYE", 640, 480, (470.0, 475.0, 320.0, 240.0, -0.02, 0.01, 0, 0)),
)


def problems(seed: int, counts: list[int], **options: Any) -> dict[str, Any]:
    """The arguments of a batch, on the host."""
    rng = np.random.default_rng(seed)
    maps, points, starts, cameras = [], [], [], []
    for b, count in enumerate(counts):
        camera = CAMERAS[b % 3]
        scene = make_scene(seed + b, count, camera, 1.0 if b % 5 == 4 else 0.3)
        maps.append(make_maps(scene, (75, 100), seed + b, **options))
        points.append(scene.points)
        turn = pl.rotation_from_quaternion(np.r_[1.0, rng.standard_normal(3) * 0.008])
        starts.append(turn @ scene.truth + np.c_[np.zeros((3, 3)), rng.normal(0, 0.05, 3)])
        cameras.append(camera)
    return {
        "maps": pl.LossMaps.concatenate(maps),
        "points3d": np.concatenate(points),
        "camera": cameras,
        "cam_from_world": np.array(starts),
        "problem_ptr": np.concatenate([[0], np.cumsum(counts)]),
    }


def moved(arguments: dict[str, Any], device: Any) -> dict[str, Any]:
    import torch

    there = {
        k: torch.tensor(v, device=device) for k, v in arguments.items() if isinstance(v, np.ndarray)
    }
    return arguments | there | {"maps": arguments["maps"].to(device)}


def assert_agrees(found: pl.PoseEstimates, arguments: dict[str, Any], **options: Any) -> None:
    here, there = found.cpu(), pl.refine_pose(**arguments, **options)
    for name in ("success", "num_usable", "num_consistent"):
        np.testing.assert_array_equal(getattr(here, name).numpy(), getattr(there, name))
    good = there.success
    assert good.any()
    poses = here.cam_from_world.numpy()
    np.testing.assert_allclose(poses[good], there.cam_from_world[good], atol=1e-4)
    assert np.isfinite(poses).all()
    np.testing.assert_allclose(here.gain.numpy()[good], there.gain[good], rtol=1e-4)
    variance = np.diagonal(here.covariance.numpy()[good], axis1=1, axis2=2)
    expected = np.diagonal(there.covariance[good], axis1=1, axis2=2)
    np.testing.assert_allclose(variance, expected, rtol=0.05)
    assert [a.split(" (")[0] for a, ok in zip(here.reasons, good) if ok] == [
        a.split(" (")[0] for a, ok in zip(there.reasons, good) if ok
    ]


@pytest.mark.parametrize("options", [{}, {"window": 32}])
def test_agrees_with_the_cpu(cuda: Any, options: dict[str, Any]) -> None:
    arguments = problems(0, [60, 3, 200, 0, 90, 31, 140], **options)
    sigma = {"sigma_max": 8.0} if options else {}
    found = pl.refine_pose(**moved(arguments, cuda), **sigma)
    assert found.cam_from_world.device == cuda
    assert_agrees(found, arguments, **sigma)


def test_large_and_single_problems(cuda: Any) -> None:
    for counts in ([1200], [700, 650]):  # more maps than a block has threads
        arguments = problems(20, counts)
        assert_agrees(pl.refine_pose(**moved(arguments, cuda)), arguments)
    arguments = problems(30, [150])
    single = moved(arguments, cuda) | {"problem_ptr": None, "camera": CAMERAS[0]}
    single["cam_from_world"] = single["cam_from_world"][0]
    assert_agrees(pl.refine_pose(**single), arguments)


def test_same_bits_every_time_and_in_a_graph(cuda: Any) -> None:
    import torch

    arguments = moved(problems(40, [80, 120]), cuda)
    arguments["camera"] = torch.tensor(pl.camera_rows(arguments["camera"], (75, 100)), device=cuda)
    first = pl.refine_pose(**arguments)
    again = pl.refine_pose(**arguments)
    for name in ("cam_from_world", "covariance", "gain", "inlier_probability"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    stream = torch.cuda.Stream(cuda)
    stream.wait_stream(torch.cuda.current_stream(cuda))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        pl.refine_pose(**arguments)
        with torch.cuda.graph(graph, stream=stream):
            captured = pl.refine_pose(**arguments)
        captured.cam_from_world.zero_()
        graph.replay()
    torch.cuda.synchronize(cuda)
    assert torch.equal(captured.cam_from_world, first.cam_from_world)


def test_bad_values_spoil_only_their_problem(cuda: Any) -> None:
    import torch

    arguments = moved(problems(50, [60, 60, 60, 60]), cuda)
    good = pl.refine_pose(**arguments)
    starts, points = arguments["cam_from_world"].clone(), arguments["points3d"].clone()
    starts[1, 0, 0], points[130] = float("nan"), float("inf")
    found = pl.refine_pose(**(arguments | {"cam_from_world": starts, "points3d": points}))
    assert not bool(found.success[1]) and "not a rotation" in found.reasons[1]
    for b in (0, 3):
        assert torch.equal(found.cam_from_world[b], good.cam_from_world[b])
    assert bool(found.success[2])
    with pytest.raises(ValueError, match="cam_from_world holds NaN"):
        pl.refine_pose(**(arguments | {"cam_from_world": starts}), check_finite=True)
    with pytest.raises(ValueError, match="CPU"):
        pl.refine_pose(**arguments, compat="published")
    with pytest.raises(ValueError, match=r"maps\.to\(device\)"):
        pl.refine_pose(**(arguments | {"maps": arguments["maps"].cpu()}))
