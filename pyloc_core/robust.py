# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Names of the robust kernels, and the checks of their options. Formulas: csrc/include/pyloc/robust.h."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

# Twin of pyloc::RobustKind.
LOSSES: dict[str, int] = {
    "squared": 0,
    "huber": 1,
    "cauchy": 2,
    "geman_mcclure": 3,
    "tukey": 4,
    "welsch": 5,
    "barron": 6,
}


@dataclass(frozen=True)
class RobustLoss:
    """A robust kernel with its scale, in units of the residual; `alpha` is Barron's shape."""

    name: str
    scale: float
    alpha: float

    @property
    def native_args(self) -> tuple[int, float, float]:
        return LOSSES[self.name], self.scale, self.alpha


def as_robust_loss(loss: Any, scale: Any, alpha: Any) -> RobustLoss:
    """Check the options of a robust kernel. `alpha` None stands for 0 where the kernel takes one."""
    if loss not in LOSSES:
        close = difflib.get_close_matches(str(loss).lower(), LOSSES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(LOSSES)}"
        raise ValueError(f"unknown loss {loss!r}{hint}")
    scale = as_number(scale, "scale")
    # Its square and the inverse of that must be ordinary floating point numbers.
    if not 1e-100 < scale < 1e100:
        raise ValueError(f"scale must be a positive number, got {scale}")
    if alpha is not None and loss != "barron":
        raise ValueError(f"alpha is a parameter of loss='barron', not of {loss!r}")
    shape = 0.0 if alpha is None else as_number(alpha, "alpha", infinite=True)
    if not shape <= 2.0:
        raise ValueError(f"alpha must be at most 2 (where the kernel is the square), got {alpha}")
    return RobustLoss(str(loss), scale, shape)


def as_number(value: Any, name: str, *, infinite: bool = False) -> float:
    """A real scalar; NaN never, infinity on request."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if math.isnan(number) or (math.isinf(number) and not infinite):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def as_iterations(value: Any, name: str = "max_iterations") -> int:
    """A non-negative int that fits the native code."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {value!r}")
    count = int(value.__index__())
    if not 0 <= count <= 1_000_000:
        raise ValueError(f"{name} must lie between 0 and 1000000, got {count}")
    return count
