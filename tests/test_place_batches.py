# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Places and their batches: who is drawn, what is read, what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")

from pyloc_core.training.distributed import Processes  # noqa: E402
from pyloc_core.training.pictures import (  # noqa: E402
    PictureArrays,
    PictureTable,
    read_folder,
    read_gsv_cities,
    read_table,
)
from pyloc_core.training.place_batches import (  # noqa: E402
    MinedPlaces,
    PlaceBatches,
    RandomPlaces,
)
from pyloc_core.training.random_changes import OPERATIONS, RandomChanges  # noqa: E402

ONE = Processes(0, 1, torch.device("cpu"))


def table(sizes: list[int], cities: list[int] | None = None, side: int = 6) -> PictureTable:
    """Places of so many pictures; the first pixel of a picture is its number."""
    place = np.repeat(np.arange(len(sizes)), sizes)
    order = np.random.default_rng(0).permutation(len(place))
    pixels = np.random.default_rng(1).integers(0, 256, (len(place), side, side, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(len(place))
    city = None if cities is None else np.asarray(cities)[place][order]
    return PictureTable(PictureArrays(pixels), place[order], cities=city)


def mined(count: int = 5, places: int = 2, seed: int = 3, pictures: int = 40, images: int = 3):
    rng = np.random.default_rng(seed)
    size = places * images
    return np.stack(
        [rng.permutation(pictures)[:size].reshape(places, images) for _ in range(count)]
    )


def files(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (number, 0, 0)).save(folder / name)


# --- drawing ---


def test_an_epoch_has_every_place_once_with_pictures_of_its_own() -> None:
    pictures = table([4, 5, 7, 4, 9, 4, 6])
    source = RandomPlaces(pictures, 2, 4, seed=5)
    assert source.steps() == 3 and source.left_out == 0
    seen = []
    for epoch in range(2):
        rows = np.concatenate([source.draw(epoch, step) for step in range(3)])
        places = pictures.place[rows]
        assert (places == places[:, :1]).all() and len(np.unique(rows)) == rows.size
        assert len(np.unique(places[:, 0])) == 6  # one of seven fills no batch
        seen.append(rows)
    assert not np.array_equal(*seen)
    again = RandomPlaces(pictures, 2, 4, seed=5)
    np.testing.assert_array_equal(again.draw(1, 2), seen[1][4:])  # whatever was drawn before
    assert not np.array_equal(RandomPlaces(pictures, 2, 4, seed=6).draw(1, 2), seen[1][4:])


def test_all_pictures_of_a_place_take_their_turn() -> None:
    source = RandomPlaces(table([8, 8]), 2, 4)
    counts = np.bincount(np.concatenate([source.draw(e, 0).ravel() for e in range(200)]))
    assert len(counts) == 16 and counts.min() > 70 and counts.max() < 130  # 100 each; sigma 7


def test_small_places_are_left_out_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    pictures = table([4, 1, 3, 5, 2])
    with caplog.at_level(logging.WARNING):
        source = RandomPlaces(pictures, 2, 4)
    assert source.left_out == 3 and "3 of 5 places have fewer than 4 pictures" in caplog.text
    assert set(pictures.place[source.draw(0, 0)][:, 0]) == {0, 3}
    with pytest.raises(ValueError, match="batch of 3 places is more than the 2 places"):
        RandomPlaces(pictures, 3, 4)
    with pytest.raises(ValueError, match="names no places"):
        RandomPlaces(PictureTable(pictures.pictures), 1, 2)


def test_batches_of_one_city() -> None:
    pictures = table([2] * 9, cities=[0, 0, 0, 0, 1, 1, 1, 2, 1])
    source = RandomPlaces(pictures, 2, 2, one_city=True)
    assert source.steps() == 4  # two of each of two cities; the third has too few places
    for step in range(4):
        assert len(set(pictures.cities[source.draw(0, step)].ravel())) == 1
    with pytest.raises(ValueError, match="cities"):
        RandomPlaces(table([2, 2]), 1, 2, one_city=True)
    with pytest.raises(ValueError, match="of any city"):
        RandomPlaces(table([2] * 4, cities=[0, 0, 1, 1]), 3, 2, one_city=True)


def test_mined_batches_come_once_per_pass_in_a_new_order() -> None:
    rows = mined()
    source = MinedPlaces(table([4] * 10), rows, seed=1)
    assert (source.steps(), source.places, source.images) == (5, 2, 3)
    orders = []
    for epoch in range(3):
        drawn = [source.draw(epoch, step) for step in range(5)]
        which = [int(np.flatnonzero((rows == d).all((1, 2)))[0]) for d in drawn]
        assert sorted(which) == [0, 1, 2, 3, 4]
        orders.append(which)
    assert orders[0] != orders[1] or orders[1] != orders[2]
    # Longer epochs go on with the next pass, shorter ones leave the rest to the next epoch.
    longer = MinedPlaces(table([4] * 10), rows, seed=1, length=10)
    np.testing.assert_array_equal(longer.draw(0, 7), source.draw(1, 2))
    shorter = MinedPlaces(table([4] * 10), rows, seed=1, length=2)
    np.testing.assert_array_equal(shorter.draw(2, 1), source.draw(1, 0))


def test_mined_batches_of_a_sampler() -> None:
    class Sampler:
        def batch(self, index: int) -> np.ndarray:
            return mined()[index]

    source = MinedPlaces.of_sampler(table([4] * 10), Sampler(), 4)
    np.testing.assert_array_equal(source.rows, mined()[:4])


def test_bad_mined_batches_are_refused() -> None:
    pictures = table([4] * 10)
    twice = mined()
    twice[3, 1, 0] = twice[3, 0, 2]
    for bad, message in (
        (mined()[0], "batches must be integers"), (mined() * 1.0, "batches must be integers"),
        (mined()[:0], "not empty"), (mined(pictures=50), "names pictures"), (mined() - 1, "-1 to"),
        (twice, "a picture twice, the first is 3"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            MinedPlaces(pictures, bad)


# --- batches ---


def test_a_mixed_batch_has_both_sources_and_labels_of_its_own() -> None:
    first, second = table([4] * 9), table([4] * 10)
    for places in (3, 2, 4):
        batches = PlaceBatches(
            [RandomPlaces(first, places, 3), MinedPlaces(second, mined())], size=6, changes=None
        )
        assert batches.steps(ONE) == 9 // places
        for step, batch in enumerate(batches.batches(1, 0, ONE)):
            assert batch["images"].shape == ((places + 2) * 3, 3, 6, 6)
            assert batch["source"].tolist() == [0] * 3 * places + [1] * 6
            assert batch["labels"].tolist() == sorted(list(range(places + 2)) * 3)
            drawn = np.concatenate([s.draw(1, step).ravel() for s in batches.sources])
            assert batch["images"][:, 0, 0, 0].tolist() == drawn.tolist()
    with pytest.raises(ValueError, match="places of one size"):
        PlaceBatches([RandomPlaces(first, 3, 4), MinedPlaces(second, mined())])


def test_neither_workers_nor_processes_nor_the_start_change_a_batch() -> None:
    pictures = table([4] * 9)

    def made(workers: int = 0, first: int = 0, rank: int = 0, count: int = 1, seed: int = 2):
        batches = PlaceBatches(
            [RandomPlaces(pictures, 4, 3), MinedPlaces(pictures, mined(pictures=36))],
            size=8, changes=RandomChanges(3, 0.5), seed=seed, workers=workers,
        )  # fmt: skip
        return list(batches.batches(3, first, Processes(rank, count, ONE.device)))

    whole = made()
    assert len(whole) == 2
    for other, start in ((made(workers=2), 0), (made(first=1), 1)):
        for a, b in zip(whole[start:], other):
            assert all(torch.equal(a[k], b[k]) for k in a)
    parts = [made(rank=rank, count=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        for name, values in batch.items():
            rows = values.unflatten(0, (6, 3))
            for rank in range(3):
                assert torch.equal(rows[rank::3].flatten(0, 1), parts[rank][step][name])
    assert not torch.equal(made(seed=3)[0]["images"], whole[0]["images"])
    with pytest.raises(ValueError, match="6 places does not divide over 4 processes"):
        made(count=4)


def test_pictures_are_resized() -> None:
    batches = PlaceBatches([RandomPlaces(table([3] * 3, side=5), 3, 2)], size=20)
    batch = next(batches.batches(0, 0, ONE))
    assert batch["images"].shape == (6, 3, 20, 20) and batch["images"].dtype == torch.uint8


# --- random changes ---


def test_every_operation_changes_a_picture_and_keeps_its_size() -> None:
    pixels = np.random.default_rng(0).integers(30, 200, (20, 24, 3), np.uint8)
    image = Image.fromarray(pixels)
    for number, operation in enumerate(OPERATIONS):
        results = [np.asarray(operation(image, 0.7, sign)) for sign in (1.0, -1.0)]
        assert all(r.shape == pixels.shape and r.dtype == np.uint8 for r in results)
        changed = [not np.array_equal(r, pixels) for r in results]
        assert changed == [number > 0] * 2, operation
    assert np.array_equal(np.asarray(image), pixels)


def test_changes_follow_the_generator_and_their_strength() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    change = RandomChanges()
    made = [np.asarray(change(np.random.default_rng(seed), image)) for seed in (1, 1, 2)]
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])
    assert np.array_equal(RandomChanges(0)(np.random.default_rng(1), image), image)
    for bad in ({"operations": -1}, {"strength": 1.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            RandomChanges(**bad)


# --- tables ---


def test_a_folder_with_a_subfolder_per_place(tmp_path: Path) -> None:
    files(tmp_path, ["b/1.jpg", "a/2.png", "a/deep/3.png", "b/4.jpg"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "a/note.txt").write_text("no picture")
    found = read_folder(tmp_path)
    names = [str(Path(f).relative_to(tmp_path)) for f in found.pictures.files]
    assert names == ["a/2.png", "a/deep/3.png", "b/1.jpg", "b/4.jpg"]
    assert found.place.tolist() == [0, 0, 1, 1]
    assert np.asarray(found.pictures.read(0)).shape == (7, 9, 3)
    for bad in (tmp_path / "empty", tmp_path / "a/2.png"):
        with pytest.raises(ValueError, match=bad.name):
            read_folder(bad)


def test_the_folder_of_gsv_cities(tmp_path: Path) -> None:
    name = "Images/{0}/{0}_{1:07d}_2015_0{2}_134_41.88_-87.6_a_B-c{2}.JPG"
    made = [("Rome", 3, 1), ("Rome", 3, 2), ("Rome", 4, 1), ("Oslo", 3, 5)]
    files(tmp_path, [name.format(*m) for m in made])
    found = read_gsv_cities(tmp_path)
    assert found.place.tolist() == [0, 1, 1, 2] and found.cities.tolist() == [0, 1, 1, 1]
    files(tmp_path, ["Images/Rome/other.jpg"])
    with pytest.raises(ValueError, match=r"1 names .* say no place: .*other\.jpg"):
        read_gsv_cities(tmp_path)
    with pytest.raises(ValueError, match="holds no pictures"):
        read_gsv_cities(tmp_path / "Images")


def write(folder: Path, rows: list[str], header: str = "image,place,easting,northing,city") -> Path:
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "t.csv"


def test_a_table_with_all_its_columns(tmp_path: Path) -> None:
    files(tmp_path / "p", ["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    rows = ["1.jpg,x,1.5,2,Rome,s,query", "2.jpg,x,3,4,Oslo,s,database", "1.jpg,x,1.5,2,Rome,s,query",
            "3.jpg,y,5,6,Oslo,,database", "4.jpg,,7,8,Oslo,t,query"]  # fmt: skip
    path = write(tmp_path, rows, "image,place,easting,northing,city,sequence,role")
    found = read_table(path, tmp_path / "p")
    assert len(found) == 4 and found.doubled == 1
    assert found.place.tolist() == [0, 1, 2, -1]  # x in Rome is not x in Oslo
    assert found.cities.tolist() == [0, 1, 1, 1] and found.sequences.tolist() == [0, 1, -1, 2]
    assert found.query.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(found.positions[:2], [[1.5, 2], [3, 4]])
    assert [m.tolist() for m in found.members()] == [[0], [1], [2]]


def test_what_is_wrong_with_a_table_is_named(tmp_path: Path) -> None:
    files(tmp_path, ["1.jpg", "2.jpg"])
    for rows, header, message in (
        (["1.jpg,1"], "picture,place", "column named image, got picture, place"),
        ([], "image,place", "no rows"),
        (["1.jpg,1", "9.jpg,1", "8.jpg,2"], "image,place",
         r"2 of the 3 pictures .* do not exist: .*9\.jpg, .*8\.jpg"),
        (["1.jpg,nan,2"], "image,easting,northing", r"easting of 1\.jpg .* finite number, got 'nan'"),
        (["1.jpg,1,x"], "image,easting,northing", r"northing of 1\.jpg .* got 'x'"),
        (["1.jpg,1"], "image,easting", "both easting and northing"),
        (["1.jpg,a", "1.jpg,b"], "image,place", r"1\.jpg stands in .* place 'a' and 'b'"),
        (["1.jpg,reference"], "image,role", "query or database, got 'reference'"),
        (["1.jpg"], "image,place", "line 2 .* incomplete"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            read_table(write(tmp_path, rows, header))
    with pytest.raises(ValueError, match="cannot read the table"):
        read_table(tmp_path / "none.csv")


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(b"no picture")
    files(tmp_path, ["a/2.jpg"])
    source = RandomPlaces(read_folder(tmp_path), 1, 2)
    with pytest.raises(ValueError, match=r"cannot read the picture .*a/1\.jpg"):
        next(PlaceBatches([source], size=8).batches(0, 0, ONE))


def test_impossible_tables_are_refused() -> None:
    pictures = PictureArrays(np.random.default_rng(0).integers(0, 256, (3, 4, 4), np.uint8))
    assert np.asarray(pictures.read(0)).shape == (4, 4, 3)  # grey becomes RGB
    nan = np.array([[0, 0], [1, np.nan], [2, 2.0]])
    for bad, message in (
        ({"place": np.arange(2)}, "place must be"), ({"place": np.arange(3.0)}, "place must be"),
        ({"positions": np.zeros((3, 3))}, "positions must be"),
        ({"positions": nan}, "1 are not, the first that of picture 1"),
        ({"query": np.ones(3, bool)}, "queries and a database"),
        ({"query": np.ones(3, int)}, "query must be"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            PictureTable(pictures, **bad)
    with pytest.raises(ValueError, match="at least one"):
        PictureTable(PictureArrays(pictures.pixels[:0]))
