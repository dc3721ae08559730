# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Readers of benchmark layouts, on small sets made here."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pyloc_core.retrieval import recall
from pyloc_core.retrieval.layouts import LAYOUTS, read_layout


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")


def write_table(path: Path, columns: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{i},{row}" for i, row in enumerate(rows)]
    path.write_text("\n".join([f",{columns}", *lines]) + "\n")


def make_msls(root: Path, city: str, side: str, frames: list[tuple]) -> None:
    """frames: (key, easting, northing, cluster, pano)."""
    folder = root / "train_val" / city / side
    placed = [f"{k},{e},{n},False,False,Forward,{c}" for k, e, n, c, _ in frames]
    header = "key,easting,northing,night,control_panel,view_direction,unique_cluster"
    write_table(folder / "postprocessed.csv", header, placed)
    raw = [f"{k},12.5,55.6,90.0,2019-06-01,{p}" for k, *_, p in reversed(frames)]
    write_table(folder / "raw.csv", "key,lon,lat,ca,captured_at,pano", raw)
    sequences = [f"{k},drive{i % 2},{i}" for i, (k, *_) in enumerate(frames)]
    write_table(folder / "seq_info.csv", "key,sequence_key,frame_number", sequences)
    touch(*(folder / "images" / f"{k}.jpg" for k, *_ in frames))


@pytest.fixture
def msls(tmp_path) -> Path:
    for city, shift in (("cph", 0.0), ("sf", 0.0)):  # the same coordinates in two cities
        make_msls(tmp_path, city, "query", [(f"q{city}", 347000.5 + shift, 6.2e6, 4, False),
                                            (f"far{city}", 350000.0, 6.2e6, 5, "False")])  # fmt: skip
        make_msls(tmp_path, city, "database", [(f"a{city}", 347010.5, 6.2e6, 4, False),
                                               (f"b{city}", 347000.5, 6.20003e6, 7, False),
                                               (f"pano{city}", 347000.5, 6.2e6, 7, True)])  # fmt: skip
    return tmp_path


def test_msls(msls) -> None:
    pytest.importorskip("scipy")
    found = read_layout("msls", msls)
    assert str(found) == "msls: 4 queries, 4 database images, within 25 m"
    assert [p.name for p in found.queries.images] == [
        "qcph.jpg",
        "farcph.jpg",
        "qsf.jpg",
        "farsf.jpg",
    ]
    assert all(p.is_file() for p in found.queries.images + found.database.images)
    # 10 m is near, 30 m is not, and nothing of the other city is.
    assert [p.tolist() for p in found.positives()] == [[0], [], [2], []]
    assert found.database.sequence.tolist() == ["4", "7", "4", "7"]
    assert found.queries.region.tolist() == ["cph", "cph", "sf", "sf"]
    everything = found.all_images()
    assert len(everything.images) == 8 and everything.positions.shape == (8, 2)
    assert (
        everything.region.tolist() == ["cph", "cph", "sf", "sf"] * 2 and everything.frames is None
    )
    curve = found.curve([[1, 2], [1, 2], [3, 0], [3, 0]], [25, 35, 1e5], (1, 2))
    assert curve.values.tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
    one = read_layout(
        "msls", msls / "train_val", cities=["sf"], panoramas=True, sequence="sequence_key"
    )
    assert len(one.database.images) == 3 and one.database.sequence.tolist() == [
        "drive0",
        "drive1",
        "drive0",
    ]


def test_msls_cities_are_a_list(msls) -> None:
    with pytest.raises(TypeError, match="cities must be a list of names, got 'cph'"):
        read_layout("msls", msls, cities="cph")


def test_msls_that_is_damaged(msls) -> None:
    folder = msls / "train_val" / "cph" / "database"
    table = (folder / "postprocessed.csv").read_text()
    for change, message in (
        ((",easting", ",east"), "postprocessed.csv has no column easting"),
        (
            (",347010.5,", ",nan,"),
            "postprocessed.csv: 1 positions are not finite, the first is of acph",
        ),
        ((",347010.5,", ",,"), "1 positions are not finite, the first is of acph"),
        (("bcph", "acph"), "has the key acph twice"),
        (("bcph", "other"), "raw.csv lacks 1 keys of postprocessed.csv, other first"),
    ):
        (folder / "postprocessed.csv").write_text(table.replace(*change))
        with pytest.raises(ValueError, match=message):
            read_layout("msls", msls)
    (folder / "postprocessed.csv").write_text(table + "2,cut,347000.5\n")
    with pytest.raises(ValueError, match=r"postprocessed.csv ends early in row 3"):
        read_layout("msls", msls)
    (folder / "postprocessed.csv").write_bytes(table.encode() + b"\xff\x00")
    with pytest.raises(ValueError, match=r"postprocessed.csv is no table that can be read"):
        read_layout("msls", msls)
    (folder / "postprocessed.csv").write_text(table)
    (folder / "images" / "acph.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 pictures are not there, the first is .*acph.jpg"
    ):
        read_layout("msls", msls)
    assert len(read_layout("msls", msls, check=False).database.images) == 4
    (folder / "raw.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"raw.csv"):
        read_layout("msls", msls)
    with pytest.raises(FileNotFoundError, match="paris"):
        read_layout("msls", msls, cities=["paris"])
    with pytest.raises(ValueError, match="cities is empty"):
        read_layout("msls", msls, cities=[])
    header = table.splitlines()[0]
    for side in ("query", "database"):
        place = msls / "train_val" / "sf" / side
        (place / "postprocessed.csv").write_text(header + "\n")
    with pytest.raises(ValueError, match="no frame of the query of sf is left"):
        read_layout("msls", msls, cities=["sf"])
    with pytest.raises(ValueError, match="did you mean 'unique_cluster'"):
        read_layout("msls", msls, sequence="unique_clusters")


def test_nordland(tmp_path) -> None:
    for season in ("winter", "summer"):
        touch(*(tmp_path / season / f"images-{i:05d}.png" for i in (3, 1, 2, 11)))
    found = read_layout("nordland", tmp_path)
    assert found.queries.frames.tolist() == [1, 2, 3, 11] and found.rule == "frames"
    assert [p.tolist() for p in found.positives()] == [[0, 1], [0, 1, 2], [1, 2], [3]]
    assert recall([[1], [0], [0], [3]], found.positives(), (1,))[1] == 0.75
    assert found.curve([[3], [3], [3], [3]], [0, 8, 10], (1,)).values.ravel().tolist() == [
        0.25,
        0.5,
        1,
    ]
    exact = read_layout("nordland", tmp_path, queries="summer", database="winter", tolerance=0)
    assert [p.tolist() for p in exact.positives()] == [[0], [1], [2], [3]]
    touch(tmp_path / "summer" / "again" / "images-00002.png")
    with pytest.raises(ValueError, match=r"summer has frame 2 twice"):
        read_layout("nordland", tmp_path)
    touch(tmp_path / "winter" / "title.png")
    with pytest.raises(ValueError, match=r"title.png bears no frame number"):
        read_layout("nordland", tmp_path)
    with pytest.raises(FileNotFoundError, match="autumn"):
        read_layout("nordland", tmp_path, queries="autumn")
    (tmp_path / "autumn").mkdir()
    with pytest.raises(ValueError, match="autumn holds no pictures"):
        read_layout("nordland", tmp_path, queries="autumn")


def utm_name(east: float, north: float, zone: str = "10") -> str:
    return (
        f"@{east:010.2f}@{north:010.2f}@{zone}@S@037.70098@-122.49646@kPnABhWJ@@210@@@@201606@@.jpg"
    )


def test_positions_in_file_names(tmp_path) -> None:
    pytest.importorskip("scipy")
    touch(tmp_path / "database" / utm_name(544388.51, 4172758.25))
    touch(tmp_path / "database" / "west" / utm_name(540000.0, 4172758.25))
    touch(tmp_path / "queries_v1" / utm_name(544400.0, 4172758.25))
    found = read_layout("sf_xl", tmp_path)
    assert found.name == "sf_xl" and found.queries.positions.tolist() == [[544400.0, 4172758.25]]
    at = found.database.positions[:, 0].tolist().index(544388.51)
    assert [p.tolist() for p in found.positives()] == [[at]]
    with pytest.raises(FileNotFoundError, match="queries_v2"):
        read_layout("sf_xl", tmp_path, queries="queries_v2")
    for name, message in (
        ("plain.jpg", "plain.jpg is not named"),
        ("@east@north@10@S@.jpg", "'east', 'north' are no coordinates"),
        ("@nan@4172758.25@10@S@.jpg", "1 positions are not finite"),
        (utm_name(5e5, 4e6, "11"), "mixes the UTM zones 10, 11"),
    ):
        touch(tmp_path / "queries_v1" / name)
        with pytest.raises(ValueError, match=message):
            read_layout("sf_xl", tmp_path)
        (tmp_path / "queries_v1" / name).unlink()


def cells(names: list[str]) -> np.ndarray:
    column = np.empty((len(names), 1), object)
    column[:, 0] = names
    return column


def make_pittsburgh(root: Path, **changes) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    fields = {
        "whichSet": "test",
        "dbImageFns": cells(["000/a.jpg", "000/b.jpg", "001/c.jpg"]),
        "utmDb": np.array([[5.8e5, 5.8e5, 5.9e5], [4.47e6, 4.470024e6, 4.47e6]]),
        "qImageFns": cells(["000/q.jpg", "000/r.jpg"]),
        "utmQ": np.array([[5.8e5, 6.0e5], [4.47e6, 4.47e6]]),
        "numImages": 3, "numQueries": 2, "posDistThr": 25, "posDistSqThr": 625,
        "nonTrivPosDistSqThr": 100,
    }  # fmt: skip
    fields.update(changes)
    (root / "datasets").mkdir(exist_ok=True)
    scipy_io.savemat(root / "datasets" / "pitts30k_test.mat", {"dbStruct": fields})
    touch(*(root / n for n in ("000/a.jpg", "000/b.jpg", "001/c.jpg")))
    touch(*(root / "queries_real" / n for n in ("000/q.jpg", "000/r.jpg")))


def test_pittsburgh(tmp_path) -> None:
    make_pittsburgh(tmp_path)
    found = read_layout("pittsburgh", tmp_path)
    assert [p.tolist() for p in found.positives()] == [[0, 1], []]
    assert found.database.images[2] == tmp_path / "001/c.jpg"
    assert found.queries.images[0] == tmp_path / "queries_real/000/q.jpg"
    for changes, message in (
        ({"utmDb": np.zeros((2, 2))}, r"utmDb must be \(2, 3\), got \(2, 2\)"),
        (
            {"utmQ": np.full((2, 2), np.nan)},
            "2 positions are not finite, the first is of 000/q.jpg",
        ),
        ({"qImageFns": np.zeros((0, 0))}, "qImageFns is empty"),
        ({"qImageFns": np.ones((2, 1))}, "qImageFns must be a column of file names"),
    ):
        make_pittsburgh(tmp_path, **changes)
        with pytest.raises(ValueError, match=message):
            read_layout("pittsburgh", tmp_path)
    make_pittsburgh(tmp_path)
    (tmp_path / "000" / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000/b.jpg"):
        read_layout("pittsburgh", tmp_path)
    (tmp_path / "datasets" / "pitts30k_test.mat").write_bytes(b"no matlab file at all" * 20)
    with pytest.raises(ValueError, match="is no Matlab file that can be read"):
        read_layout("pittsburgh", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"pitts250k_test.mat"):
        read_layout("pittsburgh", tmp_path, split="pitts250k_test")


def test_pittsburgh_as_converted_copies_name_it(tmp_path) -> None:
    touch(tmp_path / "database" / utm_name(5e5, 4e6), tmp_path / "queries" / utm_name(5e5, 4e6))
    assert read_layout("pittsburgh", tmp_path).name == "pittsburgh"


def rows(*pairs) -> np.ndarray:
    array = np.empty((len(pairs), 2), object)
    for i, (query, correct) in enumerate(pairs):
        array[i] = [query, correct]
    return array


def test_sped(tmp_path) -> None:
    touch(*(tmp_path / "query" / f"{i}.jpg" for i in (0, 1, 10)))
    touch(*(tmp_path / "ref" / f"{i}.jpg" for i in range(12)))
    path = tmp_path / "ground_truth_new.npy"
    np.save(path, rows((0, [0]), (2, np.array([11, 10])), (1, [1])))
    found = read_layout("sped", tmp_path)
    assert [p.stem for p in found.queries.images] == ["0", "1", "10"]
    assert found.database.images[2].stem == "2"  # by number, not by name
    assert [p.tolist() for p in found.positives()] == [[0], [1], [10, 11]]
    with pytest.raises(ValueError, match="lists its correct images"):
        found.curve([[0]] * 3, [1.0])
    for content, message in (
        (rows((0, [0]), (1, [1])), "has no row for query 2"),
        (rows((0, [0]), (1, [1]), (2, [12])), "query 2 names an image beyond the 12"),
        (rows((0, [0]), (1, [1]), (2, [0.5])), "must be integers"),
    ):
        np.save(path, content)
        with pytest.raises(ValueError, match=message):
            read_layout("sped", tmp_path)
    np.save(path, rows((0, [0]), (1, [1]), (2, np.array([11]))))
    whole = path.read_bytes()
    for content in (b"damaged", whole[:-40], whole[:150]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no list that can be read"):
            read_layout("sped", tmp_path)


def test_lists_of_older_and_newer_numpy_are_read(tmp_path) -> None:
    touch(tmp_path / "query" / "0.jpg", *(tmp_path / "ref" / f"{i}.jpg" for i in range(3)))
    path = tmp_path / "ground_truth_new.npy"
    for protocol in (2, 4, 5):
        content = rows((np.int64(0), np.array([2, 1])))
        pickled = pickle.dumps(content, protocol=protocol)
        for name in (b"numpy.core.", b"numpy._core."):
            old, new = b"numpy._core.", name
            changed = pickled
            if protocol == 2:  # names are lines there; later protocols count their bytes
                changed = pickled.replace(old, new)
            with path.open("wb") as file:
                header = {"descr": "|O", "fortran_order": False, "shape": content.shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.write(changed)
            assert read_layout("sped", tmp_path).positives()[0].tolist() == [1, 2]


class Evil:
    def __reduce__(self):
        return print, ("run by the file",)


def test_a_list_runs_nothing(tmp_path, capsys) -> None:
    touch(tmp_path / "query" / "0.jpg", tmp_path / "ref" / "0.jpg")
    array = np.empty(1, object)
    array[0] = Evil()
    np.save(tmp_path / "ground_truth_new.npy", array)
    with pytest.raises(ValueError, match=r"wants to run builtins.print"):
        read_layout("sped", tmp_path)
    assert capsys.readouterr().out == ""
    assert b"print" in pickle.dumps(Evil())


def test_image_lists(tmp_path) -> None:
    touch(tmp_path / "ref" / "0.jpg", tmp_path / "ref" / "1.jpg", tmp_path / "query" / "0.jpg")
    lists = tmp_path / "lists"
    lists.mkdir()
    np.save(lists / "SPED_dbImages.npy", np.array(["ref/0.jpg", "ref/1.jpg"]))
    np.save(lists / "SPED_qImages.npy", np.array(["query/0.jpg"], dtype=object))
    np.save(lists / "SPED_gt.npy", np.array([[1]]))
    found = read_layout("image_lists", tmp_path, lists=lists)
    assert found.name == "sped" and [p.tolist() for p in found.positives()] == [[1]]
    np.save(lists / "SPED_gt.npy", np.array([[1], [0]]))
    with pytest.raises(ValueError, match=r"SPED_gt.npy is of 2 queries, there are 1"):
        read_layout("image_lists", tmp_path, lists=lists)
    np.save(lists / "SPED_dbImages.npy", np.array([], dtype=str))
    with pytest.raises(ValueError, match=r"SPED_dbImages.npy is empty"):
        read_layout("image_lists", tmp_path, lists=lists)
    with pytest.raises(FileNotFoundError, match=r"Nordland_qImages.npy"):
        read_layout("image_lists", tmp_path, lists=lists, name="Nordland")


def test_an_unknown_layout_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'nordland'"):
        read_layout("norland", ".")
    assert sorted(LAYOUTS) == list(LAYOUTS)
