# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Map and Localizer on a scene that the test renders: two textured walls, known cameras."""

from __future__ import annotations

import json

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("safetensors")

from wall_scene import CAMERA, POSES, QUERY, build, points, render  # noqa: E402

from pyloc_core import pose_error  # noqa: E402
from pyloc_core.localization import (  # noqa: E402
    DenseRootSIFT,
    Features,
    Localizer,
    LocalizerOptions,
    Map,
    MapOptions,
)


@pytest.fixture(scope="module")
def model() -> Map:
    return build()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return render(QUERY)


def test_localizes_to_a_fraction_of_a_pixel(model: Map, photo: np.ndarray) -> None:
    found = Localizer(model).localize_detailed(photo, CAMERA)
    assert found.estimate.success, found.estimate.reason

    # Rotation and translation can make up for each other: what counts is where the points fall.
    def shift(pose: np.ndarray) -> float:
        seen, true = (
            np.asarray(CAMERA.project(found.xyz @ p[:, :3].T + p[:, 3])[0]) for p in (pose, QUERY)
        )
        return float(np.median(np.linalg.norm(seen - true, axis=1)))

    fine, coarse = shift(found.estimate.cam_from_world), shift(found.coarse.cam_from_world)
    assert fine < 0.3 and fine < coarse < 8
    assert pose_error(found.estimate.cam_from_world, QUERY)[0] < 0.15
    assert len(found.point_indices) == len(found.fine_maps) == len(found.coarse_maps)
    assert found.estimate.inlier_probability.shape == (len(found.point_indices),)
    assert (np.linalg.eigvalsh(found.estimate.covariance) > 0).all()
    timings = found.estimate.timings
    assert timings["total"] > 0 and timings["fine_maps"] > 0
    xy, front = found.project()
    assert front.all() and np.isfinite(xy).all()


def test_same_bits_for_every_thread_count(model: Map, photo: np.ndarray) -> None:
    poses = [
        Localizer(model).localize(photo, CAMERA, num_threads=n).cam_from_world for n in (1, 2, 8)
    ]
    assert np.array_equal(poses[0], poses[1]) and np.array_equal(poses[0], poses[2])


def test_prior_chooses_the_views(model: Map, photo: np.ndarray) -> None:
    localizer = Localizer(model, num_views=1)
    found = localizer.localize_detailed(photo, CAMERA, POSES[2])
    assert found.views.tolist() == [2]
    assert found.estimate.success
    assert pose_error(found.estimate.cam_from_world, QUERY)[0] < 0.2


def test_retrieval_prefers_the_image_itself(model: Map) -> None:
    localizer = Localizer(model, num_views=2)
    for view in range(4):
        level = localizer.descriptor.dense_coarse(render(POSES[view]))
        assert localizer.nearby_views(level, None)[0] == view


def test_save_and_load_give_the_same_pose(model: Map, photo: np.ndarray, tmp_path) -> None:
    model.save(tmp_path / "map")
    loaded = Map.load(tmp_path / "map")
    assert isinstance(loaded.coarse.base, np.memmap) or isinstance(loaded.coarse, np.memmap)
    assert loaded.summary() == model.summary()
    a, b = (Localizer(m).localize(photo, CAMERA).cam_from_world for m in (model, loaded))
    assert np.array_equal(a, b)


def test_damaged_maps_name_the_file(model: Map, tmp_path) -> None:
    with pytest.raises(ValueError, match="no such map folder"):
        Map.load(tmp_path / "nowhere")
    model.save(tmp_path)
    tensors, description = tmp_path / "map.safetensors", tmp_path / "map.json"
    whole = tensors.read_bytes()
    for broken in (b"", whole[:4], whole[:1000], whole[: len(whole) // 2], b"\xff" * 2000):
        tensors.write_bytes(broken)
        with pytest.raises(ValueError, match=r"map\.safetensors"):
            Map.load(tmp_path)
    tensors.unlink()
    with pytest.raises(ValueError, match=r"map\.safetensors is missing"):
        Map.load(tmp_path)
    tensors.write_bytes(whole)
    content = json.loads(description.read_text())
    for change in ({"version": 99}, {"images": content["images"][:2]}, {"options": {"nope": 1}}):
        description.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=r"map\."):
            Map.load(tmp_path)
    description.write_text("{")
    with pytest.raises(ValueError, match=r"map\.json"):
        Map.load(tmp_path)


def test_bad_photos_and_options(model: Map, photo: np.ndarray, tmp_path) -> None:
    localizer = Localizer(model)
    with pytest.raises(ValueError, match="its camera 320 x 240"):
        localizer.localize(photo[:100], CAMERA)
    with pytest.raises(ValueError, match="no such image"):
        localizer.localize(tmp_path / "none.jpg", CAMERA)
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ValueError, match=r"cannot read image .*text\.jpg"):
        localizer.localize(tmp_path / "text.jpg", CAMERA)
    with pytest.raises(TypeError, match="uint8"):
        localizer.localize(photo.astype(np.int64), CAMERA)
    with pytest.raises(ValueError, match="prior"):
        localizer.localize(photo, CAMERA, np.zeros((3, 4)))
    with pytest.raises(TypeError, match="did you mean max_points"):
        Localizer(model, max_point=3)
    with pytest.raises(ValueError, match="sigma_fine"):
        LocalizerOptions(sigma_fine=(1.0, 2.0))
    with pytest.raises(TypeError, match="did you mean scales"):
        Map.build(tmp_path, tmp_path, scale=(1.0,))
    with pytest.raises(ValueError, match="the map was built with"):
        Localizer(model, DenseRootSIFT(fine=DenseRootSIFT().coarse))


