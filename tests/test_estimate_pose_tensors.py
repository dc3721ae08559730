# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""estimate_pose and score_poses as torch sees them: operators of tensors, here on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_estimate_pose_batch import (
    FISHEYE,
    OPENCV,
    PINHOLE,
    Batch,
    check_same,
    make_batch,
    padded,
)

import pyloc_core as pl
from pyloc_core import _library, _problems

torch = pytest.importorskip("torch")


def on_tensors(batch: Batch) -> dict[str, Any]:
    rows = _problems.camera_rows(batch.cameras, batch.maps, len(batch.cameras))
    return {
        "maps": batch.maps.to("cpu"),
        "points3d": torch.from_numpy(batch.points),
        "camera": torch.from_numpy(rows),
        "problem_ptr": torch.from_numpy(batch.problem_ptr),
    }


def test_the_result_is_that_of_arrays() -> None:
    batch = make_batch([40, 3, 60], 200, cameras=(PINHOLE, OPENCV, FISHEYE))
    expected = pl.estimate_pose(
        batch.maps, batch.points, batch.cameras, problem_ptr=batch.problem_ptr, seed=2**64 - 3
    )
    found = pl.estimate_pose(**on_tensors(batch), seed=2**64 - 3)
    assert isinstance(found, pl.PoseEstimates)
    for name in ("cam_from_world", "cost", "inlier_probability", "status", "success", "covariance"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert isinstance(ours, torch.Tensor) and ours.numpy().tobytes() == theirs.tobytes()
    for a, b in zip(found, expected):
        check_same(a, b)


def test_one_problem_and_initial_poses() -> None:
    batch = make_batch([50], 210, outliers=0.7)
    maps, points = batch.maps.to("cpu"), torch.from_numpy(batch.points)
    for initial in (None, batch.truths[0], torch.from_numpy(batch.truths)):
        found = pl.estimate_pose(maps, points, PINHOLE, initial=initial, iterations=2)
        expected = pl.estimate_pose(
            batch.maps, batch.points, PINHOLE, initial=initial, iterations=2
        )
        assert len(found) == 1 and found.problem_ptr.tolist() == [0, 50]
        check_same(found[0], expected)
    by_reference = pl.estimate_pose(maps, points, PINHOLE, implementation="reference")
    check_same(by_reference[0], pl.estimate_pose(batch.maps, batch.points, PINHOLE))


def test_scores() -> None:
    batch = make_batch([40, 30], 220, cameras=(PINHOLE, FISHEYE))
    poses = torch.from_numpy(np.stack([batch.truths, batch.truths[::-1]], 1))
    found = pl.score_poses(**on_tensors(batch), cam_from_world=poses)
    expected = pl.score_poses(
        batch.maps, batch.points, batch.cameras, poses.numpy(), problem_ptr=batch.problem_ptr
    )
    assert found.numpy().tobytes() == expected.tobytes()
    assert (found[:, 0] < found[:, 1] - 10).all()


def test_padded_maps() -> None:
    batch = make_batch([50, 40], 225)
    tensors = on_tensors(batch)
    wide = {**tensors, "maps": padded(batch.maps, (-5, -3)).to("cpu")}
    expected = pl.estimate_pose(**tensors)
    for camera in (wide["camera"], PINHOLE, [PINHOLE, PINHOLE]):
        found = pl.estimate_pose(**{**wide, "camera": camera})
        assert torch.allclose(found.cam_from_world, expected.cam_from_world, atol=1e-9)


def test_operators_are_described_rightly() -> None:
    _library.ensure()
    batch = make_batch([20, 25], 230)
    tensors = on_tensors(batch)
    maps = _problems.map_tensors(tensors["maps"])
    starts = torch.from_numpy(batch.truths)[:, None].contiguous()
    points, ptr = tensors["points3d"], tensors["problem_ptr"]
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    rest = (64, 0.99, 0.25, 3, 1, "")
    for cameras, initial, offsets in ((tensors["camera"], starts, ptr), (None, None, None)):
        numbers = [0.0, 45.0, 45.0, 29.5, 22.0, *[0.0] * 8] if cameras is None else []
        args = (*maps, points, numbers, cameras, initial, offsets, *rest)
        torch.library.opcheck(torch.ops.pyloc_core.estimate_pose.default, args, test_utils=tests)
        poses = starts if offsets is not None else starts[:1]
        args = (*maps, points, numbers, cameras, poses, offsets, 1, "")
        torch.library.opcheck(torch.ops.pyloc_core.score_poses.default, args, test_utils=tests)


def test_compiled_as_one_graph() -> None:
    batch = make_batch([30, 20], 240)
    tensors = on_tensors(batch)

    def localize(maps: Any, points3d: Any, camera: Any, problem_ptr: Any) -> Any:
        found = pl.estimate_pose(maps, points3d, camera, problem_ptr=problem_ptr, iterations=100)
        cost = pl.score_poses(
            maps, points3d, camera, found.cam_from_world[:, None], problem_ptr=problem_ptr
        )
        return found.cam_from_world, found.success, cost[:, 0], found.cost

    compiled = torch.compile(localize, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(**tensors), localize(**tensors), strict=True):
        assert torch.equal(ours, theirs)
    _poses, success, rough, cost = compiled(**tensors)
    assert success.all() and torch.allclose(rough, cost, atol=0.1)


def test_errors_name_the_argument() -> None:
    batch = make_batch([20, 25], 250)
    tensors = on_tensors(batch)
    for name, value in (
        ("points3d", tensors["points3d"][:-1]),
        ("points3d", tensors["points3d"][:, :2]),
        ("problem_ptr", tensors["problem_ptr"][:0]),
        ("problem_ptr", tensors["problem_ptr"][None]),
        ("problem_ptr", torch.tensor([0, 50, 45])),
        ("camera", tensors["camera"].repeat(2, 1)),
        ("initial", torch.zeros(3, 3, 4, dtype=torch.float64)),
    ):
        with pytest.raises(ValueError, match=name):
            pl.estimate_pose(**{**tensors, name: value})
    with pytest.raises(TypeError, match="problem_ptr"):
        pl.estimate_pose(**{**tensors, "problem_ptr": tensors["problem_ptr"].double()})
    bad = tensors["points3d"].clone()
    bad[7, 1] = float("nan")
    with pytest.raises(ValueError, match="points3d holds NaN"):
        pl.estimate_pose(**{**tensors, "points3d": bad}, check_finite=True)
    with pytest.raises(ValueError, match="points3d holds NaN"):
        poses = torch.from_numpy(batch.truths)[:, None]
        pl.score_poses(**{**tensors, "points3d": bad}, cam_from_world=poses, check_finite=True)
    with pytest.raises(RuntimeError, match="cuda"):
        pl.estimate_pose(**tensors, implementation="cuda")
