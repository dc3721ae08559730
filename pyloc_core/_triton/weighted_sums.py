# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""Features summed under weights that are computed where they are used: w_kj = exp(S_kj + u_k + v_j).

SALAD: u and v are the potentials of the optimal transport; NetVLAD: no u, and v = -ln of the softmax's sum.
Scores (B, m, n), features (B, l, n). The weights are never stored, and a program owns what it writes.
Products of half-precision features run on the matrix units with 10 bits of mantissa and float32's range (TF32),
those of float32 features as three of them, which restores float32's precision.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton.assignment_tiles import count_of, exp

MAX_ROWS = 128


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)


@triton.jit
def _weights(scores, u, v, row, column, m, n, columns, HAS_U: tl.constexpr):
    """exp(S + u + v) for an item's tile; 0 outside."""
    inside = (row < m)[:, None] & (column < columns)[None, :]
    s = tl.load(scores + row[:, None] * n + column[None, :], mask=inside, other=float("-inf"))
    v_j = tl.load(v + column, mask=column < columns, other=0.0)
    x = s.to(tl.float32) + v_j[None, :]
    if HAS_U:
        u_k = tl.load(u + row, mask=row < m, other=0.0)
        x += u_k[:, None]
    return exp(x)


@triton.jit
def _features(features, depth, column, size, n, columns):
    inside = (depth < size)[:, None] & (column < columns)[None, :]
    return tl.load(features + depth[:, None] * n + column[None, :], mask=inside, other=0.0)


@triton.jit
def sums_kernel(
    scores, features, u, v, num_columns, centroids, sums, m, n, size, u_stride, row_stride,
    depth_stride, HAS_COLUMNS: tl.constexpr, HAS_U: tl.constexpr, RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """sum_j w_kj x_j, at k row_stride + d depth_stride of an item; RESIDUAL: sum_j w_kj (x_j - c_k)."""
    item = tl.program_id(0).to(tl.int64)
    depth = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)
    columns = count_of(num_columns, item, n, HAS_COLUMNS)
    row = tl.arange(0, BLOCK_M)
    found = tl.zeros([BLOCK_L, BLOCK_M], tl.float32)
    weight = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, columns, BLOCK_N):
        column = first + tl.arange(0, BLOCK_N)
        w = _weights(
            scores + item * m * n, u + item * u_stride, v + item * n, row, column, m, n, columns,
            HAS_U,
        )  # fmt: skip
        x = _features(features + item * size * n, depth, column, size, n, columns)
        found += _dot(x, tl.trans(w), PRECISION)
        if RESIDUAL:
            weight += w
    inside = (depth < size)[:, None] & (row < m)[None, :]
    if RESIDUAL:
        place = centroids + row[None, :] * size + depth[:, None]
        c = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        found -= c * tl.sum(weight, 1)[None, :]
    place = sums + item * m * size + row[None, :] * row_stride + depth[:, None] * depth_stride
    tl.store(place, found, mask=inside)


@triton.jit
def slopes_kernel(
    scores, features, u, v, num_columns, offset, d_sums, d_scores, d_features, mass, m, n, size,
    u_stride, row_stride, depth_stride, HAS_COLUMNS: tl.constexpr, HAS_U: tl.constexpr,
    RESIDUAL: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """With R = d_sums: dx_j = sum_k w_kj R_k and G_kj = <R_k, x_j>. Without RESIDUAL `d_scores` is the slope
    w G of log w; with it that of the scores under the softmax over k, whose G has <R_k, c_k> = `offset` (B, m)
    taken off, and `mass` (B, programs, m) are their shares of sum_j w_kj."""
    item = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = count_of(num_columns, item, n, HAS_COLUMNS)
    row = tl.arange(0, BLOCK_M)
    w = _weights(
        scores + item * m * n, u + item * u_stride, v + item * n, row, column, m, n, columns, HAS_U
    )
    g = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, size, BLOCK_L):
        depth = first + tl.arange(0, BLOCK_L)
        place = d_sums + item * m * size + row[None, :] * row_stride + depth[:, None] * depth_stride
        r = tl.load(place, mask=(depth < size)[:, None] & (row < m)[None, :], other=0.0)
        x = _features(features + item * size * n, depth, column, size, n, columns)
        g += _dot(tl.trans(r), x, PRECISION)
        d_x = _dot(r, w, PRECISION)
        place = d_features + item * size * n + depth[:, None] * n + column[None, :]
        inside = (depth < size)[:, None] & (column < n)[None, :]
        tl.store(place, d_x.to(d_features.dtype.element_ty), mask=inside)
    if RESIDUAL:
        g -= tl.load(offset + item * m + row, mask=row < m, other=0.0)[:, None]
        g = w * g
        g -= w * tl.sum(g, 0)[None, :]
        place = mass + (item * tl.num_programs(1) + tl.program_id(1)) * m
        tl.store(place + row, tl.sum(w, 1), mask=row < m)
    else:
        g = w * g
    place = d_scores + item * m * n + row[:, None] * n + column[None, :]
    inside = (row < m)[:, None] & (column < n)[None, :]
    tl.store(place, g.to(d_scores.dtype.element_ty), mask=inside)