def test_photos_without_an_answer(model: Map) -> None:
    rng = np.random.default_rng(5)
    for image in (
        np.full((240, 320), 90, np.uint8),
        rng.integers(0, 255, (240, 320)).astype(np.uint8),
    ):
        estimate = Localizer(model).localize(image, CAMERA)
        assert not estimate.success and estimate.reason
        assert np.isfinite(estimate.cam_from_world).all()


def test_a_fine_stage_without_any_patch_is_no_success(model: Map, photo: np.ndarray) -> None:
    found = Localizer(model, max_angle=1e-6).localize(photo, CAMERA)
    assert not found.success and "fine stage" in found.reason


def test_maps_with_hardly_any_points(photo: np.ndarray) -> None:
    for xyz in (np.zeros((0, 3)), points()[:1], points()[:3], np.tile(points()[:1], (50, 1))):
        estimate = Localizer(build(xyz)).localize(photo, CAMERA)
        assert not estimate.success and estimate.reason


class Halved:
    """A one-level descriptor without warping: what a network looks like to the localizer."""

    beta = (40.0,)

    def __init__(self) -> None:
        self.sift = DenseRootSIFT()

    def dense(self, image: np.ndarray) -> list[Features]:
        return [self.sift.dense(image)[0]]

    def describe(self, image: np.ndarray, xy: np.ndarray, scales) -> list[np.ndarray]:
        return [self.sift.describe(image, xy, scales)[0]]


class TwoLevels(Halved):
    """Two levels, still without warping: the map stores fine descriptors."""

    beta = (40.0, 100.0)

    def dense(self, image: np.ndarray) -> list[Features]:
        return list(self.sift.dense(image))

    def describe(self, image: np.ndarray, xy: np.ndarray, scales) -> list[np.ndarray]:
        return list(self.sift.describe(image, xy, scales))


def test_other_descriptors_plug_in(photo: np.ndarray) -> None:
    coarse = Halved()
    one = build(descriptor=coarse)
    assert one.fine is None and not one.images
    found = Localizer(one, coarse).localize(photo, CAMERA)
    assert found.success and pose_error(found.cam_from_world, QUERY)[0] < 1.0
    fine = TwoLevels()
    two = build(descriptor=fine)
    assert two.fine is not None
    found = Localizer(two, fine).localize(photo, CAMERA)
    assert found.success and pose_error(found.cam_from_world, QUERY)[0] < 0.1
    with pytest.raises(ValueError, match="pass that descriptor"):
        Localizer(two)


def test_arrays_that_do_not_fit() -> None:
    good = dict(
        image_names=["a"], cameras=[CAMERA], cam_from_world=POSES[:1], images=[render(POSES[0])]
    )
    with pytest.raises(ValueError, match="obs_ptr"):
        Map.from_arrays(np.zeros((2, 3)), [0, 1], [0], **good)
    with pytest.raises(ValueError, match="obs_view"):
        Map.from_arrays(np.zeros((1, 3)), [0, 1], [4], **good)
    with pytest.raises(ValueError, match="xyz"):
        Map.from_arrays(np.full((1, 3), np.nan), [0, 1], [0], **good)
    with pytest.raises(ValueError, match="pixels and its camera"):
        Map.from_arrays(
            points()[:1], [0, 1], [0], **{**good, "images": [np.zeros((9, 9), np.uint8)]}
        )
    with pytest.raises(ValueError, match="scales"):
        MapOptions(scales=())
