# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""P3P: recall and residuals on random problems, degenerate configurations, bad input."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pyloc_core as pc
from pyloc_core import P3PSolutions, p3p

Array = np.ndarray[Any, Any]


def random_problems(
    count: int, seed: int, *, fov: float = 1.0, near: float = 1.0, far: float = 5.0
) -> tuple[Array, Array, Array]:
    """Unit bearings (B, 3, 3), points (B, 3, 3) and the true cam_from_world (B, 3, 4)."""
    rng = np.random.default_rng(seed)
    rotation = pc.rotation_from_quaternion(rng.normal(size=(count, 4)))
    t = rng.uniform(-1, 1, (count, 3))
    f = np.concatenate([rng.uniform(-fov, fov, (count, 3, 2)), np.ones((count, 3, 1))], -1)
    y = f * rng.uniform(near, far, (count, 3, 1))
    x = np.einsum("bji,bnj->bni", rotation, y - t[:, None])
    f /= np.linalg.norm(f, axis=-1, keepdims=True)
    return f, x, np.concatenate([rotation, t[..., None]], -1)


def truth_error(solutions: P3PSolutions, truth: Array) -> Array:
    """Largest deviation of the closest valid slot from the truth, inf where there is none, (B,)."""
    error = np.abs(solutions.cam_from_world - truth[:, None]).max((2, 3))
    return np.where(solutions.valid, error, np.inf).min(1)


def residuals(solutions: P3PSolutions, f: Array, x: Array) -> Array:
    """Angle-like distance of f from R X + t over the valid slots, (number of solutions,)."""
    pose = solutions.cam_from_world.astype(np.float64)
    y = np.einsum("bkij,bnj->bkni", pose[..., :3], x) + pose[:, :, None, :, 3]
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = y / np.linalg.norm(y, axis=-1, keepdims=True)
    unit_f = f / np.linalg.norm(f, axis=-1, keepdims=True)
    return np.linalg.norm(unit - unit_f[:, None], axis=-1).max(-1)[solutions.valid]


def assert_sound(solutions: P3PSolutions) -> None:
    """What every result must satisfy: rotations, packed slots, zeros in the empty ones."""
    pose, valid = solutions.cam_from_world, solutions.valid
    assert np.isfinite(pose).all()
    assert not pose[~valid].any()
    assert (valid[:, :-1] >= valid[:, 1:]).all()
    rotation = pose[valid][:, :, :3].astype(np.float64)
    tolerance = 1e-12 if pose.dtype == np.float64 else 1e-4
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1),
        np.broadcast_to(np.eye(3), rotation.shape),
        atol=tolerance,
    )
    assert (np.linalg.det(rotation) > 0).all()


@pytest.mark.parametrize(
    ("fov", "near", "far"), [(1.0, 1, 5), (0.2, 1, 5), (0.05, 1, 2), (3.0, 0.1, 9)]
)
def test_finds_the_true_pose(fov: float, near: float, far: float) -> None:
    f, x, truth = random_problems(100_000, 1, fov=fov, near=near, far=far)
    solutions = p3p(f, x)
    assert_sound(solutions)
    error = truth_error(solutions, truth)
    assert np.isfinite(error).all()
    assert np.median(error) < 1e-13
    assert np.quantile(error, 0.999) < 1e-9
    assert np.quantile(residuals(solutions, f, x), 0.9999) < 1e-9


def test_recall_is_that_of_poselib() -> None:
    poselib = pytest.importorskip("poselib")
    f, x, truth = random_problems(100_000, 2)
    ours = truth_error(p3p(f, x), truth)
    theirs = np.array(
        [
            min((np.abs(s.Rt - truth[i]).max() for s in poselib.p3p(f[i], x[i])), default=np.inf)
            for i in range(20_000)
        ]
    )
    for tolerance in (1e-4, 1e-6, 1e-8, 1e-10):
        assert (ours[:20_000] < tolerance).mean() >= (theirs < tolerance).mean()
    assert (ours < 1e-6).all()


def test_float32_ranks() -> None:
    f, x, truth = random_problems(100_000, 3)
    solutions = p3p(f.astype(np.float32), x.astype(np.float32))
    assert solutions.cam_from_world.dtype == np.float32
    assert_sound(solutions)
    error = truth_error(solutions, truth)
    assert (error < 1e-3).mean() > 0.998
    assert (error < 1e-5).mean() > 0.9
    # Mixed input counts as float64.
    assert p3p(f[:5].astype(np.float32), x[:5]).cam_from_world.dtype == np.float64


