# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Training dense descriptors with the neural reprojection error. Needs the extra `training`."""

# ruff: noqa: E402  what is missing is said before the modules that need it are imported
from __future__ import annotations

from pyloc_core._extras import require

require("torch", "pyloc_core.training")

from pyloc_core.training.loop import Outcome, train
from pyloc_core.training.loss import DensePairLoss, GradNetPairLoss
from pyloc_core.training.options import TrainingOptions
from pyloc_core.training.pairs import Pair, PairDataset, PairSource
from pyloc_core.training.posed_pairs import PosedPairs
from pyloc_core.training.rendered_pairs import RenderedPairs
from pyloc_core.training.warped_pairs import WarpedPairs

__all__ = [
    "DensePairLoss",
    "GradNetPairLoss",
    "Outcome",
    "Pair",
    "PairDataset",
    "PairSource",
    "PosedPairs",
    "RenderedPairs",
    "TrainingOptions",
    "WarpedPairs",
    "train",
]
