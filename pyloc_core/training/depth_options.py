# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Options of a training run for multi-view depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pyloc_core.training.options import LoopOptions, check_int, check_positive


@dataclass(frozen=True)
class DepthOptions(LoopOptions):
    """How a run on tuples of posed images goes: the recipe of MVSAnywhere (Izquierdo et al. 2025; numbers of
    the published program).

    The published program has three optimisers, AdamW each; one with three groups makes the same steps.

    Attributes beside those of `LoopOptions`:
        learning_rate: of the matching encoder and the volume, divided by ten at the steps `first_drop` and
            `second_drop`.
        mono_rate: of the encoder of the reference image.
        decoder_rate: of the volume's transformer and the decoder. Both fall linearly to `final_share` of
            themselves over `fade_steps` steps, where they stay.
        weight_decay: of AdamW.
        batch: tuples of a step, over all processes, in `accumulation` parts one after another.
        sources: of a tuple; fewer where a scene has fewer views.
        jitter: brightness, contrast and saturation change by up to this share, the hue by up to this part
            of a turn; the same for all views of a tuple.
        flip: probability that a tuple is mirrored with its geometry. `network_flip`: that only what the
            network's image parts see is mirrored, and the volume in between is not; see `DepthTask`.
        near_noise, far_noise: the known range is widened, far by U(1, 1 + far_noise) and near by
            U(1 - near_noise, 1), so that the network does not learn that depths fill the range.
        published_sky: the published program's sky loss; see `depth_loss.sky_loss`.
        judged_batch: held-out tuples at a time.
    """

    epochs: int = 20
    learning_rate: float = 1e-4
    clip_norm: float | None = None
    mono_rate: float = 5e-6
    decoder_rate: float = 5e-5
    first_drop: int = 70000
    second_drop: int = 80000
    fade_steps: int = 70000
    final_share: float = 0.001
    weight_decay: float = 1e-4
    batch: int = 12
    accumulation: int = 2
    sources: int = 7
    jitter: float = 0.2
    flip: float = 0.5
    network_flip: float = 0.5
    near_noise: float = 0.5
    far_noise: float = 1.0
    published_sky: bool = False
    judged_batch: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("first_drop", "second_drop", "fade_steps", "batch", "accumulation", "sources",
                     "judged_batch"):  # fmt: skip
            check_int(name, getattr(self, name), 1)
        for name in ("mono_rate", "decoder_rate", "final_share"):
            check_positive(name, getattr(self, name))
        for name in ("weight_decay", "jitter", "flip", "network_flip", "near_noise", "far_noise"):
            if getattr(self, name) != 0:
                check_positive(name, getattr(self, name))
        for name in ("final_share", "flip", "network_flip"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be at most 1, got {getattr(self, name)!r}")
        for name in ("jitter", "near_noise"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)!r}")
        if not isinstance(self.published_sky, bool):
            raise TypeError(f"published_sky must be a bool, got {self.published_sky!r}")
        if self.batch % self.accumulation:
            raise ValueError(
                f"batch {self.batch} does not divide into accumulation {self.accumulation} parts"
            )

    def parts(self) -> int:
        return self.accumulation

    def rate(self, epoch: int, step: int) -> float:
        """Of the matching encoder and the volume, at a step counted from 0 over the whole run."""
        drops = (step >= self.first_drop) + (step >= self.second_drop)
        return float(self.learning_rate * 0.1**drops)

    def group_rate(self, group: Mapping[str, Any], epoch: int, step: int) -> float:
        """Of a group by its "part": matching, mono or decoder."""
        part = group.get("part", "matching")
        if part == "matching":
            return self.rate(epoch, step)
        start = {"mono": self.mono_rate, "decoder": self.decoder_rate}[part]
        done = min(1.0, step / self.fade_steps)
        return start * (1 - (1 - self.final_share) * done)

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
