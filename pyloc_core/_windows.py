# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Windows of a fine map around prior positions: where they lie and what weighs them."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays
from pyloc_core.maps_layout import check_size, default_log_cardinality

Compat = Literal["published", "published_placed"]

# Centres further away than this see nothing of any map; int32 origins hold them.
_FAR = 1e6


class WindowRule(NamedTuple):
    """What holds for all windows: their size, what lies before a centre's cell, the factor of the
    probability, and `shift`, by which the published program displaces entries."""

    size: tuple[int, int]
    window: tuple[int, int]
    half: tuple[int, int]
    scale: float
    temperature: float
    shift: int

    @property
    def log_cardinality(self) -> float:
        return default_log_cardinality(self.size)


def window_rule(
    size: tuple[int, int], window: Any, scale: float | None, strides: tuple[float, float],
    temperature: float, compat: Compat | None,
) -> WindowRule:  # fmt: skip
    """Check what the caller says about windows of `window` cells in a map of `size` (H, W)."""
    if compat not in (None, "published", "published_placed"):
        raise ValueError(f'compat must be None, "published" or "published_placed", got {compat!r}')
    single = isinstance(window, (int, float, np.generic)) or getattr(window, "ndim", 1) == 0
    extent = check_size((window, window) if single else window, "window")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    published = compat is not None
    if scale is None:
        if not all(math.isfinite(s) and s > 0 for s in strides) or len(strides) != 2:
            raise ValueError(f"strides must be two positive numbers, got {strides!r}")
        scale = 1.0 / extent[1] if published else (strides[0] / strides[1]) ** 2
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    half = (extent[0] // 2, extent[1] // 2)
    if published:
        extent = (2 * half[0] + 1, 2 * half[1] + 1)
    shift = half[0] if compat == "published" else 0
    return WindowRule(size, extent, half, float(scale), float(temperature), shift)


def origins_of(
    centers: npt.NDArray[np.float64], half: tuple[int, int], published: bool
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """First cells (x, y) of the windows, and which centres can see a map at all."""
    alive: npt.NDArray[np.bool_] = np.asarray(np.all(np.abs(centers) < _FAR, axis=1))  # NaN: False
    cell = np.where(alive[:, None], centers, 0.0)
    cell = np.trunc(cell) if published else np.floor(cell)
    return (cell - [half[1], half[0]]).astype(np.int32), alive


def log_weights(coarse_mass: Any, count: int, scale: float) -> npt.NDArray[np.float64]:
    """ln(mass * scale) of every window, -inf where the mass is 0."""
    if coarse_mass is None:
        return np.full(count, math.log(scale))
    mass = _arrays.as_array(coarse_mass, "coarse_mass").data
    if mass.shape not in ((), (count,)):
        raise ValueError(f"coarse_mass must be a number or ({count},), got {mass.shape}")
    if mass.size and (mass.min() < 0 or mass.max() > 1 + 1e-6):
        raise ValueError(f"coarse_mass must lie within 0 and 1, got {mass.min()} to {mass.max()}")
    with np.errstate(divide="ignore"):
        return np.log(np.broadcast_to(mass, (count,)) * scale)
