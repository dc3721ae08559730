# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The main job from the command line, on the demo scene rendered small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyloc_core

for module in ("typer", "cv2", "pycolmap", "skimage", "matplotlib"):
    pytest.importorskip(module)


def run(*args: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with the package under test, from elsewhere."""
    command = [sys.executable, "-m", "pyloc_core.cli", *map(str, args)]
    env = {**os.environ, "PYTHONPATH": str(Path(pyloc_core.__file__).parents[1])}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=sys.prefix, env=env
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo scene, rendered small."""
    from pyloc_core.localization.demo_data import write_demo

    return write_demo(tmp_path_factory.mktemp("cli") / "scene", points=600, scale=0.5)


@pytest.fixture(scope="module")
def place_map(scene: Path) -> Path:
    folder = scene.parent / "place_map"
    done = run(
        "build-map", scene / "sparse", scene / "images", folder, "--quiet",
        "--exclude", "query_00.jpg", "--exclude", "query_01.jpg",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "10 images" in done.stdout
    return folder


def truth(scene: Path, name: str) -> np.ndarray:
    entry = json.loads((scene / "cameras.json").read_text())[name]
    return np.column_stack([entry["R_cam_from_world"], entry["t_cam_from_world"]])


def test_photos_are_localized_and_drawn(scene: Path, place_map: Path, tmp_path: Path) -> None:
    from PIL import Image

    queries = [scene / "images" / f"query_0{i}.jpg" for i in (0, 1)]
    out = tmp_path / "poses.json"
    done = run(
        "localize", place_map, *queries, "--cameras", scene / "cameras.json", "--out", out,
        "--plot", tmp_path / "pictures",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 photos localized" in done.stdout
    entries = json.loads(out.read_text())["poses"]
    for entry, query in zip(entries, queries):
        angle, distance = pyloc_core.pose_error(
            np.array(entry["cam_from_world"]), truth(scene, query.name)
        )
        assert angle < 0.2 and distance < 0.03, entry
        assert entry["success"] and entry["image"] == str(query)
        assert set(entry["timings"]) >= {"describe", "coarse_maps", "msac", "total"}
        with Image.open(tmp_path / "pictures" / f"{query.stem}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert min(pixels.shape[:2]) > 400 and pixels.std() > 20
    # The result is a prior for the next call.
    done = run(
        "localize", place_map, queries[0], "--cameras", scene / "cameras.json", "--prior", out,
        "--out", tmp_path / "again.csv",
    )  # fmt: skip
    assert done.returncode == 0 and "query_00.jpg" in (tmp_path / "again.csv").read_text()


def test_one_bad_photo_does_not_stop_the_others(
    scene: Path, place_map: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    names = tmp_path / "photos.txt"
    query = scene / "images" / "query_00.jpg"
    names.write_text(f"broken.jpg\n{query} OPENCV 400 300 320 320 200 150 -0.06 0 0 0\n")
    done = run("localize", place_map, "--list", names, "--out", tmp_path / "poses.json")
    assert done.returncode == 1 and "1 of 2 photos localized" in done.stdout
    assert "cannot read image" in done.stderr and "Traceback" not in done.stderr
    bad, good = json.loads((tmp_path / "poses.json").read_text())["poses"]
    assert not bad["success"] and "broken.jpg" in bad["reason"]
    assert good["success"]
    assert (
        pyloc_core.pose_error(np.array(good["cam_from_world"]), truth(scene, "query_00.jpg"))[0]
        < 0.2
    )


def test_a_photo_of_elsewhere_is_not_localized(place_map: Path, tmp_path: Path) -> None:
    from PIL import Image

    noise = tmp_path / "noise.png"
    values = np.random.default_rng(3).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(values).save(noise)
    done = run("localize", place_map, noise, "--focal", "320", "--out", tmp_path / "poses.json")
    assert done.returncode == 1
    assert "noise.png: not localized: coarse stage" in done.stderr


def test_a_name_to_exclude_must_exist(scene: Path, tmp_path: Path) -> None:
    done = run(
        "build-map", scene / "sparse", scene / "images", tmp_path / "m", "--exclude", "query_0.jpg"
    )
    assert done.returncode == 2 and "did you mean query_0" in done.stderr


def test_evaluate_writes_the_rows(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    done = run(
        "evaluate", "--data", scene, "--methods", "nre_coarse,nre", "--queries",
        "query_00.jpg,query_01.jpg", "--json", out, "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["query"], row["method"]) for row in rows] == [
        (query, method)
        for query in ("query_00.jpg", "query_01.jpg")
        for method in ("nre_coarse", "nre")
    ]
    keys = {"success", "rotation_error_deg", "centre_error", "centre_error_over_depth", "seconds"}
    assert all(keys <= set(row) and row["success"] for row in rows)
    assert all(row["rotation_error_deg"] < 0.2 for row in rows if row["method"] == "nre")
    assert "nre_coarse" in done.stdout and "|" in done.stdout
    done = run("evaluate", "--data", scene, "--methods", "nrr")
    assert done.returncode == 2 and "nre" in done.stderr


def test_demo_on_a_folder_says_how_good_it_was(scene: Path, tmp_path: Path) -> None:
    done = run("demo", "--data", scene, "--query", "query_01", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("error", "expected", "coarse_maps", "cam_from_world", "picture"):
        assert word in done.stdout
    entry = json.loads((tmp_path / "query_01.json").read_text())["poses"][0]
    assert (
        pyloc_core.pose_error(np.array(entry["cam_from_world"]), truth(scene, "query_01.jpg"))[0]
        < 0.2
    )
    assert (tmp_path / "query_01.png").stat().st_size > 50_000
    done = run("demo", "--data", scene, "--query", "query_1", "--out", tmp_path)
    assert done.returncode == 2 and "did you mean query_" in done.stderr


def test_bench_times_every_row(tmp_path: Path) -> None:
    done = run("bench", "--seconds", "0.1", "--json", tmp_path / "times.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "times.json").read_text())
    assert {row["operator"] for row in rows} >= {"match", "loss_maps", "p3p", "refine_pose"}
    assert all(row["milliseconds"] > 0 for row in rows)


def test_bench_compares_the_same_results() -> None:
    """The plain forms give what the operators give."""
    import pyloc_core as pc
    from pyloc_core.localization import operator_times as plain

    p = plain.make_problem()
    matches = pc.match(p.descriptors, p.features, temperature=1 / plain.BETA)
    best, logs = plain.plain_match(p.descriptors, p.features)
    assert (np.asarray(matches.xy) == best).mean() > 0.99
    np.testing.assert_allclose(matches.log_probability, logs, atol=1e-3)
    maps = pc.loss_maps(p.descriptors, p.features, temperature=1 / plain.BETA, max_entries="all")
    dense = plain.plain_loss_maps(p.descriptors, p.features)
    np.testing.assert_allclose(maps.dense(), dense, atol=2e-3)
    np.testing.assert_allclose(
        maps.evaluate(p.cells), plain.plain_evaluate(dense, p.cells), atol=2e-3
    )
    local = pc.local_loss_maps(
        p.descriptors, p.features, p.cells, window=32, scale=1.0, temperature=1 / plain.BETA,
        max_entries="all",
    )  # fmt: skip
    windows = plain.plain_windows(p.descriptors, p.features, p.cells, 32)
    whole = [n for n, window in enumerate(windows) if window.shape == (32, 32)]
    assert len(whole) > 100
    dense_windows = np.asarray(local.dense())[whole]
    np.testing.assert_allclose(dense_windows, np.array([windows[n] for n in whole]), atol=2e-3)


def test_maps_are_merged_and_indexed(scene: Path, place_map: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    from typer.testing import CliRunner

    from pyloc_core.cli import app

    def run(*args: object) -> tuple[int, str]:  # in this process: eight of them take their time
        done = CliRunner().invoke(app, [str(a) for a in args])
        return done.exit_code, done.output

    merged = tmp_path / "both"
    code, text = run("merge-maps", place_map, place_map, merged)
    assert code == 2 and "give different --names" in text
    code, text = run("merge-maps", place_map, place_map, merged, "--names", "yard,copy,third")
    assert code == 2 and "3 names for 2 maps" in text
    code, text = run("merge-maps", place_map, place_map, merged, "--names", "yard,copy")
    assert code == 0 and "20 images in 2 scenes" in text, text
    assert run("index-map", merged, "--kind", "flt")[0] == 2
    code, text = run("index-map", merged)
    assert code == 0 and "20 images indexed" in text, text
    assert (merged / "index.faiss").is_file()
    out = tmp_path / "poses.json"
    query = scene / "images" / "query_00.jpg"
    code, text = run("localize", merged, query, "--cameras", scene / "cameras.json", "--out", out)
    assert code == 0, text
    (entry,) = json.loads(out.read_text())["poses"]
    assert entry["scene"] in ("yard", "copy")
    angle, _ = pyloc_core.pose_error(np.array(entry["cam_from_world"]), truth(scene, query.name))
    assert angle < 0.2
    only = ("--scene", "copy", "--prior", out, "--cameras", scene / "cameras.json")
    again = tmp_path / "again.json"
    code, text = run("localize", merged, query, "--out", again, *only)
    assert code == 0 and json.loads(again.read_text())["poses"][0]["scene"] == "copy", text
    code, text = run("localize", merged, query, "--out", again, *only[2:])
    assert code == 1 and "scene is needed with a prior" in text
    code, text = run("localize", merged, query, "--out", again, "--scene", "yrad")
    assert code == 2 and "did you mean 'yard'" in text
    (merged / "index.faiss").write_bytes(b"")
    code, text = run("localize", merged, query, "--out", out)
    assert code == 2 and "index.faiss is damaged" in text
    assert "Traceback" not in text
