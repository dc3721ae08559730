# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Pittsburgh 250k and its subset of 30k (Torii et al., CVPR 2013; Arandjelovic et al., CVPR 2016).

The lists come as Matlab files, datasets/pitts30k_test.mat and the like: a struct `dbStruct` with the
fields whichSet, dbImageFns, utmDb (2, N), qImageFns, utmQ (2, Q), numImages, numQueries, posDistThr, ...
Some copies name fields otherwise, with the same order. Query pictures lie under queries_real/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyloc_core._extras import require
from pyloc_core.retrieval.layouts.retrieval_set import (
    ImageSet,
    RetrievalSet,
    check_files,
    check_finite,
)
from pyloc_core.retrieval.layouts.utm_names import read_utm_names

# Field -> (other name in use, place in the struct).
_FIELDS = {
    "dbImageFns": ("dbImage", 1),
    "utmDb": ("utmDb", 2),
    "qImageFns": ("qImage", 3),
    "utmQ": ("utmQ", 4),
}


def read_pittsburgh(
    folder: str | Path,
    *,
    split: str = "pitts30k_test",
    threshold: float = 25.0,
    check: bool = True,
) -> RetrievalSet:
    """Queries and database of a split.

    Args:
        folder: with datasets/<split>.mat (or <split>.mat), the pictures of the database, and those of the
            queries under queries_real/. A folder with database/ and queries/ instead is read by
            `read_utm_names`.
        split: name of the Matlab file without its suffix.
        threshold: metres; `posDistThr` of the file is not used.
        check: that all pictures are there.

    Raises:
        FileNotFoundError: no list, or a picture that is not there.
        ValueError: a file without dbStruct or with lengths that differ, an empty list, a position that is no
            number.
        MissingExtra: scipy is not installed.
    """
    root = Path(folder)
    places = [root / "datasets" / f"{split}.mat", root / f"{split}.mat"]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        if (root / "database").is_dir() and (root / "queries").is_dir():
            return read_utm_names(root, threshold=threshold, name="pittsburgh")
        raise FileNotFoundError(
            f"there is neither {places[0]} nor {root}/database with {root}/queries"
        )
    struct = _struct(path)
    database = _side(path, root, struct, "dbImageFns", "utmDb")
    queries = _side(path, root / "queries_real", struct, "qImageFns", "utmQ")
    if check:
        check_files([*database.images, *queries.images])
    return RetrievalSet(split, queries, database, "metres", threshold)


def _struct(path: Path) -> Any:
    scipy_io = require("scipy.io", "the lists of Pittsburgh")
    try:
        content = scipy_io.loadmat(path)
    except Exception as error:  # a damaged file may raise anything there
        raise ValueError(f"{path} is no Matlab file that can be read: {error}") from None
    struct = content.get("dbStruct")
    if struct is None or struct.dtype.names is None or struct.size != 1:
        raise ValueError(f"{path} holds no struct dbStruct")
    return struct.reshape(-1)[0]


def _field(path: Path, struct: Any, name: str) -> Any:
    other, place = _FIELDS[name]
    names = struct.dtype.names
    for candidate in (name, other):
        if candidate in names:
            return struct[candidate]
    if len(names) <= place:
        raise ValueError(f"{path}: dbStruct has no field {name}, only {', '.join(names)}")
    return struct[names[place]]


def _side(path: Path, root: Path, struct: Any, names: str, utm: str) -> ImageSet:
    cells = [np.asarray(cell) for cell in np.asarray(_field(path, struct, names)).ravel()]
    if any(cell.size != 1 or cell.dtype.kind != "U" for cell in cells):
        raise ValueError(f"{path}: {names} must be a column of file names")
    listed = [str(cell.item()).strip() for cell in cells]
    if not listed:
        raise ValueError(f"{path}: {names} is empty")
    found = np.asarray(_field(path, struct, utm))
    if found.shape != (2, len(listed)) or found.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {utm} must be (2, {len(listed)}), got {found.shape}")
    positions = found.astype(np.float64)
    positions = check_finite(path, listed, np.ascontiguousarray(positions.T))
    return ImageSet(tuple(root / name for name in listed), positions)
