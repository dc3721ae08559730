# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The containers that torch.save has written over the years, read without running code from them.

- zip archive (torch 1.6 and later): `<root>/data.pkl`, and one stored entry per storage;
- one stream of pickles (0.1.10 to 1.5): magic number, protocol, system, content, keys, then storages;
- a plain pickle of one object, which some programs write themselves.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import IO, Any

import numpy as np
import torch

from pyloc_core.models.pickle_records import (
    ArrayRecord,
    DType,
    Inert,
    RefusedPickle,
    StorageType,
    TensorRecord,
)
from pyloc_core.models.restricted_pickle import load_pickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
DTYPES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
}  # fmt: skip
# A tensor may repeat its storage (stride 0), but not blow a small file up.
_MOST_REPEATED = 1 << 20


class Storage:
    """Bytes of a storage, filled in later in the stream format; `dtype` of its elements."""

    def __init__(self, dtype: torch.dtype, count: int | None, data: bytes | None = None) -> None:
        self.dtype, self.count, self.data = dtype, count, data
        self._flat: torch.Tensor | None = None

    def flat(self) -> torch.Tensor:
        """(count,) of the storage's dtype; tensors that share a storage share memory."""
        if self.data is None:
            raise ValueError("a tensor has no storage in the file")
        if self._flat is None:
            size = self.dtype.itemsize
            whole = bytearray(self.data[: len(self.data) // size * size])
            empty = torch.empty(0, dtype=self.dtype)
            self._flat = torch.frombuffer(whole, dtype=self.dtype) if whole else empty
        return self._flat

    def part(self, offset: int, count: int) -> Storage:
        """A range of elements as a storage of its own."""
        size = self.dtype.itemsize
        return Storage(
            self.dtype, count, (self.data or b"")[offset * size : (offset + count) * size]
        )


def check_stored(stream: IO[bytes]) -> dict[str, zipfile.ZipInfo]:
    """Entries of a zip archive by name; ValueError when it is damaged or its entries are packed, which
    torch.save never does and which could unpack to anything."""
    try:
        names = {entry.filename: entry for entry in zipfile.ZipFile(stream).infolist()}
    except Exception as error:  # zipfile raises many types
        raise ValueError(f"the archive is damaged or truncated: {error}") from None
    for entry in names.values():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{entry.filename} is compressed, which torch.save never does")
    return names


def read_zip(stream: IO[bytes], inert: Collection[str]) -> tuple[Any, tuple[str, ...]]:
    """Content of a zip archive, and the names of classes left inert. ValueError when damaged."""
    names = check_stored(stream)
    archive = zipfile.ZipFile(stream)
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("the archive holds no data.pkl: not written by torch.save")
    root = pickles[0][: -len("data.pkl")]

    def content(name: str) -> bytes:
        entry = names.get(root + name)
        if entry is None:
            raise ValueError(f"the archive lacks {name}")
        try:
            return archive.read(entry)
        except Exception as error:
            raise ValueError(f"{name} is damaged or truncated: {error}") from None

    if root + "byteorder" in names and content("byteorder") != b"little":
        raise ValueError("the file was written on a big-endian machine")
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:
        kind, key, count = _storage_id(pid)
        if key not in storages:
            storages[key] = Storage(kind, count, content(f"data/{key}"))
        return storages[key]

    value, left = load_pickle(io.BytesIO(content("data.pkl")), persistent, inert)
    return resolve(value), left


def read_stream(stream: IO[bytes], inert: Collection[str]) -> tuple[Any, tuple[str, ...]]:
    """Content of a stream of pickles, or of a plain pickle. ValueError when damaged."""
    first, left = load_pickle(stream, None, inert)
    if first != _MAGIC:
        return resolve(first), left
    protocol, _ = load_pickle(stream)
    if protocol != _PROTOCOL:
        raise ValueError(f"the stream has protocol {protocol!r}; known: {_PROTOCOL}")
    load_pickle(stream)  # sizes of C types on the writing machine
    storages: dict[str, Storage] = {}
    views: list[tuple[Storage, Storage, int]] = []

    def persistent(pid: Any) -> Storage:
        kind, key, count = _storage_id(pid)
        root = storages.setdefault(key, Storage(kind, count))
        view = pid[5] if len(pid) > 5 else None
        if view is None:
            return root
        part = Storage(kind, int(view[2]))
        views.append((part, root, int(view[1])))
        return part

    value, left = load_pickle(stream, persistent, inert)
    keys, _ = load_pickle(stream)
    if not isinstance(keys, list):
        raise ValueError("the stream does not list its storages")
    for key in keys:
        if str(key) not in storages:
            raise ValueError(f"storage {key} is unknown")
        fill(stream, storages[str(key)], str(key))
    for part, root, offset in views:
        part.data = root.part(offset, int(part.count or 0)).data
    return resolve(value), left


def fill(stream: IO[bytes], storage: Storage, key: str) -> Storage:
    """Read the bytes of a storage: 8 bytes with the number of elements, then the elements."""
    head = stream.read(8)
    count = int.from_bytes(head, "little", signed=True) if len(head) == 8 else -1
    if count < 0 or (storage.count is not None and count != storage.count):
        raise ValueError(f"storage {key} is truncated, or its size differs from the announced one")
    start = stream.tell()
    size = count * storage.dtype.itemsize
    if stream.seek(0, io.SEEK_END) - start < size:
        raise ValueError(f"storage {key} is truncated")
    stream.seek(start)
    storage.data = stream.read(size)
    return storage


def _storage_id(pid: Any) -> tuple[torch.dtype, str, int]:
    """dtype, key and element count of a reference ("storage", type, key, location, count, ...)."""
    good = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"
    if not good or not isinstance(pid[1], StorageType) or not isinstance(pid[4], int):
        raise RefusedPickle("a reference to a storage has an unknown form")
    if pid[1].name not in DTYPES:
        raise RefusedPickle(f"storages of the type {pid[1].name} are not read")
    if pid[4] < 0 or not isinstance(pid[2], str):
        raise RefusedPickle("a storage has an impossible size or key")
    return DTYPES[pid[1].name], pid[2], pid[4]


def _tensor(record: TensorRecord) -> torch.Tensor:
    """The tensor of a record, its layout checked against the bytes that there are."""
    if not isinstance(record.storage, Storage):
        raise ValueError("a tensor has no storage in the file")
    flat = record.storage.flat()
    if isinstance(record.dtype, DType):
        flat = flat.view(getattr(torch, record.dtype.name))
    numel = math.prod(record.size)
    last = record.offset + sum((n - 1) * s for n, s in zip(record.size, record.stride))
    if numel == 0:
        if max(record.size) > 1 << 40:
            raise ValueError(f"a tensor has the impossible shape {record.size}")
        return torch.empty(record.size, dtype=flat.dtype)
    if last >= len(flat):
        raise ValueError(f"a tensor of shape {record.size} lies outside its storage: truncated?")
    if numel > max(len(flat), _MOST_REPEATED):
        raise ValueError(f"a tensor of shape {record.size} repeats a storage of {len(flat)}")
    return flat.as_strided(record.size, record.stride, record.offset)


def resolve(value: Any) -> Any:
    """The value with tensors for records and dictionaries for inert objects. Cycles stay cycles."""
    try:
        return _resolve(value, {})
    except RecursionError:
        raise ValueError("the content is nested too deeply") from None


def _resolve(value: Any, seen: dict[int, tuple[Any, Any]]) -> Any:
    if id(value) in seen:
        return seen[id(value)][1]

    def remember(made: Any) -> Any:
        seen[id(value)] = (value, made)  # holds the value, so that its id stays its own
        return made

    if isinstance(value, TensorRecord):
        return remember(_tensor(value))
    if isinstance(value, ArrayRecord):
        return value.value
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Inert):
        wrapped = _wrapped_by_omegaconf(value)
        if wrapped:
            return _resolve(wrapped[0], seen)
        return _filled_from_inert(value, remember({}), seen)
    if isinstance(value, Mapping):
        made = remember(OrderedDict() if isinstance(value, OrderedDict) else {})
        for key, entry in value.items():
            made[_key(key)] = _resolve(entry, seen)
        return made
    if isinstance(value, list):
        items = remember([])
        items.extend(_resolve(entry, seen) for entry in value)
        return items
    if isinstance(value, tuple):
        return remember(tuple(_resolve(entry, seen) for entry in value))
    if isinstance(value, (set, frozenset)):
        return remember([_resolve(entry, seen) for entry in value])
    if isinstance(value, (str, bytes, bytearray, int, float, complex)) or value is None:
        return value
    return _name(value)


def _key(value: Any) -> Any:
    return value if isinstance(value, (str, bytes, int, float, type(None))) else _name(value)


def _name(value: Any) -> str:
    """Of a class or dtype that the pickle mentions."""
    return str(getattr(value, "global_name", getattr(value, "name", type(value).__name__)))


def _wrapped_by_omegaconf(value: Inert) -> tuple[Any, ...]:
    """What a node of OmegaConf holds, the configurations of many training programs; () for others."""
    if type(value).global_name.startswith("omegaconf.") and isinstance(value.state, dict):
        for name in ("_content", "_val"):
            if name in value.state:
                return (value.state[name],)
    return ()


def _filled_from_inert(value: Inert, made: dict[Any, Any], seen: dict[int, Any]) -> dict[Any, Any]:
    """The attributes and entries of an inert object; list elements and arguments under their names."""
    states = value.state if isinstance(value.state, tuple) else (value.state,)
    for state in states:
        if isinstance(state, dict):
            made.update({str(k): _resolve(v, seen) for k, v in state.items()})
    made.update({_key(k): _resolve(v, seen) for k, v in value.entries.items()})
    if value.elements:
        made["elements"] = [_resolve(entry, seen) for entry in value.elements]
    if value.arguments:
        made["arguments"] = [_resolve(entry, seen) for entry in value.arguments]
    return made
