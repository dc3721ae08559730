# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Normals of depth maps: exact on planes, unknown next to what is unknown, differentiable."""

from __future__ import annotations

import numpy as np
import pytest

from pyloc_core.depth.normals import backproject_depth, normals_from_depth

K = np.array([[40.0, 0.5, 13.0], [0, 38.0, 9.0], [0, 0, 1]])
SIZE = (20, 28)


def plane(normal: np.ndarray, distance: float = 2.0) -> np.ndarray:
    """Depth (H, W) of the plane n . X = -distance, whose unit normal n looks at the camera."""
    x, y = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    rays = np.einsum("ij,jhw->ihw", np.linalg.inv(K), np.stack([x, y, np.ones(SIZE)]))
    return -distance / np.einsum("i,ihw->hw", normal, rays)


def unit(*vector: float) -> np.ndarray:
    return np.array(vector) / np.linalg.norm(vector)


@pytest.mark.parametrize(
    "normal", [unit(0, 0, -1), unit(0.5, 0.2, -1), unit(-0.8, 0.6, -1)], ids=str
)
def test_planes_have_their_normal_at_every_pixel(normal) -> None:
    normals, known = normals_from_depth(plane(normal), K)
    assert known.all() and normals.shape == (3, *SIZE)
    np.testing.assert_allclose(
        normals, np.broadcast_to(normal[:, None, None], normals.shape), atol=1e-11
    )


def test_points_project_back_to_their_cells() -> None:
    depth = plane(unit(0.3, 0.1, -1))
    x, y, z = np.einsum("ij,jhw->ihw", K, backproject_depth(depth, K))
    np.testing.assert_allclose(z, depth)
    np.testing.assert_allclose(x / z, np.broadcast_to(np.arange(SIZE[1]), SIZE), atol=1e-10)
    np.testing.assert_allclose(
        y / z, np.broadcast_to(np.arange(SIZE[0])[:, None], SIZE), atol=1e-10
    )


def test_a_batch_has_a_camera_per_item_and_scale_does_not_matter() -> None:
    depth = np.stack([plane(unit(0.1, 0, -1)), plane(unit(0, 0.4, -1))])
    Ks = np.stack([K, K * [[2], [2], [1]]])
    normals, _ = normals_from_depth(depth, Ks)
    for i in range(2):
        np.testing.assert_array_equal(normals[i], normals_from_depth(depth[i], Ks[i])[0])
    for factor in (1e-6, 1e6):  # float32: squares of the small steps would vanish
        small, known = normals_from_depth((factor * depth).astype(np.float32), Ks)
        assert small.dtype == np.float32 and known.all()
        np.testing.assert_allclose(small, normals, atol=2e-4)


def test_unknown_depth_makes_its_neighbours_unknown_and_nothing_else() -> None:
    normal = unit(0.2, 0.1, -1)
    for bad in (0.0, np.nan, np.inf, -3.0):
        depth = plane(normal)
        depth[5, 7] = depth[0, 0] = bad
        normals, known = normals_from_depth(depth, K)
        expected = np.ones(SIZE, bool)
        expected[[5, 4, 6, 5, 5, 0, 0, 1], [7, 7, 7, 6, 8, 0, 1, 0]] = False
        np.testing.assert_array_equal(known, expected)
        assert (normals[:, ~known] == 0).all()
        np.testing.assert_allclose(
            normals[:, known], np.tile(normal[:, None], known.sum()), atol=1e-11
        )
    mask = np.ones(SIZE, bool)
    mask[5, 7] = mask[0, 0] = False
    np.testing.assert_array_equal(normals_from_depth(plane(normal), K, valid=mask)[1], expected)


@pytest.mark.parametrize(
    "changes,name",
    [({"depth": np.ones((1, 8))}, "depth"), ({"depth": np.ones(8)}, "depth"), ({"K": np.eye(4)}, "K"),
     ({"K": np.zeros((3, 3))}, "K"), ({"K": np.full((3, 3), np.nan)}, "K"),
     ({"K": np.stack([K, K])}, "K"), ({"valid": np.ones((2, 2), bool)}, "valid")],
)  # fmt: skip
def test_bad_input(changes, name) -> None:
    with pytest.raises(ValueError, match=name):
        normals_from_depth(**{"depth": np.ones(SIZE), "K": K, **changes})


def test_tensors_and_their_gradients() -> None:
    torch = pytest.importorskip("torch")
    depth = plane(unit(0.3, 0.1, -1)) + np.random.default_rng(0).uniform(0, 0.3, SIZE)
    normals, known = normals_from_depth(torch.from_numpy(depth), torch.from_numpy(K))
    expected = normals_from_depth(depth, K)
    np.testing.assert_allclose(normals, expected[0], atol=1e-14)
    np.testing.assert_array_equal(known, expected[1])
    small = torch.from_numpy(depth[:4, :5].copy())
    small[1, 1] = -1
    small.requires_grad_()
    assert torch.autograd.gradcheck(lambda d: normals_from_depth(d, K)[0], (small,))
    spoiled = small.detach().clone()
    spoiled[2, 3] = float("nan")
    spoiled.requires_grad_()
    normals_from_depth(spoiled, K)[0].square().sum().backward()
    assert spoiled.grad.isfinite().all()
    half = torch.from_numpy(depth).half()
    assert normals_from_depth(half, K)[0].dtype == torch.float32
