# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse depths out of a COLMAP model, and refinement straight from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyloc_core.depth import SfmView, kitti_benchmark_box, sfm_supervision

H, W = 60, 80
CAMERA = {"model": "SIMPLE_RADIAL", "width": W, "height": H, "params": [70.0, 40.0, 30.0, -0.1]}


def model(images: int = 3, points: int = 50, errors: bool = True) -> Any:
    """Cameras side by side, distorted, with observations half a pixel off; the last image has no pose."""
    pycolmap = pytest.importorskip("pycolmap")
    rng = np.random.default_rng(0)
    made = pycolmap.Reconstruction()
    camera = pycolmap.Camera(camera_id=1, **CAMERA)
    made.add_camera_with_trivial_rig(camera)
    xyz = rng.uniform([-1.5, -1, 3], [1.5, 1, 9], (points, 3))
    for i in range(images):
        moved = xyz + [0.1 * i, 0, 0.2]
        xy = camera.img_from_cam(moved) + rng.uniform(-0.5, 0.5, (points, 2))
        image = pycolmap.Image(name=f"{i}.png", keypoints=xy, camera_id=1, image_id=i + 1)
        pose = np.column_stack([np.eye(3), [0.1 * i, 0, 0.2]])
        made.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose))
    for p in range(points):
        track = [pycolmap.TrackElement(i + 1, p) for i in range(images)]
        made.add_point3D(xyz[p], pycolmap.Track(track), np.zeros(3, np.uint8))
    if errors:
        made.update_point_3d_errors()
    return made


def test_depths_positions_and_errors():
    built = model()
    first, second, third = sfm_supervision(built)
    assert [v.name for v in (first, second, third)] == ["0.png", "1.png", "2.png"]
    assert len(second) == 50 and second.size == (H, W)
    ids = second.point_ids.tolist()
    np.testing.assert_allclose(second.depths, [built.points3D[i].xyz[2] + 0.2 for i in ids])
    by_id = {p.point3D_id: p.xy for p in built.images[2].points2D}
    np.testing.assert_array_equal(second.xy, [by_id[i] for i in ids])  # the observation as it is
    # The error is the mean over the track, which COLMAP's own projection gives.
    distances = []
    for image in built.images.values():
        observed = {p.point3D_id: p.xy for p in image.points2D}
        found = [image.project_point(built.points3D[i].xyz) for i in ids]
        distances.append(np.linalg.norm(np.array(found) - [observed[i] for i in ids], axis=1))
    np.testing.assert_allclose(second.errors, np.mean(distances, 0))
    assert second.errors.min() > 0.05


def test_errors_are_computed_where_the_model_has_none():
    bare = model(errors=False)
    view = sfm_supervision(bare)[0]
    np.testing.assert_allclose(view.errors, sfm_supervision(model())[0].errors)
    assert not any(p.has_error() for p in bare.points3D.values())  # the caller's model is as it was


def test_names_and_images_that_are_not_registered():
    built = model()
    built.deregister_frame(built.images[2].frame_id)
    assert [v.name for v in sfm_supervision(built)] == ["0.png", "2.png"]
    views = sfm_supervision(built, ["2.png", "1.png", "never.png"])
    assert [(v.name, len(v)) for v in views] == [("2.png", 50), ("1.png", 0), ("never.png", 0)]
    with pytest.raises(ValueError, match=r"none of the 2 images.*2 registered"):
        sfm_supervision(built, ["1.png", "never.png"])
    with pytest.raises(ValueError, match="twice"):
        sfm_supervision(built, ["0.png", "0.png"])


def test_points_that_do_not_count():
    pycolmap = pytest.importorskip("pycolmap")
    built = model()
    built.points3D[1].xyz = np.array([0.0, 0.0, -4.0])  # behind
    first = sfm_supervision(built)[0]
    assert 1 not in first.point_ids and len(first) == 49
    image = built.images[1]
    image.points2D[1].xy = np.array([W + 3.0, 5.0])  # outside
    assert len(sfm_supervision(built)[0]) == 48
    assert pycolmap.Reconstruction  # imported for the skip