@pytest.mark.parametrize("fov", [1.0, 0.1])
def test_agrees_with_the_reference(fov: float) -> None:
    pytest.importorskip("torch")
    f, x, _ = random_problems(500, 4, fov=fov)
    ours, reference = p3p(f, x), p3p(f, x, implementation="reference")
    np.testing.assert_array_equal(ours.valid, reference.valid)
    np.testing.assert_allclose(ours.cam_from_world, reference.cam_from_world, atol=1e-6)


def test_slots_are_ordered_by_the_first_depth() -> None:
    f, x, _ = random_problems(5000, 5)
    s = p3p(f, x)
    first = np.einsum("bkij,bj->bki", s.cam_from_world[..., :3], x[:, 0]) + s.cam_from_world[..., 3]
    depth = np.where(s.valid, np.linalg.norm(first, axis=-1), np.inf)
    assert (depth[:, 1:] >= depth[:, :-1] * (1 - 1e-9)).all()
    assert (s.valid.sum(1) > 2).any()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_permuting_the_points_keeps_the_poses(order: tuple[int, ...]) -> None:
    f, x, _ = random_problems(5000, 6)
    a, b = p3p(f, x), p3p(f[:, order], x[:, order])
    same = a.valid.sum(1) == b.valid.sum(1)
    assert same.mean() > 0.999
    for i in np.flatnonzero(same):
        ours, theirs = a.cam_from_world[i][a.valid[i]], b.cam_from_world[i][b.valid[i]]
        distance = np.abs(ours[:, None] - theirs[None]).max((2, 3))
        assert distance.min(0).max() < 1e-5
        assert distance.min(1).max() < 1e-5


def test_a_distant_world_origin_costs_nothing_but_its_own_rounding() -> None:
    f, x, _ = random_problems(20_000, 7)
    offset = np.array([5e6, -5e6, 5e6])
    moved = x + offset
    near, far = p3p(f, moved - offset), p3p(f, moved)
    assert_sound(far)
    assert (near.valid == far.valid).all()
    np.testing.assert_allclose(
        far.cam_from_world[..., :3], near.cam_from_world[..., :3], atol=1e-14
    )
    y = np.einsum("bkij,j->bki", near.cam_from_world[..., :3], offset)
    shifted = np.where(far.valid[..., None], far.cam_from_world[..., 3] + y, 0)
    np.testing.assert_allclose(shifted, near.cam_from_world[..., 3], atol=1e-8)


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e-6, 1e6, 1e30, 1e150])
def test_scale_of_the_world(scale: float) -> None:
    f, x, truth = random_problems(2000, 8)
    solutions = p3p(f, x * scale)
    truth[..., 3] *= scale
    error = np.abs(solutions.cam_from_world - truth[:, None])
    error[..., 3] /= scale
    assert np.where(solutions.valid, error.max((2, 3)), np.inf).min(1).max() < 1e-8
    single = p3p(f.astype(np.float32), (x * min(max(scale, 1e-29), 1e29)).astype(np.float32))
    assert single.valid.any(1).mean() > 0.999


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
def test_tiny_triangles(size: float) -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(2000, 3, 3)) * size
    y = x + np.array([0.3, -0.2, 2.0])
    solutions = p3p(y, x)
    truth = np.broadcast_to(np.eye(3, 4), (2000, 3, 4)).copy()
    truth[..., 3] = [0.3, -0.2, 2.0]
    assert_sound(solutions)
    assert np.quantile(truth_error(solutions, truth), 0.99) < 1e-9 / size
    assert np.quantile(residuals(solutions, y, x), 0.99) < 1e-13


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("height", [0.1, 0.5, 1.0, np.sqrt(2.0), 2.0, 7.0])
def test_equilateral_triangle_seen_from_its_axis(height: float, dtype: type) -> None:
    angle = 2 * np.pi * np.arange(3) / 3 + 0.3
    x = np.stack([np.cos(angle), np.sin(angle), np.zeros(3)], -1)
    y = x + np.array([0, 0, height])
    solutions = p3p(y[None].astype(dtype), x[None].astype(dtype))
    assert_sound(solutions)
    truth = np.eye(3, 4)
    truth[2, 3] = height
    # At height sqrt(2) the camera lies where solutions meet: rounding costs the cube root of its size.
    tolerance = 1e-2 if height == np.sqrt(2.0) or dtype == np.float32 else 1e-9
    assert truth_error(solutions, truth[None])[0] < tolerance


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_isosceles_triangle_seen_from_its_mirror_plane(dtype: type) -> None:
    rng = np.random.default_rng(10)
    base, top, z = rng.uniform(0.3, 2, (3, 1000))
    x = np.zeros((1000, 3, 3))
    x[:, 0, 0], x[:, 1, 0], x[:, 2, 1] = base, -base, top
    centre = np.stack([np.zeros(1000), rng.normal(size=1000), -1 - z], -1)
    y = x - centre[:, None]
    for order in itertools.permutations(range(3)):
        solutions = p3p(y[:, order].astype(dtype), x[:, order].astype(dtype))
        assert_sound(solutions)
        truth = np.concatenate([np.broadcast_to(np.eye(3), (1000, 3, 3)), -centre[..., None]], -1)
        error = truth_error(solutions, truth)
        assert np.quantile(error, 0.99) < (1e-8 if dtype == np.float64 else 1e-2)
        assert np.isfinite(error).mean() == 1


