# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Results of a list of photos as JSON lines or Parquet: one record per query, in the list's order.

docs/at_scale.md describes every field. Both formats hold the same records and read back the same.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pyloc_core._extras import require

VERSION = 1
SUFFIXES = (".jsonl", ".parquet")
# Field -> (type, whether it may be null). Poses map world to camera.
FIELDS: dict[str, tuple[str, bool]] = {
    "version": ("int", False),
    "run": ("text", False),
    "query": ("int", False),
    "image": ("text", False),
    "success": ("bool", False),
    "reason": ("text", False),
    "scene": ("text", False),
    "error": ("text", True),
    "cam_from_world": ("matrix", True),
    "qvec_wxyz": ("vector", True),
    "tvec": ("vector", True),
    "center": ("vector", True),
    "rotation_std_deg": ("float", True),
    "center_std": ("float", True),
    "covariance": ("matrix", True),
    "camera": ("camera", True),
    "gain": ("float", True),
    "cost": ("float", True),
    "num_points": ("int", False),
    "num_consistent": ("int", False),
    "timings": ("seconds", False),
    "seconds": ("float", True),
}
_POSE = (
    "cam_from_world", "qvec_wxyz", "tvec", "center", "rotation_std_deg", "center_std", "covariance",
)  # fmt: skip
_ROWS_PER_GROUP = 4096


def is_results(path: str | Path) -> bool:
    """Whether a name ends like a results file."""
    return Path(path).suffix.lower() in SUFFIXES


def record_of(entry: dict[str, Any], run: str) -> dict[str, Any]:
    """The record of a photo's entry (`pose_entry` with "query" and "error"), fields in order.

    Without success there is no pose: its fields are null. So is a number that is not finite.
    """
    record = {name: entry.get(name) for name in FIELDS} | {"version": VERSION, "run": run}
    if not entry["success"]:
        record.update(dict.fromkeys(_POSE))
    return {name: finite(value) for name, value in record.items()}


def finite(value: Any) -> Any:
    """The value with None for every number that is not finite: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def write_results(path: str | Path, entries: Iterable[dict[str, Any]], run: str) -> None:
    """Write entries, one at a time, in the format that the path's ending names.

    The file appears complete or not at all. Raises ValueError for another ending, MissingExtra
    without pyarrow for Parquet.
    """
    path = check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    records = (record_of(entry, run) for entry in entries)
    try:
        if path.suffix.lower() == ".jsonl":
            with part.open("w", encoding="utf-8") as file:
                for record in records:
                    file.write(json.dumps(record, allow_nan=False) + "\n")
                _to_disk(file)
        else:
            _write_parquet(part, records, run)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_suffix(path: str | Path) -> Path:
    """The path, or ValueError if its ending names no format of results."""
    if not is_results(path):
        raise ValueError(f"results are written as {' or '.join(SUFFIXES)}, got {path}")
    return Path(path)


def read_results(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a results file, checked one by one.

    Raises ValueError for a file that is missing, damaged, or of another version.
    """
    path = check_suffix(path)
    read = _read_lines if path.suffix.lower() == ".jsonl" else _read_parquet
    for position, record in enumerate(read(path)):
        problem = _problem(record)
        if problem:
            raise ValueError(f"{path}, record {position}: {problem}")
        yield record


def finished_run(path: Path) -> str | None:
    """The run that wrote a results file, None where there is none. ValueError if it is damaged."""
    if not path.exists():
        return None
    first = next(read_results(path), None)
    return None if first is None else str(first["run"])


def _problem(record: Any) -> str | None:
    if not isinstance(record, dict):
        return "it is no object"
    if record.get("version") != VERSION:
        return f"version {record.get('version')}; this program reads version {VERSION}"
    for name, (kind, optional) in FIELDS.items():
        if name not in record:
            return f"it lacks {name}"
        value = record[name]
        if not (value is None and optional) and not isinstance(value, _PYTHON[kind]):
            return f"{name} is {type(value).__name__}"
    unknown = set(record) - set(FIELDS)
    return f"unknown fields {', '.join(sorted(unknown))}" if unknown else None


_PYTHON: dict[str, Any] = {
    "int": int, "text": str, "bool": bool, "float": (float, int), "vector": list, "matrix": list,
    "camera": dict, "seconds": dict,
}  # fmt: skip


def _read_lines(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    raise ValueError(f"line {number} is cut off")
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def _schema(run: str) -> Any:
    pa = require("pyarrow", "results as Parquet")
    vector = pa.list_(pa.float64())
    types = {
        "int": pa.int64(), "text": pa.string(), "bool": pa.bool_(), "float": pa.float64(),
        "vector": vector, "matrix": pa.list_(vector), "seconds": pa.map_(pa.string(), pa.float64()),
        "camera": pa.struct(
            [("model", pa.string()), ("width", pa.int64()), ("height", pa.int64()), ("params", vector)]
        ),
    }  # fmt: skip
    fields = [pa.field(name, types[kind], nullable) for name, (kind, nullable) in FIELDS.items()]
    return pa.schema(fields, {"format": "pyloc_core results", "version": str(VERSION), "run": run})


def _write_parquet(path: Path, records: Iterator[dict[str, Any]], run: str) -> None:
    pa = require("pyarrow", "results as Parquet")
    parquet = require("pyarrow.parquet", "results as Parquet")
    schema = _schema(run)
    with path.open("wb") as file:
        with parquet.ParquetWriter(file, schema) as writer:
            group: list[dict[str, Any]] = []
            for record in records:
                group.append(record | {"timings": list(record["timings"].items())})
                if len(group) == _ROWS_PER_GROUP:
                    writer.write_table(pa.Table.from_pylist(group, schema))
                    group = []
            if group:
                writer.write_table(pa.Table.from_pylist(group, schema))
        _to_disk(file)


def _read_parquet(path: Path) -> Iterator[Any]:
    parquet = require("pyarrow.parquet", "results as Parquet")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_PER_GROUP):
                for record in batch.to_pylist():
                    timings = record.get("timings")
                    yield record | ({} if timings is None else {"timings": dict(timings)})
    except (OSError, ValueError, KeyError) as error:  # ArrowInvalid is a ValueError
        raise ValueError(f"cannot read {path}: {error}") from None


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
