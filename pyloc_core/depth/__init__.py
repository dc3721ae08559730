# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dense depth from posed images: plane sweeps without weights, refinement by SfM, fusion, evaluation."""

from __future__ import annotations

from pyloc_core.depth.consistency import DepthMap, confirmed
from pyloc_core.depth.depth_files import read_depth, write_depth
from pyloc_core.depth.evaluate import DepthEvaluation, depth_table, evaluate_depth
from pyloc_core.depth.gradient_steps import StepOptions, Stepped
from pyloc_core.depth.layouts import DepthSample, DepthSet, SampleView, read_depth_layout
from pyloc_core.depth.metrics import (
    BenchmarkErrors,
    KittiErrors,
    benchmark_errors,
    kitti_errors,
    mean_errors,
)
from pyloc_core.depth.network_refinement import (
    Refinement,
    RefinementOptions,
    refine_network,
    sfm_depth_loss,
)
from pyloc_core.depth.normals import backproject_depth, normals_from_depth
from pyloc_core.depth.photometric_refinement import PosedFrame, refine_network_photometric
from pyloc_core.depth.pipeline import DepthOptions, DepthReport, make_depth_maps
from pyloc_core.depth.point_cloud import PointCloud, depth_normals, fuse_points
from pyloc_core.depth.posed_images import PosedImage, read_posed_images
from pyloc_core.depth.predictors import NetworkPredictor, SweepPredictor
from pyloc_core.depth.scale_alignment import ScaleAlignment, align_scale
from pyloc_core.depth.sfm_supervision import SfmView, kitti_benchmark_box, sfm_supervision
from pyloc_core.depth.sources import (
    KeyframeBuffer,
    keyframes,
    select_sources,
    sources_from_model,
)
from pyloc_core.depth.sparsification import Sparsification, sparsification
from pyloc_core.depth.splat_loss import SplatLoss, splat_loss
from pyloc_core.depth.surface_metrics import SurfaceErrors, sample_mesh, surface_errors
from pyloc_core.depth.sweep_stereo import SweepStereo
from pyloc_core.depth.tsdf_mesh import Mesh, mesh_of_depths
from pyloc_core.depth.view_choice import choose_sources

__all__ = [
    "BenchmarkErrors",
    "DepthEvaluation",
    "DepthMap",
    "DepthOptions",
    "DepthReport",
    "DepthSample",
    "DepthSet",
    "KeyframeBuffer",
    "KittiErrors",
    "Mesh",
    "NetworkPredictor",
    "PointCloud",
    "PosedFrame",
    "PosedImage",
    "Refinement",
    "RefinementOptions",
    "SampleView",
    "ScaleAlignment",
    "SfmView",
    "Sparsification",
    "SplatLoss",
    "StepOptions",
    "Stepped",
    "SurfaceErrors",
    "SweepPredictor",
    "SweepStereo",
    "align_scale",
    "backproject_depth",
    "benchmark_errors",
    "choose_sources",
    "confirmed",
    "depth_normals",
    "depth_table",
    "evaluate_depth",
    "fuse_points",
    "keyframes",
    "kitti_benchmark_box",
    "kitti_errors",
    "make_depth_maps",
    "mean_errors",
    "mesh_of_depths",
    "normals_from_depth",
    "read_depth",
    "read_depth_layout",
    "read_posed_images",
    "refine_network",
    "refine_network_photometric",
    "sample_mesh",
    "select_sources",
    "sfm_depth_loss",
    "sfm_supervision",
    "sources_from_model",
    "sparsification",
    "splat_loss",
    "surface_errors",
    "write_depth",
]
