# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Mean matching accuracy on folders laid out like HPatches, made here with known homographies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("PIL")

from pyloc_core.localization import DenseRootSIFT, hpatches  # noqa: E402
from pyloc_core.localization.hpatches import PointMatches, warp  # noqa: E402

HOMOGRAPHY = np.array([[0.95, 0.06, 4.0], [-0.05, 1.02, 3.0], [1e-4, -5e-5, 1.0]])


def picture(seed: int, height: int = 72, width: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.zeros((height, width, 3), np.float32)
    for cells in (6, 12, 24):
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        out += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return (127 + 45 * out).clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One sequence of each kind with two pairs; OpenCV's warp counts pixels from their centres."""
    for name, homography in (("i_lamp", np.eye(3)), ("v_wall", HOMOGRAPHY)):
        path = tmp_path / name
        path.mkdir()
        first = picture(len(name))
        cv2.imwrite(str(path / "1.ppm"), first[:, :, ::-1])
        for index in (2, 3):
            h = np.linalg.matrix_power(homography, index - 1)
            other = cv2.warpPerspective(first, h, (96, 72), flags=cv2.INTER_LINEAR)
            if name == "i_lamp":
                other = (other * (0.5 + 0.1 * index)).astype(np.uint8)
            cv2.imwrite(str(path / f"{index}.ppm"), other[:, :, ::-1])
            np.savetxt(path / f"H_1_{index}", h)
    (tmp_path / "readme.txt").write_text("not a sequence")
    return tmp_path


def test_points_move_with_the_pictures() -> None:
    """A blob drawn around a pixel lies where `warp` says, in the other picture."""
    image = np.zeros((72, 96), np.float32)
    image[30, 40] = 1000
    other = cv2.warpPerspective(cv2.GaussianBlur(image, (0, 0), 2.0), HOMOGRAPHY, (96, 72))
    y, x = np.mgrid[:72, :96] + 0.5
    centre = [(x * other).sum() / other.sum(), (y * other).sum() / other.sum()]
    np.testing.assert_allclose(warp(HOMOGRAPHY, [[40.5, 30.5]])[0], centre, atol=0.03)
    assert np.isinf(warp(np.array([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]]), [[0.5, 3.5]])).any()


def test_accuracy_of_matches_with_known_errors(folder: Path) -> None:
    """Points are moved by 0, 2.5 and 20 pixels; a fifth of them is not matched at all."""
    truth = {s.name: [h for _, h in s.others] for s in hpatches.read_sequences(folder)}
    calls: list[int] = []

    def matcher(first: Any, xy: Any, second: Any) -> PointMatches:
        name = "i_lamp" if len(calls) < 2 else "v_wall"
        h = truth[name][len(calls) % 2]
        calls.append(len(xy))
        assert first.shape == second.shape == (72, 96, 3)
        error = np.array([0.0, 2.5, 20.0, 0.0, 0.0])[np.arange(len(xy)) % 5]
        offset = np.stack([0.6 * error, 0.8 * error], axis=1)
        return PointMatches(warp(h, xy) + offset, np.arange(len(xy)) % 5 != 3)

    result = hpatches.mean_matching_accuracy(
        folder, matcher, keypoints=lambda image: np.random.default_rng(1).uniform(5, 60, (50, 2))
    )
    expected = [0.5, 0.5] + [0.75] * 8  # of 40 matches 20 are exact and 10 are 2.5 pixels off
    for kind in ("all", "illumination", "viewpoint"):
        np.testing.assert_allclose(result["mma"][kind], expected)
    assert result["pairs"] == {"all": 4, "illumination": 2, "viewpoint": 2}
    assert result["matches_per_pair"] == 40 and calls == [50] * 4
    assert result["thresholds"] == list(range(1, 11))


def test_a_descriptor_as_matcher(folder: Path) -> None:
    """Dense RootSIFT finds what the homography moved; the way back removes what it did not."""
    descriptor = DenseRootSIFT()
    results = [
        hpatches.mean_matching_accuracy(
            folder, hpatches.descriptor_matcher(descriptor, max_cyclic=limit),
            keypoints=lambda image: hpatches.corners(image, 200),
        )
        for limit in (1.0, None)
    ]  # fmt: skip
    checked, free = results
    assert checked["mma"]["illumination"][0] > 0.95
    assert checked["mma"]["viewpoint"][2] > 0.8
    assert checked["mma"]["all"][2] > free["mma"]["all"][2]
    assert 20 < checked["matches_per_pair"] < free["matches_per_pair"]
    none = hpatches.descriptor_matcher(descriptor)(picture(1), np.zeros((0, 2)), picture(1))
    assert none.xy.shape == (0, 2) and none.valid.shape == (0,)


def test_pairs_without_matches_count_as_wrong(folder: Path) -> None:
    done = iter([True, False, True, False])

    def matcher(first: Any, xy: Any, second: Any) -> PointMatches:
        some = next(done)
        return PointMatches(xy, np.full(len(xy), some))

    result = hpatches.mean_matching_accuracy(folder, matcher, thresholds=(1, 500))
    assert result["mma"]["all"][1] == 0.5
    assert result["rows"][0]["points"] > 20


def test_json_and_plot(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = hpatches.mean_matching_accuracy(
        folder, lambda first, xy, second: PointMatches(xy, np.ones(len(xy), bool))
    )
    hpatches.write_json(result, tmp_path / "mma.json")
    assert json.loads((tmp_path / "mma.json").read_text()) == result
    file = hpatches.plot({"standing still": result}, tmp_path / "mma.png")
    drawn = cv2.imread(str(file))
    assert drawn is not None and drawn.std() > 5


def test_damaged_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no sequence"):
        hpatches.read_sequences(tmp_path / "i_lamp")
    (folder / "v_wall" / "H_1_3").write_text("1 0 0\n0 1 0\n")
    with pytest.raises(ValueError, match="H_1_3 is no homography"):
        hpatches.read_sequences(folder)
    (folder / "v_wall" / "H_1_3").write_text("a b c")
    with pytest.raises(ValueError, match=r"cannot read .*H_1_3"):
        hpatches.read_sequences(folder)
    (folder / "v_wall" / "H_1_3").unlink()
    (folder / "v_wall" / "2.ppm").unlink()
    with pytest.raises(ValueError, match="no picture 2"):
        hpatches.read_sequences(folder)
    for bad in ((), (0.0,), (1.0, float("nan"))):
        with pytest.raises(ValueError, match="thresholds"):
            hpatches.mean_matching_accuracy(folder, lambda *_: None, thresholds=bad)
