# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of pictures: what they show, where they were taken, which belong to one place."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require

Image = require("PIL.Image", "training")

Ints = npt.NDArray[np.int64]
ENDINGS = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}
_NAMED = 3  # of several faults of one kind, so many are written out


class Pictures(Protocol):
    """Pictures by number."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Any:
        """A `PIL.Image` in RGB."""


@dataclass(frozen=True)
class PictureFiles:
    """Pictures in files. ValueError when one cannot be read."""

    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Any:
        try:
            with Image.open(self.files[index]) as image:
                return image.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the picture {self.files[index]}: {error}") from None


@dataclass(frozen=True, eq=False)
class PictureArrays:
    """Pictures in memory: (N, H, W, 3) RGB or (N, H, W) grey, uint8."""

    pixels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Any:
        return Image.fromarray(self.pixels[index]).convert("RGB")


@dataclass(frozen=True, eq=False)
class PictureTable:
    """N pictures and what is known of them.

    Attributes:
        pictures: how they are read.
        place: (N,) number of each picture's place, -1 for none; None when there are no places.
        positions: (N, 2) easting and northing in metres (or any other plane coordinates), or None.
        cities, sequences: (N,) numbers of the picture's city and sequence, or None. A sequence number is
            unique over all cities.
        query: (N,) bool, for held-out pictures: which ones ask, the others being the database; None:
            every picture asks, all the others being the database.
        answers: of each query, the numbers of the pictures in the database that are right; None: those of
            its place, or near its position.
        doubled: rows left out since they repeated a picture.
    """

    pictures: Pictures
    place: Ints | None = None
    positions: npt.NDArray[np.float64] | None = None
    cities: Ints | None = None
    sequences: Ints | None = None
    query: npt.NDArray[np.bool_] | None = None
    answers: tuple[Ints, ...] | None = None
    doubled: int = 0

    def __post_init__(self) -> None:
        n = len(self.pictures)
        if n == 0:
            raise ValueError("a table of pictures must hold at least one")
        for name in ("place", "cities", "sequences", "query"):
            values = getattr(self, name)
            kinds = "b" if name == "query" else "iu"
            if values is not None and (values.shape != (n,) or values.dtype.kind not in kinds):
                raise ValueError(
                    f"{name} must be ({n},) {'bool' if name == 'query' else 'integers'}, "
                    f"got {values.shape} {values.dtype}"
                )
        if self.positions is not None:
            if self.positions.shape != (n, 2):
                raise ValueError(f"positions must be ({n}, 2), got {self.positions.shape}")
            bad = np.flatnonzero(~np.isfinite(self.positions).all(1))
            if len(bad):
                raise ValueError(
                    f"positions must be finite; {len(bad)} are not, the first that of "
                    f"{self.name(int(bad[0]))}"
                )
        if self.query is not None and (self.query.all() or not self.query.any()):
            raise ValueError("query must leave both queries and a database")
        if self.answers is not None:
            self._check_answers()

    def __len__(self) -> int:
        return len(self.pictures)

    def _check_answers(self) -> None:
        assert self.answers is not None
        if self.query is None or len(self.answers) != self.query.sum():
            raise ValueError(f"answers must be one array per query, got {len(self.answers)}")
        for index, numbers in enumerate(self.answers):
            inside = numbers.dtype.kind in "iu" and ((numbers >= 0) & (numbers < len(self))).all()
            if not inside or self.query[numbers].any():
                raise ValueError(f"answers[{index}] must be numbers of pictures in the database")

    def name(self, index: int) -> str:
        """What to call a picture in a message."""
        files = getattr(self.pictures, "files", None)
        return f"picture {index}" if files is None else str(files[index])

    def members(self) -> list[Ints]:
        """Pictures of every place, in the order of the places' numbers. ValueError without places."""
        if self.place is None:
            raise ValueError("the table names no places")
        order = np.argsort(self.place, kind="stable")
        order = order[self.place[order] >= 0]
        cuts = np.flatnonzero(np.diff(self.place[order])) + 1
        return np.split(order, cuts) if len(order) else []


