# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a training run: frozen, checked, no unknown names."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import torch

PRECISIONS = ("float32", "bfloat16", "float16")
OptionsT = TypeVar("OptionsT", bound="LoopOptions")


@dataclass(frozen=True)
class LoopOptions:
    """What every run has, whatever it trains.

    Attributes:
        epochs: at most.
        learning_rate: at the start; a subclass has the schedule.
        clip_norm: largest norm of the gradient; longer ones are scaled down. None: never.
        precision: of the network's arithmetic: float32, bfloat16, or float16 with a scaled loss (CUDA).
            The loss is always float32.
        patience: epochs without a better score on the held-out data until the run stops.
        max_minutes: stop after the step that reaches it; None for no limit.
        seed: of weights, data and order.
        workers: processes that make the data (per training process); 0 makes it in line.
        log_every: steps between TensorBoard scalars.
        checkpoint_every: steps between checkpoints inside an epoch; 0 for one per epoch.
    """

    precisions: ClassVar[tuple[str, ...]] = PRECISIONS

    epochs: int = 30
    learning_rate: float = 1e-3
    clip_norm: float | None = 1.0
    precision: str = "float32"
    patience: int = 5
    max_minutes: float | None = None
    seed: int = 0
    workers: int = 0
    log_every: int = 20
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "log_every"):
            check_int(name, getattr(self, name), 1)
        for name in ("seed", "workers", "checkpoint_every"):
            check_int(name, getattr(self, name), 0)
        check_positive("learning_rate", self.learning_rate)
        for name in ("clip_norm", "max_minutes"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.precision not in self.precisions:
            raise ValueError(f"precision must be one of {self.precisions}, got {self.precision!r}")

    @classmethod
    def from_dict(cls: type[OptionsT], values: Mapping[str, Any]) -> OptionsT:
        """Options by name. TypeError for a name that does not exist, with the nearest one."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
                raise TypeError(f"{cls.__name__} has no option {name!r}{hint}")
        return cls(**values)

    def rate(self, epoch: int, step: int) -> float:
        """Learning rate of a step, counted from 0 over the whole run, in an epoch."""
        return self.learning_rate

    def group_rate(self, group: Mapping[str, Any], epoch: int, step: int) -> float:
        """Learning rate of one group of parameters: `rate` times the group's "factor"."""
        return float(group.get("factor", 1.0)) * self.rate(epoch, step)

    def parts(self) -> int:
        """Parts of a batch that go through the network one after another, their gradients added."""
        return 1

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """What makes the steps, of parameters or groups of them."""
        return torch.optim.Adam(parameters, lr=self.learning_rate)


@dataclass(frozen=True)
class TrainingOptions(LoopOptions):
    """A run on pairs. Rates and schedule are those of the thesis (Germain 2021, appendix B).

    Attributes beside those of `LoopOptions`:
        pairs_per_epoch: how many.
        batch: pairs per step over all processes together.
        points: per pair.
        decay: factor on Adam's rate after every epoch.
        warmup_steps: the rate rises linearly over so many steps.
        held_out_pairs: how many, the same after every epoch.
    """

    pairs_per_epoch: int = 1000
    batch: int = 4
    points: int = 128
    decay: float = math.exp(-0.1)
    warmup_steps: int = 100
    held_out_pairs: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pairs_per_epoch", "batch", "points", "held_out_pairs"):
            check_int(name, getattr(self, name), 1)
        check_int("warmup_steps", self.warmup_steps, 0)
        check_positive("decay", self.decay)

    def rate(self, epoch: int, step: int) -> float:
        """Learning rate of a step, counted from 0 over the whole run, in an epoch."""
        warm = 1.0 if self.warmup_steps == 0 else min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warm * self.decay**epoch


def check_positive(name: str, value: Any) -> None:
    """TypeError or ValueError unless a value is a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_int(name: str, value: Any, least: int) -> None:
    """TypeError or ValueError unless a value is an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
