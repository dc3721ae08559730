# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD's aggregation in torch on the transport of `sinkhorn`, in the dtype of its arguments (tests: float64).

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

from pyloc_core.reference import sinkhorn as transport
from pyloc_core.reference.normalise import normalise, normalise_backward


class Aggregated(NamedTuple):
    """descriptor (B, t + l m), aggregate V (B, l, m) before its normalisation, potentials after every
    iteration u (T, B, m + 1) and v (T, B, n)."""

    descriptor: Tensor
    aggregate: Tensor
    u: Tensor
    v: Tensor


def beyond(num_columns: Tensor | None, scores: Tensor) -> Tensor:
    """(B or 1, 1, n), True for the patches that take no part."""
    n = scores.shape[-1]
    return transport.beyond(n, n, num_columns, scores.device)[:, None]


def masses(scores: Tensor, num_columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """ln of what rows (B, m + 1) take and patches (B, n) give: clusters 1, the dustbin n - m, patches 1."""
    b, m, n = scores.shape
    count = scores.new_full((b,), n) if num_columns is None else num_columns.to(scores)
    rows = torch.cat([scores.new_zeros(b, m), (count - m).log()[:, None]], 1)
    return rows, scores.new_zeros(b, n)


def salad_assign(
    scores: Tensor, dustbin: Tensor, num_columns: Tensor | None, iterations: int
) -> transport.Transport:
    """ln P (B, m + 1, n), the dustbin last, of scores (B, m, n), with the potentials on the way."""
    fill = dustbin.to(scores).expand(len(scores))
    side = transport.DUSTBIN_ROW
    given = (scores, *masses(scores, num_columns), fill, side, None, num_columns)
    return transport.sinkhorn(*given, iterations, keep_history=True)


def salad_aggregate(
    scores: Tensor,
    features: Tensor,
    token: Tensor | None,
    dustbin: Tensor,
    num_columns: Tensor | None,
    iterations: int,
) -> Aggregated:
    """Scores (B, m, n), features (B, l, n), token (B, t): [g / |g|, V_lk / |V_k|], brought to length 1."""
    found = salad_assign(scores, dustbin, num_columns, iterations)
    weights = found.log_assignment[:, :-1].exp()
    inside = features.masked_fill(beyond(num_columns, scores), 0.0)
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
    """Gradients of scores, features, token and dustbin. With G = dV F and P of the last potentials, P G is
    that of ln P, which goes back through the iterations in `sinkhorn_backward`."""
    d_aggregate, d_token = split_backward(aggregate, token, d_descriptor)
    fill, side = dustbin.to(scores).expand(len(scores)), transport.DUSTBIN_ROW
    given = (scores, *masses(scores, num_columns), fill, side, None, num_columns)
    full = transport.assemble(*given).scores
    log_p = full + u[-1][:, :, None] + v[-1][:, None]
    weights = log_p[:, :-1].exp()
    d_features = torch.einsum("blm,bmn->bln", d_aggregate, weights)
    inside = features.masked_fill(beyond(num_columns, scores), 0.0)
    slope = torch.zeros_like(full)
    slope[:, :-1] = weights * torch.einsum("blm,bln->bmn", d_aggregate, inside)
    count = torch.full((len(scores),), iterations, device=scores.device)
    found = transport.sinkhorn_backward(*given, log_p, u, v, count, slope, False)
    return found.scores, d_features, d_token, found.dustbin.sum()


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
