# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors of a list of photos as .npz, .safetensors or .parquet, written a row at a time.

Rows are the photos that could be described, in the list's order; those that could not are listed with
their errors. docs/at_scale.md describes the files.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.localization.journal import Store

FORMAT, VERSION = "pyloc_core descriptors", 1
SUFFIXES = (".npz", ".safetensors", ".parquet")
_ROWS_PER_GROUP = 1024


@dataclass
class Description:
    """What is in a file beside the vectors.

    Attributes:
        run: names the run that wrote it.
        model: what made the descriptors, plain values.
        images, queries: name and position in the list of each row.
        failed: {"query", "image", "error"} of each photo without a row.
        dimension: of the vectors; 0 when no photo could be described.
    """

    run: str
    model: dict[str, Any]
    images: list[str] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    dimension: int = 0


def check_suffix(path: str | Path) -> Path:
    """The path, or ValueError if its ending names no format of descriptors."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"descriptors are written as {', '.join(SUFFIXES)}, got {path}")
    return Path(path)


def write_descriptors(
    path: str | Path, store: Store, count: int, run: str, model: dict[str, Any]
) -> Description:
    """Write the answers to queries 0 to count - 1, in the format that the path's ending names.

    The file appears complete or not at all; memory holds the names, not the vectors.
    """
    path = check_suffix(path)
    described = _describe(store, count, run, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    write = {".npz": _write_npz, ".safetensors": _write_safetensors, ".parquet": _write_parquet}
    try:
        with part.open("wb") as file:
            write[path.suffix.lower()](file, store, described)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return described


def read_descriptors(path: str | Path) -> tuple[Description, npt.NDArray[np.float32]]:
    """What `write_descriptors` wrote, and the (n, D) float32 vectors; .safetensors stay on disk.

    Raises ValueError for a file that is missing, damaged, or of another version.
    """
    path = check_suffix(path)
    read = {".npz": _read_npz, ".safetensors": _read_safetensors, ".parquet": _read_parquet}
    try:
        text, vectors = read[path.suffix.lower()](path)
        content = json.loads(text)
        if content.pop("format") != FORMAT:
            raise ValueError("it holds something else")
        version = content.pop("version")
        if version != VERSION:
            raise ValueError(f"version {version}; this program reads version {VERSION}")
        described = Description(**content)
        if vectors.shape != (len(described.images), described.dimension):
            raise ValueError(f"{vectors.shape} vectors for {len(described.images)} images")
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    return described, vectors


def finished_run(path: Path) -> str | None:
    """The run that wrote a file, None where there is none. ValueError if it is damaged."""
    return read_descriptors(path)[0].run if path.exists() else None


def _describe(store: Store, count: int, run: str, model: dict[str, Any]) -> Description:
    described = Description(run, model)
    for index in range(count):
        answer = store.read(index)
        record = answer.record
        if answer.descriptor is None:
            failure = {name: record[name] for name in ("query", "image", "error")}
            described.failed.append(failure)
            continue
        described.images.append(record["image"])
        described.queries.append(index)
        described.dimension = described.dimension or len(answer.descriptor)
        if len(answer.descriptor) != described.dimension:
            raise ValueError(f"{record['image']} has {len(answer.descriptor)} values")
    return described


def _text(described: Description) -> str:
    return json.dumps({"format": FORMAT, "version": VERSION, **asdict(described)})


def _rows(store: Store, described: Description) -> Iterator[bytes]:
    for query in described.queries:
        yield np.ascontiguousarray(store.read(query).descriptor, "<f4").tobytes()


def _write_npz(file: BinaryIO, store: Store, described: Description) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        small = {
            "images": np.array(described.images or np.zeros(0, "U1")),
            "queries": np.array(described.queries, np.int64),
            "description": np.frombuffer(_text(described).encode(), np.uint8),
        }
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
        shape = (len(described.images), described.dimension)
        with archive.open("descriptors.npy", "w", force_zip64=True) as entry:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, header)
            for row in _rows(store, described):
                entry.write(row)


def _read_npz(path: Path) -> tuple[str, npt.NDArray[np.float32]]:
    with np.load(path, allow_pickle=False) as content:
        return content["description"].tobytes().decode(), content["descriptors"]


def _write_safetensors(file: BinaryIO, store: Store, described: Description) -> None:
    """The format by hand, since its library wants the whole tensor in memory: length, header, data."""
    shape = [len(described.images), described.dimension]
    size = 4 * shape[0] * shape[1]
    header = {
        "__metadata__": {"description": _text(described)},
        "descriptors": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64 + 56)  # data aligned for a memory map
    file.write(len(text).to_bytes(8, "little") + text)
    for row in _rows(store, described):
        file.write(row)


def _read_safetensors(path: Path) -> tuple[str, npt.NDArray[np.float32]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            raise ValueError("it is truncated")
        header = json.loads(file.read(length))
    entry = header["descriptors"]
    shape = tuple(int(side) for side in entry["shape"])
    start, end = entry["data_offsets"]
    if entry["dtype"] != "F32" or len(shape) != 2 or end - start != 4 * shape[0] * shape[1]:
        raise ValueError("the header does not fit")
    if 8 + length + end > path.stat().st_size:
        raise ValueError("it is truncated")
    if 0 in shape:
        return header["__metadata__"]["description"], np.zeros(shape, np.float32)
    vectors = np.memmap(path, "<f4", "r", offset=8 + length + start, shape=shape)
    return header["__metadata__"]["description"], vectors


def _write_parquet(file: BinaryIO, store: Store, described: Description) -> None:
    pa = require("pyarrow", "descriptors as Parquet")
    parquet = require("pyarrow.parquet", "descriptors as Parquet")
    vector = pa.list_(pa.float32(), described.dimension)
    schema = pa.schema(
        [("query", pa.int64()), ("image", pa.string()), ("descriptor", vector)],
        {"description": _text(described)},
    )
    with parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(described.queries), _ROWS_PER_GROUP):
            queries = described.queries[start : start + _ROWS_PER_GROUP]
            values = np.concatenate([_vector(store, query) for query in queries])
            arrays = [
                pa.array(queries, pa.int64()),
                pa.array(described.images[start : start + _ROWS_PER_GROUP], pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(values), described.dimension),
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _vector(store: Store, query: int) -> npt.NDArray[np.float32]:
    vector = store.read(query).descriptor
    assert vector is not None
    return vector


def _read_parquet(path: Path) -> tuple[str, npt.NDArray[np.float32]]:
    parquet = require("pyarrow.parquet", "descriptors as Parquet")
    with parquet.ParquetFile(path) as file:
        text = (file.schema_arrow.metadata or {})[b"description"].decode()
        size = json.loads(text).get("dimension", 0)
        groups = [
            _flat(file.read_row_group(group, ["descriptor"]).column(0), size)
            for group in range(file.num_row_groups)
        ]
    return text, np.concatenate(groups) if groups else np.zeros((0, size), np.float32)


def _flat(column: Any, size: int) -> npt.NDArray[np.float32]:
    chunks: Sequence[Any] = column.chunks
    return np.concatenate([chunk.flatten().to_numpy().reshape(-1, size) for chunk in chunks])
