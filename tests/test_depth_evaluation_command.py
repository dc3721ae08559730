# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""`pyloc-core evaluate-depth` on small sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("PIL")
pytest.importorskip("cv2")

from depth_folders import write_mvsnet, write_scannet
from typer.testing import CliRunner

from pyloc_core.cli import app


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["evaluate-depth", *map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("depth")
    write_mvsnet(folder / "mvs" / "room", scale=3)
    write_mvsnet(folder / "mvs" / "hall", count=3, scale=3)
    write_scannet(folder / "scannet" / "scene0000_00")
    return folder


def test_figures_of_a_set(data, tmp_path) -> None:
    out = tmp_path / "new" / "figures.json"
    result = run("--layout", "mvsnet", "--data", data / "mvs", "--range", "given", "--json", out,
                 "--option", "scenes=room", "--option", "count=2", "--threads", 1)  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "mvsnet: 5 images" and lines[1].startswith(
        "| method | mvsnet rel | mvsnet tau"
    )
    content = json.loads(out.read_text())
    assert content["mean"]["inliers"] > 35 and len(content["images"]) == 5
    assert all(image["num_sources"] == 2 for image in content["images"])
    assert f"{content['mean']['abs_rel']:.2f}" in lines[3]
    assert f"{content['ause']:.3f}" in lines[4]


def test_other_rules_move_the_figures(data, tmp_path) -> None:
    means = []
    for options in (
        (),
        ("--view-order", "nearest"),
        ("--least-confidence", 0.95),
        ("--max-sources", 1),
    ):
        out = tmp_path / f"{len(means)}.json"
        result = run(
            "--layout", "scannet", "--data", data / "scannet", "--limit", 2, "--json", out, *options
        )
        assert result.exit_code == 0, result.output
        means.append(json.loads(out.read_text())["mean"])
    assert means[1]["abs_rel"] <= means[0]["abs_rel"]
    assert means[2]["density"] < 100 == means[0]["density"]
    assert means[3] != means[0]


def test_what_is_not_known_is_null(data, tmp_path) -> None:
    (data / "mvs" / "hall" / "depths" / "00000001.pfm").unlink()
    nothing = np.zeros((72, 96), np.float32)
    np.save(data / "mvs" / "hall" / "depths" / "00000001.npy", nothing)
    out = tmp_path / "a.json"
    result = run("--layout", "mvsnet", "--data", data / "mvs" / "hall", "--json", out)
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert content["images"][1]["errors"]["abs_rel"] is None and content["mean"]["abs_rel"] > 0


@pytest.mark.parametrize(
    "options,what",
    [(("--layout", "scanet"), "did you mean 'scannet'"), (("--size", "480"), "--size"),
     (("--range", "none"), "range"), (("--alignment", "medain"), "median"),
     (("--view-order", "best"), "view order"), (("--option", "scenes"), "NAME=VALUE"),
     (("--option", "city=a"), "no option 'city'"), (("--option", "step=a"), "step"),
     (("--weights", "no.ckpt"), "no.ckpt"), (("--data", "nowhere"), "nowhere"),
     (("--weights", "no.ckpt", "--least-confidence", 0.5), "confidence")],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line(data, options, what) -> None:
    given = {"--layout": "scannet", "--data": data / "scannet"}
    base = [word for name, value in given.items() if name not in options for word in (name, value)]
    result = run(*base, *options)
    assert result.exit_code == 2 and what in result.output, result.output
    assert len(result.output.strip().splitlines()) <= 2
