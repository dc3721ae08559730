# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks as held-out pictures, and the frames of Mapillary SLS as what is mined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for module in ("cv2", "scipy", "pytorch_metric_learning"):
    pytest.importorskip(module)
Image = pytest.importorskip("PIL.Image")

from pyloc_core.training.__main__ import main  # noqa: E402
from pyloc_core.training.pictures import PictureArrays, PictureTable  # noqa: E402
from pyloc_core.training.place_layouts import held_out_layout, msls_frames  # noqa: E402
from pyloc_core.training.place_recall import RecallJudge, recalls  # noqa: E402

SIDE = 24


def city(root: Path, name: str, east: float, seed: int) -> None:
    """Two drives, one as queries, 40 frames 5 m apart each, in two sequences each."""
    rng = np.random.default_rng(seed)
    for side, start in (("query", 0), ("database", 100)):
        folder = root / "train_val" / name / side
        (folder / "images").mkdir(parents=True)
        keys = [f"{name}{start + i}" for i in range(40)]
        placed = [f"{i},{k},{east + 5 * i},10.0,{start + i // 20}" for i, k in enumerate(keys)]
        raw = [f"{i},{k},False" for i, k in enumerate(keys)]
        for file, header, rows in (
            ("postprocessed", ",key,easting,northing,unique_cluster", placed),
            ("raw", ",key,pano", raw),
        ):
            (folder / f"{file}.csv").write_text("\n".join([header, *rows]) + "\n")
        for key in keys:
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{key}.jpg")


@pytest.fixture(scope="module")
def msls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("msls")
    for number, name in enumerate(("boston", "cph", "sf", "tokyo")):
        city(root, name, 1000.0 * number, number)
    return root


def test_a_benchmark_is_judged_by_its_own_rule(msls: Path) -> None:
    table = held_out_layout("msls", msls)
    assert len(table) == 160 and table.query.sum() == 80
    judge = RecallJudge(table, size=SIDE)
    # Frame i of the query drive lies within 25 m of frames i - 5 to i + 5 of the other drive.
    np.testing.assert_array_equal(judge.positives[10], np.arange(5, 16) + 80)
    angle = np.radians(np.arange(40) * 2.0)
    one = np.stack([np.cos(angle), np.sin(angle)], 1)  # frames in order on a circle
    both = torch.from_numpy(np.concatenate([one, one, one, one]))
    both = torch.cat([both, torch.tensor([[0.0], [1.0], [0.0], [1.0]]).repeat_interleave(40, 0)], 1)
    assert recalls(judge, torch.nn.functional.normalize(both, dim=1))[1] == 1.0
    turned = both.clone()
    turned[:80] = turned[:80].flip(0)
    assert recalls(judge, torch.nn.functional.normalize(turned, dim=1))[1] < 0.2


def test_frames_of_the_training_cities(msls: Path, tmp_path: Path) -> None:
    table = msls_frames(msls)
    names = [Path(f).name for f in table.pictures.files]
    assert len(names) == 160 and all(n.startswith(("boston", "tokyo")) for n in names)
    assert len(set(table.sequences.tolist())) == 8 and len(set(table.cities.tolist())) == 2
    for city_number in (0, 1):  # one label in two cities is two sequences
        assert len(set(table.sequences[table.cities == city_number].tolist())) == 4
    (tmp_path / "cph/query").mkdir(parents=True)
    with pytest.raises(ValueError, match="no training city"):
        msls_frames(tmp_path)


def test_the_command_takes_benchmarks(
    msls: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for place in range(4):
        folder = tmp_path / f"gsv/Images/Rome/Rome_{place:07d}_2015_01_9_41.8_-87.6_"
        folder.parent.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            pixels = np.random.default_rng([place, number]).integers(
                0, 256, (SIDE, SIDE, 3), np.uint8
            )
            Image.fromarray(pixels).save(f"{folder}{number}.JPG")
    arguments = [
        "places", "--out", str(tmp_path / "run"), "--places", str(tmp_path / "gsv"),
        "--held-out", str(msls), "--held-out-layout", "msls", "--mined", str(msls),
        "--mined-count", "2", "--similar-sequences", "2", "--network", "small-mixer",
        "--image-size", str(SIDE), "--places-per-batch", "4", "--images", "3", "--epochs", "1",
        "--device", "cpu", "--quiet", "--no-tensorboard",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "2 steps" in capsys.readouterr().out
    arguments[arguments.index("--held-out-layout") + 1] = "mslss"
    assert main(arguments) == 2
    assert "did you mean 'msls'" in capsys.readouterr().err


def test_answers_that_fit_no_table_are_refused() -> None:
    pictures = PictureArrays(np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8))
    query = np.array([True, False, True, False])
    right = (np.array([1]), np.array([1, 3]))
    assert RecallJudge(PictureTable(pictures, query=query, answers=right)).positives[
        1
    ].tolist() == [1, 3]
    for bad, message in (
        ((right[0],), "one array per query"), ((right[0], np.array([2])), r"answers\[1\]"),
        ((np.array([4]), right[1]), r"answers\[0\]"), ((np.array([1.0]), right[1]), r"answers\[0\]"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            PictureTable(pictures, query=query, answers=bad)
    with pytest.raises(ValueError, match="one array per query"):
        PictureTable(pictures, answers=right)
