# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Short formulas written once for NumPy arrays and torch tensors.

Where no native code is worth its while, a function asks `kind_of` for the module its arguments belong
to and calls what both modules have under one name (`exp`, `where`, `amax(..., axis=...)`): torch
records gradients and stays on the device, NumPy needs no torch.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyloc_core import _arrays, _dispatch, _tensors


@dataclass(frozen=True)
class Kind:
    """The module of the arguments; `device` is None for NumPy."""

    xp: Any
    device: Any

    @property
    def is_torch(self) -> bool:
        return self.device is not None

    @property
    def can_look(self) -> bool:
        """Whether reading values waits for no device and breaks no trace."""
        return not self.is_torch or (self.device.type == "cpu" and not _dispatch.traced())

    def take(self, x: Any, name: str, dtype: tuple[str, ...], *, finite: bool = True) -> Any:
        """The argument as an array of this kind with one of the dtypes, or else the first of them.

        Values are looked at on the CPU alone. Raises ValueError or TypeError that names it.
        """
        if not self.is_torch:
            return _arrays.as_array(x, name, dtype=dtype, finite=finite).data
        if isinstance(x, (int, float)):  # made on the device: nothing waits, and it can be traced
            if finite and not math.isfinite(x):
                raise ValueError(f"{name} holds NaN or infinite values")
            return self.xp.full((), x, dtype=getattr(self.xp, dtype[0]), device=self.device)
        if not _arrays.is_torch(x):  # a NumPy array beside tensors
            x = _tensors.on_device(
                _arrays.as_array(x, name, dtype=dtype, finite=finite).data, name, self.device
            )
        tensor = _tensors.check(x, name, dtype=dtype, device=self.device)
        if finite:
            self.check_finite(tensor, name)
        return tensor

    def check_finite(self, x: Any, name: str, *, look: bool = False) -> None:
        """ValueError for NaN or infinity, if values can be looked at or `look` says so."""
        if self.can_look and self.is_torch and x.is_contiguous():
            _arrays.as_array(x.detach(), name, dtype=dtype_name(x))  # by native code
        elif self.can_look or look:
            self.refuse(~self.xp.isfinite(x), f"{name} holds NaN or infinite values", look=look)

    def cast(self, x: Any, dtype: str) -> Any:
        """The array in another dtype; itself where it has that one."""
        return x.to(getattr(self.xp, dtype)) if self.is_torch else x.astype(dtype, copy=False)

    def arange(self, *bounds: int) -> Any:
        return self.xp.arange(*bounds, device=self.device) if self.is_torch else np.arange(*bounds)

    def quiet(self) -> AbstractContextManager[Any]:
        """No warnings of NumPy about overflow; torch has none, and cannot trace the switch."""
        return nullcontext() if self.is_torch else np.errstate(over="ignore", invalid="ignore")

    def refuse(self, wrong: Any, message: str, *, look: bool = False) -> None:
        """ValueError where a condition holds anywhere, if values can be looked at or `look` says so."""
        if (self.can_look or look) and bool(wrong.any()):
            raise ValueError(message)


def kind_of(*arrays: Any) -> Kind:
    """NumPy, or torch with the device of the first tensor among the arguments."""
    for x in arrays:
        if _arrays.is_torch(x):
            return Kind(_arrays.torch_module(), x.device)
    return Kind(np, None)


def dtype_name(x: Any) -> str:
    """ "float32" for either kind."""
    return str(x.dtype).removeprefix("torch.")
