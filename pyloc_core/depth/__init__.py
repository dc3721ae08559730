# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dense depth from posed images: plane sweeps without weights, refinement by SfM, fusion, evaluation."""

from __future__ import annotations

from pyloc_core.depth.gradient_steps import StepOptions, Stepped
from pyloc_core.depth.network_refinement import (
    Refinement,
    RefinementOptions,
    refine_network,
    sfm_depth_loss,
)
from pyloc_core.depth.photometric_refinement import PosedFrame, refine_network_photometric
from pyloc_core.depth.scale_alignment import ScaleAlignment, align_scale
from pyloc_core.depth.sfm_supervision import SfmView, kitti_benchmark_box, sfm_supervision

__all__ = [
    "PosedFrame",
    "Refinement",
    "RefinementOptions",
    "ScaleAlignment",
    "SfmView",
    "StepOptions",
    "Stepped",
    "align_scale",
    "kitti_benchmark_box",
    "refine_network",
    "refine_network_photometric",
    "sfm_depth_loss",
    "sfm_supervision",
]
