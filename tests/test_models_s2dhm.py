# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""S2DHM: descriptors, ratio test, pixel rules, retrieval, and sparse-to-dense localization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

import pyloc_core as pc  # noqa: E402
from pyloc_core import models  # noqa: E402
from pyloc_core.models.s2dhm.localizer import S2DHMLocalizer, S2DHMOptions  # noqa: E402
from pyloc_core.models.s2dhm.matching import (  # noqa: E402
    match_hypercolumns,
    query_pixels,
    ratio_test,
)
from pyloc_core.models.s2dhm.retrieval import PrincipalComponents, rank_references  # noqa: E402


@pytest.fixture(scope="module")
def model() -> Any:
    return models.create("s2dhm", seed=2, max_size=96)


def picture(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 12)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    noisy = smooth.permute(1, 2, 0).numpy() + rng.normal(0, 6, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def test_global_descriptor_against_the_sum_over_cells(model: Any) -> None:
    """NetVLAD written out: assignments, residuals, two normalisations, clusters first."""
    image = picture(1, 70, 96)
    with torch.inference_mode():
        x = model.encoder(model.preprocess(image))[0].double().flatten(1)
    assert float(x.min()) < 0, "conv5_3 before its ReLU"
    x = (x / x.norm(dim=0)).numpy()
    logits = model.pool.conv.weight[:, :, 0, 0].detach().double().numpy() @ x
    weight = np.exp(logits - logits.max(0))
    weight /= weight.sum(0)
    centroids = model.pool.centroids.detach().double().numpy()
    vlad = np.array([(weight[k] * (x - centroids[k][:, None])).sum(1) for k in range(64)])
    vlad /= np.linalg.norm(vlad, axis=1, keepdims=True)
    expected = vlad.ravel() / np.linalg.norm(vlad)
    np.testing.assert_allclose(model.global_descriptor(image), expected, atol=2e-6)


def test_hypercolumns_are_unit_vectors_of_the_taps(model: Any) -> None:
    with torch.inference_mode():
        pixels = model.preprocess(picture(2, 70, 96))
        values = model.hypercolumn(pixels)
        assert values.shape == (1, 2048, 70 // 4, 96 // 4)
        torch.testing.assert_close(values.norm(dim=1), torch.ones(1, 17, 24))
        assert float(values.min()) >= 0
        relu3_2 = model.encoder[:14](pixels)
        pool4 = model.encoder[:24](pixels)
    # The first tap is not resized; the corners of the others stay corners (align_corners).
    ratio = relu3_2[0, :, 3, 5] / values[0, :256, 3, 5]
    ratio = ratio[torch.isfinite(ratio)]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    corner = values[0, 1024:1536, 0, 0]
    torch.testing.assert_close(corner / corner.norm(), pool4[0, :, 0, 0] / pool4[0, :, 0, 0].norm())
    other = models.create("s2dhm", seed=2, max_size=96, align_corners=False)
    with torch.inference_mode():
        assert not torch.allclose(other.hypercolumn(pixels), values, atol=1e-3)


def test_images_are_shrunk_as_published(model: Any) -> None:
    image = picture(3, 60, 200)
    assert model.preprocess(image).shape == (1, 3, 29, 96)
    assert model.preprocess(image[:40, :50]).shape == (1, 3, 40, 50), "never enlarged"
    (level,) = model.dense(image)
    assert level.size == (7, 24)
    assert level.covers == (round(28 * 60 / 29), 200)


def test_points_are_described_where_the_cells_are(model: Any) -> None:
    image = picture(4, 64, 96)
    (level,) = model.dense(image)
    rows, cols = np.mgrid[2:14:3, 1:22:4]
    xy = np.stack([cols.ravel() * 4 + 2.0, rows.ravel() * 4 + 2.0], 1)
    (described,) = model.describe(image, xy, (1.0, 1.4))
    assert described.shape == (len(xy), 2, 2048)
    at = level.values[:, rows.ravel(), cols.ravel()].T
    np.testing.assert_allclose(described[:, 0], at, atol=1e-6)
    assert not np.allclose(described[:, 1], at, atol=1e-3)


@pytest.mark.parametrize(("factor", "ratio"), [(0.006, 0.9), (0.12, 0.9), (1.0, 1.0), (1e-9, 0.5)])
def test_ratio_test_is_the_sorted_comparison(factor: float, ratio: float) -> None:
    rng = np.random.default_rng(5)
    maps = rng.uniform(0.2, 1.0, (50, 13, 17)).astype(np.float32)
    maps[np.arange(50), rng.integers(0, 13, 50), rng.integers(0, 17, 50)] = rng.uniform(1, 1.5, 50)
    found = ratio_test(maps, factor=factor, ratio=ratio)
    for n in range(50):
        ordered = np.sort(maps[n].ravel())[::-1]
        rank = max(1, int(factor * 13 * 17))
        margin = ratio**2 * ordered[0] - ordered[rank - 1]
        assert found.margin[n] == pytest.approx(margin, abs=1e-6)
        assert found.valid[n] == (margin >= 0)
        x, y = found.xy[n].astype(int)
        assert maps[n, y, x] == ordered[0]


def test_streamed_ratio_test_agrees_with_the_stored_one() -> None:
    rng = np.random.default_rng(6)
    features = np.abs(rng.normal(size=(32, 20, 25))).astype(np.float32)
    features /= np.linalg.norm(features, axis=0)
    chosen = features[:, rng.integers(0, 20, 60), rng.integers(0, 25, 60)].T
    descriptors = np.abs(chosen + 0.06 * rng.normal(size=chosen.shape)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    maps = np.einsum("nd,dhw->nhw", descriptors, features)
    stored, streamed = (
        ratio_test(maps, factor=0.03), match_hypercolumns(descriptors, features, factor=0.03)
    )  # fmt: skip
    np.testing.assert_array_equal(stored.xy, streamed.xy)
    np.testing.assert_allclose(stored.margin, streamed.margin, atol=1e-5)
    clear = np.abs(stored.margin) > 1e-5
    np.testing.assert_array_equal(stored.valid[clear], streamed.valid[clear])
    assert 5 < stored.valid.sum() < 55


def test_pixel_rules() -> None:
    cells = np.array([[0.0, 0.0], [10.0, 4.0]])
    right = query_pixels(cells, (480, 640), (96, 128))
    np.testing.assert_allclose(right, [[2.5, 2.5], [52.5, 22.5]])
    np.testing.assert_allclose(
        query_pixels(cells, (480, 640), (96, 128), compat="published"), right
    )
    # Cells that are not square: 6 pixels high, 5 wide. The published rule exchanges the two.
    np.testing.assert_allclose(query_pixels(cells, (576, 640), (96, 128)), [[2.5, 3], [52.5, 27]])
    swapped = query_pixels(cells, (576, 640), (96, 128), compat="published")
    np.testing.assert_allclose(swapped, [[3, 2.5], [63, 22.5]])
    with pytest.raises(ValueError, match="compat"):
        query_pixels(cells, (4, 4), (2, 2), compat="paper")


def test_principal_components_keep_the_angles_of_the_references() -> None:
    rng = np.random.default_rng(7)
    references = rng.normal(size=(9, 300)) + 3 * rng.normal(size=300)
    fitted = PrincipalComponents.fit(references)
    assert fitted.components.shape == (8, 300)
    np.testing.assert_allclose(fitted.components @ fitted.components.T, np.eye(8), atol=1e-12)
    centred = references - references.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    found = fitted.transform(references)
    np.testing.assert_allclose(found @ found.T, unit @ unit.T, atol=1e-10)
    few = PrincipalComponents.fit(references, 3)
    values = np.linalg.eigvalsh(np.cov(references.T))[::-1][:3]
    spread = ((references - few.mean) @ few.components.T).var(axis=0, ddof=1)
    np.testing.assert_allclose(spread, values, rtol=1e-8)
    query = references[5] + 0.1 * rng.normal(size=300)
    assert rank_references(fitted.transform(query[None])[0], found)[0] == 5
    assert PrincipalComponents.fit(references[:1]).transform(references).shape == (9, 0)
    for bad in (np.zeros((0, 3)), np.zeros(3), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="descriptors"):
            PrincipalComponents.fit(bad)
    with pytest.raises(ValueError, match="dimensions"):
        PrincipalComponents.fit(references, 0)


def test_options_are_checked() -> None:
    for bad in (
        {"ratio": 0.0}, {"factor": 1.5}, {"top_n": 0}, {"iterations": 2.5}, {"max_error": -1.0},
        {"compat": "paper"}, {"min_inliers": True},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))):
            S2DHMOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="did you mean top_n"):
        S2DHMLocalizer(models.create("s2dhm"), [], topn=3)
    with pytest.raises(ValueError, match="references"):
        S2DHMLocalizer(models.create("s2dhm"), [])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    for module in ("cv2", "skimage", "pycolmap"):
        pytest.importorskip(module)
    from pyloc_core.localization.demo_data import write_demo
    from pyloc_core.localization.scene import Scene

    folder = write_demo(tmp_path_factory.mktemp("demo"), points=400, scale=0.35)
    return Scene.open(folder)


