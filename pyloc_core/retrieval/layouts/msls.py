# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Mapillary Street-level Sequences (Warburg et al., CVPR 2020).

Layout, as the data set's own documentation describes it: train_val/<city>/{database,query}/ with
images/<key>.jpg and the tables postprocessed.csv (key, easting, northing, night, control_panel,
view_direction, unique_cluster), raw.csv (key, lon, lat, ca, captured_at, pano) and seq_info.csv (key,
sequence_key, frame_number).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyloc_core import _checks
from pyloc_core.retrieval.layouts.retrieval_set import (
    ImageSet,
    RetrievalSet,
    check_files,
    check_finite,
)

VALIDATION = ("cph", "sf")
# Column that names a sequence -> table.
_SEQUENCES = {"unique_cluster": "postprocessed.csv", "sequence_key": "seq_info.csv"}
Rows = dict[str, dict[str, str]]


def read_msls(
    folder: str | Path,
    *,
    cities: Sequence[str] | None = None,
    panoramas: bool = False,
    sequence: str = "unique_cluster",
    threshold: float = 25.0,
    check: bool = True,
) -> RetrievalSet:
    """Queries and database of some cities, each city a region of its own.

    Args:
        folder: with train_val/, or train_val itself.
        cities: names of folders; None: the validation cities, cph and sf. All frames of the training
            cities, queries and database, are what `CliqueSampler` mines.
        panoramas: keep them; the published programs leave them out.
        sequence: "unique_cluster", which CliqueMining calls a sequence, or "sequence_key".
        threshold: metres.
        check: that all pictures are there.

    Queries without a correct image stay; the published lists of MSLS leave them out
    (`recall(..., without_positives="leave_out")`).

    Raises:
        FileNotFoundError: a folder, a table or a picture is not there.
        ValueError: a column is missing, a key is in one table only, a position is no number, no frame is
            left; the file is named.
        TypeError: `cities` is one string.
    """
    root = Path(folder)
    root = root / "train_val" if (root / "train_val").is_dir() else root
    _checks.known_name("sequence", sequence, _SEQUENCES)
    if isinstance(cities, str):
        raise TypeError(f"cities must be a list of names, got {cities!r}")
    chosen = tuple(VALIDATION if cities is None else cities)
    if not chosen:
        raise ValueError("cities is empty")
    sides = []
    for side in ("query", "database"):
        parts = [_read_side(root / city / side, panoramas, sequence) for city in chosen]
        images = tuple(path for paths, _, _ in parts for path in paths)
        if not images:
            raise ValueError(f"{root}: no frame of the {side} of {', '.join(chosen)} is left")
        if check:
            check_files(images)
        labels = [np.array(names) for _, _, names in parts if names]
        sides.append(
            ImageSet(
                images,
                np.concatenate([positions for _, positions, _ in parts]),
                sequence=np.concatenate(labels),
                region=np.repeat(chosen, [len(paths) for paths, _, _ in parts]),
            )
        )
    return RetrievalSet("msls", sides[0], sides[1], "metres", threshold)


def _read_side(
    folder: Path, panoramas: bool, sequence: str
) -> tuple[list[Path], np.ndarray, list[str]]:
    """Paths, positions (n, 2) and sequence labels of one side of a city, in the order of its table."""
    columns = {
        "postprocessed.csv": {"key", "easting", "northing"},
        "raw.csv": {"key", "pano"},
        "seq_info.csv": {"key"},
    }
    columns[_SEQUENCES[sequence]].add(sequence)
    placed = read_table(folder / "postprocessed.csv", columns["postprocessed.csv"])
    raw = read_table(folder / "raw.csv", columns["raw.csv"])
    labels = placed
    if sequence == "sequence_key":
        labels = read_table(folder / "seq_info.csv", columns["seq_info.csv"])
    for name, table in (("raw.csv", raw), (_SEQUENCES[sequence], labels)):
        missing = placed.keys() - table.keys()
        if missing:
            raise ValueError(
                f"{folder / name} lacks {len(missing)} keys of postprocessed.csv, {min(missing)} first"
            )
    kept = [key for key in placed if panoramas or not _is_true(raw[key]["pano"])]
    positions = np.array(
        [[_number(placed[key][c]) for c in ("easting", "northing")] for key in kept], np.float64
    ).reshape(-1, 2)
    check_finite(folder / "postprocessed.csv", kept, positions)
    images = [folder / "images" / f"{key}.jpg" for key in kept]
    return images, positions, [labels[key][sequence] for key in kept]


def read_table(path: Path, columns: set[str]) -> Rows:
    """Rows of a table by their key. ValueError names missing columns and keys that repeat."""
    rows: Rows = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            missing = columns - set(reader.fieldnames or ())
            found = list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no table that can be read: {error}") from None
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}")
    for number, row in enumerate(found):
        if any(row[column] is None for column in columns):
            raise ValueError(f"{path} ends early in row {number} of its data")
        if row["key"] in rows:
            raise ValueError(f"{path} has the key {row['key']} twice")
        rows[row["key"]] = row
    return rows


def _is_true(text: str) -> bool:
    return (text or "").strip().lower() in {"true", "1", "1.0"}


def _number(text: str) -> float:
    """NaN for what is none, so that the caller can say whose it is."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")
