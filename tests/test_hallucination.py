# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The evaluation of section 5.4 on a small rendered folder: with a matcher that knows, and with NeurHal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("PIL")

from rgbd_scene import CAMERA, pose, write_folder

import pyloc_core as pl
from pyloc_core.localization.depth_views import DepthView, correspondents, visual_overlap
from pyloc_core.localization.hallucination import evaluate_hallucination, evaluate_pair, samples
from pyloc_core.localization.pair import (
    DescriptorMatcher,
    PairFeatures,
    PairMatcher,
    PairOptions,
)
from pyloc_core.localization.rgbd_folder import RgbdFolder, read_rgbd_folder
from pyloc_core.localization.rootsift import DenseRootSIFT

POSES = [pose(0.0), pose(0.9, aim=1.6), pose(-1.2, aim=-1.5), pose(0.5, y=0.6, aim=0.3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rgbd") / "scene"
    write_folder(path, POSES)
    return path


class Knowing:
    """Answers with the truth: a peak of width `cells` at the correspondent, moved by `offset` cells."""

    def __init__(self, scene: RgbdFolder, spread: float = 1.5, offset: float = 0.0) -> None:
        self.views = {n: f.view() for n, f in scene.frames.items()}
        self.images = {n: f.image() for n, f in scene.frames.items()}
        self.spread, self.offset = spread, offset

    def _view(self, image: np.ndarray) -> DepthView:
        return next(self.views[n] for n, i in self.images.items() if np.array_equal(i, image))

    def match_pair(self, source: Any, target: Any, xy: Any) -> PairFeatures:
        found = correspondents(self._view(source), self._view(target), xy)
        cells, (rows, columns) = (18, 24), (9, 12)
        frame = (-columns, -rows), cells, (144, 192), (144, 192)
        empty = PairFeatures(None, np.zeros((4, 36, 48)), *frame)
        p = (empty.to_map(found.xy, CAMERA.size) + self.offset) / self.spread
        y, x = np.mgrid[-rows : cells[0] + rows, -columns : cells[1] + columns] / self.spread
        maps = np.stack([x, y, -(x**2 + y**2) / 2, np.ones_like(x)]).astype(np.float32)
        h = np.c_[p, np.ones(len(p)), np.zeros(len(p))].astype(np.float32)
        return PairFeatures(h, maps, *frame)


def test_the_folder_gives_what_was_rendered(folder: Path) -> None:
    scene = read_rgbd_folder(folder)
    assert (
        sorted(scene.frames) == ["0", "1", "2", "3"]
        and scene.pairs == []
        and scene.without_pose == 0
    )
    frame = scene.frames["1"]
    np.testing.assert_allclose(frame.cam_from_world, POSES[1], atol=1e-9)
    view = frame.view()
    np.testing.assert_allclose(view.camera.K, CAMERA.K, atol=1e-9)
    assert frame.image().shape == (144, 192, 3) and view.depth.shape == (144, 192)
    assert 2 < view.depth[view.depth > 0].min() < view.depth.max() < 8
    two = scene.sample_pairs(4, overlap=(0.05, 0.9), bins=2, seed=1)
    assert len(two) == 4 and scene.sample_pairs(4, overlap=(0.05, 0.9), bins=2, seed=1) == two
    for a, b in two:
        assert 0.05 <= visual_overlap(scene.frames[a].view(), scene.frames[b].view()) <= 0.9


def test_a_matcher_that_knows(folder: Path) -> None:
    scene = read_rgbd_folder(folder)
    pairs = [("0", "1"), ("1", "2"), ("3", "2")]
    options = PairOptions(iterations=300)
    results = evaluate_hallucination(
        Knowing(scene), samples(scene, pairs), spacing=10, options=options
    )
    json.dumps(results)
    for name, summary in results["keypoints"].items():
        assert summary["count"] > 3, name
        assert summary["nre"]["mean"] < results["uniform"] - 3 and summary["below_uniform"] > 0.9
        if (
            name != "outpainted"
        ):  # those may lie beyond the padded map, where the best cell is its border
            assert summary["argmax_error"]["median"] < 6  # cells of 8 pixels
            assert summary["beyond_map"] == 0
        assert sum(summary["nre"]["counts"]) == summary["count"] - summary["beyond_map"]
        assert sum(summary["argmax_error"]["counts"]) == summary["count"]
    assert results["uniform"] == pytest.approx(np.log(36 * 48))
    strict = results["pose"][0]
    assert strict["estimated"][-1] == 1.0 and strict["overlap"] == sorted(strict["overlap"])
    assert strict["identity"][-1] < 1.0
    for row, (a, b) in zip(results["pairs"], pairs):
        assert (row["source"], row["target"]) == (a, b) and row["success"]
        truth = pl.pose_error(POSES[int(a)], POSES[int(b)])
        assert (row["identity_rotation_error_deg"], row["identity_centre_error"]) == pytest.approx(
            truth, abs=1e-6
        )


def test_a_descriptor_identifies_but_cannot_outpaint(folder: Path) -> None:
    """Dense RootSIFT through the same evaluation: section 5.4's comparison in small."""
    scene = read_rgbd_folder(folder)
    matcher = DescriptorMatcher(DenseRootSIFT())
    assert isinstance(matcher, PairMatcher)
    results = evaluate_hallucination(
        matcher, samples(scene, [("0", "3"), ("3", "0"), ("0", "1")]), spacing=12
    )
    seen, outside = results["keypoints"]["identified"], results["keypoints"]["outpainted"]
    assert seen["below_uniform"] > 0.8 and seen["argmax_error"]["median"] < 12
    assert (
        outside["count"] > 10 and outside["beyond_map"] >= outside["count"] - 4
    )  # a cell may hang over
    assert [row["success"] for row in results["pairs"][:2]] == [True, True]
    assert results["pairs"][0]["rotation_error_deg"] < 3


def test_a_matcher_that_errs_shows(folder: Path) -> None:
    """Three cells beside the truth: 24 pixels in x and y, and a cost above the uniform one."""
    scene = read_rgbd_folder(folder)
    sample = next(iter(samples(scene, [("0", "3")])))
    _, scores = evaluate_pair(Knowing(scene, spread=0.5, offset=3.0), sample, spacing=12)
    inside = np.isfinite(scores.nre)
    assert np.median(scores.error[inside]) == pytest.approx(24 * 2**0.5, abs=4)
    assert np.median(scores.nre[inside]) > scores.uniform


def test_frames_without_a_pose_and_listed_pairs(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "scene"
    shutil.copytree(folder, copy)
    (copy / "pose" / "2.txt").write_text("-inf -inf -inf -inf\n" * 4)
    (copy / "pairs.txt").write_text("# source target\n0 1\n\n1 3\n")
    scene = read_rgbd_folder(copy)
    assert scene.without_pose == 1 and scene.pairs == [("0", "1"), ("1", "3")]
    np.savetxt(copy / "intrinsic" / "intrinsic_depth.txt", np.diag([100.0, 100.0, 1.0]))
    assert read_rgbd_folder(copy).frames["0"].view().depth_camera.fx == 100.0
    for change, text in (
        (lambda: (copy / "pairs.txt").write_text("0 2\n"), "line 1"),
        (lambda: (copy / "pairs.txt").write_text("0\n"), "two names"),
        (lambda: (copy / "pose" / "1.txt").write_text("1 2 3"), "1.txt"),
        (lambda: (copy / "pose" / "1.txt").write_text("a b"), "1.txt"),
        (lambda: (copy / "pose" / "1.txt").unlink(), "1.txt"),
        (lambda: (copy / "depth" / "0.png").unlink(), "0.png"),
        (lambda: (copy / "intrinsic" / "intrinsic_color.txt").unlink(), "intrinsic_color"),
        (lambda: shutil.rmtree(copy / "color"), "color"),
        (lambda: shutil.rmtree(copy), "no such folder"),
    ):
        change()
        with pytest.raises(ValueError, match=text):
            read_rgbd_folder(copy)


def test_depth_images_of_another_kind(folder: Path, tmp_path: Path) -> None:
    import shutil

    from PIL import Image

    copy = tmp_path / "scene"
    shutil.copytree(folder, copy)
    scene = read_rgbd_folder(copy)
    Image.fromarray(np.zeros((144, 192), np.uint8)).save(copy / "depth" / "0.png")
    with pytest.raises(ValueError, match="16-bit"):
        scene.frames["0"].view()
    (copy / "depth" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot read depth"):
        scene.frames["1"].view()


def test_the_command(folder: Path, tmp_path: Path) -> None:
    """NeurHal with random weights over the folder, from the command line: function, not accuracy."""
    pytest.importorskip("torch")
    pytest.importorskip("typer")
    pytest.importorskip("matplotlib")
    out = tmp_path / "results"
    command = [sys.executable, "-m", "pyloc_core.cli", "evaluate-neurhal", str(folder), "--out", str(out),
               "--pairs", "2", "--map-edge", "12", "--spacing", "24"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(pl.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=sys.prefix)
    assert done.returncode == 0, done.stderr
    assert "weights are random" in done.stdout and "outpainted:" in done.stdout
    results = json.loads((out / "results.json").read_text())
    assert len(results["pairs"]) == 2 and results["network"]["random"]
    assert results["uniform"] == pytest.approx(np.log(24 * 18), rel=0.01)
    for name in ("nre_cost", "argmax_error", "pose_success"):
        assert (out / f"{name}.png").stat().st_size > 5000
    bad = subprocess.run([*command[:4], "/no/such/folder"], capture_output=True, text=True, env=env,
                         cwd=sys.prefix)  # fmt: skip
    assert bad.returncode == 2 and "no such folder" in bad.stderr
