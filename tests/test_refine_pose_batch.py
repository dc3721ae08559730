# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Many refinements in one call: the results of single calls, on NumPy arrays and on tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from loss_map_problems import make_maps, make_scene

import pyloc_core as pl

SIZE = (60, 80)
CAMERAS = (
    pl.Camera("PINHOLE", 640, 480, (500.0, 510.0, 322.0, 238.0)),
    pl.Camera("RADIAL", 640, 480, (480.0, 318.0, 241.0, -0.08, 0.02)),
    pl.Camera("OPENCV_FISHEYE", 640, 480, (470.0, 475.0, 320.0, 240.0, -0.02, 0.01, 0, 0)),
)


@dataclass
class Batch:
    maps: pl.LossMaps
    points: np.ndarray
    cameras: list[pl.Camera]
    starts: np.ndarray
    ptr: np.ndarray

    def single(self, b: int, **options: Any) -> pl.PoseEstimate:
        part = slice(self.ptr[b], self.ptr[b + 1])
        return pl.refine_pose(
            self.maps[part], self.points[part], self.cameras[b], self.starts[b], **options
        )

    def arguments(self) -> dict[str, Any]:
        return {
            "maps": self.maps,
            "points3d": self.points,
            "camera": self.cameras,
            "cam_from_world": self.starts,
            "problem_ptr": self.ptr,
        }


def make(seed: int = 0, counts: tuple[int, ...] = (40, 3, 0, 90, 30)) -> Batch:
    """Problems of several sizes: one with too few maps, one without any, the last with wrong ones."""
    rng = np.random.default_rng(seed)
    maps, points, starts, cameras = [], [], [], []
    for b, count in enumerate(counts):
        camera = CAMERAS[b % 3]
        scene = make_scene(seed + b, count, camera, 1.0 if b == 4 else 0.25)
        maps.append(make_maps(scene, SIZE, seed + b))
        points.append(scene.points)
        axis = rng.standard_normal(3) * 0.008
        turn = pl.rotation_from_quaternion(np.r_[1.0, axis])
        starts.append(turn @ scene.truth + np.c_[np.zeros((3, 3)), rng.normal(0, 0.05, 3)])
        cameras.append(camera)
    return Batch(
        pl.LossMaps.concatenate(maps),
        np.concatenate(points),
        cameras,
        np.array(starts),
        np.concatenate([[0], np.cumsum(counts)]),
    )


def assert_same(found: pl.PoseEstimates, batch: Batch, **options: Any) -> None:
    for b in range(len(found)):
        alone, here = batch.single(b, **options), found[b]
        for name in ("cam_from_world", "covariance"):
            np.testing.assert_array_equal(np.asarray(getattr(here, name)), getattr(alone, name))
        np.testing.assert_array_equal(
            np.asarray(here.inlier_probability), np.asarray(alone.inlier_probability)
        )
        for name in ("success", "reason", "iterations", "num_usable", "num_consistent", "energy"):
            assert getattr(here, name) == getattr(alone, name), name
        assert here.gain == pytest.approx(alone.gain, rel=1e-12)
        assert here.cost == pytest.approx(alone.cost, rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"sigma_max": 8.0}, {"max_iterations": 3}])
def test_a_batch_gives_the_bits_of_single_calls(options: dict[str, Any]) -> None:
    batch = make()
    found = pl.refine_pose(**batch.arguments(), **options)
    assert isinstance(found, pl.PoseEstimates) and len(found) == 5
    assert_same(found, batch, **options)
    if not options:
        assert found.success.tolist() == [True, False, False, True, False]
        assert "3 of 3" in found.reasons[1] or "usable" in found.reasons[1]
        assert found.reasons[2] == "no points"
        assert "chance" in found.reasons[4]


def test_published_in_a_batch() -> None:
    batch = make(3, (40, 50))
    assert_same(pl.refine_pose(**batch.arguments(), compat="published"), batch, compat="published")
    batch = make(3, (40, 50, 40))
    with pytest.raises(ValueError, match="k1, k2, p1 and p2"):
        pl.refine_pose(**batch.arguments(), compat="published")


def test_threads_do_not_change_the_bits() -> None:
    batch = make(5)
    results = [pl.refine_pose(**batch.arguments(), num_threads=n) for n in (1, 2, 16)]
    for other in results[1:]:
        for name in ("cam_from_world", "covariance", "gain", "inlier_probability"):
            np.testing.assert_array_equal(getattr(other, name), getattr(results[0], name))


def test_one_camera_a_list_or_rows() -> None:
    batch = make(7, (40, 40, 40))
    listed = pl.refine_pose(**batch.arguments())
    rows = pl.camera_rows(batch.cameras, SIZE)
    assert rows.shape == (3, 13) and rows[:, 0].tolist() == [0, 1, 2]
    assert pl.camera_rows([]).shape == (0, 13)
    given = pl.refine_pose(**(batch.arguments() | {"camera": rows}))
    np.testing.assert_array_equal(given.cam_from_world, listed.cam_from_world)
    one = pl.refine_pose(**(batch.arguments() | {"camera": CAMERAS[0]}))
    np.testing.assert_array_equal(one.cam_from_world[0], listed.cam_from_world[0])
    assert not np.array_equal(one.cam_from_world[1], listed.cam_from_world[1])
    with pytest.raises(ValueError, match="one or 3, one per problem, got 2"):
        pl.refine_pose(**(batch.arguments() | {"camera": rows[:2]}))


