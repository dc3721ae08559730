# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Training dense descriptors, with the neural reprojection error, networks for place recognition, and
multi-view depth.

Needs the extra `training`.
"""

# ruff: noqa: E402  what is missing is said before the modules that need it are imported
from __future__ import annotations

from pyloc_core._extras import require

require("torch", "pyloc_core.training")

from pyloc_core.training.depth_loss import DepthLosses
from pyloc_core.training.depth_options import DepthOptions
from pyloc_core.training.depth_task import DepthJudge, DepthTask
from pyloc_core.training.depth_training import train_depth
from pyloc_core.training.frame_scenes import FrameScenes
from pyloc_core.training.loop import Outcome
from pyloc_core.training.loss import DensePairLoss, GradNetPairLoss
from pyloc_core.training.options import TrainingOptions
from pyloc_core.training.pair_training import train
from pyloc_core.training.pairs import Pair, PairDataset, PairSource
from pyloc_core.training.pictures import (
    PictureArrays,
    PictureFiles,
    PictureTable,
    read_folder,
    read_gsv_cities,
    read_table,
)
from pyloc_core.training.place_batches import MinedPlaces, PlaceBatches, RandomPlaces
from pyloc_core.training.place_loss import MultiSimilarity, PlaceLoss
from pyloc_core.training.place_options import PlaceOptions
from pyloc_core.training.place_recall import RecallJudge
from pyloc_core.training.place_training import train_places
from pyloc_core.training.posed_pairs import PosedPairs
from pyloc_core.training.random_changes import RandomChanges
from pyloc_core.training.rendered_drives import RenderedDrives
from pyloc_core.training.rendered_pairs import RenderedPairs
from pyloc_core.training.rendered_scenes import DepthScene, RenderedScenes
from pyloc_core.training.street_scenes import StreetScenes
from pyloc_core.training.warped_pairs import WarpedPairs

__all__ = [
    "DensePairLoss",
    "DepthJudge",
    "DepthLosses",
    "DepthOptions",
    "DepthScene",
    "DepthTask",
    "FrameScenes",
    "GradNetPairLoss",
    "MinedPlaces",
    "MultiSimilarity",
    "Outcome",
    "Pair",
    "PairDataset",
    "PairSource",
    "PictureArrays",
    "PictureFiles",
    "PictureTable",
    "PlaceBatches",
    "PlaceLoss",
    "PlaceOptions",
    "PosedPairs",
    "RandomChanges",
    "RandomPlaces",
    "RecallJudge",
    "RenderedDrives",
    "RenderedPairs",
    "RenderedScenes",
    "StreetScenes",
    "TrainingOptions",
    "WarpedPairs",
    "read_folder",
    "read_gsv_cities",
    "read_table",
    "train",
    "train_depth",
    "train_places",
]
