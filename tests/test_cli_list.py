# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Long lists from the command line: results, going on after a kill, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import pyloc_core

for module in ("typer", "cv2", "pycolmap", "skimage", "tqdm"):
    pytest.importorskip(module)

PHOTOS = 36


def command(*args: object) -> tuple[list[str], dict[str, str]]:
    env = {**os.environ, "PYTHONPATH": str(Path(pyloc_core.__file__).parents[1])}
    return [sys.executable, "-m", "pyloc_core.cli", *map(str, args)], env


def run(*args: object) -> subprocess.CompletedProcess[str]:
    words, env = command(*args)
    return subprocess.run(
        words, capture_output=True, text=True, timeout=300, cwd=sys.prefix, env=env
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a map and list.txt: photos of the demo's scene, one missing, one damaged."""
    from pyloc_core.localization import Map
    from pyloc_core.localization.demo_data import write_demo

    folder = tmp_path_factory.mktemp("list")
    scene = write_demo(folder / "scene", points=300, scale=0.4)
    Map.build(scene / "sparse", scene / "images", progress=False).save(folder / "map")
    names = sorted(path.name for path in (scene / "images").glob("*.jpg"))
    lines = [f"scene/images/{name}" for name in names * 3][: PHOTOS - 2]
    (folder / "broken.jpg").write_bytes(b"not a picture")
    lines[5:5] = ["missing.jpg", "broken.jpg"]
    (folder / "list.txt").write_text("".join(line + "\n" for line in lines))
    return folder


def records(path: Path) -> list[dict[str, Any]]:
    """Records without what a clock says."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("timings", "seconds")} for r in found]


@pytest.fixture(scope="module")
def uninterrupted(place: Path) -> Path:
    out = place / "uninterrupted.jsonl"
    done = run("localize", place / "map", "--list", place / "list.txt", "--out", out)
    assert done.returncode == 1, done.stderr
    assert f"{PHOTOS - 2} of {PHOTOS} photos localized" in done.stdout
    assert "no such image" in done.stderr and "cannot read image" in done.stderr
    assert f"{PHOTOS}/{PHOTOS}" in done.stderr and "photo/s" in done.stderr  # the bar
    return out


def test_one_record_per_line_of_the_list(place: Path, uninterrupted: Path) -> None:
    found = records(uninterrupted)
    assert [record["query"] for record in found] == list(range(PHOTOS))
    assert [record["success"] for record in found].count(False) == 2
    assert "no such image" in found[5]["error"] and "cannot read" in found[6]["error"]
    # A photo that is listed again is answered again, with the same answer.
    first, again = found[0], found[14]
    assert first["image"] == again["image"] and first["cam_from_world"] == again["cam_from_world"]
    assert not list(place.glob("*.journal")) and not list(place.glob("*.part"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_is_gone_on_with(place: Path, uninterrupted: Path, workers: int) -> None:
    # What lies in the map's folder beside the map does not make it another one.
    out = (place if workers == 1 else place / "map") / f"killed_{workers}.jsonl"
    journal = out.with_name(out.name + ".journal")
    arguments = (
        "localize", place / "map", "--list", place / "list.txt", "--out", out, "--workers", workers,
    )  # fmt: skip
    words, env = command(*arguments, "--quiet")
    process = subprocess.Popen(
        words, cwd=sys.prefix, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size > 12_000):
        assert time.monotonic() < deadline and process.poll() is None, "it ended before the kill"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    with journal.open("r+b") as file:  # and the disk lost the end of what was written last
        file.truncate(journal.stat().st_size - 40)
    other = run("localize", place / "map", "--list", place / "list.txt", "--out", out, "--seed", 1)
    assert other.returncode == 2 and "differs in options" in other.stderr
    done = run(*arguments, "--resume")
    assert done.returncode == 1, done.stderr
    kept = next(line for line in done.stderr.splitlines() if "are done" in line)
    number = int(kept.split(":")[1].split()[0])
    assert 0 < number < PHOTOS and "damaged bytes left out" in kept
    assert records(out) == records(uninterrupted) and not journal.exists()
    again = run(*arguments, "--resume")
    assert again.returncode == 1 and "nothing is left to do" in again.stderr


def test_results_as_parquet(place: Path, uninterrupted: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyloc_core.localization.results_file import read_results

    out = place / "results.parquet"
    done = run(
        "localize", place / "map", "--list", place / "list.txt", "--out", out, "--workers", 2,
        "--threads", 1, "--quiet",
    )  # fmt: skip
    assert done.returncode == 1 and "photo/s" not in done.stderr
    found = [
        {k: v for k, v in r.items() if k not in ("timings", "seconds")} for r in read_results(out)
    ]
    assert found == records(uninterrupted)


@pytest.mark.parametrize(
    "options, says",
    [
        (["--engine", "rya"], "there is no engine 'rya'; did you mean ray?"),
        (["--address", "auto"], "--address and --gpus are for --engine ray"),
        (["--resume"], "nothing to resume: neither"),
        (["--resume", "--out", "poses.json"], "not for .json"),
        (["--out", "results.xml"], "--out must end in .json"),
        (["--list", "empty.txt"], "names no photo"),
        (["--list", "none.txt"], "cannot read"),
        (["--list", "cut.txt"], "line 1"),
        (["--resume", "--out", "old.jsonl"], "version 0; this program reads version 1"),
        (["--resume", "--out", "elsewhere.jsonl"], "holds the results of another run"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(
    place: Path, uninterrupted: Path, options: list[str], says: str
) -> None:
    (place / "empty.txt").write_text("# nothing\n\n")
    (place / "cut.txt").write_text("a.jpg PINHOLE 400\n")
    line = uninterrupted.read_text().splitlines()[0]
    (place / "old.jsonl").write_text(line.replace('"version": 1', '"version": 0') + "\n")
    other = json.loads(line) | {"run": "0" * 16}
    (place / "elsewhere.jsonl").write_text(json.dumps(other) + "\n")
    arguments = {"--list": "list.txt", "--out": "fresh.jsonl"}
    flags = [option for option in options if option == "--resume"]
    pairs = [option for option in options if option != "--resume"]
    arguments |= dict(zip(pairs[::2], pairs[1::2]))
    words: list[object] = []
    for name, value in arguments.items():
        file = name in ("--list", "--out")
        words += [name, place / value if file else value]
    done = run("localize", place / "map", *words, *flags)
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (place / "fresh.jsonl").exists() and not (place / "fresh.jsonl.journal").exists()


def test_a_folder_that_cannot_be_written_is_told(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    out = tmp_path / "file" / "results.jsonl"
    done = run("localize", place / "map", "--list", place / "list.txt", "--out", out)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1


def test_a_map_that_is_missing_leaves_no_journal(place: Path) -> None:
    out = place / "nowhere.jsonl"
    done = run("localize", place / "no_map", "--list", place / "list.txt", "--out", out)
    assert done.returncode == 2 and "no such map folder" in done.stderr
    assert not out.with_name(out.name + ".journal").exists()


def test_a_map_with_a_network_takes_the_networks_weights(place: Path) -> None:
    torch = pytest.importorskip("torch")
    from pyloc_core import models

    options = {"num_clusters": 8, "cluster_dim": 4, "token_dim": 6, "size": 84}
    network = models.create("salad", backbone="vits14", seed=5, **options)
    weights, folder, out = place / "salad.pth", place / "network_map", place / "network.jsonl"
    torch.save(network.state_dict(), weights)
    words: list[object] = [
        "--network",
        "salad",
        "--weights",
        weights,
        "--option",
        "backbone=vits14",
    ]
    for name, value in options.items():
        words += ["--option", f"{name}={value}"]
    scene = place / "scene"
    done = run("build-map", scene / "sparse", scene / "images", folder, "--quiet", *words)
    assert done.returncode == 0, done.stderr
    (place / "two.txt").write_text("scene/images/view_01.jpg\nscene/images/view_05.jpg\n")
    job = ("localize", folder, "--list", place / "two.txt", "--out", out)
    done = run(*job, "--weights", weights, "--workers", 2)
    assert done.returncode == 0 and "2 of 2 photos localized" in done.stdout, done.stderr
    done = run(*job)
    assert done.returncode == 2 and "the map's global descriptor is" in done.stderr
    done = run(*job, "--weights", place / "none.pth")
    assert done.returncode == 2 and "no such file" in done.stderr
    done = run("localize", place / "map", *job[2:], "--weights", weights)
    assert done.returncode == 2 and "built without a network" in done.stderr
