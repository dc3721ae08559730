# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the pickles inside checkpoints without importing or calling anything that they name.

A pickle is a program: it may name any importable object (GLOBAL) and call it (REDUCE). Here a name
never becomes the object of that name. It becomes
- one of a few functions of pickle_records.py that rebuild tensors, arrays and plain containers,
- or an inert class that only records what is put into its instances: what is left of hyper-parameter
  classes, optimisers and loggers that training programs pickle along with the weights,
- or an error that names it: everything of the standard library that is not on the list, and every
  other name as soon as the pickle calls it.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import sys
from collections.abc import Callable, Collection
from typing import IO, Any

from pyloc_core.models.pickle_records import (
    CALLS,
    TOKENS,
    DType,
    Inert,
    InertType,
    RefusedPickle,
    StorageType,
)

# A memo index may not exceed the number of opcodes by more than this: the unpickler would allocate it.
_MEMO_SLACK = 1024
_REFUSED_OPCODES = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
_MODULES_OF_PYTHON_2 = {"__builtin__", "copy_reg", "commands", "nt", "posix", "os2", "ce"}
# Classes of the standard library that hyper-parameters hold; inert like any other class.
_INERT_STANDARD = {"argparse.Namespace", "types.SimpleNamespace"}
_DTYPES = (
    "float16", "float32", "float64", "bfloat16", "half", "float", "double",
    "int8", "int16", "int32", "int64", "uint8", "bool",
)  # fmt: skip


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler whose `find_class` imports nothing. Use `load_pickle`, which also checks the opcodes.

    Attributes:
        inert_names: global names that became inert classes, in order of appearance.
    """

    def __init__(
        self,
        stream: IO[bytes],
        persistent: Callable[[Any], Any] | None = None,
        inert: Collection[str] = (),
    ) -> None:
        # Strings of Python 2 are bytes of unknown encoding; latin-1 takes them all.
        super().__init__(stream, fix_imports=False, encoding="latin1")
        self._persistent = persistent
        self._allowed = frozenset(inert)
        self._classes: dict[str, InertType] = {}

    @property
    def inert_names(self) -> tuple[str, ...]:
        return tuple(self._classes)

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise RefusedPickle("the pickle refers to data outside itself")
        return self._persistent(pid)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in CALLS:
            return CALLS[full]
        if full in TOKENS:
            return TOKENS[full]
        if module == "torch" and name in _DTYPES:
            return DType(name)
        if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
            return StorageType(name)
        if full in self._allowed:
            return self._inert_class(full, callable_=True)
        top = module.split(".")[0]
        standard = top in sys.stdlib_module_names or top in _MODULES_OF_PYTHON_2
        if standard and full not in _INERT_STANDARD:
            raise RefusedPickle(f"the pickle names {full}, which no checkpoint needs")
        return self._inert_class(full, callable_=False)

    def _inert_class(self, full: str, callable_: bool) -> InertType:
        if full not in self._classes:
            space = {"global_name": full, "callable_": callable_, "__module__": __name__}
            self._classes[full] = InertType("Inert", (Inert,), space)
        return self._classes[full]


def load_pickle(
    stream: IO[bytes],
    persistent: Callable[[Any], Any] | None = None,
    inert: Collection[str] = (),
) -> tuple[Any, tuple[str, ...]]:
    """The next pickle of a stream, and the names of the classes that it left inert.

    `persistent` resolves the container's references to storages. `inert` names further globals
    (`package.module.Name`) whose calls are recorded and not refused; they are not executed either.
    Objects of unknown classes are still `Inert`, and arrays records: `plain` turns them into values.

    Raises RefusedPickle, and ValueError for data that is no pickle.
    """
    try:
        start = stream.tell()
        length = _check_opcodes(stream)
        stream.seek(start)
        reader = RestrictedUnpickler(io.BytesIO(stream.read(length)), persistent, inert)
        return reader.load(), reader.inert_names
    except RefusedPickle:
        raise
    except RecursionError:
        raise ValueError("the pickle is nested too deeply") from None
    except Exception as error:  # the unpickler raises nearly anything for damaged data
        raise ValueError(f"the pickle is damaged: {error or type(error).__name__}") from None


def _check_opcodes(stream: IO[bytes]) -> int:
    """Bytes of the pickle that starts here. Refuses opcodes that reach past `find_class`, and memo
    indices that would make the unpickler allocate far more than the file holds."""
    start, end, highest = stream.tell(), 0, -1
    for count, (opcode, argument, position) in enumerate(pickletools.genops(stream)):
        if opcode.name in _REFUSED_OPCODES:
            raise RefusedPickle(f"the pickle uses the opcode {opcode.name}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None:
            highest = max(highest, int(argument))
        if highest > count + _MEMO_SLACK:
            raise RefusedPickle(f"the pickle stores an object at memo index {highest}")
        end = (position or 0) + 1
    return end - start
