# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of single arguments: numbers, and names out of a list. Arrays are `_arrays`' business."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np


def known_name(name: str, value: Any, known: Iterable[str]) -> None:
    """ValueError for a `value` that is none of the known ones, with the nearest of them."""
    choices = list(known)
    if isinstance(value, str) and value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, 1)
    hint = f", did you mean {near[0]!r}?" if near else f": one of {', '.join(choices)}"
    raise ValueError(f"there is no {name} {value!r}{hint}")


def integer(name: str, value: Any, low: int) -> int:
    """`value` as an int of at least `low`; NumPy's integers are welcome, True and 2.0 are not."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    return int(value)


def number(name: str, value: Any, *, positive: bool = False) -> float:
    """`value` as a finite float that is not negative, or above zero."""
    if isinstance(value, (str, bytes)) or getattr(value, "ndim", 0) != 0:  # np.ndim has no trace
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(result) or result < 0 or (positive and result == 0):
        sign = "positive and finite" if positive else "finite and not negative"
        raise ValueError(f"{name} must be {sign}, got {value}")
    return result
