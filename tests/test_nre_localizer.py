# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""NRE as a descriptor of maps, and whole localizations with it, as published and as held to be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyloc_core as pl
from pyloc_core.localization import Features, Localizer, LocalizerOptions, Map

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from pyloc_core import models  # noqa: E402
from pyloc_core.models.nre.descriptor import NRE  # noqa: E402
from pyloc_core.models.nre.localizer import PublishedLocalizer, localize_pair  # noqa: E402
from pyloc_core.models.nre.published import PublishedOptions  # noqa: E402

SIZE = (180, 240)
POSE = np.hstack([pl.rotation_from_quaternion([0.98, 0.1, -0.15, 0.05]), [[0.3], [-0.2], [0.5]]])
CAMERA = pl.Camera("PINHOLE", 240, 180, (220.0, 220.0, 120.0, 90.0))
SMALL: dict[str, Any] = {"cut": "Mixed_5d", "no_maxpool": True, "seed": 3}


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Noise on several scales, in colour."""
    rng = np.random.default_rng(0)
    layers = [cv2.GaussianBlur(rng.normal(size=(*SIZE, 3)), (0, 0), s) for s in (1, 2.5, 6, 15)]
    mixed = sum(layer / layer.std() for layer in layers)
    return np.clip(127 + 55 * mixed / np.std(mixed), 0, 255).astype(np.uint8)


def whitened(photo: np.ndarray, **options: Any) -> NRE:
    """Random weights whose last batch norms know the photo: its descriptors resemble only themselves,
    as trained ones would. Otherwise the longest vectors win every dot product."""
    nre = models.create("nre", **SMALL, **options)
    with torch.no_grad():
        for network in (nre.coarse, nre.fine):
            before = network.cnn[:-1](network.preprocess(photo))
            network.cnn[-1].running_mean.copy_(before.mean((0, 2, 3)))
            network.cnn[-1].running_var.copy_(before.var((0, 2, 3)))
    return nre


def scene(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, 2) in the photo and their points (N, 3)."""
    rng = np.random.default_rng(1)
    xy = rng.uniform([12, 12], [228, 168], (count, 2))
    rays = CAMERA.unproject(xy)
    local = rays / rays[:, 2:] * rng.uniform(3, 7, (count, 1))
    return xy, (local - POSE[:, 3]) @ POSE[:, :3]


def map_of(photo: np.ndarray, nre: NRE, **options: Any) -> Map:
    """One reference image that sees all points."""
    _, points = scene()
    return Map.from_arrays(
        points, np.arange(len(points) + 1), np.zeros(len(points), int), image_names=["a"],
        cameras=[CAMERA], cam_from_world=POSE[None], images=[photo], descriptor=nre,
        **{"scales": (1.0,), "vocabulary": 4, **options},
    )  # fmt: skip


def test_a_photo_of_the_map_is_found_where_it_was(photo: np.ndarray) -> None:
    nre = whitened(photo)
    localizer = nre.localizer(map_of(photo, nre))
    assert isinstance(localizer, Localizer)
    found = localizer.localize_detailed(photo, CAMERA)
    assert found.estimate.success, found.estimate.reason
    assert pl.pose_error(found.coarse.cam_from_world, POSE)[0] < 0.3
    assert pl.pose_error(found.estimate.cam_from_world, POSE)[0] < 0.1


def test_published_localization_has_the_published_errors(photo: np.ndarray) -> None:
    """The keypoints lack the half pixel that the camera gets: 0.5 pixels in x and y at stride 2, 0.18
    degrees at f 220. And entries 8 fine cells further, 16 pixels in x and y, turn it by 5 degrees."""
    nre = whitened(photo, compat="published")
    model = map_of(photo, nre)
    errors = {}
    for displaced in (False, True):
        options = PublishedOptions(triplets=1000, displaced=displaced)
        program = nre.localizer(model, options)
        assert isinstance(program, PublishedLocalizer)
        found = program.localize_detailed(photo, CAMERA)
        assert found.estimate.success and found.fine is not None
        assert found.estimate.inlier_probability.shape == (200,) == found.point_indices.shape
        assert pl.pose_error(found.coarse.cam_from_world, POSE)[0] < 1
        errors[displaced] = pl.pose_error(found.estimate.cam_from_world, POSE)[0]
    assert 0.1 < errors[False] < 0.35
    assert 4.5 < errors[True] < 6.5
    xy, points = scene()
    pair = localize_pair(
        nre, photo, CAMERA, photo, xy, points,
        options=PublishedOptions(triplets=1000, displaced=False),
    )  # fmt: skip
    assert pl.pose_error(pair.estimate.cam_from_world, POSE)[0] == pytest.approx(
        errors[False], abs=0.02
    )
    again = PublishedLocalizer(model, nre, options)
    a, b = (again.localize(photo, CAMERA, prior=POSE, seed=4).cam_from_world for _ in range(2))
    assert np.array_equal(a, b)


