# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""`pyloc-core depth` from end to end on a rendered scene with exact depth, and its bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("pycolmap")
pytest.importorskip("typer")

import depth_scene
import pycolmap
from typer.testing import CliRunner

from pyloc_core.cli import app
from pyloc_core.depth.depth_files import read_depth

RUNNER = CliRunner()
NAMES = [f"{i}.png" for i in range(5)]


def run(*args: object) -> tuple[int, str]:
    done = RUNNER.invoke(app, ["depth", *map(str, args), "--quiet"])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return depth_scene.write_model(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def made(scene: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("depth")
    code, text = run(
        "--model", scene[0], "--images", scene[1], "--out", out, "--colmap", out / "colmap"
    )
    assert code == 0, text
    return out, text


def errors(out: Path, folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of all known pixels of all maps, and the share of known pixels of each map."""
    off, known = [], []
    for name, truth in zip(NAMES, depth_scene.exact_maps()):
        depth = read_depth(out / folder / f"{name}.npy")
        there = depth > 0
        off.append(np.abs(depth / truth.depth - 1)[there])
        known.append(there.mean())
    return np.concatenate(off), np.array(known)


def test_maps_are_right_and_most_of_the_scene_is_kept(made: tuple[Path, str]) -> None:
    raw, known = errors(made[0], "raw")
    assert np.median(raw) < 0.006 and np.mean(raw < 0.03) > 0.92 and known.min() > 0.95
    kept, known = errors(made[0], "depth")
    assert np.median(kept) < 0.003 and np.mean(kept < 0.03) > 0.98
    assert np.mean(kept < 0.03) > np.mean(raw < 0.03) and known.mean() > 0.7


def test_the_report_says_the_same(made: tuple[Path, str]) -> None:
    report = json.loads((made[0] / "report.json").read_text())
    assert [image["name"] for image in report["images"]] == NAMES and not report["skipped"]
    for image in report["images"]:
        assert image["before"]["points"] > 50 and image["after"]["within_3"] > 0.97
        assert image["near"] < 2.6 and image["far"] > 5.0 and 2 <= len(image["sources"]) <= 4
        assert image["name"] in made[1]
    _, known = errors(made[0], "depth")
    np.testing.assert_allclose([image["kept"] for image in report["images"]], known, atol=1e-6)
    assert f"points.ply with {report['points']} points" in made[1] and report["points"] > 20_000


def test_pictures_and_cameras_are_there(made: tuple[Path, str]) -> None:
    from PIL import Image

    cameras = json.loads((made[0] / "cameras.json").read_text())
    assert sorted(cameras) == NAMES
    for name, truth in zip(NAMES, depth_scene.exact_maps()):
        assert cameras[name]["model"] == "PINHOLE"
        np.testing.assert_allclose(cameras[name]["params"], truth.camera.params)
        np.testing.assert_allclose(cameras[name]["cam_from_world"], truth.cam_from_world, atol=1e-9)
        with Image.open(made[0] / "preview" / f"{name}.png") as picture:
            assert picture.height == 144 and np.asarray(picture).std() > 20


def test_colmap_fuses_the_workspace(made: tuple[Path, str]) -> None:
    workspace = made[0] / "colmap"
    options = pycolmap.StereoFusionOptions()
    options.min_num_pixels, options.num_threads = 3, 1
    (made[0] / "fused").mkdir()
    pycolmap.stereo_fusion(made[0] / "fused", workspace, input_type="geometric", options=options)
    fused = pycolmap.Reconstruction(str(made[0] / "fused"))
    points = np.array([point.xyz for point in fused.points3D.values()])
    assert len(points) > 5000
    wall, board = depth_scene.rgbd_scene.WALL, depth_scene.rgbd_scene.BOARD
    y, z = points[:, 1], points[:, 2]
    off = np.minimum.reduce([np.abs(y - wall), np.abs(y - board), np.abs(z)])
    assert np.median(off) < 0.02


def test_a_later_run_leaves_no_cloud_or_report_of_an_earlier_one(
    scene: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyloc_core.depth.sweep_stereo import SweepStereo

    given = ("--model", scene[0], "--images", scene[1], "--out", tmp_path, "--max-size", 64)
    assert run(*given)[0] == 0 and (tmp_path / "points.ply").is_file()
    assert run(*given, "--no-cloud")[0] == 0
    assert (tmp_path / "report.json").is_file() and not (tmp_path / "points.ply").exists()

    def broken(*_: object) -> None:
        raise ValueError("interrupted")

    monkeypatch.setattr(SweepStereo, "__call__", broken)
    code, text = run(*given)
    assert code == 2 and "interrupted" in text
    assert not (tmp_path / "report.json").exists() and not (tmp_path / "cameras.json").exists()


def test_other_options(scene: tuple[Path, Path], tmp_path: Path) -> None:
    code, text = run(
        "--model", scene[0], "--images", scene[1], "--out", tmp_path / "a", "--max-size", 96,
        "--format", "pfm", "--no-cloud", "--planes", 24, "--near", 2, "--far", 8, "--exclude", "4.png",
        "--sources", 1,
    )  # fmt: skip
    assert code == 0, text
    assert "points.ply" not in text and not (tmp_path / "a" / "points.ply").exists()
    assert read_depth(tmp_path / "a" / "depth" / "0.png.pfm").shape == (72, 96)
    assert not (tmp_path / "a" / "depth" / "4.png.pfm").exists()
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert {(i["near"], i["far"], len(i["sources"])) for i in report["images"]} == {(2, 8, 1)}


def without(scene: tuple[Path, Path], folder: Path, names: list[str], points: bool = True) -> Path:
    """The model with the images `names` not registered, or without points."""
    model = pycolmap.Reconstruction(str(scene[0]))
    for image in list(model.images.values()):
        if image.name in names:
            model.deregister_frame(image.frame_id)
    if not points:
        for number in list(model.points3D):
            model.delete_point3D(number)
    folder.mkdir()
    model.write(str(folder))
    return folder


def test_a_model_without_points_takes_range_and_sources_from_the_cameras(
    scene: tuple[Path, Path], tmp_path: Path
) -> None:
    bare = without(scene, tmp_path / "bare", [], points=False)
    code, text = run("--model", bare, "--images", scene[1], "--out", tmp_path / "out", "--no-cloud")
    assert code == 0, text
    kept, known = errors(tmp_path / "out", "depth")
    assert np.median(kept) < 0.005 and np.mean(kept < 0.03) > 0.95 and known.mean() > 0.4
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["images"][0]["before"] == {
        "points": 0, "covered": None, "median": None, "within_1": None, "within_3": None
    }  # fmt: skip


def test_models_with_one_or_no_registered_image(scene: tuple[Path, Path], tmp_path: Path) -> None:
    for count in (4, 5):
        part = without(scene, tmp_path / str(count), NAMES[:count])
        code, text = run("--model", part, "--images", scene[1], "--out", tmp_path / "out")
        assert code == 2 and f"{5 - count} registered images; depth needs at least 2" in text


def test_photos_that_are_not_registered_are_named(scene: tuple[Path, Path], tmp_path: Path) -> None:
    part = without(scene, tmp_path / "part", ["1.png", "3.png"])
    args = ("--images", scene[1], "--out", tmp_path / "out", "--no-cloud", "--max-size", 96)
    code, text = run("--model", part, *args)
    assert (
        code == 0 and "2 photos are not registered in the model and skipped: 1.png, 3.png" in text
    )
    assert sorted(p.name for p in (tmp_path / "out" / "depth").iterdir()) == [
        "0.png.npy", "2.png.npy", "4.png.npy"
    ]  # fmt: skip
    code, text = run("--model", scene[0], *args, "--exclude", "4.png")
    assert code == 0 and "not registered" not in text


def test_an_image_that_shares_nothing_is_skipped_by_name(
    scene: tuple[Path, Path], tmp_path: Path
) -> None:
    model = pycolmap.Reconstruction(str(scene[0]))
    lonely = next(image for image in model.images.values() if image.name == "3.png")
    for index in range(lonely.num_points2D()):
        if lonely.points2D[index].has_point3D():
            model.delete_observation(lonely.image_id, index)
    (tmp_path / "model").mkdir()
    model.write(str(tmp_path / "model"))
    args = ("--images", scene[1], "--out", tmp_path / "out", "--no-cloud", "--max-size", 96)
    code, text = run("--model", tmp_path / "model", *args)
    assert code == 0 and "3.png: no other image sees what it sees, skipped" in text
    assert json.loads((tmp_path / "out" / "report.json").read_text())["skipped"] == ["3.png"]
    assert not (tmp_path / "out" / "depth" / "3.png.npy").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--near", 5, "--far", 2), "near must be less than far"),
        (("--near", 100), "near must be less than far"),
        (("--format", "exr"), "format must be one of npy, pfm, bin"),
        (("--voxel", -1), "voxel must be positive"),
        (("--exclude", "9.png"), "no image 9.png"),
        (("--weights", "no.pt"), "no.pt"),
        (("--weights", "no.pt", "--planes", 8), "--planes is of the sweep"),
        (("--weights", "no.pt", "--min-confidence", 0.5), "--min-confidence is of the sweep"),
        (("--device", "cpu"), "--device is of the network"),
    ],
)
def test_bad_options_are_one_line(
    scene: tuple[Path, Path], tmp_path: Path, args: tuple, says: str
) -> None:
    if "--weights" in args:
        pytest.importorskip("torch")
    code, text = run("--model", scene[0], "--images", scene[1], "--out", tmp_path / "out", *args)
    assert code == 2 and says in text, text
    assert "Traceback" not in text


def test_a_missing_image_file_is_named(scene: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(scene[1], tmp_path / "images")
    (tmp_path / "images" / "2.png").unlink()
    code, text = run("--model", scene[0], "--images", tmp_path / "images", "--out", tmp_path / "o")
    assert code == 2 and "lacks the model's image 2.png" in text


@pytest.mark.parametrize("name", ["../1.png", "a/../../1.png", "/elsewhere/1.png"])
def test_names_that_lead_out_of_the_folder_are_refused(
    scene: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    from dataclasses import replace

    from pyloc_core.depth import SweepStereo, make_depth_maps, read_posed_images

    views = [replace(view, name=name) for view in read_posed_images(*scene)[:2]]
    with pytest.raises(ValueError, match="leads out of the folder"):
        make_depth_maps(views, SweepStereo(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_network_are_refused(scene: tuple[Path, Path], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"conv1.weight": torch.ones(3, 3)}, tmp_path / "other.pt")
    code, text = run(
        "--model", scene[0], "--images", scene[1], "--out", tmp_path / "o", "--weights",
        tmp_path / "other.pt",
    )  # fmt: skip
    assert code == 2 and "other" in text and "Traceback" not in text
