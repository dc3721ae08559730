# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The command that trains on places, its networks, and mined batches in it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for module in ("cv2", "safetensors", "scipy", "pytorch_metric_learning"):
    pytest.importorskip(module)
Image = pytest.importorskip("PIL.Image")

from pyloc_core.training.__main__ import main  # noqa: E402
from pyloc_core.training.pictures import PictureTable  # noqa: E402
from pyloc_core.training.place_mining import described, mine_batches  # noqa: E402
from pyloc_core.training.place_networks import build, load_start  # noqa: E402
from pyloc_core.training.place_options import PlaceOptions  # noqa: E402
from pyloc_core.training.street_scenes import StreetScenes  # noqa: E402

SIDE = 24


def write(folder: Path, table: PictureTable) -> Path:
    """A table as PNG files and a CSV file."""
    folder.mkdir()
    columns = {"place": table.place, "sequence": table.sequences}
    with (folder / "table.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        given = [name for name, values in columns.items() if values is not None]
        rows.writerow(["image", *given, "easting", "northing"])
        for index in range(len(table)):
            table.pictures.read(index).save(folder / f"{index}.png")
            rows.writerow(
                [f"{index}.png", *(columns[n][index] for n in given), *table.positions[index]]
            )
    return folder / "table.csv"


def streets(count: int, seed: int) -> StreetScenes:
    return StreetScenes(streets=count, size=SIDE, seed=seed, pixels_per_metre=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    write(folder / "train", streets(4, 1).places(4))
    write(folder / "held", streets(3, 2).places(3))
    write(folder / "drives", streets(6, 3).drives(10.0))
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        "places", "--out", str(out), "--places", str(folder / "train/table.csv"),
        "--held-out", str(folder / "held/table.csv"), "--network", "small-salad",
        "--image-size", str(SIDE), "--places-per-batch", "4", "--images", "3", "--epochs", "1",
        "--device", "cpu", "--quiet", "--no-tensorboard", *more,
    ]  # fmt: skip


def test_the_command_trains_and_resumes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(arguments(folder, tmp_path / "run")) == 0
    assert "2 steps" in capsys.readouterr().out
    assert main(arguments(folder, tmp_path / "run", "--epochs", "2", "--resume")) == 0
    said = capsys.readouterr().out
    assert "4 steps" in said and "recall@1" in said
    more = ("--start", str(tmp_path / "run/best.safetensors"), "--by-position")
    assert main(arguments(folder, tmp_path / "next", *more)) == 0


def test_the_command_mixes_mined_batches(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mined = ("--mined", str(folder / "drives/table.csv"), "--mined-count", "5",
             "--similar-sequences", "3")  # fmt: skip
    out = tmp_path / "run"
    assert main(arguments(folder, out, *mined, "--mine-only")) == 0
    assert "5 batches" in capsys.readouterr().out and not (out / "state.pt").exists()
    with np.load(out / "mined_batches.npz") as file:
        assert file["batches"].shape == (5, 2, 3)
    before = (out / "mined_batches.npz").read_bytes()
    assert main(arguments(folder, out, *mined)) == 0
    assert "4 steps" in capsys.readouterr().out  # eight places, two a batch
    assert (out / "mined_batches.npz").read_bytes() == before
    assert main(arguments(folder, out, *mined, "--threshold", "20")) == 2
    assert "was mined otherwise" in capsys.readouterr().err
    (out / "mined_batches.npz").write_bytes(before[:100])
    assert main(arguments(folder, out, *mined)) == 2
    assert "cannot read the mined batches" in capsys.readouterr().err


def test_the_command_says_in_one_line_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drives = str(folder / "drives/table.csv")
    for more, message in (
        (["--places-per-batch", "99"], "more than the 8 places"),
        (["--places", str(tmp_path)], "no subfolder with pictures"),
        (["--held-out", drives], "need places"),
        (["--network", "resnet"], "network must be one of salad"),
        (["--head", "1+1"], "head must be one of 8192+256"),
        (["--image-size", "25"], "multiple of 4"),
        (["--start", drives], "cannot start from"),
        (["--backbone-weights", drives], "no such backbone"),
        (["--mine-only"], "needs --mined"),
        (["--mined", str(folder / "train/table.csv")], "positions and sequences"),
        (["--mined", drives], "similar_sequences must be at most 11"),
        (["--mined", drives, "--mined-places", "200", "--similar-sequences", "2"], "cannot mine"),
        (["--resume"], "no checkpoint"),
        (["--precision", "float16"], "float16 needs CUDA"),
        (["--threads", "0"], "threads must be positive"),
    ):  # fmt: skip
        assert main(arguments(folder, tmp_path / "run", *more)) == 2, more
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(arguments(folder, tmp_path / "run", "--mined", drives)) == 2
    assert "one process first" in capsys.readouterr().err


def test_the_command_line_hands_its_arguments_on(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from pyloc_core.cli import app

    shown = CliRunner().invoke(app, ["train", "places", "--help"])
    assert shown.exit_code == 0 and "--places-per-batch" in shown.output
    refused = CliRunner().invoke(app, ["train", *arguments(folder, tmp_path, "--epochs", "0")])
    assert refused.exit_code == 2


def test_the_networks_describe_and_train_their_last_blocks() -> None:
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    for name in ("small-salad", "small-mixer"):
        described = build(name, 28)(images)
        torch.testing.assert_close(described.norm(dim=1), torch.ones(2))
    for name in ("salad", "mixer"):
        network = build(name, 70, backbone="vits14", head="512+32", trainable_blocks=2)
        trained = {id(p) for p in network.parameters_to_train()}
        named = [n for n, p in network.named_parameters() if id(p) in trained]
        assert any("blocks.10." in n for n in named) and not any("blocks.9." in n for n in named)
        assert any("project" in n or "score" in n for n in named)


def test_backbone_weights_are_loaded(tmp_path: Path) -> None:
    given = build("mixer", 28, backbone="vits14", seed=3)
    path = tmp_path / "dinov2.pth"
    torch.save(given.backbone.state_dict(), path)
    for name, size in (("mixer", 28), ("salad", 70)):
        network = build(name, size, backbone="vits14", head="512+32")
        load_start(network, None, path)
        own = network.vit if name == "salad" else network.backbone
        assert torch.equal(own.pos_embed, given.backbone.pos_embed)


def test_mined_places_are_near_each_other_and_of_alike_sequences() -> None:
    table = streets(6, 3).drives(10.0)
    network = build("small-salad", SIDE)
    options = PlaceOptions(places=6, images=3, image_size=SIDE)
    batches = mine_batches(network, table, options, count=4, similar_sequences=3)
    assert batches.shape == (4, 3, 3)
    offset = table.positions[batches][..., None, :] - table.positions[batches][..., None, :, :]
    assert (np.hypot(offset[..., 0], offset[..., 1]) < 25).all()
    again = mine_batches(network, table, options, count=4, similar_sequences=3)
    np.testing.assert_array_equal(batches, again)
    vectors = described(network.train(), table, np.arange(5), options)
    assert network.training and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    few = PictureTable(table.pictures, positions=table.positions,
                       sequences=np.where(np.arange(len(table)) == 3, -1, table.sequences))  # fmt: skip
    with pytest.raises(ValueError, match="1 pictures have no sequence, the first is picture 3"):
        mine_batches(network, few, options, count=1)