def read_folder(folder: str | Path) -> PictureTable:
    """A folder with one subfolder per place. ValueError for a folder without pictures in subfolders."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    files: list[str] = []
    place: list[int] = []
    names = sorted(p for p in folder.iterdir() if p.is_dir())
    for number, name in enumerate(names):
        found = sorted(p for p in name.rglob("*") if p.suffix.lower() in ENDINGS)
        files += [str(p) for p in found]
        place += [number] * len(found)
    if not files:
        raise ValueError(f"{folder} holds no subfolder with pictures: one per place is needed")
    return PictureTable(PictureFiles(tuple(files)), np.asarray(place, np.int64))


def read_gsv_cities(folder: str | Path) -> PictureTable:
    """GSV-Cities (Ali-bey et al. 2022): Images/CITY/CITY_PLACE_YEAR_MONTH_BEARING_LAT_LON_ID.JPG.

    A place's number counts within its city. ValueError for a folder without pictures, and for a name that
    says no place.
    """
    base = Path(folder) / "Images"
    found = sorted(p for p in base.glob("*/*") if p.suffix.lower() in ENDINGS)
    if not found:
        raise ValueError(f"{base} holds no pictures in a folder per city")
    names = [p.name.split("_", 7) for p in found]
    odd = [str(p) for p, name in zip(found, names) if len(name) < 8 or not name[1].isdigit()]
    if odd:
        raise ValueError(f"{len(odd)} names of pictures say no place: {_some(odd)}")
    city = [p.parent.name for p in found]
    return PictureTable(
        PictureFiles(tuple(str(p) for p in found)),
        _numbered([name[1] for name in names], city),
        cities=_numbered(city, [""] * len(found)),
    )


def read_table(path: str | Path, root: str | Path | None = None) -> PictureTable:
    """A CSV file with a header: `image`, and as far as known `place`, `easting`, `northing`, `city`,
    `sequence`, `role` (query or database); further columns are passed over.

    Places and sequences of the same name in different cities are different ones. A row that repeats one
    before it is left out and counted.

    Args:
        path: the file; `root` the folder that picture names start from (default: that of the file).

    Raises:
        ValueError: no such column, no rows, files that do not exist (the first are named), positions
            that are no finite numbers, one picture with two places, a role that is unknown.
    """
    path = Path(path)
    base = path.parent if root is None else Path(root)
    try:
        with path.open(newline="") as stream:
            reader = csv.DictReader(stream)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read the table {path}: {error}") from None
    if "image" not in columns:
        raise ValueError(f"{path} must have a column named image, got {', '.join(columns)}")
    if not rows:
        raise ValueError(f"{path} holds no rows")
    if ("easting" in columns) != ("northing" in columns):
        raise ValueError(f"{path} must have both easting and northing, or neither")
    rows, doubled = _without_doubles(rows, path)
    files = [str(base / row["image"]) for row in rows]
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(files)} pictures of {path} do not exist: {_some(missing)}"
        )
    given = [name for name in ("place", "city", "sequence", "role") if name in columns]
    values = {name: [str(row[name] or "").strip() for row in rows] for name in given}
    city = values.get("city", [""] * len(rows))
    return PictureTable(
        PictureFiles(tuple(files)),
        _numbered(values.get("place"), city),
        _positions(rows, path) if "easting" in columns else None,
        _numbered(values.get("city"), [""] * len(rows)),
        _numbered(values.get("sequence"), city),
        _roles(values["role"], path) if "role" in values else None,
        doubled=doubled,
    )


def _without_doubles(rows: list[dict[str, Any]], path: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows whose picture is new, and how many repeat one. ValueError for one picture in two places."""
    kept: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, 2):
        if not row["image"] or None in row.values():
            raise ValueError(f"line {number} of {path} is incomplete")
        first = kept.setdefault(row["image"], row)
        for column in ("place", "city"):
            if first.get(column) != row.get(column):
                raise ValueError(
                    f"{row['image']} stands in {path} with {column} {first.get(column)!r} "
                    f"and {row.get(column)!r}"
                )
    return list(kept.values()), len(rows) - len(kept)


def _numbered(names: Sequence[str] | None, city: Sequence[str]) -> Ints | None:
    """Numbers of names within cities, in the order of their first row; -1 for an empty name."""
    if names is None:
        return None
    numbers: dict[tuple[str, str], int] = {}
    return np.array(
        [numbers.setdefault((c, n), len(numbers)) if n else -1 for n, c in zip(names, city)],
        np.int64,
    )


def _positions(rows: list[dict[str, Any]], path: Path) -> npt.NDArray[np.float64]:
    found = np.empty((len(rows), 2))
    for index, row in enumerate(rows):
        for axis, name in enumerate(("easting", "northing")):
            try:
                found[index, axis] = float(row[name])
            except ValueError:
                found[index, axis] = math.nan
            if not math.isfinite(found[index, axis]):
                raise ValueError(
                    f"{name} of {row['image']} in {path} must be a finite number, got {row[name]!r}"
                )
    return found


def _roles(names: Sequence[str], path: Path) -> npt.NDArray[np.bool_]:
    unknown = sorted(set(names) - {"query", "database"})
    if unknown:
        raise ValueError(f"role in {path} must be query or database, got {unknown[0]!r}")
    return np.array([name == "query" for name in names])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
