# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a training run for place recognition."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from pyloc_core.training.options import PRECISIONS, LoopOptions, check_int, check_positive


@dataclass(frozen=True)
class PlaceOptions(LoopOptions):
    """How a run on places goes: the recipe of DINOv2 SALAD (Izquierdo and Civera 2024; section 4.2.1 of
    the thesis, and the published program where it says more).

    Attributes beside those of `LoopOptions`:
        precision: as there; "auto" is float16 on CUDA, as published, and float32 on the CPU.
        places: P per batch, over all processes and both sources together.
        images: K of each place.
        image_size: side in pixels of the square pictures that the network is trained on.
        weight_decay: of AdamW.
        decay_steps: the rate falls linearly over so many steps.
        final_share: to this share of its start, where it stays.
        operations, strength: random changes of each picture; see `RandomChanges`.
        alpha, beta, base: of the multi-similarity loss; `margin` of its miner.
        judged_size: side of the held-out pictures; 0 for image_size.
        judged_batch: held-out pictures described at a time.
    """

    precisions: ClassVar[tuple[str, ...]] = ("auto", *PRECISIONS)

    epochs: int = 4
    learning_rate: float = 6e-5
    clip_norm: float | None = None
    precision: str = "auto"
    places: int = 60
    images: int = 4
    image_size: int = 224
    weight_decay: float = 9.5e-9
    decay_steps: int = 4000
    final_share: float = 0.2
    operations: int = 3
    strength: float = 0.3
    alpha: float = 1.0
    beta: float = 50.0
    base: float = 0.0
    margin: float = 0.1
    judged_size: int = 0
    judged_batch: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("places", "images"):  # fewer have no negative or no positive pairs
            check_int(name, getattr(self, name), 2)
        for name in ("image_size", "decay_steps", "judged_batch"):
            check_int(name, getattr(self, name), 1)
        for name in ("operations", "judged_size"):
            check_int(name, getattr(self, name), 0)
        for name in ("final_share", "alpha", "beta"):
            check_positive(name, getattr(self, name))
        for name in ("weight_decay", "strength", "margin"):
            if getattr(self, name) != 0:
                check_positive(name, getattr(self, name))
        for name in ("final_share", "strength"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be at most 1, got {getattr(self, name)!r}")
        if isinstance(self.base, bool) or not isinstance(self.base, (int, float)):
            raise TypeError(f"base must be a number, got {self.base!r}")
        if not math.isfinite(self.base):
            raise ValueError(f"base must be finite, got {self.base!r}")

    def rate(self, epoch: int, step: int) -> float:
        """Learning rate of a step, counted from 0 over the whole run: linear, then constant."""
        done = min(1.0, step / self.decay_steps)
        return self.learning_rate * (1 - (1 - self.final_share) * done)

    def on(self, device: str | None) -> PlaceOptions:
        """The same with a precision that is decided, for a device as `processes` takes it."""
        if self.precision != "auto":
            return self
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return replace(self, precision="float16" if kind.startswith("cuda") else "float32")

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
