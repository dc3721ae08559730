# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""estimate_pose for many problems at once: on the CPU the bits of single calls, and the phases that a GPU
runs, here one thread after the other, choose what the CPU chooses."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from loss_map_problems import make_maps, make_scene

import pyloc_core as pl
from pyloc_core import _native, _problems
from pyloc_core.sampling import batch_starting_poses

PINHOLE = pl.Camera("PINHOLE", 960, 720, (720.0, 720.0, 480.0, 360.0))
OPENCV = pl.Camera("OPENCV", 960, 720, (720.0, 730.0, 470.0, 350.0, -0.15, 0.05, 1e-3, -2e-3))
FISHEYE = pl.Camera(
    "OPENCV_FISHEYE", 960, 720, (500.0, 510.0, 480.0, 360.0, -0.03, 0.01, -2e-3, 4e-4)
)


class Batch(NamedTuple):
    maps: pl.LossMaps
    points: np.ndarray  # (N, 3)
    cameras: list[pl.Camera]
    truths: np.ndarray  # (B, 3, 4)
    problem_ptr: np.ndarray


def make_batch(
    counts: list[int],
    seed: int,
    *,
    size: tuple[int, int] = (45, 60),
    window: int | None = None,
    outliers: float = 0.4,
    cameras: tuple[pl.Camera, ...] = (PINHOLE,),
) -> Batch:
    scenes, maps = [], []
    for b, count in enumerate(counts):
        scene = make_scene(seed + b, max(count, 1), cameras[b % len(cameras)], outliers)
        scenes.append(scene._replace(points=scene.points[:count]))
        maps.append(make_maps(scene, size, seed + b, window=window)[:count])
    return Batch(
        pl.LossMaps.concatenate(maps),
        np.concatenate([scene.points for scene in scenes]),
        [cameras[b % len(cameras)] for b in range(len(counts))],
        np.stack([scene.truth for scene in scenes]),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def single(batch: Batch, b: int, **options: Any) -> pl.PoseEstimate:
    part = slice(batch.problem_ptr[b], batch.problem_ptr[b + 1])
    return pl.estimate_pose(batch.maps[part], batch.points[part], batch.cameras[b], **options)


def phases(batch: Batch, *, dense: bool = True, **options: Any) -> pl.PoseEstimates:
    """What cuda/estimate_pose.cu launches, run on the CPU."""
    B, N = len(batch.cameras), len(batch.maps)
    cameras = np.broadcast_to(_problems.camera_rows(batch.cameras, batch.maps, B), (B, 13))
    cameras = np.ascontiguousarray(cameras)
    starts = batch_starting_poses(options.get("initial"), B)
    status, iterations, usable, consistent = (np.full(B, -9, np.int32) for _ in range(4))
    poses, cost, gain = np.full((B, 3, 4), np.nan), np.full(B, np.nan), np.full(B, np.nan)
    probability = np.full(N, np.nan)
    out = (poses, status, cost, gain, iterations, usable, consistent, probability)
    ptr = np.ascontiguousarray(batch.problem_ptr)
    points = np.ascontiguousarray(batch.points)
    choice = (
        options.get("iterations") or 0, options.get("confidence", 0.9999),
        options.get("top_fraction", 0.25), options.get("seed", 0),
    )  # fmt: skip
    _native.estimate_pose_phases(
        batch.maps.native_args(), points.ctypes.data, cameras.ctypes.data, starts.ctypes.data,
        starts.shape[1], ptr.ctypes.data, B, choice, tuple(a.ctypes.data for a in out), dense,
    )  # fmt: skip
    from pyloc_core.ops.estimate_pose import _estimates

    return _estimates((*out, batch.problem_ptr))


def check_same(ours: pl.PoseEstimate, theirs: pl.PoseEstimate) -> None:
    """The same hypothesis, stop and verdict; numbers to the rounding of sums in another order."""
    assert (ours.success, ours.iterations, ours.reason) == (
        theirs.success, theirs.iterations, theirs.reason
    )  # fmt: skip
    assert (ours.num_usable, ours.num_consistent) == (theirs.num_usable, theirs.num_consistent)
    np.testing.assert_allclose(ours.cam_from_world, theirs.cam_from_world, atol=1e-7)
    np.testing.assert_allclose([ours.cost, ours.gain], [theirs.cost, theirs.gain], rtol=1e-7)
    np.testing.assert_allclose(ours.inlier_probability, theirs.inlier_probability, atol=1e-5)
    np.testing.assert_array_equal(ours.covariance, theirs.covariance)


RAGGED = [60, 0, 3, 120, 5, 40, 80]


@pytest.mark.parametrize("num_threads", [1, 2, 16])
@pytest.mark.parametrize("iterations", [None, 150])
def test_a_batch_has_the_bits_of_single_calls(num_threads: int, iterations: int | None) -> None:
    batch = make_batch(RAGGED, 50, cameras=(PINHOLE, OPENCV, FISHEYE))
    options = {"iterations": iterations, "seed": 4, "num_threads": num_threads}
    found = pl.estimate_pose(
        batch.maps, batch.points, batch.cameras, problem_ptr=batch.problem_ptr, **options
    )
    assert isinstance(found, pl.PoseEstimates) and len(found) == len(RAGGED)
    for b, ours in enumerate(found):
        theirs = single(batch, b, **options)
        assert ours.cam_from_world.tobytes() == theirs.cam_from_world.tobytes()
        assert ours.inlier_probability.tobytes() == theirs.inlier_probability.tobytes()
        assert (ours.cost, ours.gain) == (theirs.cost, theirs.gain)
        check_same(ours, theirs)
    assert found.success.sum() >= 4 and not found.success[[1, 2]].any()


def test_initial_poses_of_a_batch() -> None:
    batch = make_batch([40, 2, 30], 60, outliers=0.7)
    flipped = np.stack([pl.compose_poses(np.diag([1.0, -1, -1, 1])[:3], t) for t in batch.truths])
    for initial in (batch.truths, np.stack([flipped, batch.truths], 1)):
        options = {"iterations": 1, "seed": 3}
        found = pl.estimate_pose(
            batch.maps, batch.points, PINHOLE, problem_ptr=batch.problem_ptr, initial=initial, **options
        )  # fmt: skip
        first = initial if initial.ndim == 3 else initial[:, 0]
        for b, ours in enumerate(found):
            check_same(ours, single(batch, b, initial=initial[b], **options))
            check_same(phases(batch, initial=initial, **options)[b], ours)
        np.testing.assert_allclose(found.cam_from_world[0], batch.truths[0], atol=1e-12)
        np.testing.assert_allclose(found.cam_from_world[1], first[1], atol=1e-12)


def test_reference_batch_and_tensors() -> None:
    torch = pytest.importorskip("torch")
    batch = make_batch([30, 3, 40], 70, outliers=0.2)
    points, ptr = torch.from_numpy(batch.points), torch.from_numpy(batch.problem_ptr)
    options = {"problem_ptr": ptr, "iterations": 100}
    ours = pl.estimate_pose(batch.maps, points, PINHOLE, **options)
    assert isinstance(ours.cam_from_world, torch.Tensor)
    theirs = pl.estimate_pose(batch.maps, points, PINHOLE, implementation="reference", **options)
    for a, b in zip(ours, theirs):
        check_same(a, b)


@pytest.mark.parametrize(
    "counts,options",
    [
        (RAGGED, {}),
        (RAGGED, {"iterations": 1}),
        (RAGGED, {"iterations": 700, "top_fraction": 1.0}),
        ([100], {"seed": 2**64 - 1}),
        ([], {}),
        ([0], {}),
    ],
)
def test_phases_choose_what_the_cpu_chooses(counts: list[int], options: dict[str, Any]) -> None:
    if not counts:
        batch = make_batch([1], 80)
        batch = Batch(batch.maps[:0], batch.points[:0], [], batch.truths, np.zeros(1, np.int64))
    else:
        batch = make_batch(counts, 80, cameras=(PINHOLE, OPENCV, FISHEYE))
    found = phases(batch, **options)
    assert len(found) == len(counts)
    for b, ours in enumerate(found):
        check_same(ours, single(batch, b, **options))


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    "size,window", [((45, 60), 16), ((90, 121), 33), ((30, 40), None), ((150, 200), None)]
)
def test_phases_on_windows(size: tuple[int, int], window: int | None, dense: bool) -> None:
    batch = make_batch([60, 50], 90, size=size, window=window, outliers=0.3)
    found = phases(batch, dense=dense)
    for b, ours in enumerate(found):
        check_same(ours, single(batch, b))
    assert found.success.all()