def test_cells_lie_where_the_network_sees(photo: np.ndarray) -> None:
    """The gradient of a cell's descriptor is centred on the pixel that `Features` names."""
    nre = models.create("nre", **SMALL)
    for level, network in zip(nre.dense(photo), (nre.coarse, nre.fine)):
        stride = network.options.stride
        assert level.stride == stride and level.corner == ((1 - stride) / 2,) * 2
        cell = (20, 15)
        x = network.preprocess(photo).requires_grad_(True)
        network(x)[0, :, cell[1], cell[0]].pow(2).sum().backward()
        assert x.grad is not None
        weight = x.grad[0].pow(2).sum(0).numpy()
        columns = np.flatnonzero(weight.sum(0))
        rows = np.flatnonzero(weight.sum(1))
        middle = np.array([columns[[0, -1]].mean() + 0.5, rows[[0, -1]].mean() + 0.5])
        np.testing.assert_allclose(level.pixels([cell])[0], middle)
        np.testing.assert_allclose(level.cells(middle[None])[0], cell, atol=1e-12)
        camera = level.camera(CAMERA)
        ray = CAMERA.unproject(middle[None])
        np.testing.assert_allclose(
            pl.map_from_image(camera.project(ray)[0], camera.size, level.size)[0], cell, atol=1e-9
        )


def test_levels_and_descriptors_fit(photo: np.ndarray) -> None:
    nre = models.create("nre", **SMALL)
    coarse, fine = nre.dense(photo)
    assert coarse.values.shape == (288, 45, 60) and fine.values.shape == (288, 90, 120)
    np.testing.assert_array_equal(nre.dense_coarse(photo).values, coarse.values)
    cells = np.array([[10, 7], [30, 22]])
    described = nre.describe(photo, coarse.pixels(cells), (0.8, 1.0))
    assert [d.shape for d in described] == [(2, 2, 288), (2, 2, 288)]
    np.testing.assert_allclose(
        described[0][:, 1], coarse.values[:, cells[:, 1], cells[:, 0]].T, rtol=1e-4, atol=1e-4
    )
    program = models.create("nre", compat="published", **SMALL)
    level = program.dense(photo)[1]
    assert level.covers == SIZE and level.corner == (0, 0)
    shifted = program.describe(photo, fine.pixels(cells), (1.0,))[1]
    np.testing.assert_allclose(
        shifted[:, 0], fine.values[:, cells[:, 1], cells[:, 0]].T, rtol=1e-4, atol=1e-4
    )


def test_features_refuse_a_corner_nowhere() -> None:
    with pytest.raises(ValueError, match="corner"):
        Features(np.ones((1, 2, 2), np.float32), (4, 4), (np.nan, 0))


def test_both_stages_load_together_or_not_at_all(tmp_path: Path) -> None:
    other = models.create("nre", **{**SMALL, "seed": 9})
    states = {stage: getattr(other, stage).state_dict() for stage in ("coarse", "fine")}
    for stage, state in states.items():
        torch.save({"state_dict": state}, tmp_path / f"{stage}.pth")
    digest = other.weights_digest()
    for source in (tmp_path, states, other.state_dict()):
        nre = models.create("nre", cut="Mixed_6a", seed=1)
        assert nre.load_official(source).weights_digest() == digest
    nre = models.create("nre", **SMALL)
    nre.load_official(tmp_path / "fine.pth").load_official(str(tmp_path / "coarse.pth"))
    assert nre.weights_digest() == digest
    nre = models.create("nre", **SMALL)
    before = nre.weights_digest()
    for source, pattern in (
        ({"coarse": states["coarse"], "fine": states["coarse"]}, "holds the coarse network"),
        ({"coarse": states["coarse"], "fine": {"cnn.1": torch.ones(1)}}, "no weights of nre_fine"),
        ({"encoder.0.weight": torch.ones(2)}, "neither"),
        (tmp_path / "absent.pth", "no such checkpoint"),
    ):
        with pytest.raises(ValueError, match=pattern):
            nre.load_official(source)
        assert nre.weights_digest() == before
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"coarse\.pth"):
        nre.load_official(empty)