def test_an_empty_batch() -> None:
    batch = make(1, (20,))
    none = pl.refine_pose(
        batch.maps[:0], np.zeros((0, 3)), CAMERAS[0], np.zeros((0, 3, 4)), problem_ptr=[0]
    )
    assert len(none) == 0 and none.covariance.shape == (0, 6, 6) and none.reasons == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"problem_ptr": [0, 40, 43, 43, 133]}, ValueError, "rise from 0 to the number of maps"),
        ({"problem_ptr": [0, 43, 40, 43, 133, 163]}, ValueError, "rise from 0"),
        ({"problem_ptr": np.linspace(0, 163, 6)}, TypeError, "integers"),
        ({"cam_from_world": np.eye(3, 4)}, ValueError, r"must have shape \(5, 3, 4\)"),
        ({"cam_from_world": np.stack([np.eye(3, 4)] * 4)}, ValueError, r"\(5, 3, 4\)"),
        ({"cam_from_world": np.full((5, 3, 4), 2.0)}, ValueError, r"cam_from_world\[0\].*rotation"),
        ({"points3d": np.zeros((162, 3))}, ValueError, "same length"),
        ({"camera": [CAMERAS[0]] * 4}, ValueError, "one or 5"),
        ({"implementation": "cuda"}, (RuntimeError, ValueError), "cuda"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        pl.refine_pose(**(make().arguments() | change))


def test_the_reference_takes_one_problem() -> None:
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match="one problem"):
        pl.refine_pose(**make().arguments(), implementation="reference")


# ---------------------------------------------------------------------- tensors


def on_tensors(batch: Batch) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    arguments = batch.arguments()
    arguments["maps"] = batch.maps.to("cpu")
    for name in ("points3d", "cam_from_world", "problem_ptr"):
        arguments[name] = torch.tensor(arguments[name])
    return arguments


def test_device_maps_on_the_cpu_give_the_same() -> None:
    torch = pytest.importorskip("torch")
    batch = make(2)
    found = pl.refine_pose(**on_tensors(batch))
    assert isinstance(found.cam_from_world, torch.Tensor)
    assert_same(found, batch)
    one = make(4, (35,))
    arguments = on_tensors(one) | {"problem_ptr": None, "camera": CAMERAS[0]}
    arguments["cam_from_world"] = torch.tensor(one.starts[0])
    single = pl.refine_pose(**arguments)
    assert isinstance(single, pl.PoseEstimates) and len(single) == 1
    assert single.problem_ptr.tolist() == [0, 35]
    assert_same(single, one)


def test_the_operator_is_sound_for_torch() -> None:
    torch = pytest.importorskip("torch")
    from pyloc_core import _library, _problems

    batch = make(2, (30, 25))
    a = on_tensors(batch)
    _library.ensure()
    numbers, cameras = _problems.camera_tensors(batch.cameras, a["maps"], 2)
    rest = (2.0, 0.6, 200, 0.1, 1e-5, 0, "")
    for rows, ptr, starts in (
        (cameras, a["problem_ptr"], a["cam_from_world"]),
        (None, None, a["cam_from_world"][:1]),
    ):
        numbers = [0.0, 60.0, 60, 40, 30] + [0.0] * 8 if rows is None else []
        inputs = (*_problems.map_tensors(a["maps"]), a["points3d"], numbers, rows, starts, ptr)
        torch.library.opcheck(torch.ops.pyloc_core.refine_pose.default, inputs + rest)


def test_a_compiled_function_gives_what_the_eager_one_does() -> None:
    torch = pytest.importorskip("torch")
    a = on_tensors(make(2, (30, 25)))
    maps, camera = a["maps"], CAMERAS[0]
    eager = pl.refine_pose(
        maps, a["points3d"], camera, a["cam_from_world"], problem_ptr=a["problem_ptr"]
    )

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(points: Any, starts: Any, ptr: Any) -> Any:
        found = pl.refine_pose(maps, points, camera, starts, problem_ptr=ptr)
        return found.cam_from_world, found.success, found.cost * 2

    poses, success, cost = compiled(a["points3d"], a["cam_from_world"], a["problem_ptr"])
    assert torch.equal(poses, eager.cam_from_world) and torch.equal(success, eager.success)
    assert torch.equal(cost, 2 * eager.cost)


def test_tensors_that_do_not_fit_are_named() -> None:
    torch = pytest.importorskip("torch")
    a = on_tensors(make())
    for change, error, message in (
        ({"points3d": a["points3d"].to("meta")}, ValueError, "points3d must be on cpu"),
        ({"points3d": a["points3d"][:-1]}, ValueError, "same length"),
        ({"cam_from_world": torch.eye(4)}, ValueError, r"must have shape \(5, 3, 4\)"),
        ({"problem_ptr": torch.ones(6)}, TypeError, "integers"),
        ({"compat": "published"}, ValueError, "CPU"),
        ({"implementation": "reference"}, ValueError, "LossMaps"),
        ({"check_finite": True, "points3d": a["points3d"] * float("nan")}, ValueError, "points3d"),
    ):
        with pytest.raises(error, match=message):
            pl.refine_pose(**(a | change))
