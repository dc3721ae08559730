# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of torch tensors that look at shapes, dtypes and devices only.

Looking at values would synchronise the device, and cannot be traced: it is done where the caller asks
for it, with `check_finite=True`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pyloc_core import _arrays, _dispatch


def as_tensor(x: Any) -> Any:
    """A tensor as it is; anything else as a CPU tensor that shares its memory where it can."""
    torch = _arrays.torch_module()
    if isinstance(x, torch.Tensor):
        return x
    if isinstance(x, np.ndarray) or not hasattr(x, "__dlpack__"):
        return torch.as_tensor(np.asarray(x))
    return torch.from_dlpack(x)


def check(
    x: Any,
    name: str,
    *,
    shape: tuple[int | str, ...] | None = None,
    dtype: str | tuple[str, ...] = "float64",
    device: Any = None,
) -> Any:
    """The tensor, converted to the first of `dtype` unless it has one of them; strides are kept.

    `shape` as in `_arrays.as_array`: ints must match, strings stand for any size.
    """
    torch = _arrays.torch_module()
    tensor = as_tensor(x)
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
    if tensor.is_complex():
        raise TypeError(f"{name} must hold real numbers, got dtype {_name(tensor.dtype)}")
    if shape is not None and not _fits(tuple(tensor.shape), shape):
        text = "(" + ", ".join(str(w) for w in shape) + ("," if len(shape) == 1 else "") + ")"
        raise ValueError(f"{name} must have shape {text}, got {tuple(tensor.shape)}")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name} must be on {device}, it is on {tensor.device}")
    accepted = (dtype,) if isinstance(dtype, str) else dtype
    if _name(tensor.dtype) not in accepted:
        tensor = tensor.to(getattr(torch, accepted[0]))
    return tensor


def on_device(array: np.ndarray, name: str, device: Any) -> Any:
    """The array as a tensor there. The copy takes its turn on the device, which is not waited for.

    ValueError while a CUDA graph is captured, whose replays would read memory that is gone by then.
    """
    torch = _arrays.torch_module()
    on_gpu = device.type == "cuda" and not _dispatch.traced()
    if on_gpu and torch.cuda.is_current_stream_capturing():
        raise ValueError(f"{name} is on the host: a CUDA graph takes tensors on {device} alone")
    shared = array if array.flags.writeable else array.copy()  # torch knows no read-only memory
    return torch.from_numpy(shared).to(device, non_blocking=True)


def _fits(found: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    return len(found) == len(wanted) and all(
        isinstance(w, str) or f == w for f, w in zip(found, wanted)
    )


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def check_finite(**tensors: Any) -> None:
    """ValueError that names the first tensor with NaN or infinity. Waits for the device."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinite values")


def wants_gradient(tensors: Iterable[Any]) -> bool:
    """Whether autograd records and one of the tensors (or None) needs a gradient."""
    torch = _arrays.torch_module()
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
