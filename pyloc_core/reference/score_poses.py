# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Eq. 4.6 of poses on loss maps in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pyloc_core.reference.estimate_pose import pose_gain

if TYPE_CHECKING:
    from pyloc_core.maps import LossMaps


def score_poses(
    maps: LossMaps, points3d: np.ndarray, camera: tuple[float, ...], cam_from_world: np.ndarray
) -> np.ndarray:
    """Costs (M,) in nats of poses (M, 3, 4): the sum over maps of ln|O| - gain."""
    gains = pose_gain(maps, torch.as_tensor(points3d), camera, torch.as_tensor(cam_from_world))
    return (maps.log_cardinality - gains).sum(1).numpy()
