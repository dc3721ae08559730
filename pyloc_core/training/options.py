# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a training run: frozen, checked, no unknown names."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainingOptions:
    """How a run goes. Rates and schedule are those of the thesis (Germain 2021, appendix B).

    Attributes:
        epochs: at most; `pairs_per_epoch` pairs each.
        batch: pairs per step over all processes together.
        points: per pair.
        learning_rate: of Adam; multiplied by `decay` after every epoch.
        warmup_steps: the rate rises linearly over so many steps.
        clip_norm: largest norm of the gradient; longer ones are scaled down.
        precision: of the network's arithmetic: float32, bfloat16, or float16 with a scaled loss (CUDA).
            The loss is always float32.
        patience: epochs without a better loss on the held-out pairs until the run stops.
        held_out_pairs: how many, the same after every epoch.
        max_minutes: stop after the step that reaches it; None for no limit.
        seed: of weights, pairs and order.
        workers: processes that make pairs (per training process); 0 makes them in line.
        log_every: steps between TensorBoard scalars.
        checkpoint_every: steps between checkpoints inside an epoch; 0 for one per epoch.
    """

    epochs: int = 30
    pairs_per_epoch: int = 1000
    batch: int = 4
    points: int = 128
    learning_rate: float = 1e-3
    decay: float = math.exp(-0.1)
    warmup_steps: int = 100
    clip_norm: float = 1.0
    precision: str = "float32"
    patience: int = 5
    held_out_pairs: int = 64
    max_minutes: float | None = None
    seed: int = 0
    workers: int = 0
    log_every: int = 20
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "pairs_per_epoch", "batch", "points", "patience", "held_out_pairs",
                     "log_every"):  # fmt: skip
            _check_int(name, getattr(self, name), 1)
        for name in ("warmup_steps", "seed", "workers", "checkpoint_every"):
            _check_int(name, getattr(self, name), 0)
        for name in ("learning_rate", "decay", "clip_norm", "max_minutes"):
            value = getattr(self, name)
            if name == "max_minutes" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {self.precision!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingOptions:
        """Options by name. TypeError for a name that does not exist, with the nearest one."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
                raise TypeError(f"TrainingOptions has no option {name!r}{hint}")
        return cls(**values)

    def rate(self, epoch: int, step: int) -> float:
        """Learning rate of a step, counted from 0 over the whole run, in an epoch."""
        warm = 1.0 if self.warmup_steps == 0 else min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warm * self.decay**epoch


def _check_int(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
