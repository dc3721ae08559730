# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The engine on Ray: a cluster of two nodes, on which workers and a node are lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyloc_core
from pyloc_core._extras import MissingExtra
from pyloc_core.integrations import ray as ray_engine
from pyloc_core.localization.engine import Worker
from pyloc_core.localization.work_list import Answer, Query, make_queries

PHOTOS = 40
HERE = Path(__file__).parent
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


class Doubles:
    """A job without a map; even indices have a descriptor."""

    batch_size = 2

    def start(self, num_threads: int | None) -> Worker:
        def work(queries: list[Query]) -> list[Answer]:
            return [
                Answer(
                    q.index, {"success": True, "image": q.image, "threads": num_threads},
                    None if q.index % 2 else np.arange(3, dtype=np.float32) + q.index,
                )
                for q in queries
            ]  # fmt: skip

        return work

    def failed(self, query: Query, error: str) -> Answer:
        return Answer(query.index, {"success": False, "error": error})


def test_an_actor_takes_columns_and_gives_columns() -> None:
    queries = make_queries([(f"ü{i}.jpg", None) for i in range(3)])
    actor = ray_engine._Actor.__new__(ray_engine._Actor)
    actor.work = Doubles().start(1)
    columns = actor({"query": np.array([q.to_json() for q in queries], object)})
    assert set(columns) == {"index", "record", "descriptor"}
    answers = ray_engine._answers(columns)
    assert [a.record["image"] for a in answers] == ["ü0.jpg", "ü1.jpg", "ü2.jpg"]
    np.testing.assert_array_equal(answers[2].descriptor, [2, 3, 4])
    assert answers[1].descriptor is None


@pytest.mark.parametrize("error, kind", [(ImportError, MissingExtra), (KeyError, RuntimeError)])
def test_what_stops_the_job_in_a_worker_stops_it_here(
    error: type[Exception], kind: type[Exception]
) -> None:
    def work(queries: list[Query]) -> list[Answer]:
        raise error("no such thing")

    actor = ray_engine._Actor.__new__(ray_engine._Actor)
    actor.work = work
    columns = actor({"query": np.array([make_queries([("a", None)])[0].to_json()], object)})
    with pytest.raises(kind, match="no such thing"):
        ray_engine._answers(columns)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pyloc_core\[ray\]"):
        ray_engine.RayEngine(1)


def test_what_no_cluster_can_do_is_refused() -> None:
    for options in ({"workers": 0}, {"num_gpus": -1.0}, {"num_gpus": float("nan")}):
        with pytest.raises(ValueError, match="must"):
            ray_engine.RayEngine(**options)


