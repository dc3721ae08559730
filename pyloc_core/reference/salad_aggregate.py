# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD's aggregation in torch, log domain, in the dtype of its arguments (float64 in the tests).

Patches are assigned to clusters and one dustbin by optimal transport (the last row is the dustbin), their
features are summed by assignment, and the parts are brought to unit length. `salad_aggregate_backward` is
the gradient of the unrolled iterations written out, as the kernels compute it.

The score of the dustbin moves nothing: a constant on a row is taken up by the row's potential in the first
update, so that log P, and with it the descriptor, has no gradient there. Neither has a constant on the row
of any other cluster.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyloc_core.reference.normalise import normalise, normalise_backward


class Aggregated(NamedTuple):
    """descriptor (B, t + l m), aggregate V (B, l, m) before its normalisation, potentials after every
    iteration u (T, B, m + 1) and v (T, B, n)."""

    descriptor: Tensor
    aggregate: Tensor
    u: Tensor
    v: Tensor


class Transport(NamedTuple):
    """Scores with the dustbin as last row (B, m + 1, n), -inf beyond num_columns; ln of the mass of the
    rows (B, m + 1); u and v as above."""

    scores: Tensor
    log_row_mass: Tensor
    u: Tensor
    v: Tensor


def beyond(num_columns: Tensor | None, scores: Tensor) -> Tensor:
    """(B, n), True for the patches that take no part."""
    index = torch.arange(scores.shape[-1], device=scores.device)
    if num_columns is None:
        return torch.zeros_like(index, dtype=torch.bool).expand(len(scores), -1)
    return index >= num_columns[:, None]


def with_dustbin(
    scores: Tensor, dustbin: Tensor, num_columns: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores and masses of the problem: clusters take 1, the dustbin n - m, every patch gives 1."""
    b, m, n = scores.shape
    outside = beyond(num_columns, scores)
    full = torch.cat([scores, dustbin.to(scores).expand(b, 1, n)], 1)
    log_row_mass = scores.new_zeros(b, m + 1)
    log_row_mass[:, m] = ((~outside).sum(1) - m).to(scores.dtype).log()
    return full.masked_fill(outside[:, None], -torch.inf), log_row_mass


def _potential(log_mass: Tensor | float, terms: Tensor, dim: int) -> Tensor:
    """ln mass - LSE of the terms; -inf, without a gradient, where nothing can be transported."""
    nothing = (terms == -torch.inf).all(dim, keepdim=True)
    log_sum = torch.logsumexp(terms.masked_fill(nothing, 0.0), dim)
    return (log_mass - log_sum).masked_fill(nothing.squeeze(dim), -torch.inf)


def transport(
    scores: Tensor, dustbin: Tensor, num_columns: Tensor | None, iterations: int
) -> Transport:
    """`iterations` of u_i = ln a_i - LSE_j(S_ij + v_j), then v_j = ln b_j - LSE_i(S_ij + u_i)."""
    full, log_row_mass = with_dustbin(scores, dustbin, num_columns)
    v = full.new_zeros(full.shape[0], full.shape[2])
    rows, columns = [], []
    for _ in range(iterations):
        u = _potential(log_row_mass, full + v[:, None], 2)
        v = _potential(0.0, full + u[:, :, None], 1)
        rows.append(u)
        columns.append(v)
    return Transport(full, log_row_mass, torch.stack(rows), torch.stack(columns))


def log_assignment(scores: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """ln P = S + u + v (B, m + 1, n) of potentials (B, m + 1) and (B, n)."""
    return scores + u[:, :, None] + v[:, None]


def salad_assign(
    scores: Tensor, dustbin: Tensor, num_columns: Tensor | None, iterations: int
) -> Tensor:
    """ln P (B, m + 1, n), the dustbin last, of scores (B, m, n)."""
    found = transport(scores, dustbin, num_columns, iterations)
    return log_assignment(found.scores, found.u[-1], found.v[-1])


def salad_aggregate(
    scores: Tensor,
    features: Tensor,
    token: Tensor | None,
    dustbin: Tensor,
    num_columns: Tensor | None,
    iterations: int,
) -> Aggregated:
    """Scores (B, m, n), features (B, l, n), token (B, t): [g / |g|, V_lk / |V_k|], brought to length 1."""
    m = scores.shape[1]
    found = transport(scores, dustbin, num_columns, iterations)
    weights = log_assignment(found.scores, found.u[-1], found.v[-1])[:, :m].exp()
    inside = features.masked_fill(beyond(num_columns, scores)[:, None], 0.0)
    aggregate = torch.einsum("bln,bmn->blm", inside, weights)
    parts = [] if token is None else [normalise(token, 1)]
    parts.append(normalise(aggregate, 1).flatten(1))
    return Aggregated(normalise(torch.cat(parts, 1), 1), aggregate, found.u, found.v)


def salad_aggregate_backward(
    scores: Tensor,
    features: Tensor,
    token: Tensor | None,
    dustbin: Tensor,
    num_columns: Tensor | None,
    aggregate: Tensor,
    u: Tensor,
    v: Tensor,
    d_descriptor: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Gradients of scores, features, token and dustbin.

    With A = P exp-kernel of the last potentials and G = V's gradient times F, A G is the gradient of ln P;
    every iteration then gives back what its two logarithms of sums have taken:
    dS -= C dv, du -= sum_j C dv with C = exp(S + u + v), and dS -= R du, dv = -sum_i R du with
    R = exp(S + u + v before) / a.
    """
    full, log_row_mass = with_dustbin(scores, dustbin, num_columns)
    m = scores.shape[1]
    d_aggregate, d_token = split_backward(aggregate, token, d_descriptor)
    inside = features.masked_fill(beyond(num_columns, scores)[:, None], 0.0)
    weights = log_assignment(full, u[-1], v[-1]).exp()
    d_features = torch.einsum("blm,bmn->bln", d_aggregate, weights[:, :m])
    slope = torch.zeros_like(full)
    slope[:, :m] = weights[:, :m] * torch.einsum("blm,bln->bmn", d_aggregate, inside)
    d_scores, du, dv = slope, slope.sum(2), slope.sum(1)
    for step in reversed(range(iterations)):
        before = v[step - 1] if step else torch.zeros_like(v[0])
        given = log_assignment(full, u[step], v[step]).exp() * dv[:, None]
        du = du - given.sum(2)
        share = log_assignment(full, u[step] - log_row_mass, before).exp() * du[:, :, None]
        d_scores, dv, du = d_scores - given - share, -share.sum(1), torch.zeros_like(du)
    return d_scores[:, :m], d_features, d_token, d_scores[:, m].sum()


def split_backward(
    aggregate: Tensor, token: Tensor | None, d_descriptor: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Through both normalisations: gradients of V (B, l, m) and of the token (B, t)."""
    parts = normalise(aggregate, 1).flatten(1)
    if token is not None:
        parts = torch.cat([normalise(token, 1), parts], 1)
    d_parts = normalise_backward(parts, d_descriptor, 1)
    size = 0 if token is None else token.shape[1]
    d_aggregate = normalise_backward(aggregate, d_parts[:, size:].reshape(aggregate.shape), 1)
    return d_aggregate, None if token is None else normalise_backward(token, d_parts[:, :size], 1)
