# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Training pairs: the points are where they are said to be in both photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")
pytest.importorskip("skimage")

from pyloc_core.localization.images import read_gray  # noqa: E402
from pyloc_core.localization.patches import sample_patches  # noqa: E402
from pyloc_core.models.gradnet.descriptor import centred_patches  # noqa: E402
from pyloc_core.training import (  # noqa: E402
    Pair,
    PairDataset,
    PosedPairs,
    RenderedPairs,
    WarpedPairs,
    textures,
)
from pyloc_core.training.pairs import as_tensors, stack  # noqa: E402
from pyloc_core.training.photometric import taken  # noqa: E402
from pyloc_core.training.warped_pairs import moved  # noqa: E402

SMALL = (128, 160)


def agreement(pair: Pair, half: int = 6) -> np.ndarray:
    """Normalised correlation, per point, of the query's surroundings with the reference's warped ones.

    Both are read around the points that the pair states, so a wrong point or affine map lowers it.
    """
    eye = np.broadcast_to(np.eye(2), (len(pair), 2, 2))
    seen = sample_patches(pair.query.astype(np.float32), pair.query_xy, eye, half)
    warped = sample_patches(
        pair.reference.astype(np.float32), pair.reference_xy, pair.reference_from_query, half
    )
    flat = [
        p.reshape(len(pair), -1) - p.reshape(len(pair), -1).mean(1)[:, None] for p in (seen, warped)
    ]
    norms = [np.linalg.norm(f, axis=1) for f in flat]
    return np.asarray((flat[0] * flat[1]).sum(1) / np.maximum(norms[0] * norms[1], 1e-6))


def shifted(pair: Pair, pixels: float) -> Pair:
    """The pair with wrong query points."""
    return Pair(
        pair.reference, pair.query, pair.reference_xy, pair.query_xy + [pixels, -pixels],
        pair.reference_from_query,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["warped", "rendered"])
def test_points_and_affine_maps_belong_to_the_photos(kind: str) -> None:
    source = (
        WarpedPairs(size=SMALL, strength=0.0, slant_error=0.0)
        if kind == "warped"
        else RenderedPairs(size=SMALL, rooms=1, views=3, strength=0.0, pose_error=0.0, seed=3)
    )
    right, wrong = [], []
    for seed in range(6):
        pair = source.pair(np.random.default_rng(seed))
        assert pair.query.shape == pair.reference.shape == SMALL
        right.append(agreement(pair))
        wrong.append(agreement(shifted(pair, 2.0)))
    # A room's surfaces are slanted, which its affine maps do not know, as a localizer's do not.
    least = 0.9 if kind == "warped" else 0.6
    assert np.median(np.concatenate(right)) > least
    assert np.median(np.concatenate(wrong)) < np.median(np.concatenate(right)) - 0.1


def test_homography_and_its_jacobian() -> None:
    rng = np.random.default_rng(4)
    homography = np.eye(3) + 0.1 * rng.standard_normal((3, 3)) * [
        [1, 1, 30],
        [1, 1, 30],
        [1e-3, 1e-3, 0],
    ]
    xy = rng.uniform(0, 300, (20, 2))
    out, jacobian = moved(homography, xy)
    ones = np.column_stack([xy, np.ones(len(xy))]) @ homography.T
    np.testing.assert_allclose(out, ones[:, :2] / ones[:, 2:], rtol=1e-12)
    for axis in range(2):
        step = np.zeros(2)
        step[axis] = 1e-4
        numeric = (moved(homography, xy + step)[0] - moved(homography, xy - step)[0]) / 2e-4
        np.testing.assert_allclose(jacobian[:, :, axis], numeric, rtol=1e-6, atol=1e-8)


def test_hidden_points_of_a_room_are_left_out() -> None:
    source = RenderedPairs(size=SMALL, rooms=1, views=4, strength=0.0, seed=5)
    room = source.room(0)
    pair = source.pair(np.random.default_rng(0))
    assert 0 < len(pair) < source.points
    # Behind a face a point is hidden: a plane put in front of the reference camera takes them all.
    from pyloc_core.localization.demo_render import Face
    from pyloc_core.training.rendered_pairs import _visible

    pose, camera = room.cam_from_world[0], room.cameras[0]
    axes = pose[:, :3]
    centre = -axes.T @ pose[:, 3]
    middle = centre + 0.3 * axes[2]
    points = centre + axes[2] * np.linspace(2, 3, 5)[:, None]
    wall = Face(
        middle - axes[0] - axes[1], 2 * axes[0], 2 * axes[1], np.zeros((1, 1, 3), np.float32)
    )
    assert camera.width == SMALL[1]
    room.faces.append(wall)
    assert not _visible(room, 0, points)[1].any()


