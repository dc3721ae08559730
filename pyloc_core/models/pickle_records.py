# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What stands for the objects of a pickle while it is read: records, inert instances, and the few
functions that may take the place of a global."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


class RefusedPickle(ValueError):
    """A pickle names or calls something that a checkpoint has no need of. Nothing was executed."""


class _Sealed:
    """What a pickle may hold but not fill: BUILD would reach into the attributes otherwise."""

    def __setstate__(self, state: Any) -> None:
        raise RefusedPickle(f"the pickle sets the state of a {type(self).__name__}")


@dataclass(frozen=True)
class StorageType(_Sealed):
    """Stands for a class like torch.FloatStorage."""

    name: str


@dataclass(frozen=True)
class DType(_Sealed):
    """Stands for a torch dtype such as torch.float16, by its name after the dot."""

    name: str


@dataclass(frozen=True, eq=False)
class TensorRecord(_Sealed):
    """A tensor that is yet to be read: the storage as the container's reader gave it, and the layout."""

    storage: Any
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: DType | None = None


@dataclass(frozen=True, eq=False)
class _Call(_Sealed):
    """A function of this file in the place of a global; the pickle can call it and nothing else."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


@dataclass(frozen=True, eq=False)
class _Token(_Sealed):
    """A built-in class as an argument (of `copyreg._reconstructor`, of a defaultdict); not callable."""

    name: str


class InertType(type):
    """Of classes that stand in for unknown ones: to call one is refused, unless it was allowed."""

    global_name: str
    callable_: bool

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if not cls.callable_:
            raise RefusedPickle(
                f"the pickle calls {cls.global_name}, which weights do not need; inert=[that name] "
                "records the call, without running it"
            )
        return new_inert(cls, *args, **kwargs)


class Inert(metaclass=InertType):
    """An instance of a class that was not imported: what the pickle put into it, and nothing else."""

    global_name = "?"
    callable_ = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = object.__new__(cls)
        made.arguments = args
        made.state = None
        made.entries = {}
        made.elements = []
        return made

    arguments: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any]
    elements: list[Any]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        self.elements.append(value)

    def extend(self, values: Any) -> None:
        self.elements.extend(values)

    def add(self, value: Any) -> None:
        self.elements.append(value)

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRecord:
    numbers = (offset, *size, *stride)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
        raise RefusedPickle("a tensor has an impossible layout")
    return TensorRecord(storage, offset, tuple(size), tuple(stride))


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> TensorRecord:
    made = _rebuild_tensor(storage, offset, size, stride)
    return TensorRecord(made.storage, made.offset, made.size, made.stride, dtype)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _size(values: Any = ()) -> tuple[int, ...]:
    return tuple(values)


def _device(*_: Any) -> str:
    return "cpu"


def _path(*parts: Any) -> str:
    return "/".join(str(part) for part in parts)


def _set(values: Any = ()) -> set[Any]:
    return set(values)


def _ordered(values: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(values)


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _bytearray(*arguments: Any) -> bytearray:
    if len(arguments) == 2 and all(isinstance(a, str) for a in arguments):
        return bytearray(_encode(*arguments))
    if arguments and not isinstance(arguments[0], bytes):
        raise RefusedPickle("a bytearray is made of something that is not bytes")
    return bytearray(*arguments[:1])


def _no_bytes() -> bytes:
    """How protocols 0 to 2 write no bytes at all."""
    return b""


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocols 0 to 2 write bytes."""
    if not isinstance(text, str) or str(encoding) not in ("latin1", "latin-1", "utf-8"):
        raise RefusedPickle(f"the pickle encodes a text as {encoding!r}")
    return text.encode(str(encoding))


def _reconstruct_object(cls: Any, base: Any, state: Any = None) -> Any:
    """How protocols 0 and 1 write objects."""
    if not isinstance(cls, InertType):
        raise RefusedPickle("the pickle reconstructs an object of a class that is not a plain one")
    made = new_inert(cls)
    if isinstance(state, dict):
        made.entries.update(state)
    elif isinstance(state, (list, tuple)):
        made.elements.extend(state)
    return made


def new_inert(cls: InertType, *args: Any, **kwargs: Any) -> Any:
    """An instance that the pickle did not get by calling the class."""
    make: Any = cls.__new__
    return make(cls, *args, **kwargs)


class _DTypeRecord:
    """A NumPy dtype; only numbers and booleans."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or code.lstrip("<>|=")[:1] not in tuple("biufc"):
            raise RefusedPickle(f"an array has the dtype {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise RefusedPickle(f"an array has the byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class ArrayRecord:
    """A NumPy array: `value`, once its state has come."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array_from(data, dtype, shape, "F" if fortran else "C")


def _array_from(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    if not isinstance(dtype, _DTypeRecord) or not isinstance(data, (bytes, bytearray)):
        raise RefusedPickle("an array does not hold plain numbers")
    if not all(type(n) is int and n >= 0 for n in shape) or order not in ("C", "F"):
        raise RefusedPickle("an array has an impossible shape")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise RefusedPickle("the size of an array does not fit its shape")
    values = np.frombuffer(bytes(data), dtype.dtype).reshape(shape, order=order)
    return values.astype(dtype.dtype.newbyteorder("="))


def _numpy_array(*_: Any) -> ArrayRecord:
    return ArrayRecord()


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, _DTypeRecord) or not isinstance(data, bytes):
        raise RefusedPickle("a scalar is not a plain number")
    if len(data) != dtype.dtype.itemsize:
        raise RefusedPickle("the size of a scalar does not fit its dtype")
    return np.frombuffer(data, dtype.dtype)[0].item()


_PATHS = {
    f"{module}.{name}"
    for module in ("pathlib", "pathlib._local")
    for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
}


def _calls() -> dict[str, _Call]:
    """Global name -> the function of this file that takes its place."""
    calls: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
        "torch.Size": _size,
        "torch.device": _device,
        "collections.OrderedDict": _ordered,
        "collections.defaultdict": _default_dict,
        "_codecs.encode": _encode,
        "numpy.dtype": _DTypeRecord,
    }
    for module in ("builtins", "__builtin__"):
        calls |= {f"{module}.set": _set, f"{module}.frozenset": _set}
        calls[f"{module}.bytearray"] = _bytearray
        calls[f"{module}.bytes"] = _no_bytes
    for module in ("copyreg", "copy_reg"):
        calls[f"{module}._reconstructor"] = _reconstruct_object
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        calls |= {f"{module}._reconstruct": _numpy_array, f"{module}.scalar": _numpy_scalar}
    for module in ("numpy.core.numeric", "numpy._core.numeric"):
        calls[f"{module}._frombuffer"] = _array_from
    calls |= dict.fromkeys(_PATHS, _path)
    return {name: _Call(function) for name, function in calls.items()}


CALLS = _calls()
TOKENS = {
    f"{module}.{name}": _Token(name)
    for module in ("builtins", "__builtin__")
    for name in (
        "object",
        "dict",
        "list",
        "tuple",
        "str",
        "int",
        "float",
        "bool",
        "complex",
    )
} | {"numpy.ndarray": _Token("ndarray"), "typing.Any": _Token("Any")}  # OmegaConf names Any