def environment(folder: Path) -> dict[str, str]:
    package = str(Path(pyloc_core.__file__).parents[1])
    # Ray keeps a token in the home folder.
    return {**os.environ, **QUIET, "PYTHONPATH": package, "HOME": str(folder)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a map, list.txt and the records of this process' own engine."""
    for module in ("cv2", "pycolmap", "skimage", "PIL"):
        pytest.importorskip(module)
    from pyloc_core.localization import Map
    from pyloc_core.localization.batch import CameraSource, LocalizeJob
    from pyloc_core.localization.demo_data import write_demo
    from pyloc_core.localization.engine import LocalEngine, work_through
    from pyloc_core.localization.journal import MemoryStore
    from pyloc_core.localization.photo_camera import read_list

    folder = tmp_path_factory.mktemp("ray")
    scene = write_demo(folder / "scene", points=300, scale=0.4)
    Map.build(scene / "sparse", scene / "images", progress=False).save(folder / "map")
    names = sorted(str(path) for path in (scene / "images").glob("*.jpg"))
    lines = (names * 4)[: PHOTOS - 1]
    lines.insert(9, str(folder / "missing.jpg"))
    (folder / "list.txt").write_text("".join(line + "\n" for line in lines))
    store = MemoryStore()
    queries = make_queries(read_list(folder / "list.txt"))
    work_through(LocalizeJob(str(folder / "map"), CameraSource()), queries, LocalEngine(), store)
    own = "".join(json.dumps(store.read(query.index).record) + "\n" for query in queries)
    (folder / "own.jsonl").write_text(own)
    return folder


def records(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("timings", "seconds")} for r in found]


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    pytest.importorskip("ray.data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ValueError, match=f"cannot reach Ray at {address}"):
        ray_engine.RayEngine(1, address=address).available_workers()


@pytest.mark.slow  # a minute: Ray starts two nodes and six pools of workers
def test_nothing_is_lost_or_repeated_on_a_cluster_that_loses_workers(place: Path) -> None:
    pytest.importorskip("ray.data")
    out = place / "out"
    out.mkdir()
    program = [sys.executable, str(HERE / "ray_cluster.py"), place / "map", place / "list.txt", out]
    done = subprocess.run(
        [str(word) for word in program], env=environment(place), capture_output=True, text=True,
        timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    notes = json.loads((out / "notes.json").read_text())
    own = records(place / "own.jsonl")
    assert [record["success"] for record in own].count(False) == 1
    for name in ("plain", "killed", "node"):
        assert records(out / f"{name}.jsonl") == own, name
    assert notes["plain"]["rounds"] == [PHOTOS] and set(notes["plain"]["heard"]) == {1}
    # An actor was killed and the rest of its work was done by others, once.
    assert len(notes["killed"]["rounds"]) > 1 and set(notes["killed"]["heard"]) == {1}
    assert notes["poison"]["nodes"] == 2 and notes["node"]["nodes"] == 1
    assert set(notes["node"]["heard"]) == {1}
    poisoned = records(out / "poison.jsonl")
    assert "its worker died 4 times" in poisoned[5]["error"] and not poisoned[5]["success"]
    assert poisoned[:5] + poisoned[6:] == own[:5] + own[6:]
    assert notes["left"] == []


@pytest.mark.slow
def test_the_command_line_on_ray(place: Path) -> None:
    pytest.importorskip("ray.data")
    pytest.importorskip("typer")
    out = place / "command.jsonl"
    words = [
        sys.executable, "-m", "pyloc_core.cli", "localize", place / "map", "--list",
        place / "list.txt", "--engine", "ray", "--workers", 2, "--out", out, "--quiet",
    ]  # fmt: skip
    env = environment(place)
    done = subprocess.run(
        [str(word) for word in words], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert f"{PHOTOS - 1} of {PHOTOS} photos localized" in done.stdout
    found = records(out)
    for record, own in zip(found, records(place / "own.jsonl"), strict=True):
        assert record["query"] == own["query"] and record["error"] == own["error"]
        if own["success"]:
            assert record["cam_from_world"] == own["cam_from_world"]


@pytest.mark.slow
def test_descriptors_on_ray(place: Path) -> None:
    pytest.importorskip("ray.data")
    for module in ("typer", "torch"):
        pytest.importorskip(module)
    from pyloc_core.localization.descriptors_file import read_descriptors

    options = ("backbone=vits14", "num_clusters=8", "cluster_dim=4", "token_dim=6", "size=84")
    words: list[object] = [
        sys.executable,
        "-m",
        "pyloc_core.cli",
        "describe",
        "--quiet",
        "--batch",
        4,
    ]
    words += ["--list", place / "list.txt", *(w for o in options for w in ("--option", o))]
    found = []
    for engine in ("local", "ray"):
        out = place / f"{engine}.safetensors"
        done = subprocess.run(
            [str(word) for word in (*words, "--engine", engine, "--workers", 1, "--out", out)],
            env=environment(place), capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr[-3000:]
        assert f"{PHOTOS - 1} of {PHOTOS} photos described" in done.stdout
        found.append(read_descriptors(out))
    (own, own_vectors), (other, vectors) = found
    assert own == other and own.failed[0]["query"] == 9
    np.testing.assert_allclose(vectors, own_vectors, atol=2e-6)
    # Without weights that can be read no worker starts, and that is told, not waited for.
    (place / "broken.ckpt").write_bytes(b"no checkpoint")
    more = ("--weights", place / "broken.ckpt", "--engine", "ray", "--workers", 1)
    done = subprocess.run(
        [str(word) for word in (*words, *more, "--out", place / "x.npz")],
        env=environment(place), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2 and "broken.ckpt" in done.stderr.strip().splitlines()[-1]
    assert not (place / "x.npz.journal").exists()
