# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files for tests: of every container, with leftovers of training programs, and hostile ones."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


@contextmanager
def training_program() -> Iterator[ModuleType]:
    """A module with classes as training programs pickle them; it is gone afterwards."""
    module = ModuleType("some_trainer.parsing")
    code = (
        "class AttributeDict(dict):\n"
        "    def __getattr__(self, key): raise AttributeError(key)\n"
        "class Options:\n"
        "    def __init__(self): self.depth = 7; self.name = 'x'; self.inner = AttributeDict(a=1)\n"
        "class Names(list): pass\n"
        "class Called:\n"
        "    def __reduce__(self): return (Called, ('argument',))\n"
        "    def __init__(self, *args): pass\n"
    )
    exec(code, module.__dict__)
    for cls in (module.AttributeDict, module.Options, module.Names, module.Called):
        cls.__module__ = module.__name__
    sys.modules["some_trainer"] = ModuleType("some_trainer")
    sys.modules[module.__name__] = module
    try:
        yield module
    finally:
        del sys.modules[module.__name__], sys.modules["some_trainer"]


class Hostile:
    """Pickles into a call of a global, `module name arguments`, in any protocol."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.call = (module, name, arguments)

    def pickled(self, protocol: int) -> bytes:
        """The pickle of {"state_dict": call(...)}, assembled by hand: nothing is imported here."""
        module, name, arguments = self.call
        head = b"\x80" + bytes([protocol]) if protocol >= 2 else b""
        body = b"}"  # EMPTY_DICT
        body += b"X" + struct.pack("<I", 10) + b"state_dict"
        if protocol >= 4:
            for text in (module, name):
                body += b"\x8c" + bytes([len(text)]) + text.encode()
            body += b"\x93"
        else:
            body += b"c" + module.encode() + b"\n" + name.encode() + b"\n"
        body += b"("
        for argument in arguments:
            text = str(argument).encode()
            body += b"X" + struct.pack("<I", len(text)) + text
        return head + body + b"tRs."


def in_zip(data: bytes, path: Path) -> Path:
    """A pickle in an archive laid out like torch's."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


def in_stream(data: bytes, path: Path) -> Path:
    """A pickle as the content of torch's older stream format."""
    parts = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(parts) + data + pickle.dumps([], 2))
    return path


def in_tar(state: dict[str, torch.Tensor], path: Path) -> Path:
    """A state of float32 tensors in the tar archive of torch before 0.1.10."""
    storages, tensors = io.BytesIO(), io.BytesIO()
    pickle.dump(len(state), storages, 2)
    pickle.dump(len(state), tensors, 2)
    for index, value in enumerate(state.values()):
        flat = value.float().contiguous().flatten()
        pickle.dump((str(100 + index), "cpu", torch.FloatStorage), storages, 2)
        storages.write(struct.pack("<q", len(flat)) + flat.numpy().tobytes())
        pickle.dump((index, str(100 + index), torch.FloatTensor), tensors, 2)
        stride = value.contiguous().stride()
        axes = value.dim()
        tensors.write(struct.pack(f"<ii{2 * axes + 1}q", axes, 0, *value.shape, *stride, 0))
    pickle.dump([], storages, 2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return next((str(i) for i, v in enumerate(state.values()) if v is obj), None)

    content = io.BytesIO()
    Pickler(content, 2).dump({"state_dict": OrderedDict(state), "epoch": 3})
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        members = {"sys_info": pickle.dumps({}, 2), "storages": storages.getvalue(),
                   "tensors": tensors.getvalue(), "pickle": content.getvalue()}  # fmt: skip
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path