def test_a_folder_and_bad_folders(tmp_path: Path):
    built = model()
    (tmp_path / "sparse").mkdir()
    built.write(str(tmp_path / "sparse"))
    assert [len(v) for v in sfm_supervision(tmp_path / "sparse")] == [50, 50, 50]
    with pytest.raises(ValueError, match="no such model folder"):
        sfm_supervision(tmp_path / "absent")
    with pytest.raises(ValueError, match="no COLMAP model"):
        sfm_supervision(tmp_path)
    with pytest.raises(ValueError, match="no such image folder"):
        sfm_supervision(tmp_path / "sparse", image_folder=tmp_path / "images")


def view(xy: Any, size: tuple[int, int] = (375, 1242)) -> SfmView:
    count = len(xy)
    return SfmView("a", size, np.array(xy, float), np.arange(1.0, count + 1), np.ones(count))


def test_crops():
    corners = [[0.0359 * 1242, 200], [0.036 * 1242, 200], [600, 0.408 * 375], [600, 0.4082 * 375]]
    assert view(corners).within("garg").depths.tolist() == [2.0, 4.0]
    with pytest.raises(ValueError, match="did you mean 'garg'"):
        view(corners).within("grag")
    box = kitti_benchmark_box((375, 1242))
    assert box == (13, 23, 1216, 352)
    part = view([[12.9, 100], [13.0, 100], [500, 22.9], [500.5, 25.0], [1229.0, 30.0]]).crop(box)
    assert part.size == (352, 1216) and part.depths.tolist() == [2.0, 4.0]
    np.testing.assert_allclose(part.xy, [[0.0, 77.0], [487.5, 2.0]])
    with pytest.raises(ValueError, match="has no crop"):
        kitti_benchmark_box((300, 1242))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depths": [1.0, 0.0]}, "positive"),
        ({"depths": [1.0, np.nan]}, "depths of a holds NaN"),
        ({"depths": [1.0]}, "depths must be"),
        ({"errors": [1.0, -1.0]}, "not negative"),
        ({"xy": [[1.0, np.inf], [0, 0]]}, "xy of a"),
        ({"size": (0, 3)}, "size"),
    ],
)
def test_bad_views(change, words):
    good = {"name": "a", "size": (4, 4), "xy": [[1.0, 1], [2, 2]], "depths": [1.0, 2]}
    good["errors"] = [0.1, 0]
    SfmView(**good)
    with pytest.raises(ValueError, match=words):
        SfmView(**{**good, **change})


def test_refinement_from_a_folder_of_images(tmp_path: Path):
    torch = pytest.importorskip("torch")
    image_module = pytest.importorskip("PIL.Image")
    from pyloc_core.depth import RefinementOptions, refine_network

    built = model()
    for name in ("sparse", "images"):
        (tmp_path / name).mkdir()
    built.write(str(tmp_path / "sparse"))
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 256, (H, W, 3)).astype(np.uint8)
        image_module.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), torch.nn.Softplus())
    with torch.no_grad():
        network[0].bias += 3.0
    seen = []
    network[0].register_forward_hook(lambda module, given, out: seen.append(given[0]))
    options = RefinementOptions(steps=30, learning_rate=1e-2)
    done = refine_network(
        network, network.parameters(), tmp_path / "sparse", tmp_path / "images", options=options,
        progress=False,
    )  # fmt: skip
    assert seen[0].shape == (1, 3, H, W) and 0 <= seen[0].min() < 0.01 and seen[0].max() == 1
    assert done.losses[-3:].mean() < done.losses[:3].mean()
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"lacks the model's image 1\.png"):
        refine_network(
            network, network.parameters(), tmp_path / "sparse", tmp_path / "images", progress=False
        )