def test_camera_in_the_plane_of_the_points() -> None:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(2000, 3, 3))
    x[..., 1] = 0.0
    y = x + np.array([0.0, 0.0, 4.0])
    solutions = p3p(y, x)
    truth = np.broadcast_to(np.eye(3, 4), (2000, 3, 4)).copy()
    truth[:, 2, 3] = 4.0
    assert_sound(solutions)
    error = truth_error(solutions, truth)
    assert np.quantile(error, 0.99) < 1e-6
    assert np.isfinite(error).all()


def test_right_angle_and_double_solution() -> None:
    """On the cylinder over the circumscribed circle two solutions coincide; they must not vanish."""
    rng = np.random.default_rng(12)
    a, b = rng.uniform(0, 2 * np.pi, (2, 2000, 3)), rng.uniform(0, 2 * np.pi, (2000,))
    x = np.stack([np.cos(a[0]), np.sin(a[0]), np.zeros((2000, 3))], -1)
    side = np.linalg.norm(x - np.roll(x, 1, 1), axis=-1).min(1)
    centre = np.stack([np.cos(b), np.sin(b), -rng.uniform(0.5, 3, 2000)], -1)
    y = x - centre[:, None]
    keep = (side > 0.3) & (np.linalg.norm(y[..., :2], axis=-1).min(1) > 0.3)
    truth = np.concatenate([np.broadcast_to(np.eye(3), (2000, 3, 3)), -centre[..., None]], -1)
    error = truth_error(p3p(y, x), truth)[keep]
    assert keep.sum() > 300
    assert np.isfinite(error).all()
    assert np.quantile(error, 0.99) < 1e-4


def test_no_solution_for_degenerate_points() -> None:
    f = random_problems(1, 13)[0][0]
    line = np.array([[0.0, 0, 0], [1, 2, 3], [3, 6, 9]])
    pair = np.array([[0.0, 0, 1], [0, 0, 1], [3, 1, 2]])
    same = np.ones((3, 3))
    for dtype in (np.float64, np.float32):
        x = np.stack([line, pair, pair[[0, 2, 1]], pair[[2, 0, 1]], same, np.zeros((3, 3))])
        solutions = p3p(np.broadcast_to(f, (6, 3, 3)).astype(dtype), x.astype(dtype))
        assert not solutions.valid.any()
        assert not solutions.cam_from_world.any()


def test_no_solution_for_a_zero_bearing_and_any_length_otherwise() -> None:
    f, x, truth = random_problems(300, 14)
    lengths = np.random.default_rng(15).uniform(1e-6, 1e6, (300, 3, 1))
    assert truth_error(p3p(f * lengths, x), truth).max() < 1e-8
    f[:, 1] = 0.0
    assert not p3p(f, x).valid.any()


def test_equal_bearings() -> None:
    f, x, _ = random_problems(300, 16)
    f[:, 1] = f[:, 0]
    solutions = p3p(f, x)
    assert_sound(solutions)
    f[:, 2] = f[:, 0]
    assert not p3p(f, x).valid.any()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 1025])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_batch_sizes(count: int, dtype: type) -> None:
    f, x, _ = (a.astype(dtype) for a in random_problems(1100, 17))
    whole, part = p3p(f, x), p3p(f[:count], x[:count])
    assert part.cam_from_world.shape == (count, 4, 3, 4)
    assert part.valid.shape == (count, 4)
    np.testing.assert_array_equal(part.cam_from_world, whole.cam_from_world[:count])
    np.testing.assert_array_equal(part.valid, whole.valid[:count])


def test_same_bits_for_any_number_of_threads() -> None:
    f, x, _ = random_problems(10_007, 18)
    one = p3p(f, x, num_threads=1)
    for threads in (2, 3, 8):
        many = p3p(f, x, num_threads=threads)
        assert one.cam_from_world.tobytes() == many.cam_from_world.tobytes()
        assert one.valid.tobytes() == many.valid.tobytes()


def test_eight_callers_at_once_agree() -> None:
    f, x, _ = random_problems(3001, 23)
    want = p3p(f, x, num_threads=1)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: p3p(f, x), range(32)):
            assert got.cam_from_world.tobytes() == want.cam_from_world.tobytes()