def test_sparse_to_dense_localization_end_to_end(demo: Any) -> None:
    """Random weights, a rendered scene: the references nearest to the photo give its pose."""
    from pyloc_core.localization import read_image
    from pyloc_core.localization.map_build import ModelArrays

    query = demo.query(demo.problems[2])
    names = query.view_names[:3]
    keep = query.obs_view < 3
    point_of = np.repeat(np.arange(len(query.xyz)), np.diff(query.obs_ptr))[keep]
    counts = np.bincount(point_of, minlength=len(query.xyz))
    arrays = ModelArrays.checked(
        query.xyz, np.concatenate([[0], np.cumsum(counts)]), query.obs_view[keep], list(names),
        [demo.cameras[n] for n in names], np.array([demo.cam_from_world[n] for n in names]),
        [read_image(demo.folder / "images" / n) for n in names], None,
    )  # fmt: skip
    model = models.create("s2dhm", seed=0, max_size=280)
    # Random features are alike everywhere: with the published ratio of 0.9 no match would pass.
    weak = {"ratio": 0.995, "factor": 0.02}
    localizer = S2DHMLocalizer.from_arrays(model, arrays, **weak)
    found = localizer.localize_detailed(query.image, query.camera)
    assert found.estimate.success, found.estimate.reason
    angle, distance = pc.pose_error(found.estimate.cam_from_world, query.cam_from_world)
    assert angle < 3.0 and distance < 0.3
    assert found.num_inliers[list(found.ranked).index(found.reference)] == max(found.num_inliers)
    assert len(found.xy) == len(found.xyz) == len(found.estimate.inlier_probability)
    early = S2DHMLocalizer(model, localizer.references, **weak, stop_inliers=12)
    assert len(early.localize_detailed(query.image, query.camera).ranked) <= len(found.ranked)
    # Nothing passes: the pose of the most similar reference, and no success.
    strict = S2DHMLocalizer(model, localizer.references, ratio=0.05)
    lost = strict.localize_detailed(query.image, query.camera)
    assert not lost.estimate.success and "nearest reference" in lost.estimate.reason
    np.testing.assert_allclose(
        lost.estimate.cam_from_world, demo.cam_from_world[names[lost.ranked[0]]], atol=1e-12
    )
    with pytest.raises(ValueError, match="pixels and its camera"):
        localizer.localize(query.image, demo.cameras[names[0]].resized((10, 10)))


def test_build_reads_a_colmap_model_in_colour(demo: Any, tmp_path: Path) -> None:
    seen = []
    model = models.create("s2dhm", seed=0, max_size=64)
    inner = model.preprocess
    model.preprocess = lambda image: seen.append(np.shape(image)) or inner(image)
    localizer = S2DHMLocalizer.build(model, demo.folder / "sparse", demo.folder / "images")
    assert len(localizer.references) == len(demo.cameras)
    assert seen and all(len(shape) == 3 for shape in seen)
    assert all(len(r.xyz) == len(r.descriptors) > 0 for r in localizer.references)
