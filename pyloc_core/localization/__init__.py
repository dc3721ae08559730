# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Photos against a COLMAP model: the map, the localizer, and the leave-one-out evaluation."""

from __future__ import annotations

from pyloc_core.localization.evaluate import METHODS, evaluate, format_table, summarize
from pyloc_core.localization.features import Descriptor, Features, GlobalDescriptor
from pyloc_core.localization.images import read_image
from pyloc_core.localization.localizer import Localizer
from pyloc_core.localization.map import Map
from pyloc_core.localization.options import LocalizerOptions, MapOptions
from pyloc_core.localization.result import STAGES, Cluster, Localization
from pyloc_core.localization.rootsift import DenseRootSIFT
from pyloc_core.localization.tensor_step import CapturedStep, Stage, pose_from_features

__all__ = [
    "METHODS",
    "STAGES",
    "CapturedStep",
    "Cluster",
    "DenseRootSIFT",
    "Descriptor",
    "Features",
    "GlobalDescriptor",
    "Localization",
    "Localizer",
    "LocalizerOptions",
    "Map",
    "MapOptions",
    "Stage",
    "evaluate",
    "format_table",
    "pose_from_features",
    "read_image",
    "summarize",
]
