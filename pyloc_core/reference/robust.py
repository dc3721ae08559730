# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Robust kernels in torch, differentiable; the oracle of csrc/include/pyloc/robust.h."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyloc_core.robust import RobustLoss


def rho(squared: Tensor, loss: RobustLoss) -> Tensor:
    """Cost of squared residuals, in their unit: about `squared` near zero, slower growing beyond."""
    s = squared / loss.scale**2
    return loss.scale**2 * _unit_rho(s, loss.name, loss.alpha)


def _unit_rho(s: Tensor, name: str, alpha: float) -> Tensor:
    if name == "barron":
        return _barron(s, alpha)
    if name == "huber":  # Huber 1964
        return torch.where(s > 1, 2 * torch.sqrt(s.clamp_min(1)) - 1, s)
    if name == "cauchy":  # the Lorentzian of Black and Anandan 1996
        return torch.log1p(s)
    if name == "geman_mcclure":  # Geman and McClure 1985
        return s / (1 + s)
    if name == "tukey":  # Beaton and Tukey 1974
        return (1 - (1 - s).clamp_min(0) ** 3) / 3
    if name == "welsch":  # Dennis and Welsch 1978; the negative Gaussian of Eq. 4.11
        return -2 * torch.expm1(-s / 2)
    return s


def _barron(s: Tensor, alpha: float) -> Tensor:
    """Barron 2019, Eq. 13, times two so that the slope at zero is one."""
    if alpha == 2:
        return s
    if alpha == 0:
        return 2 * torch.log1p(s / 2)
    if math.isinf(alpha):
        return -2 * torch.expm1(-s / 2)
    b = 2 - alpha
    return 2 * b / alpha * torch.expm1(alpha / 2 * torch.log1p(s / b))


def weight(squared: Tensor, loss: RobustLoss) -> Tensor:
    """rho' by automatic differentiation: 1 at zero, falling to 0 for outliers."""
    leaf = squared.detach().clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(rho(leaf, loss).sum(), leaf)
    return slope.detach()


def derivatives(squared: Tensor, loss: RobustLoss) -> tuple[Tensor, Tensor]:
    """First and second derivative of rho by the squared residual."""
    leaf = squared.detach().clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(rho(leaf, loss).sum(), leaf, create_graph=True)
    if not slope.requires_grad:  # the square: a constant slope
        return slope.detach(), torch.zeros_like(squared)
    (bend,) = torch.autograd.grad(slope.sum(), leaf)
    return slope.detach(), bend
