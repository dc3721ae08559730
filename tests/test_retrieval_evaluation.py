# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""evaluate_retrieval and its command, on a small Nordland and a small set of named positions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("scipy")
pytest.importorskip("typer")
from typer.testing import CliRunner

from pyloc_core.cli import app
from pyloc_core.retrieval import read_layout
from pyloc_core.retrieval.evaluation import evaluate_retrieval


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def nordland(tmp_path) -> Path:
    """60 frames per season, and descriptors that drift along the line, in descriptors.npz."""
    for season in ("winter", "summer"):
        (tmp_path / season).mkdir()
        for i in range(60):
            (tmp_path / season / f"{i:03d}.png").write_bytes(b"picture")
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.standard_normal((60, 32)), 0)
    seasons = [unit(x + 0.8 * rng.standard_normal(x.shape)) for _ in range(2)]
    np.savez(tmp_path / "descriptors.npz", queries=seasons[0], database=seasons[1])
    return tmp_path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evaluate-retrieval", *map(str, arguments)])
    return result.exit_code, result.output


def test_recall_equals_brute_force(nordland) -> None:
    content = np.load(nordland / "descriptors.npz")
    benchmark = read_layout("nordland", nordland)
    found = evaluate_retrieval(
        benchmark, content["queries"], content["database"], (1, 3), sensitivity=True
    )
    ranked = np.argsort(-(content["queries"].astype(float) @ content["database"].T), 1)[:, :3]
    near = np.abs(ranked - np.arange(60)[:, None]) <= 1
    assert [found.recall[1], found.recall[3]] == [near[:, 0].mean(), near.any(1).mean()]
    assert 0.4 < found.recall[1] < 1.0
    assert found.curve is not None and found.sensitivity is not None
    assert found.curve.values[1].tolist() == found.recall.values.tolist()  # one frame
    assert found.sensitivity.order > 0.8 and found.sensitivity.count[0] == 60
    assert set(found.seconds) == {"positives", "index", "search", "sensitivity"}
    json.dumps(found.to_dict())
    with pytest.raises(ValueError, match="query_descriptors has 59 rows, the set 60 images"):
        evaluate_retrieval(benchmark, content["queries"][1:], content["database"])


def test_the_command_on_descriptors(nordland, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "figures.json"
    code, text = run(
        "--layout", "nordland", "--data", nordland, "--descriptors", nordland / "descriptors.npz",
        "--json", out, "--curve", tmp_path / "c.png", "--sensitivity", tmp_path / "s.png",
        "--ks", "1,2", "--option", "tolerance=2",
    )  # fmt: skip
    assert code == 0, text
    assert "60 queries, 60 database images, at most 2 frames away" in text and "R@1 " in text
    content = json.loads(out.read_text())
    assert set(content["recall"]) == {"1", "2"} and content["random_weights"] is False
    assert content["sensitivity"]["count"][0] == 60 and len(content["curve"]["thresholds"]) == 25
    assert (tmp_path / "c.png").is_file() and (tmp_path / "s.png").is_file()


def test_the_command_on_a_network(tmp_path, monkeypatch) -> None:
    pytest.importorskip("torch")
    from pyloc_core.models import dinov2

    monkeypatch.setitem(dinov2.SIZES, "vitb14", dinov2.ViTSize(48, 4, 3))
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(1)
    for side in ("queries", "database"):
        (tmp_path / side).mkdir()
        picture = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
        picture.save(tmp_path / side / "@0500000.00@4000000.00@10@S@.png")
    saved = tmp_path / "saved.npz"
    code, text = run("--layout", "utm_names", "--data", tmp_path, "--model", "salad",
                     "--save-descriptors", saved)  # fmt: skip
    assert code == 0, text
    assert "R@1 100.0" in text and "the weights are random" in text
    again = run("--layout", "utm_names", "--data", tmp_path, "--descriptors", saved)
    assert again[0] == 0 and "R@1 100.0" in again[1]
    assert np.load(saved)["queries"].shape == (1, 8448)
    code, text = run("--layout", "utm_names", "--data", tmp_path, "--model", "s2dhm")
    assert code == 0 and "R@1 100.0" in text, text  # one image at a time
    code, text = run("--layout", "utm_names", "--data", tmp_path, "--model", "s2dnet")
    assert code == 2 and "makes no global descriptors" in text


def test_mistakes_are_one_line(nordland, tmp_path) -> None:
    npz = nordland / "descriptors.npz"
    other = tmp_path / "other.npz"
    np.savez(other, queries=np.zeros((60, 4)))
    plain = tmp_path / "plain.npy"
    np.save(plain, np.zeros(3))
    given = ("--layout", "nordland", "--data", nordland)
    for arguments, message in (
        ((*given,), "give either --model or --descriptors"),
        (
            ("--layout", "norland", "--data", nordland, "--descriptors", npz),
            "did you mean 'nordland'",
        ),
        ((*given, "--descriptors", other), "has no array database"),
        ((*given, "--descriptors", plain), "is no .npz file of numbers"),
        ((*given, "--descriptors", tmp_path / "no.npz"), "no.npz"),
        ((*given, "--descriptors", npz, "--option", "tolerance=two"), "must be a number"),
        ((*given, "--descriptors", npz, "--option", "tolerence=2"), "has no option 'tolerence'"),
        ((*given, "--descriptors", npz, "--option", "tolerance"), "NAME=VALUE"),
        ((*given, "--descriptors", npz, "--ks", "1,x"), "--ks must be integers"),
        ((*given, "--descriptors", npz, "--without-positives", "mis"), "did you mean 'miss'"),
    ):
        code, text = run(*arguments)
        assert code == 2 and message in text and len(text.strip().splitlines()) <= 2, (
            arguments,
            text,
        )