def padded(maps: pl.LossMaps, origin: tuple[int, int]) -> pl.LossMaps:
    """The same maps in an array that begins elsewhere."""
    (H, W), (x0, y0) = maps.size, origin
    return pl.LossMaps(
        maps.row_ptr, maps.xy - np.array(origin, np.int16), maps.gain, size=(H - 2 * y0, W - 2 * x0),
        log_cardinality=maps.log_cardinality, origin=origin,
    )  # fmt: skip


def test_maps_padded_beyond_the_image() -> None:
    batch = make_batch([60, 50], 92, outliers=0.3)
    wide = batch._replace(maps=padded(batch.maps, (-7, -4)))
    rows = _problems.camera_rows(batch.cameras, batch.maps, 2)
    for camera in (batch.cameras, rows):
        found = pl.estimate_pose(wide.maps, wide.points, camera, problem_ptr=wide.problem_ptr)
        for b, ours in enumerate(found):
            np.testing.assert_allclose(
                ours.cam_from_world, single(batch, b).cam_from_world, atol=1e-9
            )
            check_same(phases(wide)[b], ours)
        costs = [
            pl.score_poses(
                m, wide.points, camera, batch.truths[:, None], problem_ptr=wide.problem_ptr
            )
            for m in (wide.maps, batch.maps)
        ]
        np.testing.assert_allclose(costs[0], costs[1], atol=1e-2)


