# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dense, sampled and warped RootSIFT agree; patches follow the geometry; mixtures follow their formula."""

from __future__ import annotations

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from pyloc_core import Camera, LossMaps  # noqa: E402
from pyloc_core.localization import DenseRootSIFT  # noqa: E402
from pyloc_core.localization.mixture import mix  # noqa: E402
from pyloc_core.localization.patches import affine_between  # noqa: E402
from pyloc_core.localization.selection import best_of, ranks  # noqa: E402


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.normal(size=(203, 301)).astype(np.float32), (0, 0), 2.0)
    return np.clip(127 + 400 * noise, 0, 255).astype(np.uint8)


def cells_of(level, cells: np.ndarray) -> np.ndarray:
    """Descriptors (n, D) of cells (n, 2) (x, y)."""
    return level.values[:, cells[:, 1], cells[:, 0]].T


def centres(level, cells: np.ndarray) -> np.ndarray:
    return (cells + 0.5) * level.stride


def test_levels_cover_the_image(image: np.ndarray) -> None:
    coarse, fine = DenseRootSIFT().dense(image)
    assert coarse.size == (26, 38) and coarse.covers == (208, 304) and coarse.stride == 8
    assert fine.size == (102, 151) and fine.covers == (204, 302) and fine.stride == 2
    for level in (coarse, fine):
        norm = np.linalg.norm(level.values, axis=0)
        np.testing.assert_allclose(norm, 1, atol=1e-5)


def test_points_and_patches_agree_with_dense(image: np.ndarray) -> None:
    descriptor = DenseRootSIFT()
    levels = descriptor.dense(image)
    cells = np.random.default_rng(1).integers(6, 20, (40, 2))
    for i, level in enumerate(levels):
        shift = cells * (8 if i == 0 else 32) // 8
        described = descriptor.describe(image, centres(level, shift), [1.0])[i][:, 0]
        # Half pixels are interpolated in one and folded into the filter in the other.
        assert ((described * cells_of(level, shift)).sum(1) > 0.998).all()
    fine = cells * 4
    identity = np.tile(np.eye(2), (len(fine), 1, 1))
    warped = descriptor.describe_warped(image, centres(levels[1], fine), identity)
    assert ((warped * cells_of(levels[1], fine)).sum(1) > 0.99).all()


def test_agrees_with_opencv_sift(image: np.ndarray) -> None:
    """cv2's descriptor of an upright keypoint with bins of 8 pixels."""
    coarse, _ = DenseRootSIFT().dense(image)
    cells = np.random.default_rng(2).integers(5, 18, (30, 2))
    keypoints = [
        cv2.KeyPoint(float(x) - 0.5, float(y) - 0.5, 16 / 3, 0.0) for x, y in centres(coarse, cells)
    ]
    _, theirs = cv2.SIFT_create().compute(image, keypoints)
    theirs = np.sqrt(theirs / theirs.sum(1, keepdims=True)).reshape(-1, 4, 4, 8)
    ours = cells_of(coarse, cells).reshape(-1, 4, 4, 8)
    # OpenCV turns its orientations the other way round (y upwards).
    same = max((ours * t).sum((1, 2, 3)).mean() for t in (theirs, theirs[..., -np.arange(8)]))
    assert same > 0.9


def test_a_warp_undoes_a_change_of_scale(image: np.ndarray) -> None:
    descriptor = DenseRootSIFT()
    twice = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    xy = np.random.default_rng(3).uniform(60, 140, (30, 2))
    plain = descriptor.describe_warped(image, xy, np.tile(np.eye(2), (30, 1, 1)))
    warped = descriptor.describe_warped(twice, 2 * xy, np.tile(2 * np.eye(2), (30, 1, 1)))
    unwarped = descriptor.describe_warped(twice, 2 * xy, np.tile(np.eye(2), (30, 1, 1)))
    assert (plain * warped).sum(1).mean() > 0.97
    assert (plain * unwarped).sum(1).mean() < 0.9


def test_affine_maps_carry_points_on_the_plane() -> None:
    rng = np.random.default_rng(4)
    camera = Camera("OPENCV", 640, 480, (500.0, 510.0, 320.0, 240.0, -0.05, 0.01, 0.0, 0.0))
    a = np.column_stack([np.eye(3), [0.0, 0.0, 0.0]])
    angle = 0.2
    R = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    b = np.column_stack([R, [0.3, -0.1, 0.5]])
    xyz = rng.uniform([-0.5, -0.5, 3], [0.5, 0.5, 5], (20, 3))
    affine, usable = affine_between(xyz, camera, a, camera, b)
    assert usable.all()
    normal = -xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    move = rng.normal(size=xyz.shape)
    move = 1e-4 * (move - (move * normal).sum(1, keepdims=True) * normal)

    def pixels(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
        return np.asarray(camera.project(points @ pose[:, :3].T + pose[:, 3])[0])

    in_a, in_b = (pixels(p, xyz + move) - pixels(p, xyz) for p in (a, b))
    np.testing.assert_allclose(np.einsum("nij,nj->ni", affine, in_b), in_a, rtol=2e-3, atol=1e-6)


def test_mixture_averages_probabilities() -> None:
    rng = np.random.default_rng(6)
    size, window = (40, 50), (5, 5)
    card = float(np.log(1 + 40 * 50))
    loss = np.minimum(card, rng.uniform(card - 6, card + 3, (5, *window)))
    owner = np.array([0, 0, 2, 2, 2])
    origins = np.array([[3, 4], [3, 4], [20, 30], [20, 30], [20, 30]], np.int32)
    maps = LossMaps.from_dense(loss, log_cardinality=card, origins=origins, size=size)
    mixed = mix(maps, owner, 3)
    assert len(mixed) == 3 and mixed.entries_per_map[1] == 0
    for point, rows in ((0, [0, 1]), (2, [2, 3, 4])):
        chance = np.where(loss[rows] < card - 1e-6, np.exp(-loss[rows]), 0.0).mean(0)
        with np.errstate(divide="ignore"):
            expected = np.minimum(card, -np.log(chance))
        np.testing.assert_allclose(mixed[[point]].dense()[0], expected, atol=1e-4)


def test_selection_helpers() -> None:
    owner = np.array([0, 0, 0, 2, 2, 5])
    assert ranks(owner).tolist() == [0, 1, 2, 0, 1, 0]
    score = np.array([0.1, 0.9, 0.3, 0.2, 0.2, -1.0])
    assert best_of(owner, score, 6).tolist() == [1, -1, 3, -1, -1, 5]
