# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""NetVLAD's aggregation in torch, in the dtype of its arguments (float64 in the tests)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyloc_core.reference.normalise import normalise, normalise_backward


class Aggregated(NamedTuple):
    """descriptor (B, K D), the residual sums (B, K, D) before normalisation, and ln of the sum of
    exponentials of every patch's logits (B, n), +inf for patches that take no part."""

    descriptor: Tensor
    residual: Tensor
    log_sum: Tensor


def soft_assignment(logits: Tensor, num_columns: Tensor | None) -> Tensor:
    """Softmax over the clusters of every patch (B, K, n); zero from num_columns (B,) on."""
    weights = logits.softmax(1)
    if num_columns is None:
        return weights
    outside = torch.arange(logits.shape[2], device=logits.device) >= num_columns[:, None]
    return weights.masked_fill(outside[:, None], 0.0)


def netvlad_aggregate(
    features: Tensor, logits: Tensor, centroids: Tensor, num_columns: Tensor | None
) -> Aggregated:
    """Features (B, D, n), logits (B, K, n), centroids (K, D): sum_j w_kj (x_j - c_k), every cluster
    brought to length 1, then all of them together."""
    weights = soft_assignment(logits, num_columns)
    mixed = torch.einsum("bkn,bdn->bkd", weights, features)
    residual = mixed - weights.sum(2, keepdim=True) * centroids
    descriptor = normalise(normalise(residual, 2).flatten(1), 1)
    log_sum = torch.logsumexp(logits, 1)
    if num_columns is not None:
        log_sum = log_sum.masked_fill(weights.sum(1) == 0, torch.inf)
    return Aggregated(descriptor, residual, log_sum)


def netvlad_aggregate_backward(
    features: Tensor,
    logits: Tensor,
    centroids: Tensor,
    num_columns: Tensor | None,
    residual: Tensor,
    log_sum: Tensor,
    d_descriptor: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of features, logits and centroids. With R the gradient of the residuals,
    G_kj = <R_k, x_j - c_k>: dx_j = sum_k w_kj R_k, ds_kj = w_kj (G_kj - sum_k w_kj G_kj) and
    dc_k = -sum_j w_kj R_k."""
    weights = (logits - log_sum[:, None]).exp()
    d_parts = normalise_backward(normalise(residual, 2).flatten(1), d_descriptor, 1)
    d_residual = normalise_backward(residual, d_parts.reshape(residual.shape), 2)
    d_features = torch.einsum("bkd,bkn->bdn", d_residual, weights)
    offset = (d_residual * centroids).sum(2, keepdim=True)
    slope = weights * (torch.einsum("bkd,bdn->bkn", d_residual, features) - offset)
    d_logits = slope - weights * slope.sum(1, keepdim=True)
    return d_features, d_logits, -(weights.sum(2, keepdim=True) * d_residual).sum(0)
