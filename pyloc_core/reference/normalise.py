# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Vectors of unit length and their gradient, as aggregation and its kernels take them."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-12  # of torch.nn.functional.normalize, which the published heads call


def normalise(x: Tensor, dim: int) -> Tensor:
    """x / max(|x|, 1e-12) along `dim`."""
    return x / x.square().sum(dim, keepdim=True).sqrt().clamp_min(EPSILON)


def normalise_backward(x: Tensor, d_unit: Tensor, dim: int) -> Tensor:
    """(d - e <e, d>) / |x| with e = x / |x|: zero for a vector of no length, which has no direction
    (the formula with the 1e-12 would pass 1e12 d)."""
    norm = x.square().sum(dim, keepdim=True).sqrt()
    unit = x / norm.clamp_min(EPSILON)
    slope = (d_unit - unit * (unit * d_unit).sum(dim, keepdim=True)) / norm.clamp_min(EPSILON)
    return slope.masked_fill(norm <= EPSILON, 0.0)
