# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Featuremetric error over a pose (Eq. 4.12) in torch, float64."""

from __future__ import annotations

import torch
from torch import Tensor

from pyloc_core.reference import robust
from pyloc_core.reference.camera import project, transform
from pyloc_core.reference.levenberg import Minimum, Residuals, minimize
from pyloc_core.reference.refine_pose_reprojection import Refined, move_to_world
from pyloc_core.robust import RobustLoss

# Share of the weight that the kernel's curvature along the residual keeps where it turns negative.
RADIAL_FLOOR = 0.1


def interpolate(features: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """(D, H, W) at map points (N, 2): bilinear features (N, D), and a mask (N,) of points between the
    centres of the border cells. Differentiable by xy inside a cell."""
    height, width = features.shape[1:]
    x, y = xy[:, 0], xy[:, 1]
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1) & (min(width, height) > 1)
    x, y = torch.where(inside, x, 0.0), torch.where(inside, y, 0.0)
    x0 = x.detach().floor().clamp_max(max(width - 2, 0)).long()
    y0 = y.detach().floor().clamp_max(max(height - 2, 0)).long()
    x1, y1 = (x0 + 1).clamp_max(width - 1), (y0 + 1).clamp_max(height - 1)
    a, b = x - x0, y - y0
    value = (
        (1 - a) * (1 - b) * features[:, y0, x0]
        + a * (1 - b) * features[:, y0, x1]
        + (1 - a) * b * features[:, y1, x0]
        + a * b * features[:, y1, x1]
    )
    return value.T, inside


def feature_residuals(
    descriptors: Tensor,
    features: Tensor,
    points3d: Tensor,
    camera: tuple[float, ...],
    normalize: bool,
) -> Residuals:
    """e_n = H_q(project(X_n)) - h_n; a point without a feature counts as one at a right angle to h_n."""
    missing = 2 * (descriptors**2).sum(-1)

    def residuals(cam_from_world: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        xy, front = project(camera, transform(cam_from_world, points3d))
        xy = torch.where(front[:, None], xy, -1.0)
        value, inside = interpolate(features, xy)
        if normalize:
            value = value / value.norm(dim=-1, keepdim=True).clamp_min(1e-15)
        used = front & inside
        return torch.where(used[:, None], value - descriptors, 0.0), used, missing

    return residuals


def refine(
    descriptors: Tensor,
    features: Tensor,
    points3d: Tensor,
    camera: tuple[float, ...],
    cam_from_world: Tensor,
    loss: RobustLoss,
    weights: Tensor,
    normalize: bool,
    max_iterations: int,
    tolerance: float,
) -> Refined:
    """Arrays (N, D), (D, H, W), (N, 3), (N,); the points are centred while it runs."""
    center = points3d.mean(0)
    R = cam_from_world[:, :3]
    start = torch.cat([R, (R @ center + cam_from_world[:, 3])[:, None]], 1)
    residuals = feature_residuals(descriptors, features, points3d - center, camera, normalize)
    found = minimize(residuals, start, loss, weights, max_iterations, tolerance)
    squared = (found.residual**2).sum(-1)
    inlier = torch.where(found.used, robust.weight(squared, loss), 0.0)
    return move_to_world(found, inlier, _sandwich(found, loss, weights), center)


def _sandwich(found: Minimum, loss: RobustLoss, weights: Tensor) -> Tensor | None:
    """H^-1 S H^-1 (Huber 1967, White 1980): curvature of the cost and spread of the points' gradients."""
    squared = (found.residual**2).sum(-1)
    slope, bend = robust.derivatives(squared, loss)
    w = torch.where(found.used, weights * slope, 0.0)
    floor = (RADIAL_FLOOR - 1) * slope / squared.clamp_min(1e-300)
    bend = torch.where(found.used, weights * torch.maximum(2 * bend, floor), 0.0)
    g = torch.einsum("nki,nk->ni", found.jacobian, found.residual)
    H = torch.einsum("nki,n,nkj->ij", found.jacobian, w, found.jacobian)
    H = H + torch.einsum("n,ni,nj->ij", bend, g, g)
    scale = torch.diag(H).clamp_min(1e-300).rsqrt()
    if not torch.linalg.eigvalsh(H * scale[:, None] * scale).min() > 1e-11:
        return None
    S = torch.einsum("n,ni,nj->ij", w * w, g, g)
    n = int((found.used & (weights > 0)).sum())
    inverse = torch.linalg.inv(H)
    return inverse @ S @ inverse * (n / (n - 3) if n > 3 else n)
