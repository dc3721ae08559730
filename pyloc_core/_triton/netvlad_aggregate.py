# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""NetVLAD's aggregation on a GPU: softmax sums, residual sums, unit lengths, in three launches.

The sums of residuals (weighted_sums.py) and the unit lengths (unit_parts.py) are those of SALAD's kernels;
the weights, w_kj = exp(S_kj - LSE_k(S_kj)), are never stored.

Run in Triton's interpreter and compiled for sm_80, sm_86 and sm_90 only: never yet on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.assignment_tiles import count_of, exp, finite_or_zero
from pyloc_core._triton.unit_parts import normalise, normalise_gradient
from pyloc_core._triton.weighted_sums import check, weighted_slopes, weighted_sums

_OP = "netvlad_aggregate"


@triton.jit
def log_sum_kernel(
    logits, log_sum, num_columns, clusters, n, HAS_COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """LSE over the clusters of every patch; -inf where all logits are, +inf for patches beyond num_columns."""
    item = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.arange(0, BLOCK_K)
    inside = (row < clusters)[:, None] & (column < n)[None, :]
    place = logits + item * clusters * n + row[:, None] * n + column[None, :]
    s = tl.load(place, mask=inside, other=float("-inf")).to(tl.float32)
    base = finite_or_zero(tl.max(s, 0))
    total = tl.sum(exp(s - base[None, :]), 0)
    found = tl.where(total == 0.0, float("-inf"), base + tl.log(tl.where(total == 0.0, 1.0, total)))
    columns = count_of(num_columns, item, n, HAS_COLUMNS)
    found = tl.where(column < columns, found, float("inf"))
    tl.store(log_sum + item * n + column, found, mask=column < n)


def _log_sums(logits: Tensor, num_columns: Tensor | None) -> Tensor:
    b, clusters, n = logits.shape
    log_sum = logits.new_empty(b, n, dtype=torch.float32)
    block = 64
    log_sum_kernel[(b, triton.cdiv(n, block))](
        logits, log_sum, log_sum if num_columns is None else num_columns, clusters, n,
        HAS_COLUMNS=int(num_columns is not None), BLOCK_K=triton.next_power_of_2(clusters),
        BLOCK_N=block, num_warps=4,
    )  # fmt: skip
    return log_sum


def _shift(log_sum: Tensor) -> Tensor:
    """What is added to the logits: patches without a finite one weigh nothing."""
    return -log_sum.masked_fill(log_sum == -torch.inf, 0.0)


def forward(
    features: Tensor, logits: Tensor, centroids: Tensor, num_columns: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """descriptor (B, K D) in the features' dtype, residual sums (B, K, D) and LSEs (B, n) in float32."""
    check(_OP, logits, features)
    features, logits = features.contiguous(), logits.contiguous()
    (b, clusters, n), depth = logits.shape, features.shape[1]
    if b == 0:
        floats = torch.float32
        residual = features.new_empty(b, clusters, depth, dtype=floats)
        log_sum = features.new_empty(b, n, dtype=floats)
        return features.new_empty(b, clusters * depth), residual, log_sum
    with torch.cuda.device_of(features):
        log_sum = _log_sums(logits, num_columns)
        residual = weighted_sums(
            logits, features, None, _shift(log_sum), num_columns, centroids.contiguous()
        )
        return normalise(residual, None, True, features.dtype), residual, log_sum


def backward(
    features: Tensor, logits: Tensor, centroids: Tensor, num_columns: Tensor | None,
    residual: Tensor, log_sum: Tensor, d_descriptor: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of features (B, D, n), logits (B, K, n) and centroids (K, D)."""
    check(_OP, logits, features)
    features, logits = features.contiguous(), logits.contiguous()
    if len(features) == 0:
        return torch.empty_like(features), torch.empty_like(logits), torch.zeros_like(centroids)
    with torch.cuda.device_of(features):
        d_residual, _ = normalise_gradient(
            residual.contiguous(), None, True, d_descriptor.contiguous()
        )
        offset = (d_residual * centroids.float()).sum(2)
        d_logits, d_features, mass = weighted_slopes(
            logits, features, None, _shift(log_sum), num_columns, offset, d_residual
        )
    d_centroids = -(mass[:, :, None] * d_residual).sum(0)
    return d_features, d_logits, d_centroids.to(centroids.dtype)
