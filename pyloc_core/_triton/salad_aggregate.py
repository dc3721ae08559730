# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD's aggregation on a GPU: assignment, sums of features, unit lengths, in three launches.

Forward: a program per item finds the potentials (sinkhorn_item.py); a program per item and block of the
features' channels sums them under weights that are never stored (weighted_sums.py); a program per item brings
the parts to unit length (unit_parts.py). Backward: the same three the other way round.

Run in Triton's interpreter and compiled for sm_80, sm_86 and sm_90 only: never yet on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyloc_core._triton.sinkhorn_item import item_forward
from pyloc_core._triton.sinkhorn_item_gradient import item_gradient
from pyloc_core._triton.unit_parts import normalise, normalise_gradient
from pyloc_core._triton.weighted_sums import check, weighted_slopes, weighted_sums

_OP = "salad_aggregate"


def forward(
    scores: Tensor, features: Tensor, token: Tensor | None, dustbin: Tensor,
    num_columns: Tensor | None, iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """descriptor (B, t + l m), V (B, l, m), u (T, B, m + 1), v (T, B, n); all but the first float32."""
    check(_OP, scores, features)
    scores, features = scores.contiguous(), features.contiguous()
    token = None if token is None else token.contiguous()
    (batch, m, n), size = scores.shape, features.shape[1]
    u = scores.new_empty(iterations, batch, m + 1, dtype=torch.float32)
    v = scores.new_empty(iterations, batch, n, dtype=torch.float32)
    if batch == 0:
        t = 0 if token is None else token.shape[1]
        return features.new_empty(0, t + size * m), u.new_empty(0, size, m), u, v
    with torch.cuda.device_of(scores):
        item_forward(scores, None, dustbin, num_columns, iterations, u, v, None)
        aggregate = weighted_sums(scores, features, u[-1], v[-1], num_columns, None)
        return normalise(aggregate, token, False, features.dtype), aggregate, u, v


def backward(
    scores: Tensor, features: Tensor, token: Tensor | None, dustbin: Tensor,
    num_columns: Tensor | None, aggregate: Tensor, u: Tensor, v: Tensor, d_descriptor: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of scores, features, token ((B, 0) without one) and dustbin (), which is 0: its row's
    potential takes up any constant."""
    check(_OP, scores, features)
    scores, features = scores.contiguous(), features.contiguous()
    token = None if token is None else token.contiguous()
    u, v = u.contiguous(), v.contiguous()
    batch, no_token = len(scores), features.new_empty(len(features), 0)
    d_dustbin = torch.zeros_like(dustbin)
    if batch == 0:
        d_token = no_token if token is None else torch.empty_like(token)
        return torch.empty_like(scores), torch.empty_like(features), d_token, d_dustbin
    with torch.cuda.device_of(scores):
        d_sums, by_token = normalise_gradient(
            aggregate.contiguous(), token, False, d_descriptor.contiguous()
        )
        slope, d_features, _ = weighted_slopes(
            scores, features, u[-1], v[-1], num_columns, None, d_sums
        )
        d_scores = torch.empty_like(scores)
        item_gradient(scores, None, dustbin, num_columns, u, v, None, slope, d_scores)
    return d_scores, d_features, no_token if by_token is None else by_token, d_dustbin