def test_a_posed_model_gives_pairs(tmp_path: Path) -> None:
    """A plane seen by three cameras, as arrays: crops and points agree with the images."""
    from pyloc_core.camera import Camera
    from pyloc_core.localization.map_build import ModelArrays

    rng = np.random.default_rng(0)
    texture = textures.shapes(rng, 512)
    camera = Camera("PINHOLE", 240, 200, (220.0, 220.0, 120.0, 100.0))
    xyz = np.column_stack([rng.uniform(-0.8, 0.8, (200, 2)), np.full(200, 4.0)])
    poses, images = [], []
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    K = np.array([[220.0, 0, 120], [0, 220, 100], [0, 0, 1]])
    for x in (-0.3, 0.0, 0.3):
        pose = np.column_stack([np.eye(3), [-x, 0.1 * x, 0.2 * x]])
        # Plane z = 4, texture of 512 pixels over 4 units.
        plane = np.array([[4 / 512, 0, -2], [0, 4 / 512, -2], [0, 0, 4.0]])
        full = K @ (pose[:, :3] @ plane + np.outer(pose[:, 3], [0, 0, 1]))
        warp = np.linalg.inv(half) @ full @ half
        images.append(cv2.warpPerspective(texture, warp, (240, 200)).astype(np.uint8))
        poses.append(pose)
    arrays = ModelArrays.checked(
        xyz, np.arange(0, 601, 3), np.tile(np.arange(3), 200), ["a", "b", "c"], [camera] * 3,
        np.array(poses), images, None,
    )  # fmt: skip
    source = PosedPairs(arrays, size=(128, 128))
    found = [source.pair(np.random.default_rng(i)) for i in range(4)]
    assert np.median(np.concatenate([agreement(p) for p in found])) > 0.95
    assert all(p.query.shape == (128, 128) for p in found)
    with pytest.raises(ValueError, match="share 500 points"):
        PosedPairs(arrays, least=500)
    with pytest.raises(ValueError, match="smaller than the crops"):
        PosedPairs(arrays, size=(512, 512)).pair(rng)


@pytest.mark.slow
def test_pairs_of_a_colmap_model(shared: Path) -> None:
    pytest.importorskip("pycolmap")
    folder = shared / "data/lund_door"
    source = PosedPairs.of_colmap(folder / "sparse", folder / "images", size=(256, 256))
    pairs = [source.pair(np.random.default_rng(i)) for i in range(3)]
    assert np.median(np.concatenate([agreement(p) for p in pairs])) > 0.8


def test_own_photos_can_be_warped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "a.png"), textures.shapes(rng, 300).astype(np.uint8))
    pair = WarpedPairs.of_images([tmp_path / "a.png"], SMALL).pair(rng)
    assert pair.query.shape == SMALL and len(pair) > 20
    assert read_gray(tmp_path / "a.png").shape == (300, 300)
    with pytest.raises(ValueError, match="at least one"):
        WarpedPairs.of_images([], SMALL)


def test_items_depend_on_seed_epoch_and_index_alone() -> None:
    def make(**options: object) -> PairDataset:
        return PairDataset([WarpedPairs(size=SMALL)], 8, points=16, patch=30, **options)  # type: ignore[arg-type]

    data, again = make(), make()
    again[0], again[5]  # order of access does not matter
    for name, value in data[3].items():
        assert torch.equal(value, again[3][name]), name
    first = data[3]["query"]
    data.set_epoch(1)
    assert not torch.equal(first, data[3]["query"])
    assert not torch.equal(first, make(seed=1)[3]["query"])
    kept = make(fresh=False)
    kept.set_epoch(1)
    assert torch.equal(first, kept[3]["query"])
    with pytest.raises(IndexError):
        data[8]


def test_an_item_with_too_few_points_weighs_the_rest_zero() -> None:
    pair = WarpedPairs(size=SMALL, points=30).pair(np.random.default_rng(0))
    few = Pair(pair.reference, pair.query, pair.reference_xy[:5], pair.query_xy[:5],
               pair.reference_from_query[:5])  # fmt: skip
    item = as_tensors(few, np.random.default_rng(0), 12, 30)
    assert item["weight"].tolist() == [1.0] * 5 + [0.0] * 7
    assert item["patches"].shape == (12, 1, 30, 30) and item["query_xy"].shape == (12, 2)
    assert stack([item, item])["query"].shape == (2, 1, *SMALL)


def test_even_patches_are_centred_between_pixels() -> None:
    """A ramp is linear, so the mean of a patch is the ramp's value at the point."""
    ramp = (np.arange(64)[:, None] * 2.0 + np.arange(80) * 0.5).astype(np.float32)
    xy = np.array([[30.25, 31.5], [40.0, 20.75]])
    turn = np.array([[0.8, -0.3], [0.2, 0.9]])
    patches = centred_patches(ramp, xy, np.stack([np.eye(2), turn]), 10)
    expected = (xy[:, 1] - 0.5) * 2.0 + (xy[:, 0] - 0.5) * 0.5
    np.testing.assert_allclose(patches.mean((1, 2)), expected, atol=2e-2)


def test_photos_keep_their_size_and_range() -> None:
    rng = np.random.default_rng(0)
    for make in (
        textures.noise,
        textures.shapes,
        textures.writing,
        textures.masonry,
        textures.cells,
    ):
        scene = make(rng, 96)
        assert scene.shape == (96, 96) and scene.min() >= 0 and scene.max() <= 255
        assert scene.std() > 1
        photo = taken(rng, scene)
        assert photo.shape == scene.shape and photo.dtype == np.uint8
    assert np.abs(taken(rng, scene, 0.0).astype(float) - scene).max() < 40  # blur alone
    assert set(textures.HELD_OUT_PHOTOS).isdisjoint(textures.TRAINING_PHOTOS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "positive"), ({"points": 0}, "positive"), ({"patch": 7}, "even"),
        ({"shares": [0.0]}, "all zero"), ({"sources": []}, "at least one source"),
    ],
)  # fmt: skip
def test_bad_datasets_are_refused(options: dict, message: str) -> None:
    good = {"sources": [WarpedPairs(size=SMALL)], "length": 4}
    with pytest.raises(ValueError, match=message):
        PairDataset(**{**good, **options})
