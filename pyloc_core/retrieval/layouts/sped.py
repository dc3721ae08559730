# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Correct images listed one by one: SPED and others in the format of VPR-Bench.

Zaffar et al., IJCV 2021: query/ and ref/ hold pictures numbered from 0, ground_truth_new.npy is an array
of rows [query index, list of indices of ref/]. Chen et al., "Deep learning features at scale", ICRA 2017,
is the origin of SPED. The training programs of MixVPR and SALAD keep the same as three files:
<name>_dbImages.npy, <name>_qImages.npy (paths) and <name>_gt.npy (an array of indices per query).
"""

from __future__ import annotations

import codecs
import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.retrieval.layouts.retrieval_set import (
    ImageSet,
    RetrievalSet,
    check_files,
    pictures,
)

Indices = npt.NDArray[np.int64]

# What a pickled array of arrays or lists of integers is made of, under the names of NumPy 1 and 2.
# Nothing else is run, and nothing is imported for it.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = np.zeros(1).__reduce__()[0]
    _ALLOWED[f"{_core}.multiarray", "scalar"] = np.int64(1).__reduce__()[0]
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = np.zeros(1).__reduce_ex__(5)[0]


def read_sped(
    folder: str | Path, *, ground_truth: str = "ground_truth_new.npy", name: str = "sped"
) -> RetrievalSet:
    """query/, ref/ and the list of correct images, as SPED and the other sets of VPR-Bench come.

    Raises:
        FileNotFoundError: a folder or the list is not there.
        ValueError: no pictures, a list of another form, an index that is not there, a query without a row.
    """
    root = Path(folder)
    queries, database = (sorted(pictures(root / p), key=_by_number) for p in ("query", "ref"))
    path = root / ground_truth
    rows: dict[int, Indices] = {}
    for row in _load(path):
        if np.size(row) < 2 and len(row) != 2:
            raise ValueError(f"{path}: a row must be [query, [correct images]], got {row!r}")
        rows[int(np.asarray(row[0]).item())] = _integers(path, row[1])
    missing = set(range(len(queries))) - rows.keys()
    if missing:
        raise ValueError(f"{path} has no row for query {min(missing)}")
    listed = tuple(rows[i] for i in range(len(queries)))
    return _listed(name, path, queries, database, listed)


def read_image_lists(
    folder: str | Path,
    *,
    lists: str | Path | None = None,
    name: str = "SPED",
    check: bool = True,
) -> RetrievalSet:
    """<name>_dbImages.npy, <name>_qImages.npy and <name>_gt.npy.

    Args:
        folder: what the paths of the lists are relative to.
        lists: folder of the three files; None: `folder`.
        name: the beginning of their names, such as SPED, Nordland or pitts30k_test.
        check: that all pictures are there.

    Raises:
        FileNotFoundError: a file or a picture is not there.
        ValueError: lengths that differ, an index that is not there, an empty list.
    """
    root = Path(folder)
    where = root if lists is None else Path(lists)
    sides = []
    for part in ("qImages", "dbImages"):
        path = where / f"{name}_{part}.npy"
        names = _load(path)
        if not len(names):
            raise ValueError(f"{path} is empty")
        sides.append([root / str(entry) for entry in names])
    path = where / f"{name}_gt.npy"
    listed = tuple(_integers(path, row) for row in _load(path))
    if check:
        check_files([*sides[0], *sides[1]])
    return _listed(name.lower(), path, sides[0], sides[1], listed)


def _listed(
    name: str,
    path: Path,
    queries: list[Path],
    database: list[Path],
    listed: tuple[Indices, ...],
) -> RetrievalSet:
    if len(listed) != len(queries):
        raise ValueError(f"{path} is of {len(listed)} queries, there are {len(queries)}")
    for query, correct in enumerate(listed):
        if len(correct) and not 0 <= correct.min() <= correct.max() < len(database):
            raise ValueError(
                f"{path}: query {query} names an image beyond the {len(database)} of the database"
            )
    return RetrievalSet(
        name, ImageSet(tuple(queries)), ImageSet(tuple(database)), "listed", listed=listed
    )


def _integers(path: Path, row: Any) -> Indices:
    array = np.asarray(row).reshape(-1)
    if array.dtype.kind not in "iu" and len(array):
        raise ValueError(f"{path}: correct images must be integers, got {array.dtype}")
    return np.unique(array.astype(np.int64))


def _by_number(path: Path) -> tuple[int, str]:
    numbers = re.findall(r"\d+", path.stem)
    return (int(numbers[-1]) if numbers else -1, path.name)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise ValueError(f"it wants to run {module}.{name}")


def _load(path: Path) -> npt.NDArray[Any]:
    """An .npy file, whose objects may be arrays, lists and numbers and nothing else."""
    content = io.BytesIO(path.read_bytes())
    try:
        version = np.lib.format.read_magic(content)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version](content)
        if not header[2].hasobject:
            content.seek(0)
            return np.asarray(np.load(content, allow_pickle=False))
        return np.asarray(_ArraysOnly(content).load())
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path} is no list that can be read: {error}") from None
