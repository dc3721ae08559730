# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The command line and the files it reads and writes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("PIL")

import pyloc_core
from pyloc_core import Camera, PoseEstimate, camera_center, pose_error
from pyloc_core.localization import photo_camera
from pyloc_core.localization.batch import CameraSource
from pyloc_core.localization.poses_file import pose_entry, standard_deviations, write_poses


def run(*args: object, cwd: str | Path = sys.prefix) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with the package under test, from elsewhere."""
    command = [sys.executable, "-m", "pyloc_core.cli", *map(str, args)]
    env = {**os.environ, "PYTHONPATH": str(Path(pyloc_core.__file__).parents[1])}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, env=env)


def photo(
    path: Path, size: tuple[int, int] = (64, 48), exif: dict[int, object] | None = None
) -> Path:
    from PIL import Image

    values = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(values)
    tags = Image.Exif()
    if exif:
        tags.get_ifd(0x8769).update(exif)
    image.save(path, exif=tags)
    return path


def estimate(rng: np.random.Generator) -> PoseEstimate:
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    root = 1e-2 * rng.standard_normal((6, 6))
    return PoseEstimate(
        cam_from_world=np.column_stack([rotation, rng.standard_normal(3)]),
        success=True,
        reason="converged",
        cost=12.5,
        gain=80.0,
        inlier_probability=rng.uniform(size=30),
        covariance=root @ root.T,
        iterations=9,
        timings={"msac": 0.25, "total": 0.5},
        num_usable=28,
        num_consistent=21,
    )


# ---------------------------------------------------------------- the program


def test_help_is_quick_and_names_every_command() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = run("--help")
        seconds.append(time.perf_counter() - start)
    assert done.returncode == 0
    for command in ("build-map", "localize", "evaluate", "demo", "bench", "info"):
        assert command in done.stdout
    assert min(seconds) < 1.5  # alone on the machine it takes about a quarter of a second


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, pyloc_core.cli; "
        "print([m for m in ('cv2', 'pycolmap', 'matplotlib', 'torch', 'PIL', 'scipy') "
        "if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(Path(pyloc_core.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=sys.prefix, env=env)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_info_lists_build_and_packages() -> None:
    done = run("info", "--json")
    content = json.loads(done.stdout)
    assert done.returncode == 0
    assert content["isa"] in {"baseline", "avx2", "avx512", "neon"}
    assert "p3p" in content["operators"] and "numpy" in content
    assert content["packages"]["pillow"][0].isdigit()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["build-map", "no_model", "no_images", "out"], "no such model folder: no_model"),
        (["localize", "no_map"], "no photos given"),
        (["localize", "no_map", "a.jpg"], "no_map"),
        (["evaluate", "--data", "no_data"], "no_data"),
        (["demo", "--data", "no_data"], "no_data"),
        (["localize", "no_map", "a.jpg", "--out", "poses.xml"], "--out must end in .json"),
        (["localize", "m", "a.jpg", "--focal", "5", "--camera", "PINHOLE 1 1 1 1 1 1"], "not both"),
        (["localize", "m", "a.jpg", "--focal", "-5"], "--focal must be a positive"),
        (["localize", "m", "a.jpg", "--camera", "PINHOL 64 48 1 1 1 1"], "did you mean PINHOLE"),
        (["localize", "m", "a.jpg", "--camera", "PINHOLE 64"], "MODEL width height params"),
        (["localize", "m", "--list", "no_list.txt"], "cannot read no_list.txt"),
        (["nonsense"], "nonsense"),
        (["localize", "m", "a.jpg", "--no-such-option"], "--no-such-option"),
    ],
)
def test_user_errors_are_one_line(args: list[str], says: str, tmp_path: Path) -> None:
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr and "Traceback" not in done.stdout


def test_models_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    model, images = tmp_path / "sparse", tmp_path / "images"
    model.mkdir()
    assert "is no COLMAP model" in run("build-map", model, images, tmp_path / "map").stderr
    for name in ("cameras", "images", "points3D"):
        (model / f"{name}.bin").write_bytes(b"\x07\x00\x00")  # a truncated file
    assert "no such image folder" in run("build-map", model, images, tmp_path / "map").stderr
    images.mkdir()
    done = run("build-map", model, images, tmp_path / "map")
    assert done.returncode == 2 and "cannot read the COLMAP model" in done.stderr
    assert not (tmp_path / "map").exists()


# ---------------------------------------------------------------- cameras


def test_a_camera_is_read_from_its_text() -> None:
    camera = photo_camera.parse_camera("simple_radial, 640, 480, 500, 320, 240, -0.1")
    assert camera == Camera("SIMPLE_RADIAL", 640, 480, (500, 320, 240, -0.1))


def test_the_focal_length_comes_from_exif(tmp_path: Path) -> None:
    wide = photo_camera.camera_from_exif(photo(tmp_path / "a.jpg", exif={0xA405: 28}))
    assert wide is not None
    assert wide.params == pytest.approx((28 / 36 * 64, 32, 24))
    tags = {0x920A: 4.0, 0xA20E: 8.0, 0xA210: 4}  # 4 mm, 8 pixels per mm
    sensor = photo_camera.camera_from_exif(photo(tmp_path / "b.jpg", exif=tags))
    assert sensor is not None and sensor.fx == pytest.approx(32.0)
    assert photo_camera.camera_from_exif(photo(tmp_path / "c.jpg")) is None


def test_the_camera_of_a_photo_is_looked_up_in_order(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", exif={0xA405: 28})
    modelled = Camera("PINHOLE", 128, 96, (100, 101, 64, 48))  # twice the photo's size
    source = CameraSource()
    assert source.of(path, {}).model == "SIMPLE_PINHOLE"
    assert source.of(path, {"a.jpg": modelled}).params == pytest.approx((50, 50.5, 32, 24))
    by_name = CameraSource(by_name={"a.jpg": Camera("PINHOLE", 64, 48, (70, 70, 32, 24))})
    assert by_name.of(path, {"a.jpg": modelled}).fx == 70
    assert CameraSource(focal=55.0).of(path, {"a.jpg": modelled}).fx == 55
    with pytest.raises(ValueError, match="is 64 x 48 but its camera is for 48 x 64"):
        source.of(path, {"a.jpg": Camera("PINHOLE", 48, 64, (70, 70, 24, 32))})
    with pytest.raises(ValueError, match="no EXIF focal length; give --focal"):
        source.of(photo(tmp_path / "plain.jpg"), {})


def test_damaged_photos_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    with pytest.raises(ValueError, match=r"cannot read image .*broken\.jpg"):
        photo_camera.image_size(broken)
    with pytest.raises(ValueError, match=r"no such image: .*absent\.jpg"):
        photo_camera.image_size(tmp_path / "absent.jpg")


def test_names_are_found_by_the_end_of_the_path() -> None:
    entries = {"left/a.jpg": 1, "right/a.jpg": 2, "b.jpg": 3}
    assert photo_camera.lookup(entries, "/data/right/a.jpg") == 2
    assert photo_camera.lookup(entries, "/data/b.jpg") == 3
    assert photo_camera.lookup(entries, "/data/a.jpg") is None


def test_lists_hold_names_with_or_without_cameras(tmp_path: Path) -> None:
    path = tmp_path / "photos.txt"
    path.write_text("# two\na b.jpg\n\nc.jpg PINHOLE 64 48 50 50 32 24\n")
    assert photo_camera.read_list(path) == [
        ("a b.jpg", None),
        ("c.jpg", Camera("PINHOLE", 64, 48, (50, 50, 32, 24))),
    ]
    path.write_text("ok.jpg\nc.jpg PINHOLE 64 48 50\n")
    with pytest.raises(ValueError, match="line 2"):
        photo_camera.read_list(path)


# ---------------------------------------------------------------- poses


def test_poses_survive_the_round_trip(tmp_path: Path, rng: np.random.Generator) -> None:
    found = estimate(rng)
    camera = Camera("PINHOLE", 64, 48, (50, 50, 32, 24))
    entries = [
        pose_entry("a.jpg", camera, found),
        pose_entry("b.jpg", None, PoseEstimate.failed("too dark", 0)),
    ]
    for ending in ("json", "csv", "txt"):
        write_poses(tmp_path / f"new/poses.{ending}", entries)
    priors = photo_camera.read_priors(tmp_path / "new/poses.json")
    assert list(priors) == ["a.jpg"]  # photos that failed are no prior
    assert max(pose_error(priors["a.jpg"], found.cam_from_world)) < 1e-9
    with (tmp_path / "new/poses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["success"] for row in rows] == ["True", "False"]
    assert rows[1]["reason"] == "too dark"
    centre = [float(rows[0][f"center_{axis}"]) for axis in "xyz"]
    np.testing.assert_allclose(centre, camera_center(found.cam_from_world), rtol=1e-12)
    name, *numbers = (tmp_path / "new/poses.txt").read_text().split()
    assert name == "a.jpg" and len(numbers) == 7
    np.testing.assert_allclose(np.array(numbers[4:], float), found.cam_from_world[:, 3])


def test_priors_come_in_several_forms(tmp_path: Path, rng: np.random.Generator) -> None:
    pose = np.asarray(estimate(rng).cam_from_world)
    path = tmp_path / "priors.json"
    rotation, translation = pose[:, :3].tolist(), pose[:, 3].tolist()
    path.write_text(
        json.dumps(
            {
                "a.jpg": pose.tolist(),
                "b.jpg": {"R_cam_from_world": rotation, "t_cam_from_world": translation},
            }
        )
    )
    for prior in photo_camera.read_priors(path).values():
        assert max(pose_error(prior, pose)) < 1e-9
    path.write_text('{"a.jpg": {"pose": 1}}')
    with pytest.raises(ValueError, match=r"prior of a\.jpg holds no cam_from_world"):
        photo_camera.read_priors(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        photo_camera.read_priors(path)


def test_the_spread_of_the_centre_follows_the_covariance(rng: np.random.Generator) -> None:
    """Against sampling the left update R <- exp(w) R, t <- t + d."""
    found = estimate(rng)
    draws = rng.multivariate_normal(np.zeros(6), 1e-4 * found.covariance, 20000)
    R, t = found.cam_from_world[:, :3], found.cam_from_world[:, 3]
    w, d = draws[:, :3], draws[:, 3:]
    moved = t + d
    centres = -(moved - np.cross(w, moved)) @ R  # exp(-w) to first order
    _, spread = standard_deviations(found)
    assert spread * 1e-2 == pytest.approx(np.sqrt(np.trace(np.cov(centres.T))), rel=0.03)
    assert standard_deviations(PoseEstimate.failed("no", 3)) == (np.inf, np.inf)