# ---------------------------------------------------------------------------------------------- launchers


def check(op: str, scores: Tensor, features: Tensor) -> None:
    m, n = scores.shape[1:]
    if m > MAX_ROWS:
        raise ValueError(f"{op}: the Triton kernels take up to {MAX_ROWS} clusters, got {m}")
    if scores.dtype == torch.float64:
        raise ValueError(f"{op}: the Triton kernels take float32, float16 and bfloat16")
    if (max(m, features.shape[1]) + 256) * (n + 256) >= 2**31:  # offsets within an item are int32
        raise ValueError(f"{op}: {n} patches are too many for one item of a launch")


def _options(features: Tensor, m: int) -> dict[str, Any]:
    """Tiles of powers of two that keep the sums in registers."""
    block_m = max(16, triton.next_power_of_2(m))
    return {
        "PRECISION": "tf32x3" if features.dtype == torch.float32 else "tf32",
        "BLOCK_M": block_m, "BLOCK_L": max(16, 4096 // block_m) if block_m > 64 else 64,
        "BLOCK_N": 32, "num_warps": 4 if block_m <= 64 else 8, "num_stages": 2,
    }  # fmt: skip


def weighted_sums(
    scores: Tensor, features: Tensor, u: Tensor | None, v: Tensor, num_columns: Tensor | None,
    centroids: Tensor | None,
) -> Tensor:  # fmt: skip
    """Sums (B, l, m), or with centroids (m, l) residual sums (B, m, l), float32."""
    (b, m, n), size = scores.shape, features.shape[1]
    residual = centroids is not None
    sums = v.new_empty(b, *((m, size) if residual else (size, m)))
    options = _options(features, m)
    sums_kernel[(b, triton.cdiv(size, options["BLOCK_L"]))](
        scores, features, v if u is None else u, v, v if num_columns is None else num_columns,
        v if centroids is None else centroids, sums, m, n, size,
        0 if u is None else u.shape[1], *((size, 1) if residual else (1, m)),
        HAS_COLUMNS=int(num_columns is not None), HAS_U=int(u is not None),
        RESIDUAL=int(residual), **options,
    )  # fmt: skip
    return sums


def weighted_slopes(
    scores: Tensor, features: Tensor, u: Tensor | None, v: Tensor, num_columns: Tensor | None,
    offset: Tensor | None, d_sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Slopes of log w, float32, or with `offset` of the scores, in their dtype; those of the features; and
    with `offset` the masses sum_j w_kj (B, m)."""
    (b, m, n), size = scores.shape, features.shape[1]
    residual = offset is not None
    d_scores = torch.empty_like(scores) if residual else torch.empty_like(scores, dtype=v.dtype)
    d_features = torch.empty_like(features)
    options = _options(features, m)
    programs = triton.cdiv(n, options["BLOCK_N"])
    mass = v.new_empty(b, programs, m if residual else 0)
    slopes_kernel[(b, programs)](
        scores, features, v if u is None else u, v, v if num_columns is None else num_columns,
        v if offset is None else offset, d_sums, d_scores, d_features, mass, m, n, size,
        0 if u is None else u.shape[1], *((size, 1) if residual else (1, m)),
        HAS_COLUMNS=int(num_columns is not None), HAS_U=int(u is not None),
        RESIDUAL=int(residual), **options,
    )  # fmt: skip
    return d_scores, d_features, mass.sum(1) if residual else mass[:, 0]