@pytest.mark.parametrize("outliers", [0.75, 0.85, 0.95])
def test_phases_stop_where_the_cpu_stops(outliers: float) -> None:
    """Hard problems: many rounds, stops that move, rounds of the CPU that straddle those of the GPU."""
    counts = [40 + 7 * i for i in range(6)]
    batch = make_batch(counts, int(100 * outliers), outliers=outliers, size=(24, 32))
    options = {"confidence": 0.99, "top_fraction": 1.0}
    found = phases(batch, **options)
    for b, ours in enumerate(found):
        check_same(ours, single(batch, b, **options))
    assert len(set(found.iterations.tolist())) > 1


def test_more_problems_than_share_the_memory_of_a_round() -> None:
    batch = make_batch([6 + b % 5 for b in range(150)], 500, size=(12, 16), outliers=0.2)
    found = phases(batch, iterations=70)
    expected = pl.estimate_pose(
        batch.maps, batch.points, PINHOLE, problem_ptr=batch.problem_ptr, iterations=70
    )
    for ours, theirs in zip(found, expected, strict=True):
        check_same(ours, theirs)
    assert found.success.any() and not found.success.all()


@pytest.mark.parametrize("kind", ["collinear", "duplicate", "behind", "one_ray", "flat", "nan"])
def test_phases_on_degenerate_problems(kind: str) -> None:
    batch = make_batch([40, 50], 95, outliers=0.0)
    points, maps = batch.points.copy(), batch.maps
    if kind == "collinear":
        points[:40] = np.outer(np.linspace(0, 1, 40), [1.0, 2.0, 3.0])
    elif kind == "duplicate":
        points[:40] = points[0]
    elif kind == "behind":
        points[:40] = -points[:40][::-1]
    elif kind == "one_ray":
        maps = maps[np.r_[np.zeros(40, int), 40:90]]
    elif kind == "flat":
        maps = pl.LossMaps.concatenate([maps[:0]] + [flat_maps(maps, 40), maps[40:]])
    else:
        points[3] = np.nan
    found = phases(batch._replace(points=points, maps=maps), iterations=200)
    assert np.isfinite(found.cam_from_world).all() and np.isfinite(found.cost).all()
    assert np.isfinite(found.inlier_probability).all()
    if kind == "nan":  # spoils its map only
        assert found.success.all() and found.inlier_probability[3] == 0
        return
    for b, ours in enumerate(found):
        part = slice(batch.problem_ptr[b], batch.problem_ptr[b + 1])
        theirs = pl.estimate_pose(maps[part], points[part], PINHOLE, iterations=200)
        assert (ours.success, ours.iterations) == (theirs.success, theirs.iterations)
        np.testing.assert_allclose(ours.gain, theirs.gain, rtol=1e-7)


def flat_maps(like: pl.LossMaps, count: int) -> pl.LossMaps:
    flat = np.full((count, *like.size), like.log_cardinality, np.float32)
    return pl.LossMaps.from_dense(flat, log_cardinality=like.log_cardinality)


def test_phases_survive_a_problem_ptr_that_lies() -> None:
    """On a GPU its values are not looked at."""
    batch = make_batch([30, 30], 97)
    for ptr in ([0, 50, 20], [-5, 10, 99], [60, 30, 0], [7, 7, 7]):
        found = phases(batch._replace(problem_ptr=np.array(ptr)), iterations=64)
        assert np.isfinite(found.cam_from_world).all()


def test_errors_of_batches() -> None:
    batch = make_batch([10, 10], 99)
    ptr = batch.problem_ptr
    for bad in ([0, 10], [0, 30], [1, 10, 20], [0, 15, 10, 20], [], [[0, 20]]):
        with pytest.raises(ValueError, match="problem_ptr"):
            pl.estimate_pose(batch.maps, batch.points, PINHOLE, problem_ptr=bad)
    with pytest.raises(TypeError, match="problem_ptr"):
        pl.estimate_pose(batch.maps, batch.points, PINHOLE, problem_ptr=[0.0, 9.5, 20.0])
    call = {"maps": batch.maps, "points3d": batch.points, "problem_ptr": ptr}
    for bad in ([PINHOLE] * 3, np.zeros((2, 13)), np.ones((3, 13)), np.full((2, 13), np.nan)):
        with pytest.raises(ValueError, match="camera"):
            pl.estimate_pose(**call, camera=bad)
    for bad in (batch.truths[:1], batch.truths[0], np.zeros((2, 3, 4))):
        with pytest.raises(ValueError, match="initial"):
            pl.estimate_pose(**call, camera=PINHOLE, initial=bad)
