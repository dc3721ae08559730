# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/gpu.py checks and times: one module per operator, found by its file.

A module has OPERATOR (the name in pyloc_core, or several that it needs), `check(setting)`, which yields
Check, and `cases(setting)`, which yields Case. Floors and goals are those of an H200 (bytes over 4.3 TB/s,
FLOP over 790 TFLOP/s in bfloat16 or 56 in float32, exponentials over 3.9 T/s), in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """Where to run, the seed of the data, and whether sizes must be those of an interpreter."""

    device: Any
    seed: int
    tiny: bool

    @property
    def forced(self) -> str | None:
        """The implementation to name: on a GPU the default is meant."""
        return None if self.device.type == "cuda" else "triton"


@dataclass(frozen=True)
class Check:
    """A worst error against the float64 reference (or another truth that `what` names)."""

    what: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # NaN is not


@dataclass(frozen=True)
class Case:
    """Something to time. `eager`: the same result in plain torch, also timed under torch.compile."""

    name: str
    run: Callable[[], Any]
    eager: Callable[[], Any] | None = None
    floor: float | None = None
    goal: float | None = None
    units: float | None = None  # of work per call, for units per second
    unit: str = ""


def relative_error(found: Any, truth: Any) -> float:
    """Largest difference over the truth's largest magnitude."""
    found, truth = found.detach().double().cpu(), truth.detach().double().cpu()
    if found.numel() == 0:
        return 0.0
    return float((found - truth).abs().max() / truth.abs().max().clamp_min(1e-12))


def absolute_error(found: Any, truth: Any) -> float:
    difference = found.detach().double().cpu() - truth.detach().double().cpu()
    return float(difference.abs().max()) if difference.numel() else 0.0
