# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Gated attention in torch, in the dtype of its arguments (float64 in the tests); differentiable.

`gated_attention_backward` is the gradient written out, as the kernels compute it. It differs from what
autograd gives only where several keys share a maximum: there the first one takes the whole gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Attended(NamedTuple):
    """out (B, h, N, dv); peak, log_sum and best (B, h, N): max_j S_ij, ln sum_j exp(g_i S_ij), argmax."""

    out: Tensor
    peak: Tensor
    log_sum: Tensor
    best: Tensor


def logits(queries: Tensor, keys: Tensor, num_valid: Tensor | None, scale: float) -> Tensor:
    """S (B, h, N, M) = scale Q K^T; -inf for keys from num_valid (B,) on."""
    scores = scale * queries @ keys.transpose(-1, -2)
    if num_valid is None:
        return scores
    beyond = torch.arange(keys.shape[-2], device=keys.device) >= num_valid[:, None, None, None]
    return scores.masked_fill(beyond, -torch.inf)


def gated_attention(
    queries: Tensor, keys: Tensor, values: Tensor, num_valid: Tensor | None, scale: float
) -> Attended:
    """softmax(g S) V with g_i = sigmoid(max_j S_ij); (B, h, N, d), (B, h, M, d), (B, h, M, dv)."""
    scores = logits(queries, keys, num_valid, scale)
    best = first_argmax(scores)
    peak = scores.gather(-1, best[..., None])[..., 0]
    weighted = torch.sigmoid(peak)[..., None] * scores
    out = torch.softmax(weighted, -1) @ values
    return Attended(out, peak, torch.logsumexp(weighted, -1), best)


def first_argmax(scores: Tensor) -> Tensor:
    """(B, h, N): the first key with the largest score."""
    index = torch.arange(scores.shape[-1], device=scores.device)
    is_top = scores == scores.amax(-1, keepdim=True)
    return torch.where(is_top, index, scores.shape[-1] - 1).amin(-1)


def gated_attention_backward(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    num_valid: Tensor | None,
    scale: float,
    d_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values.

    L = P (dO V^T - <dO, O>) is that of the logits g S, t = sum_j L S that of the gate, and
    dS = g L + [j = best] g (1 - g) t.
    """
    scores = logits(queries, keys, num_valid, scale)
    forward = gated_attention(queries, keys, values, num_valid, scale)
    gate = torch.sigmoid(forward.peak)[..., None]
    weights = torch.softmax(gate * scores, -1)
    dot = (d_out * forward.out).sum(-1, keepdim=True)
    slope = weights * (d_out @ values.transpose(-1, -2) - dot)
    moment = (slope * scores.masked_fill(weights == 0, 0.0)).sum(-1, keepdim=True)
    d_scores = gate * slope
    d_scores = d_scores.scatter_add(-1, forward.best[..., None], gate * (1 - gate) * moment)
    d_queries, d_keys = scale * d_scores @ keys, scale * d_scores.transpose(-1, -2) @ queries
    return d_queries, d_keys, weights.transpose(-1, -2) @ d_out
