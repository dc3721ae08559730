# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Reprojection error over a pose (Eq. 4.1) in torch, float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyloc_core.reference import robust
from pyloc_core.reference.camera import project, transform
from pyloc_core.reference.levenberg import Minimum, Residuals, minimize
from pyloc_core.robust import RobustLoss

# Residuals beyond this many focal lengths, and points behind the camera, cost that much and pull nowhere.
RESIDUAL_CAP = 10.0


@dataclass
class Refined:
    """What the front door turns into a PoseEstimate."""

    minimum: Minimum
    inlier_probability: Tensor  # (N,)
    covariance: Tensor | None  # (6, 6)


def whitened_residuals(
    points2d: Tensor, points3d: Tensor, camera: tuple[float, ...], whitening: Tensor
) -> Residuals:
    """r_n = L_n^T (project(X_n) - x_n), with L_n L_n^T (N, 2, 2) the inverse covariance."""
    cap = RESIDUAL_CAP * max(camera[1], camera[2])
    trace = (whitening * whitening).sum((-1, -2))

    def residuals(cam_from_world: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        xy, front = project(camera, transform(cam_from_world, points3d))
        raw = xy - points2d
        used = front & ((raw.detach() ** 2).sum(-1) < cap**2)
        r = torch.einsum("nji,nj->ni", whitening, torch.where(used[:, None], raw, 0.0))
        return r, used, 0.5 * cap**2 * trace

    return residuals


def refine(
    points2d: Tensor,
    points3d: Tensor,
    camera: tuple[float, ...],
    cam_from_world: Tensor,
    loss: RobustLoss,
    weights: Tensor,
    whitening: Tensor,
    max_iterations: int,
    tolerance: float,
) -> Refined:
    """Arrays (N, 2), (N, 3), (N,), (N, 2, 2); the points are centred while it runs."""
    center = points3d.mean(0)
    R = cam_from_world[:, :3]
    start = torch.cat([R, (R @ center + cam_from_world[:, 3])[:, None]], 1)
    residuals = whitened_residuals(points2d, points3d - center, camera, whitening)
    found = minimize(residuals, start, loss, weights, max_iterations, tolerance)
    squared = (found.residual**2).sum(-1)
    inlier = torch.where(found.used, robust.weight(squared, loss), 0.0)
    return move_to_world(found, inlier, _covariance(found, loss, weights * inlier, weights), center)


def move_to_world(
    found: Minimum, inlier: Tensor, covariance: Tensor | None, center: Tensor
) -> Refined:
    """Undo the centring of the points, in the pose and in the covariance of its left update."""
    m = found.cam_from_world[:, :3] @ center
    if covariance is not None:
        back = torch.eye(6, dtype=m.dtype)
        back[3:, :3] = torch.tensor([[0, -m[2], m[1]], [m[2], 0, -m[0]], [-m[1], m[0], 0]])
        covariance = back @ covariance @ back.T
    t = found.cam_from_world[:, 3] - m
    found.cam_from_world = torch.cat([found.cam_from_world[:, :3], t[:, None]], 1)
    return Refined(found, inlier, covariance)


def _covariance(found: Minimum, loss: RobustLoss, w: Tensor, weights: Tensor) -> Tensor | None:
    """Asymptotic covariance of an M-estimator (Huber 1981, section 7.6), points weighted by rho'."""
    A = torch.einsum("nki,n,nkj->ij", found.jacobian, w, found.jacobian)
    scale = torch.diag(A).clamp_min(1e-300).rsqrt()
    if not torch.linalg.eigvalsh(A * scale[:, None] * scale).min() > 1e-11:
        return None
    squared = (found.residual**2).sum(-1)
    slope, bend = robust.derivatives(squared, loss)
    inverse = torch.linalg.inv(A)
    freedom = 2 * float(w.sum()) - 6
    curvature = torch.where(found.used, weights * (slope + bend * squared), 0.0).sum()
    noise = float((w * slope * squared).sum()) / freedom if freedom >= 1 else loss.scale**2
    kappa = max(float(curvature / w.sum()), 0.1)
    return inverse * noise / kappa**2
