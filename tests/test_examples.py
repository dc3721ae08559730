# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The examples run and do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_here() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    source = Path(__file__).read_text()
    assert names and all(f'load("{name}")' in source for name in names), names


def test_p3p_batch() -> None:
    assert load("p3p_batch").main(2000) > 0.999


def test_assignment() -> None:
    found = load("assignment").main()
    everybody, bins = found["Sinkhorn, all must match"], found["Sinkhorn with dustbins"]
    assert bins[0] > 0.95 > 0.85 > everybody[0]  # precision: what the dustbins are for
    assert everybody[1] > 0.8 and bins[1] > 0.6 and found["dual softmax"][0] > 0.9


def test_plane_sweep() -> None:
    assert load("plane_sweep").main() > 0.99


def test_pose_from_loss_maps() -> None:
    angle, distance = load("pose_from_loss_maps").main()
    assert angle < 0.2 and distance < 0.04


def test_match_and_localize() -> None:
    for module in ("cv2", "skimage", "pycolmap"):
        pytest.importorskip(module)
    errors = load("match_and_localize").main()
    assert errors["by hand"][0] < 1.0
    assert errors["localizer"][0] < 0.1 and errors["localizer"][1] < 0.02


def test_custom_descriptor() -> None:
    for module in ("cv2", "skimage", "pycolmap"):
        pytest.importorskip(module)
    angle, distance = load("custom_descriptor").main()
    assert angle < 0.5 and distance < 0.1


def test_matching_accuracy() -> None:
    pytest.importorskip("cv2")
    result = load("matching_accuracy").main()["RootSIFT"]
    assert result["mma"]["illumination"][0] > 0.95 and result["mma"]["viewpoint"][2] > 0.6


def test_retrieval_heat_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("torch", "PIL"):
        pytest.importorskip(module)
    out = tmp_path / "heat.png"
    kept = load("retrieval_heat_map").main(out=out, backbone="vits14", size=210)
    assert kept.shape == (15, 15) and 0.2 < kept.mean() < 0.4
    assert "random weights" in capsys.readouterr().out
    from PIL import Image

    assert Image.open(out).size == (640, 240)


def test_train_place_recognition(tmp_path: Path) -> None:
    for module in ("torch", "cv2", "safetensors", "scipy", "pytorch_metric_learning"):
        pytest.importorskip(module)
    before, after = load("train_place_recognition").main(4, str(tmp_path))
    assert before < 0.7 and after > before + 0.04
    assert (tmp_path / "best.safetensors").is_file()


def test_refine_depth_network() -> None:
    for module in ("torch", "cv2", "pycolmap"):
        pytest.importorskip(module)
    before, after = load("refine_depth_network").main(drives=10, steps=80)
    assert after[0] < before[0] and after[1] < 0.85 * before[1]