def test_maps_belong_to_weights_and_to_a_convention(photo: np.ndarray, tmp_path: Path) -> None:
    nre = models.create("nre", **SMALL)
    map_of(photo, nre).save(tmp_path / "map")
    model = Map.load(tmp_path / "map")
    assert model.descriptor["name"] == "nre" and model.fine is not None
    Localizer(model, nre)
    for other in ({"seed": 4}, {"compat": "published"}):
        with pytest.raises(ValueError, match="the map was built with"):
            Localizer(model, models.create("nre", **{**SMALL, **other}))
    with pytest.raises(ValueError, match=r'compat="published"'):
        PublishedLocalizer(model, nre)
    program = models.create("nre", compat="published", **SMALL)
    with pytest.raises(TypeError, match="PublishedOptions"):
        program.localizer(model, LocalizerOptions())
    with pytest.raises(ValueError, match="the map was built with"):
        PublishedLocalizer(model, models.create("nre", compat="published", **SMALL))


def test_calls_that_do_not_fit(photo: np.ndarray) -> None:
    xy, points = scene(5)
    nre = models.create("nre", compat="published", **SMALL)
    with pytest.raises(ValueError, match="same length"):
        localize_pair(nre, photo, CAMERA, photo, xy, points[:3])
    with pytest.raises(ValueError, match="camera"):
        localize_pair(nre, photo[:100], CAMERA, photo, xy, points)
    with pytest.raises(ValueError, match=r'compat="published"'):
        localize_pair(models.create("nre", **SMALL), photo, CAMERA, photo, xy, points)
    with pytest.raises(ValueError, match="compat must be"):
        models.create("nre", compat="thesis")
    nobody = localize_pair(nre, photo, CAMERA, photo, xy[:0], points[:0])
    assert not nobody.estimate.success and "no triplet" in nobody.estimate.reason
    few = localize_pair(
        nre, photo, CAMERA, photo, xy, points
    )  # int(0.25 * 5) maps give one triplet
    assert not few.estimate.success and few.initial is None


@pytest.mark.slow
@pytest.mark.parametrize("compat", [None, "published"])
def test_whole_localization_on_real_photos(shared: Path, compat: Any) -> None:
    """Random weights find nothing, but everything runs: map from a COLMAP model, two stages, a result."""
    folder = shared / "data" / "fountain_P11"
    if not folder.is_dir():
        pytest.skip("needs the photos")
    pytest.importorskip("pycolmap")
    nre = models.create("nre", cut="Mixed_7a", compat=compat, seed=2)
    model = Map.build(
        folder / "sparse", folder / "images", descriptor=nre, max_size=320, scales=(1.0,),
        max_views=2, vocabulary=8, progress=False,
    )  # fmt: skip
    assert model.coarse.shape[2] == 1280
    import pycolmap

    sparse = pycolmap.Reconstruction(folder / "sparse")
    name = model.image_names[3]
    image = next(i for i in sparse.images.values() if i.name == name)
    camera = pl.Camera.from_pycolmap(sparse.cameras[image.camera_id])
    if compat is None:
        found = Localizer(model, nre, num_views=2, max_points=300).localize_detailed(
            folder / "images" / name, camera
        )
        assert found.coarse_maps is not None and len(found.coarse_maps) > 0
        estimate = found.estimate
    else:
        program = PublishedLocalizer(model, nre, PublishedOptions(triplets=500))
        released = program.localize_detailed(folder / "images" / name, camera)
        assert released.initial is not None and len(released.point_indices) > 100
        estimate = released.estimate
    assert np.isfinite(estimate.cam_from_world).all() and estimate.reason
