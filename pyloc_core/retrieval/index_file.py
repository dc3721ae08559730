# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""An index on disk: index.json (what it is, checksum) and index.faiss (vectors or codes)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pyloc_core.retrieval import faiss_index
from pyloc_core.retrieval.options import IndexOptions

FORMAT = "pyloc_core index"
VERSION = 1
METRIC = "inner_product"
DESCRIPTION, VECTORS = "index.json", "index.faiss"


def save(index: Any, folder: Path, source: str | None) -> None:
    """Write both files; each appears complete or not at all, the one that vouches for both last."""
    faiss = faiss_index.module()
    folder.mkdir(parents=True, exist_ok=True)
    held = index._faiss
    part = folder / (VECTORS + ".part")
    if held is None:
        part.write_bytes(b"")
    else:
        faiss.write_index(held, str(part))
    content = {
        "format": FORMAT,
        "version": VERSION,
        "metric": METRIC,
        "dimension": index.dimension,
        "count": len(index),
        "options": asdict(index.options),
        "source": source,
        "sha256": _checksum(part),
        "names": index._names,
        # The numbers of entries without names; None while nothing has been removed.
        "serial": None if len(index) == index._next else index._serial.tolist(),
        "next": index._next,
    }
    os.replace(part, folder / VECTORS)
    description = folder / (DESCRIPTION + ".part")
    description.write_text(json.dumps(content) + "\n")
    os.replace(description, folder / DESCRIPTION)


def load(cls: Any, folder: Path, source: str | None, memory_map: bool) -> Any:
    """Read and check both files. ValueError names the one that is missing or damaged."""
    path = folder / DESCRIPTION
    content = _read_description(path)
    if source is not None and content.get("source") != source:
        raise ValueError(
            f"{path} was made for other descriptors (it is older than they are, or of another map): "
            "build the index again"
        )
    try:
        index = cls(content["dimension"], options=IndexOptions(**content["options"]))
        count, index._next = int(content["count"]), int(content["next"])
        index._names = index._checked_names(content["names"], count)
        serial = content["serial"]
        index._serial = np.arange(count) if serial is None else np.array(serial, np.int64)
        problem = _numbering_problem(index, count)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if problem:
        raise ValueError(f"{path} is damaged: {problem}")
    vectors = folder / VECTORS
    try:
        found = _checksum(vectors)
    except OSError as error:
        raise ValueError(f"cannot read {vectors}: {error}") from None
    if found != content.get("sha256"):
        raise ValueError(f"{vectors} is damaged or not the one that {DESCRIPTION} describes")
    if vectors.stat().st_size:
        index._faiss = _read_vectors(vectors, memory_map)
        index._mapped = vectors if memory_map else None
    problem = _vectors_problem(index, count)
    if problem:
        raise ValueError(f"{vectors} does not fit {DESCRIPTION}: {problem}")
    return index


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} holds no index: {path.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} does not describe an index")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {content.get('version')}; this program reads version {VERSION}"
        )
    if content.get("metric") != METRIC:
        raise ValueError(f"{path} has metric {content.get('metric')!r}, expected {METRIC!r}")
    return content


def _numbering_problem(index: Any, count: int) -> str | None:
    serial = index._serial
    if count < 0 or serial.shape != (count,):
        return f"count is {count} and there are {len(serial)} entries"
    if count and (serial[0] < 0 or (np.diff(serial) <= 0).any() or serial[-1] >= index._next):
        return "the entries' numbers do not rise"
    return None


def _read_vectors(path: Path, memory_map: bool) -> Any:
    faiss = faiss_index.module()
    flags = faiss.IO_FLAG_READ_ONLY
    if memory_map:
        # Older versions map inverted lists alone.
        flags = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP)
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def _vectors_problem(index: Any, count: int) -> str | None:
    """What does not fit together, if anything: rows must be safe to use."""
    held = index._faiss
    if held is None:
        return f"it holds no vectors and {count} entries are described" if count else None
    faiss = faiss_index.module()
    kind = faiss.IndexFlat if index.options.kind == "flat" else faiss.IndexIVFPQ
    if not isinstance(held, kind):
        return f"it holds {type(held).__name__}, expected {kind.__name__}"
    if held.d != index.dimension or held.ntotal != count:
        return f"{held.ntotal} vectors of {held.d} dimensions"
    if held.metric_type != faiss.METRIC_INNER_PRODUCT:
        return "another metric"
    if index.options.kind != "flat":
        held.nprobe = index.options.probes
    return None


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
