# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The demo scene: pictures, model and problems agree with each other and with the seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("pycolmap")
pytest.importorskip("skimage")

from pyloc_core import Camera
from pyloc_core.localization.demo_render import Block, Face, light, render, trace
from pyloc_core.localization.demo_scene import courtyard, load_texture, look_at, views


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pyloc_core.localization.demo_data import write_demo

    return write_demo(tmp_path_factory.mktemp("demo") / "scene", seed=0)


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    return courtyard(0)


def chequers(size: int = 64) -> np.ndarray:
    cells = np.add.outer(np.arange(size) // 8, np.arange(size) // 8) % 2
    return np.repeat(0.2 + 0.6 * cells[..., None], 3, axis=2).astype(np.float32)


def test_a_wall_is_traced_where_geometry_puts_it(rng: np.random.Generator) -> None:
    camera = Camera("SIMPLE_RADIAL", 320, 240, (250.0, 160.0, 120.0, -0.05))
    x, _, z = np.eye(3)
    wall = Face(np.array([-4.0, 5.0, 3.0]), 8 * x, -6 * z, chequers())
    pose = look_at(np.array([0.3, -1.0, 0.2]), np.array([0.0, 5.0, 0.0]), roll=5.0)
    uv = rng.uniform(0.25, 0.75, (200, 2))
    local = wall.points(uv) @ pose[:, :3].T + pose[:, 3]
    xy, valid = camera.project(local)
    depth, owner, u, v = trace([wall], camera, pose, xy)
    assert valid.all() and (owner == 0).all()
    np.testing.assert_allclose(depth, local[:, 2], rtol=1e-9)
    np.testing.assert_allclose(np.stack([u, v], 1), uv, atol=1e-8)


def test_nearer_faces_hide_farther_ones_and_backs_are_not_seen() -> None:
    camera = Camera("PINHOLE", 64, 48, (60.0, 60.0, 32.0, 24.0))
    x, _, z = np.eye(3)
    far = Face(np.array([-9.0, 6.0, 9.0]), 18 * x, -18 * z, chequers())
    near = Face(np.array([-1.0, 3.0, 1.0]), 2 * x, -2 * z, chequers())
    pose = look_at(np.zeros(3), np.array([0.0, 1.0, 0.0]))
    middle, edge = np.array([[32.0, 24.0]]), np.array([[2.0, 24.0]])
    assert trace([far, near], camera, pose, middle)[1][0] == 1
    assert trace([far, near], camera, pose, edge)[1][0] == 0
    behind = look_at(np.array([0.0, 9.0, 0.0]), np.zeros(3))
    assert trace([far, near], camera, behind, middle)[1][0] == -1


def test_the_picture_shows_the_texture_with_depth_and_sky() -> None:
    camera = Camera("PINHOLE", 96, 64, (80.0, 80.0, 48.0, 32.0))
    x, _, z = np.eye(3)
    wall = Face(np.array([-1.0, 2.0, 0.5]), 2 * x, -1 * z, chequers())
    light(wall, (), floor=True)
    pose = look_at(np.zeros(3), np.array([0.0, 1.0, 0.0]))
    picture, depth = render([wall], camera, pose)
    assert picture.shape == (64, 96, 3) and depth.shape == (64, 96)
    np.testing.assert_allclose(depth[30:34, 40:56], 2.0, rtol=1e-6)
    assert np.isinf(depth[0]).all() and picture[0, :, 2].min() > picture[0, :, 0].max()
    lit = picture[24:40, 20:76].mean(axis=2)
    assert lit.max() > 2.5 * lit.min() > 0


def test_a_block_casts_a_shadow_to_the_side_away_from_the_sun() -> None:
    x, y, _ = np.eye(3)
    block = Block((0.0, 0.0), (1.0, 1.0), 1.0, 0.0, ())
    ground = Face(np.array([-4.0, 4.0, 0.0]), 8 * x, -8 * y, np.ones((256, 256, 3), np.float32))
    light(ground, (block,), floor=True)
    shade = ground.levels[0][..., 0]
    away = shade[int((4 - 0.95) / 8 * 256), int((4 + 0.7) / 8 * 256)]
    toward = shade[int((4 + 0.95) / 8 * 256), int((4 - 0.7) / 8 * 256)]
    assert away < 0.6 * toward


def test_textures_come_from_inside_the_wheel() -> None:
    assert load_texture("coffee.png").shape == (400, 600, 3)
    with pytest.raises(FileNotFoundError, match=r"does not ship no_such\.png"):
        load_texture("no_such.png")


def test_the_model_and_the_pictures_agree(scene: Path) -> None:
    import pycolmap
    from PIL import Image

    model = pycolmap.Reconstruction(str(scene / "sparse"))
    cameras = json.loads((scene / "cameras.json").read_text())
    assert len(model.images) == len(cameras) == 12
    assert 1000 <= len(model.points3D) <= 1500
    assert model.compute_mean_reprojection_error() < 1e-6
    for image in model.images.values():
        with Image.open(scene / "images" / image.name) as picture:
            assert picture.size == (image.camera.width, image.camera.height)
            values = np.asarray(picture.convert("L"), np.float32)
        assert 30 < values.mean() < 200 and values.std() > 25
        pose = image.cam_from_world().matrix()
        np.testing.assert_allclose(pose[:, :3], cameras[image.name]["R_cam_from_world"], atol=1e-12)


def test_the_same_point_looks_alike_in_two_pictures(scene: Path) -> None:
    """Patches around the observations of one point correlate; around other points they do not."""
    import cv2

    with np.load(scene / "loo" / "view_04.npz") as problem:
        names, ptr = problem["image_names"], problem["obs_ptr"]
        image, xy = problem["obs_image"], problem["obs_xy"]
    views5, views6 = (int(np.flatnonzero(names == f"view_0{i}.jpg")[0]) for i in (5, 3))
    grey = [
        cv2.imread(str(scene / "images" / str(names[i])), cv2.IMREAD_GRAYSCALE).astype(np.float32)
        for i in (views5, views6)
    ]
    patches: list[list[np.ndarray]] = [[], []]
    for point in range(len(ptr) - 1):
        row = slice(ptr[point], ptr[point + 1])
        seen = dict(zip(image[row].tolist(), xy[row]))
        if views5 in seen and views6 in seen:
            for k, view in enumerate((views5, views6)):
                at = (float(seen[view][0]) - 0.5, float(seen[view][1]) - 0.5)
                patch = cv2.getRectSubPix(grey[k], (13, 13), at).ravel()
                patches[k].append((patch - patch.mean()) / (patch.std() + 1e-6))
    a, b = np.array(patches[0]), np.array(patches[1])
    assert len(a) > 150
    same, other = (a * b).mean(1), (a * np.roll(b, 1, axis=0)).mean(1)
    assert np.median(same) > 0.5 > 0.2 > np.median(other)


def test_problems_leave_the_query_out(scene: Path) -> None:
    for path in sorted((scene / "loo").glob("*.npz")):
        with np.load(path) as problem:
            values = {key: problem[key] for key in problem.files}
        names = values["image_names"].tolist()
        query = names.index(str(values["query"]))
        assert (values["obs_image"] != query).all()
        assert (np.diff(values["obs_ptr"]) >= 2).all()
        assert values["obs_ptr"][-1] == len(values["obs_xy"]) == len(values["obs_image"])
        entry = json.loads((scene / "cameras.json").read_text())[str(values["query"])]
        local = values["xyz"] @ values["R_ref"].T + values["t_ref"]
        xy, _ = Camera.from_dict(entry).project(local)
        seen = values["sift_visible"]
        assert seen.sum() > 300 and values["in_image"][seen].all()
        np.testing.assert_allclose(xy[seen], values["ref_proj_xy"][seen], atol=1e-3)


def test_the_seed_decides_everything(faces: list[Face]) -> None:
    again, other = courtyard(0), courtyard(1)
    assert all((a.levels[0] == b.levels[0]).all() for a, b in zip(faces, again))
    assert any((a.levels[0] != b.levels[0]).any() for a, b in zip(faces, other))
    view = views()[0]
    small = view.camera.resized((75, 100))
    one, _ = render(faces, small, view.cam_from_world)
    two, _ = render(again, small, view.cam_from_world)
    assert (one == two).all()
