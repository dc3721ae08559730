# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""refine_pose as the published NRE program does it: schedule, derivative, damping, dependence on the origin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")

from pyloc_core.camera import camera_native_args  # noqa: E402
from pyloc_core.reference import refine_pose as gnc  # noqa: E402

SIZE = (90, 120)
CAMERA = pl.Camera("OPENCV", 240, 180, (260.0, 264.0, 121.0, 88.0, -0.15, 0.05, 0.004, -0.003))
TRUTH = np.hstack([pl.rotation_from_quaternion([0.99, 0.02, -0.07, 0.05]), [[0.2], [-0.1], [0.4]]])


def problem(seed: int, count: int = 50) -> tuple[pl.LossMaps, np.ndarray, np.ndarray]:
    """Paraboloids about the true projections, the points and a start 2 degrees away."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform([8, 8], [232, 172], (count, 2))
    rays = CAMERA.unproject(xy)
    local = rays / rays[:, 2:] * rng.uniform(3, 8, (count, 1))
    points = (local - TRUTH[:, 3]) @ TRUTH[:, :3]
    centre = pl.map_from_image(xy, CAMERA.size, SIZE) + rng.normal(0, 0.3, (count, 2))
    cells = np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), -1)
    r2 = ((cells[None] - centre[:, None, None]) ** 2).sum(-1)
    cardinality = np.log(SIZE[0] * SIZE[1] + 1)
    maps = pl.LossMaps.from_dense(np.where(r2 < 64, np.minimum(1 + 0.4 * r2, cardinality), np.inf))
    tilt = pl.rotation_from_quaternion([1.0, 0.01, -0.012, 0.008])
    return maps, points, np.hstack([tilt @ TRUTH[:, :3], TRUTH[:, 3:] + 0.05])


def refine(seed: int, **options: Any) -> pl.PoseEstimate:
    maps, points, start = problem(seed)
    return pl.refine_pose(maps, points, CAMERA, start, compat="published", **options)


@pytest.mark.parametrize("steps", [1, 4, 12])
def test_native_follows_the_reference(steps: int) -> None:
    ours = refine(1, max_iterations=steps)
    theirs = refine(1, max_iterations=steps, implementation="reference")
    np.testing.assert_allclose(ours.cam_from_world, theirs.cam_from_world, atol=5e-6)
    assert ours.iterations == theirs.iterations == steps
    # The derivative differs from the default's, and so does the step.
    maps, points, start = problem(1)
    plain = pl.refine_pose(maps, points, CAMERA, start, max_iterations=1)
    one = refine(1, max_iterations=1)
    assert np.abs(plain.cam_from_world - one.cam_from_world).max() > 5e-5


def test_it_stops_when_the_damping_is_out_of_bounds() -> None:
    found = refine(2, max_iterations=100_000)
    assert found.success and "1e7" in found.reason
    assert found.iterations > 50  # from 1e-8 to 1e7 in doublings
    assert pl.pose_error(found.cam_from_world, TRUTH)[0] < 0.2


def test_jacobian_has_the_first_radial_coefficient_alone() -> None:
    _, points, start = problem(3)
    numbers = camera_native_args(CAMERA, SIZE)
    k1_alone = (*numbers[:6], *(0.0,) * 7)
    tensors = torch.tensor(start), torch.tensor(points)
    xy, valid, J = gnc.published_geometry(numbers, *tensors)
    exact_xy, _, exact = gnc.geometry(numbers, *tensors)
    _, _, expected = gnc.geometry(k1_alone, *tensors)
    assert valid.all()
    np.testing.assert_allclose(xy, exact_xy, atol=1e-6)  # the projection has all of it
    np.testing.assert_allclose(J, expected, rtol=1e-6, atol=1e-6)
    assert (J - exact).abs().max() > 0.1


def test_points_nearer_than_a_ten_thousandth_are_left_out() -> None:
    maps, points, start = problem(4)
    near, kept = points.copy(), points.copy()
    for row, depth in ((0, 0.9e-4), (1, -2.0)):
        near[row] = start[:, :3].T @ (np.array([0, 0, depth]) - start[:, 3])
    _, valid, _ = gnc.published_geometry(
        camera_native_args(CAMERA, SIZE), torch.tensor(start), torch.tensor(near)
    )
    assert valid.tolist() == [False, False] + [True] * (len(points) - 2)
    few = {"compat": "published", "max_iterations": 1}
    with_them = pl.refine_pose(maps, near, CAMERA, start, **few)
    without = pl.refine_pose(maps[2:], kept[2:], CAMERA, start, **few)
    np.testing.assert_allclose(with_them.cam_from_world, without.cam_from_world, atol=1e-9)


def test_the_result_depends_on_the_origin_and_the_default_does_not() -> None:
    maps, points, start = problem(5)
    shift = np.array([300.0, -200.0, 500.0])
    moved = np.hstack([start[:, :3], (start[:, 3] - start[:, :3] @ shift)[:, None]])

    def difference(**options: Any) -> float:
        here = pl.refine_pose(maps, points, CAMERA, start, **options).cam_from_world
        there = pl.refine_pose(maps, points + shift, CAMERA, moved, **options).cam_from_world
        return pl.pose_error(
            here, np.hstack([there[:, :3], (there[:, 3] + there[:, :3] @ shift)[:, None]])
        )[0]

    assert difference() < 1e-6
    assert difference(compat="published", max_iterations=300) > 1e-5


def test_schedule_holds_the_published_values() -> None:
    big = gnc.schedule(11264.0, 200.0, published=True)
    assert big == [1024.0 * k for k in range(11, 0, -1)] + [512.0, 256.0]
    assert gnc.schedule(3000.0, 900.0, published=True) == [2048.0, 1024.0]


def test_models_that_the_program_does_not_know() -> None:
    maps, points, start = problem(6)
    for model, more in (
        ("FULL_OPENCV", (0.01, 0.0, 0.0, 0.0)),
        ("OPENCV_FISHEYE", ()),
    ):
        camera = pl.Camera(model, 240, 180, (*CAMERA.params, *more))
        with pytest.raises(ValueError, match="k1, k2, p1 and p2"):
            pl.refine_pose(maps, points, camera, start, compat="published")
        pl.refine_pose(maps, points, camera, start, max_iterations=1)


def test_it_runs_without_usable_maps() -> None:
    """The program has no such rule; the estimate still says that nothing supports it."""
    maps, points, start = problem(7)
    weak = pl.LossMaps(
        maps.row_ptr, maps.xy, maps.gain * np.float32(0.1), size=maps.size, log_cardinality=9.0
    )
    found = pl.refine_pose(weak, points, CAMERA, start, compat="published")
    assert found.iterations > 10 and not found.success
    assert pl.refine_pose(weak, points, CAMERA, start).iterations == 0
