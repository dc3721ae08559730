# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The way from the front doors to the CUDA module, where there is no GPU.

A stand-in takes the module's place, with the parameters of cuda/bindings/*.cpp, and has the CPU do the
work at the addresses it is given: wrong arguments, strides or lifetimes give wrong poses.
"""

from __future__ import annotations

import ctypes
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_estimate_pose_batch import FISHEYE, OPENCV, PINHOLE, Batch, check_same, make_batch

import pyloc_core as pl
from pyloc_core import _dispatch, _native, _problems

torch = pytest.importorskip("torch")

BINDINGS = Path(__file__).parents[1] / "cuda" / "bindings"
DEVICE, STREAM = 5, 77


def doubles(address: int, count: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_double * count).from_address(address))


class StandIn:
    """pyloc_core._native_cuda, by the CPU. Parameters are named and ordered as in the bindings."""

    def estimate_pose_workspace(self, num_maps: int, num_problems: int) -> int:
        assert num_maps >= 0 and num_problems >= 0
        return 256

    def refine_pose_workspace(self, entries: int, maps: int) -> int:
        assert entries >= 0 and maps >= 0
        return 256

    def score_poses_workspace(self, num_maps: int, num_problems: int, num_poses: int) -> int:
        assert num_maps >= 0 and num_problems >= 0 and num_poses >= 0
        return 256

    def estimate_pose(
        self, maps: tuple, points: int, camera: tuple, cameras: int, problem_ptr: int,
        num_problems: int, initial: int, num_initial: int, options: tuple, outputs: tuple,
        workspace: int, device: int, stream: int,
    ) -> None:  # fmt: skip
        assert (device, stream) == (DEVICE, STREAM) and workspace and len(outputs) == 8
        rows = self.rows(camera, cameras, num_problems)
        _native.estimate_pose_phases(
            maps, points, rows.ctypes.data, initial, num_initial, problem_ptr, num_problems,
            options, outputs, True,
        )  # fmt: skip

    def score_poses(
        self, maps: tuple, points: int, camera: tuple, cameras: int, problem_ptr: int,
        num_problems: int, poses: int, num_poses: int, cost: int, workspace: int, device: int,
        stream: int,
    ) -> None:  # fmt: skip
        assert (device, stream) == (DEVICE, STREAM) and workspace
        rows = self.rows(camera, cameras, num_problems)
        _native.score_poses_phases(
            maps, points, rows.ctypes.data, poses, num_poses, problem_ptr, num_problems, True, cost
        )

    def refine_pose(
        self, maps: tuple, points: int, camera: tuple, cameras: int, problem_ptr: int,
        problems: int, start: int, options: tuple, outputs: tuple, workspace: int, device: int,
        stream: int,
    ) -> None:  # fmt: skip
        assert (device, stream) == (DEVICE, STREAM) and workspace and len(outputs) == 6
        whole = np.array([0, maps[0]], np.int64)
        rows = self.rows(camera, cameras, problems)
        _native.refine_pose_batch(
            maps, points, rows.ctypes.data, False, problem_ptr or whole.ctypes.data, problems, start,
            (*options, 0), 1, outputs,
        )  # fmt: skip
        gain = doubles(outputs[5], maps[0])
        gain[:] = -np.expm1(-gain)

    def p3p(
        self, bearings: int, points: int, count: int, cam_from_world: int, valid: int, dtype: int,
        device: int, stream: int,
    ) -> None:  # fmt: skip
        assert (device, stream) == (DEVICE, STREAM)
        _native.p3p(bearings, points, count, cam_from_world, valid, dtype, 1)

    @staticmethod
    def rows(camera: tuple, cameras: int, problems: int) -> np.ndarray:
        assert len(camera) == (0 if cameras else 13)
        if cameras:
            return doubles(cameras, 13 * problems).reshape(problems, 13)
        return np.tile(np.array(camera), (problems, 1))


@pytest.mark.parametrize("name", ["estimate_pose", "score_poses", "refine_pose", "p3p"])
def test_the_stand_in_has_the_bindings_parameters(name: str) -> None:
    text = (BINDINGS / f"{name}.cpp").read_text()
    lists = re.findall(rf"(?:void {name}|\[\])\(([^()]*)\)", text)
    assert len(lists) == 1
    bound = [re.fullmatch(r"(.*?)[&\s]+(\w+)", p.strip()).groups() for p in lists[0].split(",")]
    kinds = {
        "const py::tuple": "tuple", "std::uintptr_t": "int", "std::int64_t": "int", "int": "int"
    }  # fmt: skip
    ours = list(inspect.signature(getattr(StandIn, name)).parameters.values())[1:]
    assert [(kinds[kind], name) for kind, name in bound] == [(p.annotation, p.name) for p in ours]
    for each in re.findall(r'm\.def\(\s*"(\w+)"', text):
        assert hasattr(StandIn, each)


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """CPU tensors take the way of CUDA tensors."""
    with pytest.MonkeyPatch.context() as patch:
        for op in ("estimate_pose", "score_poses", "refine_pose", "p3p"):
            module = _dispatch.device_module(op, "cuda")
            patch.setattr(module, "place", lambda tensor: (DEVICE, STREAM))
        patch.setattr(_dispatch, "cuda_module", StandIn)
        patch.setattr(_dispatch, "select", lambda op, implementation, arrays: "cuda")
        yield


def strided(array: np.ndarray) -> Any:
    """A tensor of the same values that do not lie side by side, and that wants a gradient."""
    wide = torch.zeros((*array.shape, 2), dtype=torch.float64)
    wide[..., 1] = torch.from_numpy(array)
    tensor = wide[..., 1].requires_grad_()
    assert not tensor.is_contiguous()
    return tensor


def batch_of(seed: int) -> Batch:
    return make_batch([40, 3, 60], seed, cameras=(PINHOLE, OPENCV, FISHEYE))


def camera_forms(batch: Batch) -> list[Any]:
    rows = _problems.camera_rows(batch.cameras, batch.maps, len(batch.cameras))
    return [list(batch.cameras), strided(rows)]


def test_estimate_pose_of_a_batch() -> None:
    batch = batch_of(200)
    ptr, starts = batch.problem_ptr, np.stack([batch.truths, batch.truths[::-1]], 1)
    options: dict[str, Any] = {"seed": 2**64 - 3, "iterations": 90, "top_fraction": 0.5}
    expected = pl.estimate_pose(
        batch.maps, batch.points, batch.cameras, problem_ptr=ptr, initial=starts, **options
    )
    assert expected.success.any()
    with as_on_cuda():
        for camera in camera_forms(batch):
            found = pl.estimate_pose(
                batch.maps.to("cpu"), strided(batch.points), camera, initial=strided(starts),
                problem_ptr=torch.from_numpy(ptr).int(), **options,
            )  # fmt: skip
            assert not found.cam_from_world.requires_grad
            for ours, theirs in zip(found, expected, strict=True):
                check_same(ours, theirs)


def test_estimate_pose_of_one_problem() -> None:
    batch = make_batch([50], 210, outliers=0.5)
    expected = pl.estimate_pose(batch.maps, batch.points, PINHOLE, confidence=0.99)
    with as_on_cuda():
        found = pl.estimate_pose(
            batch.maps.to("cpu"), torch.from_numpy(batch.points), PINHOLE, confidence=0.99
        )
    assert expected.success
    check_same(found[0], expected)


def test_score_poses() -> None:
    batch = batch_of(220)
    poses = np.stack([batch.truths, batch.truths[::-1]], 1)
    expected = pl.score_poses(
        batch.maps, batch.points, batch.cameras, poses, problem_ptr=batch.problem_ptr
    )
    with as_on_cuda():
        for camera in camera_forms(batch):
            found = pl.score_poses(
                batch.maps.to("cpu"), strided(batch.points), camera, strided(poses),
                problem_ptr=torch.from_numpy(batch.problem_ptr),
            )  # fmt: skip
            assert not found.requires_grad
            np.testing.assert_allclose(found, expected, atol=0.01)
        one = pl.score_poses(
            batch.maps[:40].to("cpu"), torch.from_numpy(batch.points[:40]), PINHOLE,
            torch.from_numpy(poses[0]),
        )  # fmt: skip
    np.testing.assert_allclose(one, expected[0], atol=0.01)


def test_refine_pose() -> None:
    batch = batch_of(230)
    options: dict[str, Any] = {"sigma_max": 4.0, "sigma_min": 0.8, "max_iterations": 50}
    expected = pl.refine_pose(
        batch.maps,
        batch.points,
        batch.cameras,
        batch.truths,
        problem_ptr=batch.problem_ptr,
        **options,
    )
    assert expected.success.any()
    with as_on_cuda():
        for camera in camera_forms(batch):
            found = pl.refine_pose(
                batch.maps.to("cpu"), strided(batch.points), camera, strided(batch.truths),
                problem_ptr=torch.from_numpy(batch.problem_ptr), **options,
            )  # fmt: skip
            check_equal(found, expected)
        single = pl.refine_pose(
            batch.maps[:40].to("cpu"), torch.from_numpy(batch.points[:40]), PINHOLE,
            torch.from_numpy(batch.truths[0]), **options,
        )  # fmt: skip
    np.testing.assert_allclose(single.cam_from_world[0], expected.cam_from_world[0], atol=1e-9)


def check_equal(found: pl.PoseEstimates, expected: pl.PoseEstimates) -> None:
    """To the rounding of starts, which the host makes orthonormal and the stand-in does not."""
    for name in ("success", "status", "num_usable", "num_consistent"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("cam_from_world", "covariance", "cost", "gain", "energy", "inlier_probability"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-8, atol=1e-9
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_p3p(dtype: str) -> None:
    rng = np.random.default_rng(5)
    rays = rng.normal(size=(30, 3, 3)) + [0, 0, 3]
    points = rays * rng.uniform(1, 4, (30, 3, 1))
    tensors = [strided(a).to(getattr(torch, dtype)) for a in (rays, points)]
    expected = pl.p3p(*(t.detach().numpy() for t in tensors))
    assert expected.valid.any()
    with as_on_cuda():
        found = pl.p3p(*tensors)
        out = pl.P3PSolutions(torch.ones_like(found.cam_from_world), torch.ones_like(found.valid))
        assert pl.p3p(*tensors, out=out) is out
    for each in (found, out):
        np.testing.assert_array_equal(each.cam_from_world, expected.cam_from_world)
        np.testing.assert_array_equal(each.valid, expected.valid)