def test_layouts_and_kinds() -> None:
    f, x, _ = random_problems(40, 19)
    want = p3p(f, x).cam_from_world
    padded = np.zeros((40, 3, 7))
    padded[..., 2:5] = f
    np.testing.assert_array_equal(p3p(padded[..., 2:5], x).cam_from_world, want)
    np.testing.assert_array_equal(p3p(f[::-1], x[::-1]).cam_from_world, want[::-1])
    np.testing.assert_array_equal(
        p3p(np.asfortranarray(f), np.asfortranarray(x)).cam_from_world, want
    )
    f.setflags(write=False)
    x.setflags(write=False)
    np.testing.assert_array_equal(p3p(f, x).cam_from_world, want)
    np.testing.assert_array_equal(p3p(f.tolist(), x.tolist()).cam_from_world, want)
    unaligned = np.frombuffer(b"." + f.tobytes(), np.float64, f.size, 1).reshape(f.shape)
    np.testing.assert_array_equal(p3p(unaligned, x).cam_from_world, want)


def test_torch_in_torch_out() -> None:
    torch = pytest.importorskip("torch")
    f, x, _ = random_problems(40, 20)
    want = p3p(f, x)
    got = p3p(torch.from_numpy(f), torch.from_numpy(x))
    assert isinstance(got.cam_from_world, torch.Tensor)
    assert got.valid.dtype == torch.bool
    np.testing.assert_array_equal(got.cam_from_world.numpy(), want.cam_from_world)
    out = P3PSolutions(
        torch.empty(40, 4, 3, 4, dtype=torch.float64), torch.empty(40, 4, dtype=torch.bool)
    )
    assert p3p(f, x, out=out) is out
    np.testing.assert_array_equal(out.cam_from_world.numpy(), want.cam_from_world)


def test_out() -> None:
    f, x, _ = random_problems(20, 21)
    out = P3PSolutions(np.full((20, 4, 3, 4), np.nan), np.ones((20, 4), bool))
    assert p3p(f, x, out=out) is out
    want = p3p(f, x)
    np.testing.assert_array_equal(out.cam_from_world, want.cam_from_world)
    np.testing.assert_array_equal(out.valid, want.valid)
    poses, valid = want.cam_from_world, want.valid
    read_only = poses.copy()
    read_only.setflags(write=False)
    bad = [
        (poses[:19], valid),
        (poses, valid[:, :3]),
        (poses.astype(np.float32), valid),
        (np.asfortranarray(poses), valid),
        (read_only, valid),
        (poses, valid.astype(np.uint8)),
    ]
    for one, other in bad:
        with pytest.raises(ValueError, match="out"):
            p3p(f, x, out=P3PSolutions(one, other))
    with pytest.raises(TypeError, match="P3PSolutions"):
        p3p(f, x, out=(poses, valid))  # type: ignore[arg-type]
    shared = np.zeros((20, 4, 3, 4))
    with pytest.raises(ValueError, match="overlaps bearings"):
        p3p(shared.reshape(-1)[:180].reshape(20, 3, 3), x, out=P3PSolutions(shared, valid))


def test_bad_arguments() -> None:
    f, x, _ = random_problems(4, 22)
    with pytest.raises(ValueError, match="bearings must have shape"):
        p3p(f[0], x)
    with pytest.raises(ValueError, match="points3d must have shape"):
        p3p(f, x[:, :2])
    with pytest.raises(ValueError, match="same length"):
        p3p(f, x[:3])
    with pytest.raises(TypeError, match="real numbers"):
        p3p(f.astype(complex), x)
    for value in (np.nan, np.inf, -np.inf):
        broken = x.copy()
        broken[2, 1, 0] = value
        with pytest.raises(ValueError, match="points3d holds NaN"):
            p3p(f, broken)
        with pytest.raises(ValueError, match="bearings holds NaN"):
            p3p(broken, x)
    with pytest.raises(ValueError, match="num_threads"):
        p3p(f, x, num_threads=0)
    with pytest.raises(ValueError, match="implementation"):
        p3p(f, x, implementation="fortran")


values = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, 1e-8, 3.0]),
    st.floats(-1e6, 1e6, allow_nan=False),
)


@settings(max_examples=300, deadline=None)
@given(
    hnp.arrays(np.float64, (3, 3, 3), elements=values),
    hnp.arrays(np.float64, (3, 3, 3), elements=values),
)
def test_any_finite_input_gives_a_sound_result(f: Array, x: Array) -> None:
    assert_sound(p3p(f, x))
    bound = 1e38
    assert_sound(
        p3p(f.clip(-bound, bound).astype(np.float32), x.clip(-bound, bound).astype(np.float32))
    )
