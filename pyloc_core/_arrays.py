# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Arrays in, the same kind out: NumPy, torch (CPU) or anything with `__dlpack__`.

Every front door passes its arguments through `as_array`, which checks and, where dtype and layout
already fit, copies nothing. torch is looked at only if the caller has imported it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _native

# Twin of pyloc::DType in csrc/include/pyloc/config.h.
DTYPE_CODES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
FEATURE_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class ArrayIn:
    """A checked argument: a NumPy view of the caller's memory and the kind to give back.

    NumPy has no bfloat16: such arrays are held as uint16 with `dtype == "bfloat16"`.
    """

    data: npt.NDArray[Any]
    dtype: str
    is_torch: bool

    @property
    def code(self) -> int:
        return DTYPE_CODES[self.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape


def torch_module() -> Any:
    """The torch the caller has imported, or None; never imports it."""
    return sys.modules.get("torch")


def is_torch(x: object) -> bool:
    torch = torch_module()
    return torch is not None and isinstance(x, torch.Tensor)


def _from_torch(x: Any, name: str) -> tuple[npt.NDArray[Any], str]:
    torch = torch_module()
    if x.device.type != "cpu":
        raise ValueError(
            f"{name} is on {x.device}: this operator has no implementation for that device in this "
            f"build; move it with .cpu()"
        )
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {x.layout}")
    x = x.detach().resolve_conj().resolve_neg()
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(np.uint16), "bfloat16"
    return x.numpy(), str(x.dtype).removeprefix("torch.")


def _to_numpy(x: Any, name: str) -> tuple[npt.NDArray[Any], str, bool]:
    if isinstance(x, np.ndarray):
        array = x
    elif is_torch(x):
        data, dtype = _from_torch(x, name)
        return data, dtype, True
    elif hasattr(x, "__dlpack__"):
        try:
            array = np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError) as error:
            raise ValueError(f"{name} cannot be read on the CPU through DLPack: {error}") from None
    else:
        try:
            array = np.asarray(x)
        except ValueError as error:  # ragged lists
            raise ValueError(f"{name} is not an array: {error}") from None
    if array.dtype.name == "bfloat16":  # ml_dtypes registers it with NumPy
        return array.view(np.uint16), "bfloat16", False
    return array, array.dtype.name, False


def as_array(
    x: Any,
    name: str,
    *,
    shape: tuple[int | str, ...] | None = None,
    dtype: str | tuple[str, ...] = "float64",
    finite: bool = True,
    writable: bool = False,
) -> ArrayIn:
    """Check an argument and give a C-contiguous view of it (a copy only where needed).

    Args:
        x: the caller's array.
        name: how messages call it.
        shape: ints must match; strings stand for any size and show in the message, as ("N", 3).
        dtype: one name converts any real dtype to it; several are the accepted ones, and anything
            else real is converted to the first.
        finite: refuse NaN and infinity.
        writable: the array is written in place: dtype, layout and writability must already fit.
    """
    data, found, torch_kind = _to_numpy(x, name)
    accepted = (dtype,) if isinstance(dtype, str) else dtype
    if found != "bfloat16" and data.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {found}")
    if shape is not None:
        _check_shape(data.shape, shape, name)
    if writable and (
        found not in accepted or not data.flags.c_contiguous or not data.flags.writeable
    ):
        raise ValueError(
            f"{name} must be a writable C-contiguous array of dtype {' or '.join(accepted)}, got "
            f"{found}, contiguous={data.flags.c_contiguous}, writable={data.flags.writeable}"
        )
    if found not in accepted:
        if found == "bfloat16":
            data = bfloat16_to_float32(data)
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused below
            data, found = data.astype(accepted[0]), accepted[0]
    if not data.flags.c_contiguous or not data.flags.aligned or not data.dtype.isnative:
        # Not ascontiguousarray, which keeps what is contiguous but not aligned.
        data = np.array(data, dtype=data.dtype.newbyteorder("="), order="C")
    array = ArrayIn(data, found, torch_kind)
    if finite and found in DTYPE_CODES and not all_finite(array):
        raise ValueError(f"{name} holds NaN or infinite values")
    return array


def _check_shape(found: tuple[int, ...], wanted: tuple[int | str, ...], name: str) -> None:
    fits = len(found) == len(wanted) and all(
        isinstance(w, str) or f == w for f, w in zip(found, wanted)
    )
    if not fits:
        text = "(" + ", ".join(str(w) for w in wanted) + ("," if len(wanted) == 1 else "") + ")"
        raise ValueError(f"{name} must have shape {text}, got {tuple(found)}")


def all_finite(array: ArrayIn) -> bool:
    return bool(_native.all_finite(pointer(array.data), array.data.size, array.code))


def tensor_of(array: np.ndarray) -> Any:
    """A CPU tensor that shares the array's memory; uint16 holds bfloat16, for which NumPy has no dtype."""
    torch = torch_module()
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def bfloat16_to_float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def pointer(array: npt.NDArray[Any]) -> int:
    """Address of the first element."""
    return int(array.__array_interface__["data"][0])


def check_equal_length(first: int, first_name: str, second: int, second_name: str) -> None:
    if first != second:
        raise ValueError(
            f"{first_name} and {second_name} must have the same length, got {first} and {second}"
        )


def like(result: npt.NDArray[Any], *sources: ArrayIn) -> Any:
    """The result as the kind of the caller's arrays: torch if any of them was torch."""
    if any(source.is_torch for source in sources):
        return torch_module().from_numpy(result)
    return result


def thread_count(num_threads: int | None) -> int:
    """The native interface's form of `num_threads`: 0 stands for the default."""
    if num_threads is None:
        return 0
    if isinstance(num_threads, bool) or not isinstance(num_threads, (int, np.integer)):
        raise TypeError(f"num_threads must be an int or None, got {num_threads!r}")
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    return min(int(num_threads), 256)
