# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""estimate_pose: against the float64 reference, for any thread count, and on input without an answer."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import pytest

import pyloc_core as pl
from pyloc_core import _native
from pyloc_core.camera import camera_native_args


class Scene(NamedTuple):
    maps: pl.LossMaps
    points: np.ndarray  # (N, 3)
    camera: Any
    truth: np.ndarray  # (3, 4)


def look_at_scene(
    rng: np.random.Generator, count: int, size: tuple[int, int], camera: pl.Camera
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World points (N, 3) in view, their map coordinates (N, 2) and the pose."""
    R = pl.rotation_from_quaternion(rng.standard_normal(4))
    truth = np.hstack([R, rng.uniform(-5, 5, (3, 1))])
    image = rng.uniform([0.05, 0.05], [0.95, 0.95], (count, 2)) * [camera.width, camera.height]
    rays = camera.unproject(image)
    in_camera = rays / rays[:, 2:] * rng.uniform(4, 20, (count, 1))
    points = (in_camera - truth[:, 3]) @ R
    return points, pl.map_from_image(image, camera.size, size), truth


def make_scene(
    seed: int = 0,
    *,
    count: int = 120,
    size: tuple[int, int] = (45, 60),
    outliers: float = 0.3,
    camera: pl.Camera | None = None,
    window: int | None = None,
) -> Scene:
    """Gaussian logits of height 10 around the projections, or around a random cell for outliers."""
    rng = np.random.default_rng(seed)
    H, W = size
    if camera is None:
        camera = pl.Camera("PINHOLE", W * 16, H * 16, (W * 12.0, W * 12.0, W * 8.0, H * 8.0))
    points, xy, truth = look_at_scene(rng, count, size, camera)
    centre = xy + 0.3 * rng.standard_normal((count, 2))
    wrong = rng.random(count) < outliers
    origins = np.zeros((count, 2), np.int32)
    h, w = size
    if window is not None:
        h = w = window
        origins = (np.floor(xy) - window // 2 + rng.integers(-3, 4, (count, 2))).astype(np.int32)
    centre[wrong] = origins[wrong] + rng.uniform(0, [w, h], (wrong.sum(), 2))
    x = origins[:, None, :1] + np.arange(w)[None, None]
    y = origins[:, None, 1:] + np.arange(h)[None, :, None]
    distance = (x - centre[:, None, :1]) ** 2 + (y - centre[:, None, 1:]) ** 2  # (N, h, w)
    logits = 10 * np.exp(-0.5 * distance) + 0.3 * rng.standard_normal(distance.shape)
    log_sum = np.log(1 + np.exp(logits).sum((1, 2)))
    dense = np.minimum(log_sum[:, None, None] - logits, np.log(1 + H * W)).astype(np.float32)
    kw = {} if window is None else {"origins": origins, "size": size}
    return Scene(pl.LossMaps.from_dense(dense, **kw), points, camera, truth)


FISHEYE = pl.Camera(
    "OPENCV_FISHEYE", 960, 720, (500.0, 510.0, 480.0, 360.0, -0.03, 0.01, -2e-3, 4e-4)
)
OPENCV = pl.Camera("OPENCV", 960, 720, (720.0, 730.0, 470.0, 350.0, -0.15, 0.05, 1e-3, -2e-3))


def native_gains(scene: Scene, poses: np.ndarray) -> np.ndarray:
    """Summed gains (M,) of the float32 scoring loop."""
    gain = np.zeros(len(poses), np.float32)
    points = np.ascontiguousarray(scene.points)
    poses = np.ascontiguousarray(poses)
    _native.score_poses(
        scene.maps.native_args(), points.ctypes.data, camera_native_args(scene.camera, scene.maps.size),
        poses.ctypes.data, len(poses), gain.ctypes.data,
    )  # fmt: skip
    return gain


def map_gains(scene: Scene, pose: np.ndarray) -> np.ndarray:
    """Bilinear gains (N,) at a pose, through the public pieces."""
    image, ahead = scene.camera.project(pl.transform_points(pose, scene.points))
    xy = pl.map_from_image(image, scene.camera.size, scene.maps.size)
    return np.where(ahead, scene.maps.log_cardinality - scene.maps.evaluate(xy), 0.0)


def perturbed(rng: np.random.Generator, pose: np.ndarray, count: int, angle: float) -> np.ndarray:
    out = np.empty((count, 3, 4))
    for i in range(count):
        w = rng.standard_normal(3)
        q = np.concatenate([[1.0], 0.5 * angle * w])
        out[i] = pl.compose_poses(
            np.hstack([pl.rotation_from_quaternion(q), angle * rng.standard_normal((3, 1))]), pose
        )
    return out


@pytest.mark.parametrize("camera", [None, OPENCV, FISHEYE], ids=["pinhole", "opencv", "fisheye"])
@pytest.mark.parametrize("outliers", [0.0, 0.3, 0.6])
def test_finds_the_pose(camera: pl.Camera | None, outliers: float) -> None:
    scene = make_scene(1, outliers=outliers, camera=camera)
    found = pl.estimate_pose(scene.maps, scene.points, scene.camera)
    angle, centre = pl.pose_error(found.cam_from_world, scene.truth)
    assert found.success, found.reason
    assert angle < 2.0 and centre < 0.5
    assert found.num_consistent > 0.5 * (1 - outliers) * found.num_usable
    assert found.iterations >= 128


@pytest.mark.parametrize("size,window", [((45, 60), None), ((45, 60), 16), ((90, 121), 33)])
@pytest.mark.parametrize("camera", [None, OPENCV, FISHEYE], ids=["pinhole", "opencv", "fisheye"])
def test_scoring_agrees_with_the_maps(
    size: tuple[int, int], window: int | None, camera: pl.Camera | None, rng: np.random.Generator
) -> None:
    scene = make_scene(2, size=size, window=window, camera=camera)
    poses = np.concatenate([perturbed(rng, scene.truth, 20, a) for a in (0.0, 0.01, 0.1, 1.0)])
    exact = [map_gains(scene, pose).sum() for pose in poses]
    bound = 2e-4 * scene.maps.peak_gain.sum()
    np.testing.assert_allclose(native_gains(scene, poses), exact, atol=bound)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_finds_the_same(isa: str) -> None:
    scene = make_scene(3, camera=OPENCV)
    before = pl.build_info()["isa"]
    expected = pl.estimate_pose(scene.maps, scene.points, scene.camera, seed=5)
    try:
        pl.set_isa(isa)
    except (ValueError, RuntimeError):
        pytest.skip(f"{isa} does not run here")
    try:
        found = pl.estimate_pose(scene.maps, scene.points, scene.camera, seed=5)
    finally:
        pl.set_isa(before)
    np.testing.assert_allclose(found.cam_from_world, expected.cam_from_world, atol=1e-8)
    assert found.iterations == expected.iterations


@pytest.mark.parametrize("iterations", [None, 1, 100])
@pytest.mark.parametrize("camera", [None, FISHEYE], ids=["pinhole", "fisheye"])
@pytest.mark.parametrize("window", [None, 20])
def test_chooses_what_the_reference_chooses(
    iterations: int | None, camera: pl.Camera | None, window: int | None
) -> None:
    pytest.importorskip("torch")
    for seed in range(2 if iterations == 1 else 1):
        scene = make_scene(10 + seed, count=60, outliers=0.2, camera=camera, window=window)
        kw = {"iterations": iterations, "seed": seed}
        ours = pl.estimate_pose(scene.maps, scene.points, scene.camera, **kw)
        theirs = pl.estimate_pose(
            scene.maps, scene.points, scene.camera, implementation="reference", **kw
        )
        np.testing.assert_allclose(ours.cam_from_world, theirs.cam_from_world, atol=1e-7)
        assert (ours.success, ours.iterations) == (theirs.success, theirs.iterations)
        np.testing.assert_allclose(ours.gain, theirs.gain, rtol=1e-7)
        np.testing.assert_allclose(ours.cost, theirs.cost, rtol=1e-7)
        np.testing.assert_allclose(ours.inlier_probability, theirs.inlier_probability, atol=1e-5)
        assert ours.num_consistent == theirs.num_consistent


def test_same_bits_for_any_number_of_threads() -> None:
    scene = make_scene(4, count=200, outliers=0.7)
    runs = [
        pl.estimate_pose(
            scene.maps, scene.points, scene.camera, iterations=3000, seed=9, num_threads=n
        )
        for n in (1, 2, 8)
    ]
    for run in runs[1:]:
        assert run.cam_from_world.tobytes() == runs[0].cam_from_world.tobytes()
        assert run.inlier_probability.tobytes() == runs[0].inlier_probability.tobytes()


def test_eight_python_threads_agree() -> None:
    scene = make_scene(5, count=200)
    results: list[np.ndarray | None] = [None] * 8

    def work(i: int) -> None:
        for _ in range(5):
            found = pl.estimate_pose(scene.maps, scene.points, scene.camera, num_threads=2)
        results[i] = found.cam_from_world

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(r is not None and r.tobytes() == results[0].tobytes() for r in results)


def test_giving_up_early_never_changes_the_winner() -> None:
    # An initial pose raises the bound from the first round on; the winner among the rest must stay.
    for seed in range(10):
        scene = make_scene(100 + seed, outliers=0.6)
        kw = {"iterations": 500, "seed": seed}
        alone = pl.estimate_pose(scene.maps, scene.points, scene.camera, **kw)
        again = pl.estimate_pose(
            scene.maps, scene.points, scene.camera, initial=alone.cam_from_world, **kw
        )
        np.testing.assert_allclose(again.cam_from_world, alone.cam_from_world, atol=1e-12)


def test_initial_poses_compete() -> None:
    scene = make_scene(6, outliers=0.5)
    flipped = pl.compose_poses(np.diag([1.0, -1, -1, 1])[:3], scene.truth)
    kw = {"iterations": 1, "seed": 3}
    helped = pl.estimate_pose(
        scene.maps, scene.points, scene.camera, initial=np.stack([flipped, scene.truth]), **kw
    )
    np.testing.assert_allclose(helped.cam_from_world, scene.truth, atol=1e-12)
    single = pl.estimate_pose(scene.maps, scene.points, scene.camera, initial=scene.truth, **kw)
    assert helped.success and single.gain == helped.gain


def test_cost_and_gain_are_equation_4_6() -> None:
    scene = make_scene(7)
    found = pl.estimate_pose(scene.maps, scene.points, scene.camera)
    gain = map_gains(scene, found.cam_from_world)
    cost = (scene.maps.log_cardinality - gain).sum()
    np.testing.assert_allclose(found.cost, cost, rtol=1e-9)
    np.testing.assert_allclose(found.gain, gain.sum(), rtol=1e-9)
    np.testing.assert_allclose(found.inlier_probability, 1 - np.exp(-gain), atol=1e-9)
    assert np.isinf(found.covariance).all()
    assert set(found.timings) == {"prepare", "solve", "score", "finish"}


def test_far_from_the_origin() -> None:
    scene = make_scene(8)
    offset = np.array([5e6, -3e6, 1e5])
    near = pl.estimate_pose(scene.maps, scene.points, scene.camera)
    far = pl.estimate_pose(scene.maps, scene.points + offset, scene.camera)
    moved = near.cam_from_world.copy()
    moved[:, 3] -= near.cam_from_world[:, :3] @ offset
    assert far.success
    assert pl.pose_error(far.cam_from_world, moved)[0] < 1e-5


def test_torch_in_torch_out() -> None:
    torch = pytest.importorskip("torch")
    scene = make_scene(9)
    found = pl.estimate_pose(scene.maps, torch.from_numpy(scene.points), scene.camera)
    assert isinstance(found.cam_from_world, torch.Tensor)
    assert found.cam_from_world.dtype == torch.float64
    assert isinstance(found.inlier_probability, torch.Tensor)


def check_failure(found: pl.PoseEstimate, count: int, reason: str) -> None:
    assert not found.success
    assert reason in found.reason
    assert np.isfinite(found.cam_from_world).all()
    assert found.inlier_probability.shape == (count,)
    assert np.isfinite(found.inlier_probability).all()
    assert np.isfinite([found.cost, found.gain]).all()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_maps(count: int) -> None:
    scene = make_scene(11)
    found = pl.estimate_pose(scene.maps[:count], scene.points[:count], scene.camera)
    check_failure(found, count, "usable maps")
    start = pl.estimate_pose(
        scene.maps[:count], scene.points[:count], scene.camera, initial=scene.truth
    )
    np.testing.assert_allclose(start.cam_from_world, scene.truth)


def test_flat_maps() -> None:
    flat = np.full((20, 10, 12), np.log(121.0), np.float32)
    points = np.random.default_rng(0).standard_normal((20, 3))
    found = pl.estimate_pose(
        pl.LossMaps.from_dense(flat), points, 10 * np.eye(3) - 9 * np.diag([0, 0, 1])
    )
    check_failure(found, 20, "usable maps")


@pytest.mark.parametrize("kind", ["collinear", "duplicate", "huge", "behind", "one_ray"])
def test_degenerate_geometry(kind: str) -> None:
    scene = make_scene(12, outliers=0.0)
    points = scene.points.copy()
    if kind == "collinear":
        points = np.outer(np.linspace(0, 1, len(points)), [1.0, 2.0, 3.0])
    elif kind == "duplicate":
        points[:] = points[0]
    elif kind == "huge":
        points = 1e300 * points
    elif kind == "behind":
        points = -points[::-1]
    else:
        maps = scene.maps
        scene = scene._replace(maps=maps[np.zeros(len(maps), int)])
    found = pl.estimate_pose(scene.maps, points, scene.camera, iterations=200)
    assert np.isfinite(found.cam_from_world).all()
    assert np.isfinite([found.cost, found.gain]).all()
    assert found.reason
    # The scale of the world is free: coordinates of 1e300 may be answered or refused.
    assert kind == "huge" or not found.success, found.reason


def test_huge_maps_are_scored_without_a_dense_copy() -> None:
    scene = make_scene(13, count=40, outliers=0.2)
    maps = scene.maps
    H, W = 20000, 30000
    shifted = pl.LossMaps(
        maps.row_ptr, maps.xy + np.array([9000, 7000], np.int16), maps.gain, size=(H, W),
        log_cardinality=maps.log_cardinality,
    )  # fmt: skip
    K = np.array([[45.0, 0, 29.5 + 9000], [0, 45.0, 22 + 7000], [0, 0, 1]])
    found = pl.estimate_pose(shifted, scene.points, K)
    assert found.success
    assert pl.pose_error(found.cam_from_world, scene.truth)[0] < 2.0


def test_errors_name_the_argument() -> None:
    scene = make_scene(14, count=20)
    call = pl.estimate_pose
    with pytest.raises(ValueError, match="maps and points3d"):
        call(scene.maps, scene.points[:-1], scene.camera)
    with pytest.raises(TypeError, match="maps"):
        call(np.zeros((3, 4, 5)), scene.points, scene.camera)
    with pytest.raises(ValueError, match="points3d"):
        call(
            scene.maps,
            np.where(np.arange(60).reshape(20, 3) == 7, np.nan, scene.points),
            scene.camera,
        )
    with pytest.raises(ValueError, match="points3d"):
        call(scene.maps, scene.points[:, :2], scene.camera)
    for name, value in [
        ("iterations", 0), ("iterations", -5), ("confidence", 1.0), ("confidence", np.nan),
        ("top_fraction", 0.0), ("top_fraction", 1.5), ("seed", -1), ("num_threads", 0),
        ("initial", np.eye(3)), ("initial", np.zeros((3, 4))), ("implementation", "gpu"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=name):
            call(scene.maps, scene.points, scene.camera, **{name: value})
    for name, value in [("iterations", 2.5), ("iterations", True), ("seed", 1.5)]:
        with pytest.raises(TypeError, match=name):
            call(scene.maps, scene.points, scene.camera, **{name: value})


def test_reads_any_layout_and_changes_nothing() -> None:
    scene = make_scene(15)
    expected = pl.estimate_pose(scene.maps, scene.points, scene.camera).cam_from_world
    backing = np.repeat(scene.points[::-1], 2, axis=0)
    strided = backing[::-2]
    assert not strided.flags.c_contiguous
    strided.flags.writeable = False
    before = strided.copy()
    found = pl.estimate_pose(scene.maps, strided, scene.camera)
    assert found.cam_from_world.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(strided, before)
