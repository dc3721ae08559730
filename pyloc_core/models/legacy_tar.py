# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Tar archives of torch before 0.1.10: members `storages`, `tensors` and `pickle`.

The name `.pth.tar` alone does not make such a file: most of them are streams or zip archives.
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Collection
from typing import IO, Any

from pyloc_core.models.pickle_records import StorageType, TensorRecord
from pyloc_core.models.restricted_pickle import load_pickle
from pyloc_core.models.torch_container import DTYPES, Storage, fill, resolve

_MOST = 1 << 20  # storages or tensors in one file


def read_tar(stream: IO[bytes], inert: Collection[str]) -> tuple[Any, tuple[str, ...]]:
    """Content of an archive, and the names of classes left inert. ValueError when damaged."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            members = {name: _member(archive, name) for name in ("storages", "tensors", "pickle")}
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"the archive is damaged or truncated: {error}") from None
    storages = _storages(members["storages"])
    tensors = _tensors(members["tensors"], storages)

    def persistent(pid: Any) -> Any:
        if isinstance(pid, tuple) and pid:
            return pid[0]
        if str(pid) not in tensors:
            raise ValueError(f"the archive lacks tensor {pid!r}")
        return tensors[str(pid)]

    value, left = load_pickle(members["pickle"], persistent, inert)
    return resolve(value), left


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    for entry in archive:
        if entry.name.lstrip("./") == name and entry.isreg():
            file = archive.extractfile(entry)
            if file is not None:
                content = file.read()
                if len(content) != entry.size:
                    raise ValueError(f"{name} is truncated")
                return io.BytesIO(content)
    raise ValueError(f"the archive lacks {name}: not written by torch.save")


def _storages(stream: IO[bytes]) -> dict[str, Storage]:
    found: dict[str, Storage] = {}
    for _ in range(_count(stream)):
        entry, _ = load_pickle(stream)
        if not (isinstance(entry, tuple) and len(entry) == 3 and isinstance(entry[2], StorageType)):
            raise ValueError("a storage of the archive has an unknown form")
        kind = DTYPES.get(entry[2].name)
        if kind is None:
            raise ValueError(f"storages of the type {entry[2].name} are not read")
        found[str(entry[0])] = fill(stream, Storage(kind, None), str(entry[0]))
    views, _ = load_pickle(stream)
    for target, root, offset, count in views or ():
        if str(root) not in found or not (isinstance(offset, int) and isinstance(count, int)):
            raise ValueError("a view of the archive has no storage")
        found[str(target)] = found[str(root)].part(offset, count)
    return found


def _tensors(stream: IO[bytes], storages: dict[str, Storage]) -> dict[str, TensorRecord]:
    found = {}
    for _ in range(_count(stream)):
        entry, _ = load_pickle(stream)
        if not (isinstance(entry, tuple) and len(entry) == 3 and str(entry[1]) in storages):
            raise ValueError("a tensor of the archive has no storage")
        head = stream.read(8)  # the number of axes in 4 bytes, and 4 that mean nothing
        axes = struct.unpack("<i", head[:4])[0] if len(head) == 8 else -1
        if not 0 <= axes <= 32:
            raise ValueError("a tensor of the archive has an impossible number of axes")
        layout = stream.read(8 * (2 * axes + 1))
        if len(layout) != 8 * (2 * axes + 1):
            raise ValueError("the tensors of the archive are truncated")
        numbers = struct.unpack(f"<{2 * axes + 1}q", layout)
        if min(numbers) < 0:
            raise ValueError("a tensor of the archive has an impossible layout")
        found[str(entry[0])] = TensorRecord(
            storages[str(entry[1])], numbers[-1], numbers[:axes], numbers[axes : 2 * axes]
        )
    return found


def _count(stream: IO[bytes]) -> int:
    count, _ = load_pickle(stream)
    if not isinstance(count, int) or not 0 <= count <= _MOST:
        raise ValueError(f"the archive announces {count!r} entries")
    return count
