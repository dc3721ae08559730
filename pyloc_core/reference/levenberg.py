# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Levenberg-Marquardt over a pose with Jacobians by automatic differentiation.

The plain textbook form (Marquardt 1963), with iteratively reweighted least squares for the robust kernel:
what csrc/include/pyloc/levenberg.h is tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyloc_core.reference import robust
from pyloc_core.reference.camera import left_update
from pyloc_core.robust import RobustLoss

# residuals(cam_from_world) -> (N, K) residuals, (N,) mask of points that take part, (N,) squared
# residual that a point outside the mask is charged with.
Residuals = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass
class Minimum:
    """Where the iteration ended."""

    cam_from_world: Tensor  # (3, 4)
    cost: float
    iterations: int
    converged: bool
    jacobian: Tensor  # (N, K, 6) of the left update; zero outside the mask
    residual: Tensor  # (N, K)
    used: Tensor  # (N,)


def total_cost(residuals: Residuals, pose: Tensor, loss: RobustLoss, weights: Tensor) -> Tensor:
    r, used, charged = residuals(pose)
    squared = torch.where(used, (r * r).sum(-1), charged)
    return (weights * robust.rho(squared, loss)).sum()


def jacobian(residuals: Residuals, pose: Tensor) -> Tensor:
    """(N, K, 6) derivative of the residuals by the left update at `pose`."""
    zero = torch.zeros(6, dtype=pose.dtype)
    _, used, _ = residuals(pose)
    full = torch.func.jacfwd(lambda d: residuals(left_update(pose, d))[0])(zero)
    return torch.where(used[:, None, None], full, torch.zeros_like(full))


def minimize(
    residuals: Residuals,
    cam_from_world: Tensor,
    loss: RobustLoss,
    weights: Tensor,
    max_iterations: int,
    tolerance: float,
) -> Minimum:
    """Lower sum_n weights_n rho(|r_n|^2) over the pose, from `cam_from_world`."""
    pose, damping, converged = cam_from_world, 1e-4, False
    cost = total_cost(residuals, pose, loss, weights)
    iteration = 0
    while iteration < max_iterations and damping < 1e12 and not converged:
        iteration += 1
        r, used, _ = residuals(pose)
        J = jacobian(residuals, pose)
        w = torch.where(used, weights * robust.weight((r * r).sum(-1), loss), 0.0)
        A = torch.einsum("nki,n,nkj->ij", J, w, J)
        b = -torch.einsum("nki,n,nk->i", J, w, r)
        diagonal = torch.diag(A).clamp_min(1e-12 * float(torch.diag(A).max()) + 1e-300)
        step = torch.linalg.solve(A + damping * torch.diag(diagonal), b)
        converged = float(2 * b @ step - step @ A @ step) <= tolerance * float(cost)
        trial = left_update(pose, step)
        trial_cost = total_cost(residuals, trial, loss, weights)
        if trial_cost < cost:
            pose, cost, damping = trial, trial_cost, max(damping / 3, 1e-12)
        else:
            damping *= 10
    r, used, _ = residuals(pose)
    final = jacobian(residuals, pose)
    return Minimum(pose, float(cost), iteration, converged, final, r, used)
