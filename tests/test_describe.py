# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors of a list of photos: the job, the files, the commands, and an index of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyloc_core.localization import descriptors_file
from pyloc_core.localization.description import DescribeJob
from pyloc_core.localization.descriptors_file import (
    SUFFIXES,
    finished_run,
    read_descriptors,
    write_descriptors,
)
from pyloc_core.localization.engine import LocalEngine, work_through
from pyloc_core.localization.images import read_image
from pyloc_core.localization.journal import MemoryStore
from pyloc_core.localization.work_list import Answer, make_queries

testing = pytest.importorskip("typer.testing")
for module in ("PIL", "tqdm"):
    pytest.importorskip(module)

SMALL = {"backbone": "vits14", "num_clusters": 8, "cluster_dim": 4, "token_dim": 6, "size": 84}
VALUES = 6 + 8 * 4


def suffixes() -> list[Any]:
    return [
        pytest.param(s, marks=[] if s != ".parquet" else _needs("pyarrow"))
        for s in sorted(SUFFIXES)
    ]


def _needs(module: str) -> list[Any]:
    from importlib.util import find_spec

    return [pytest.mark.skipif(find_spec(module) is None, reason=f"needs {module}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven photos, two of them missing or damaged, one listed twice: list.txt."""
    from PIL import Image

    root = tmp_path_factory.mktemp("describe")
    rng = np.random.default_rng(11)
    for index in range(5):
        pixels = rng.integers(0, 256, (60 + 5 * index, 90, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"photo_{index}.png")
    (root / "broken.png").write_bytes(b"no picture")
    names = ["photo_0", "photo_1", "missing", "photo_2", "broken", "photo_3", "photo_0", "photo_4"]
    (root / "list.txt").write_text("".join(f"{name}.png\n" for name in names))
    return root


def command(*arguments: object) -> Any:
    from pyloc_core.cli import app

    return testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


def small(folder: Path, *more: object) -> list[object]:
    options: list[object] = []
    for name, value in SMALL.items():
        options += ["--option", f"{name}={json.dumps(value) if name != 'backbone' else value}"]
    return ["describe", "--list", folder / "list.txt", *options, "--quiet", *more]


def direct(folder: Path) -> np.ndarray:
    from pyloc_core import models

    network = models.create("salad", **SMALL)
    names = ["photo_0", "photo_1", "photo_2", "photo_3", "photo_0", "photo_4"]
    return np.stack([network.global_descriptor(read_image(folder / f"{n}.png")) for n in names])


@pytest.mark.parametrize("suffix", suffixes())
def test_the_command_writes_what_the_network_says(folder: Path, suffix: str) -> None:
    pytest.importorskip("torch")
    out = folder / f"descriptors{suffix}"
    done = command(*small(folder, "--out", out, "--batch", 3, "--workers", 2))
    assert done.exit_code == 1, done.output
    assert f"6 of 8 photos described, {VALUES} values" in done.output
    assert "weights are random" in done.output
    described, vectors = read_descriptors(out)
    assert described.queries == [0, 1, 3, 5, 6, 7]
    assert [Path(f["image"]).name for f in described.failed] == ["missing.png", "broken.png"]
    assert "no such image" in described.failed[0]["error"]
    np.testing.assert_allclose(vectors, direct(folder), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not list(folder.glob("*.journal"))
    again = command(*small(folder, "--out", out, "--batch", 5, "--resume"))
    assert again.exit_code == 1 and "nothing is left to do" in again.output
    other = command(*small(folder, "--out", out, "--seed", 3, "--resume"))
    assert other.exit_code == 2 and "results of another run" in other.output


def test_an_index_of_descriptors_finds_each_photo(folder: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("faiss")
    from pyloc_core.retrieval import Index

    out, place = folder / "for_index.safetensors", folder / "index"
    assert command(*small(folder, "--out", out)).exit_code == 1
    done = command("build-index", out, out, "--out", place)
    assert done.exit_code == 0, done.output
    assert "5 entries" in done.output and "7 names came again" in done.output
    index = Index.load(place)
    described, vectors = read_descriptors(out)
    found = index.search(np.array(vectors), 1)
    names = [index.names[row] for row in found.indices[:, 0]]
    assert names == described.images
    np.testing.assert_allclose(found.similarities[:, 0], 1, atol=1e-5)
    wrong = command("build-index", out, "--out", place, "--kind", "flta")
    assert wrong.exit_code == 2 and "did you mean flat" in wrong.output
    wrong = command("build-index", out, "--out", place, "--option", "prbes=3")
    assert wrong.exit_code == 2 and "did you mean probes" in wrong.output


def test_an_interrupted_description_goes_on(folder: Path) -> None:
    pytest.importorskip("torch")
    from pyloc_core.localization.journal import Journal
    from pyloc_core.localization.work_list import Fingerprint

    names = (folder / "list.txt").read_text().split()
    queries = make_queries([(folder / name, None) for name in names])
    job = DescribeJob("salad", None, SMALL, batch_size=2)
    fingerprint = Fingerprint.of("describe", "random", queries, job.identity())
    out = folder / "going_on.npz"
    journal = Journal(out.with_name(out.name + ".journal"), fingerprint, len(queries))
    journal.append(job.start(1)(queries[:3]))
    journal.close()
    done = command(*small(folder, "--out", out, "--batch", 2, "--resume"))
    assert done.exit_code == 1 and "3 of 8 are done" in done.output
    np.testing.assert_allclose(read_descriptors(out)[1], direct(folder), atol=2e-6)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--model", "sald"], "did you mean salad"),
        (["--model", "s2dnet"], "makes no global descriptors"),
        (["--weights", "none.pth"], "no such file"),
        (["--option", "num_cluster=3"], "did you mean num_clusters"),
        (["--option", "size"], "--option must be NAME=VALUE"),
        (["--out", "descriptors.csv"], "descriptors are written as"),
        (["--engine", "loca"], "did you mean local"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(
    folder: Path, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(folder)
    done = command("describe", "--list", folder / "list.txt", "--out", "fresh.npz", *arguments)
    assert done.exit_code == 2 and says in done.output, done.output
    assert not (folder / "fresh.npz").exists() and not (folder / "fresh.npz.journal").exists()


# ---------------------------------------------------------------- the job and the files


class Numbers:
    """A network that describes a photo by its size, and refuses tall ones."""

    def global_descriptors(self, images: list[np.ndarray], **options: Any) -> np.ndarray:
        if any(image.shape[0] == 70 for image in images):
            raise RuntimeError("too tall")
        return np.array([image.shape[:2] for image in images], np.float32)


def test_one_photo_that_fails_in_the_network_does_not_spoil_its_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DescribeJob, "network", lambda self: Numbers())
    queries = make_queries([(folder / f"photo_{i}.png", None) for i in range(5)])
    store = MemoryStore()
    work_through(DescribeJob("numbers"), queries, LocalEngine(), store)
    assert [store.read(i).success for i in range(5)] == [True, True, False, True, True]
    assert store.read(2).record["error"] == "RuntimeError: too tall"
    np.testing.assert_array_equal(store.read(3).descriptor, [75, 90])


def filled(vectors: np.ndarray, failed: set[int]) -> MemoryStore:
    store = MemoryStore()
    for index, vector in enumerate(vectors):
        bad = index in failed
        record = {"query": index, "image": f"ü {index}.jpg", "error": "gone" if bad else None}
        store.append([Answer(index, record, None if bad else vector)])
    return store


@pytest.mark.parametrize("suffix", suffixes())
def test_files_keep_every_bit(tmp_path: Path, suffix: str, rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((2500, 7)).astype(np.float32)
    path = tmp_path / f"d{suffix}"
    write_descriptors(path, filled(vectors, {0, 1200}), 2500, "0123", {"model": "m"})
    described, found = read_descriptors(path)
    np.testing.assert_array_equal(found, np.delete(vectors, [0, 1200], 0))
    assert described.images[0] == "ü 1.jpg" and described.run == finished_run(path) == "0123"
    assert [failure["query"] for failure in described.failed] == [0, 1200]
    if suffix == ".npz":
        with np.load(path) as content:
            assert content["images"][0] == "ü 1.jpg" and content["queries"][0] == 1
    if suffix == ".safetensors":
        safetensors = pytest.importorskip("safetensors.numpy")
        np.testing.assert_array_equal(safetensors.load_file(path)["descriptors"], found)
    write_descriptors(path, filled(vectors[:3], {0, 1, 2}), 3, "0123", {"model": "m"})
    assert read_descriptors(path)[1].shape == (0, 0)


@pytest.mark.parametrize("suffix", suffixes())
def test_damaged_files_are_refused(
    tmp_path: Path, suffix: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = rng.standard_normal((20, 5)).astype(np.float32)
    path = tmp_path / f"d{suffix}"
    write_descriptors(path, filled(vectors, set()), 20, "0123", {})
    content = path.read_bytes()
    for length in (0, 5, len(content) // 2, len(content) - 9):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="cannot read"):
            read_descriptors(path)
    with pytest.raises(ValueError, match="cannot read"):
        read_descriptors(tmp_path / f"none{suffix}")
    monkeypatch.setattr(descriptors_file, "VERSION", 9)
    write_descriptors(path, filled(vectors, set()), 20, "0123", {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="version 9; this program reads version 1"):
        read_descriptors(path)
