# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The fast core of visual localization: operators for NumPy and torch on native kernels."""

from __future__ import annotations

from pyloc_core import _native
from pyloc_core._build import build_info, get_num_threads, set_isa, set_num_threads
from pyloc_core._dispatch import Implementation, implementations
from pyloc_core._extras import MissingExtra
from pyloc_core.camera import CAMERA_MODELS, Camera, camera_rows
from pyloc_core.depth_from_volume import soft_argmax_depth, volume_confidence
from pyloc_core.depth_planes import depth_range, log_depth_planes, refine_depth_range
from pyloc_core.geometry import image_from_map, map_from_image, scale_intrinsics
from pyloc_core.maps import LossMaps
from pyloc_core.maps_device import DeviceLossMaps
from pyloc_core.match_filters import (
    CyclicCheck,
    MutualMatches,
    cyclic_check,
    filter_matches,
    mutual_matches,
)
from pyloc_core.ops.correlation_maps import correlation_maps, correspondence_maps
from pyloc_core.ops.dual_softmax import dual_softmax
from pyloc_core.ops.estimate_pose import estimate_pose
from pyloc_core.ops.estimate_pose_from_matches import estimate_pose_from_matches
from pyloc_core.ops.gated_attention import gated_attention
from pyloc_core.ops.local_loss_maps import local_loss_maps
from pyloc_core.ops.loss_maps import loss_maps
from pyloc_core.ops.match import Matches, match
from pyloc_core.ops.metadata_cost_volume import metadata_cost_volume
from pyloc_core.ops.netvlad_aggregate import netvlad_aggregate
from pyloc_core.ops.nre_loss import nre_loss
from pyloc_core.ops.p3p import P3PSolutions, p3p
from pyloc_core.ops.plane_sweep import plane_sweep
from pyloc_core.ops.refine_pose import refine_pose
from pyloc_core.ops.refine_pose_featuremetric import refine_pose_featuremetric
from pyloc_core.ops.refine_pose_reprojection import refine_pose_reprojection
from pyloc_core.ops.salad_aggregate import salad_aggregate, salad_assign
from pyloc_core.ops.score_poses import score_poses
from pyloc_core.ops.sinkhorn import sinkhorn
from pyloc_core.pose import (
    PoseEstimate,
    PoseEstimates,
    camera_center,
    compose_poses,
    inverse_pose,
    pose_error,
    quaternion_from_rotation,
    rotation_from_quaternion,
    transform_points,
)

__version__: str = _native.build_info()["version"]

__all__ = [
    "CAMERA_MODELS",
    "Camera",
    "CyclicCheck",
    "DeviceLossMaps",
    "Implementation",
    "LossMaps",
    "Matches",
    "MissingExtra",
    "MutualMatches",
    "P3PSolutions",
    "PoseEstimate",
    "PoseEstimates",
    "build_info",
    "camera_center",
    "camera_rows",
    "compose_poses",
    "correlation_maps",
    "correspondence_maps",
    "cyclic_check",
    "depth_range",
    "dual_softmax",
    "estimate_pose",
    "estimate_pose_from_matches",
    "filter_matches",
    "gated_attention",
    "get_num_threads",
    "image_from_map",
    "implementations",
    "inverse_pose",
    "local_loss_maps",
    "log_depth_planes",
    "loss_maps",
    "map_from_image",
    "match",
    "metadata_cost_volume",
    "mutual_matches",
    "netvlad_aggregate",
    "nre_loss",
    "p3p",
    "plane_sweep",
    "pose_error",
    "quaternion_from_rotation",
    "refine_depth_range",
    "refine_pose",
    "refine_pose_featuremetric",
    "refine_pose_reprojection",
    "rotation_from_quaternion",
    "salad_aggregate",
    "salad_assign",
    "scale_intrinsics",
    "score_poses",
    "set_isa",
    "set_num_threads",
    "sinkhorn",
    "soft_argmax_depth",
    "transform_points",
    "volume_confidence",
]
