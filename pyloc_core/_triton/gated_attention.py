# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""Gated attention as Triton kernels: softmax(g S) V, g_i = sigmoid(max_j S_ij), S = scale Q K^T.

Forward: a program owns a block of queries of one head; it looks for the rows' maxima, then streams over the
keys once more. Backward: `_query_gradient` owns blocks of queries (dQ, and what the maximum's term is worth),
`_key_gradient` owns blocks of keys (dK, dV) and recomputes the scores. Nothing is added atomically. The
gradient of the maximum goes to the first key that has it.

Products take operands of the arrays' dtype and sum in float32; float32 operands are not rounded to TF32.
Compiled for sm_80 and sm_90 and run in Triton's interpreter only: never yet on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
MAX_DEPTH = 256


@triton.jit
def _tile(pointer, first, count, depth, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    """Rows [first, first + BLOCK) of a (count, depth) array, zeros beyond its ends."""
    row = first + tl.arange(0, BLOCK)
    column = tl.arange(0, DEPTH)
    mask = (row[:, None] < count) & (column[None, :] < depth)
    return tl.load(pointer + row[:, None] * depth + column[None, :], mask=mask, other=0.0)


@triton.jit
def _store_tile(pointer, value, first, count, depth, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    row = first + tl.arange(0, BLOCK)
    column = tl.arange(0, DEPTH)
    mask = (row[:, None] < count) & (column[None, :] < depth)
    place = pointer + row[:, None] * depth + column[None, :]
    tl.store(place, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _dot(a, b, WIDE: tl.constexpr):
    """a @ b in float32. WIDE: operands as float32, for Triton's interpreter, whose bfloat16 are bits."""
    if WIDE:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _scores(queries, keys, first_key, valid, scale, BLOCK_M: tl.constexpr, WIDE: tl.constexpr):
    """S of a block of queries and a block of keys; -inf for keys that do not count."""
    s = _dot(queries, tl.trans(keys), WIDE) * scale
    key = first_key + tl.arange(0, BLOCK_M)
    return tl.where(key[None, :] < valid, s, float("-inf"))


@triton.jit
def _num_keys(num_valid, head, heads, m, HAS_VALID: tl.constexpr):
    valid = m
    if HAS_VALID:
        valid = tl.load(num_valid + head // heads).to(tl.int32)
        valid = tl.minimum(tl.maximum(valid, 0), m)
    return valid


@triton.jit
def forward_kernel(
    queries, keys, values, num_valid, out, peak, log_sum, best, scale, heads, n, m, depth, value_depth,
    HAS_VALID: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    DEPTH: tl.constexpr, VALUE_DEPTH: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(n, BLOCK_N)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    first = (tl.program_id(0) % blocks) * BLOCK_N
    valid = _num_keys(num_valid, head, heads, m, HAS_VALID)
    k_head = keys + head * m * depth
    v_head = values + head * m * value_depth
    q = _tile(queries + head * n * depth, first, n, depth, BLOCK_N, DEPTH)
    top = tl.full([BLOCK_N], float("-inf"), tl.float32)
    where = tl.zeros([BLOCK_N], tl.int32)
    for start in range(0, valid, BLOCK_M):
        k = _tile(k_head, start, m, depth, BLOCK_M, DEPTH)
        s = _scores(q, k, start, valid, scale, BLOCK_M, WIDE)
        here = tl.max(s, 1)
        index = start + tl.arange(0, BLOCK_M)
        place = tl.min(tl.where(s == here[:, None], index[None, :], m), 1)
        where = tl.where(here > top, place, where)  # a later block wins only if it is larger
        top = tl.maximum(top, here)
    gate = 1.0 / (1.0 + tl.exp(-top))
    total = tl.zeros([BLOCK_N], tl.float32)
    sums = tl.zeros([BLOCK_N, VALUE_DEPTH], tl.float32)
    for start in range(0, valid, BLOCK_M):
        k = _tile(k_head, start, m, depth, BLOCK_M, DEPTH)
        v = _tile(v_head, start, m, value_depth, BLOCK_M, VALUE_DEPTH)
        s = _scores(q, k, start, valid, scale, BLOCK_M, WIDE)
        p = tl.exp2((s - top[:, None]) * (gate * LOG2E)[:, None])
        total += tl.sum(p, 1)
        sums += _dot(p.to(v.dtype), v, WIDE)
    some = total > 0  # no keys at all: zeros; NaN stays NaN
    sums = tl.where(
        (total == 0.0)[:, None], 0.0, sums / tl.where(total == 0.0, 1.0, total)[:, None]
    )
    _store_tile(out + head * n * value_depth, sums, first, n, value_depth, BLOCK_N, VALUE_DEPTH)
    row = first + tl.arange(0, BLOCK_N)
    inside = row < n
    tl.store(peak + head * n + row, top, mask=inside)
    weight = tl.where(some, gate * top, 0.0)
    tl.store(log_sum + head * n + row, weight + tl.log(total), mask=inside)
    tl.store(best + head * n + row, where, mask=inside)


@triton.jit
def query_gradient_kernel(
    queries, keys, values, num_valid, out, peak, log_sum, best, d_out, d_queries, dot, share, scale,
    heads, n, m, depth, value_depth,
    HAS_VALID: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    DEPTH: tl.constexpr, VALUE_DEPTH: tl.constexpr,
):  # fmt: skip
    """dQ; `dot` = <dO, O> and `share` = g (1 - g) t, what the first largest key's score adds to dS."""
    blocks = tl.cdiv(n, BLOCK_N)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    first = (tl.program_id(0) % blocks) * BLOCK_N
    valid = _num_keys(num_valid, head, heads, m, HAS_VALID)
    k_head = keys + head * m * depth
    v_head = values + head * m * value_depth
    q = _tile(queries + head * n * depth, first, n, depth, BLOCK_N, DEPTH)
    o = _tile(out + head * n * value_depth, first, n, value_depth, BLOCK_N, VALUE_DEPTH)
    d_o = _tile(d_out + head * n * value_depth, first, n, value_depth, BLOCK_N, VALUE_DEPTH)
    row = first + tl.arange(0, BLOCK_N)
    inside = row < n
    # +inf for rows beyond the end: their weights are 0.
    level = tl.load(log_sum + head * n + row, mask=inside, other=float("inf"))
    gate = 1.0 / (1.0 + tl.exp(-tl.load(peak + head * n + row, mask=inside, other=0.0)))
    inner = tl.sum(o.to(tl.float32) * d_o.to(tl.float32), 1)
    moment = tl.zeros([BLOCK_N], tl.float32)
    sums = tl.zeros([BLOCK_N, DEPTH], tl.float32)
    for start in range(0, valid, BLOCK_M):
        k = _tile(k_head, start, m, depth, BLOCK_M, DEPTH)
        v = _tile(v_head, start, m, value_depth, BLOCK_M, VALUE_DEPTH)
        s = _scores(q, k, start, valid, scale, BLOCK_M, WIDE)
        p = tl.exp2((gate[:, None] * s - level[:, None]) * LOG2E)
        slope = p * (_dot(d_o, tl.trans(v), WIDE) - inner[:, None])
        moment += tl.sum(tl.where(s == float("-inf"), 0.0, slope * s), 1)
        sums += _dot((gate[:, None] * slope).to(k.dtype), k, WIDE)
    extra = gate * (1.0 - gate) * moment
    tl.store(dot + head * n + row, inner, mask=inside)
    tl.store(share + head * n + row, extra, mask=inside)
    top = tl.load(best + head * n + row, mask=inside, other=0)
    column = tl.arange(0, DEPTH)
    mask = inside[:, None] & (column[None, :] < depth)
    key = tl.load(k_head + top[:, None] * depth + column[None, :], mask=mask, other=0.0)
    gradient = scale * (sums + extra[:, None] * key.to(tl.float32))
    _store_tile(d_queries + head * n * depth, gradient, first, n, depth, BLOCK_N, DEPTH)


@triton.jit
def key_gradient_kernel(
    queries, keys, values, num_valid, peak, log_sum, best, d_out, dot, share, d_keys, d_values, scale,
    heads, n, m, depth, value_depth,
    HAS_VALID: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    DEPTH: tl.constexpr, VALUE_DEPTH: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(m, BLOCK_M)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    start = (tl.program_id(0) % blocks) * BLOCK_M
    valid = _num_keys(num_valid, head, heads, m, HAS_VALID)
    q_head = queries + head * n * depth
    o_head = d_out + head * n * value_depth
    k = _tile(keys + head * m * depth, start, m, depth, BLOCK_M, DEPTH)
    v = _tile(values + head * m * value_depth, start, m, value_depth, BLOCK_M, VALUE_DEPTH)
    key = start + tl.arange(0, BLOCK_M)
    counted = (key < valid)[:, None]
    k_sums = tl.zeros([BLOCK_M, DEPTH], tl.float32)
    v_sums = tl.zeros([BLOCK_M, VALUE_DEPTH], tl.float32)
    for first in range(0, n, BLOCK_N):
        q = _tile(q_head, first, n, depth, BLOCK_N, DEPTH)
        d_o = _tile(o_head, first, n, value_depth, BLOCK_N, VALUE_DEPTH)
        row = head * n + first + tl.arange(0, BLOCK_N)
        inside = first + tl.arange(0, BLOCK_N) < n
        level = tl.load(log_sum + row, mask=inside, other=float("inf"))
        gate = 1.0 / (1.0 + tl.exp(-tl.load(peak + row, mask=inside, other=0.0)))
        inner = tl.load(dot + row, mask=inside, other=0.0)
        extra = tl.load(share + row, mask=inside, other=0.0)
        top = tl.load(best + row, mask=inside, other=-1)
        # Keys by queries here, so that the weights are the left operand as they lie.
        s = _dot(k, tl.trans(q), WIDE) * scale
        p = tl.exp2((gate[None, :] * s - level[None, :]) * LOG2E)
        p = tl.where(counted, p, 0.0)
        slope = p * (_dot(v, tl.trans(d_o), WIDE) - inner[None, :])
        slope = gate[None, :] * slope + tl.where(top[None, :] == key[:, None], extra[None, :], 0.0)
        v_sums += _dot(p.to(d_o.dtype), d_o, WIDE)
        k_sums += _dot(slope.to(q.dtype), q, WIDE)
    k_sums = tl.where(counted, scale * k_sums, 0.0)  # an item without keys has no gradient
    _store_tile(d_keys + head * m * depth, k_sums, start, m, depth, BLOCK_M, DEPTH)
    _store_tile(
        d_values + head * m * value_depth, v_sums, start, m, value_depth, BLOCK_M, VALUE_DEPTH
    )


# ---------------------------------------------------------------------------------- launchers


def blocks(dtype: torch.dtype, depth: int, value_depth: int) -> dict[str, int]:
    """Tile sizes, (queries, keys) per program and the depths: powers of two of at least 16. Chosen so
    that what is compiled for sm_90 at d = 96 keeps its sums in registers."""
    padded = [max(16, triton.next_power_of_2(size)) for size in (depth, value_depth)]
    small = max(padded) <= 128
    side = (64, 32) if small else (32, 32)
    if dtype == torch.float32:
        side = (32, 32) if small else (16, 16)
    return {"BLOCK_N": side[0], "BLOCK_M": side[1], "DEPTH": padded[0], "VALUE_DEPTH": padded[1]}


def launch_options(dtype: torch.dtype, depth: int, value_depth: int) -> dict[str, int]:
    """Warps, and stages of the software pipeline: float32 tiles leave shared memory for one."""
    warps = 8 if max(depth, value_depth) <= 128 else 4
    return {"num_warps": warps, "num_stages": 1 if dtype == torch.float32 else 2}


def _prepare(
    queries: Tensor, keys: Tensor, values: Tensor, num_valid: Tensor | None
) -> tuple[list[Tensor], tuple[int, ...], dict[str, int]]:
    depth, value_depth = queries.shape[-1], values.shape[-1]
    if max(depth, value_depth) > MAX_DEPTH:
        raise ValueError(
            f"gated_attention: the Triton kernels take d and dv up to {MAX_DEPTH}, got {depth} and "
            f"{value_depth}"
        )
    _, heads, n, _ = queries.shape
    if max(n, keys.shape[-2]) * max(depth, value_depth) >= 2**31:  # offsets within a head are int32
        raise ValueError(
            f"gated_attention: {n} queries and {keys.shape[-2]} keys of one head are too many for the "
            f"Triton kernels at d = {depth}, dv = {value_depth}; attend in parts of the queries"
        )
    tensors = [t.contiguous() for t in (queries, keys, values)]
    tensors.append(queries if num_valid is None else num_valid.contiguous())
    sizes = (heads, n, keys.shape[-2], depth, value_depth)
    options = blocks(queries.dtype, depth, value_depth)
    options |= launch_options(queries.dtype, depth, value_depth)
    wide = queries.device.type == "cpu" and queries.dtype == torch.bfloat16
    return tensors, sizes, {"HAS_VALID": int(num_valid is not None), "WIDE": int(wide), **options}


def forward(
    queries: Tensor, keys: Tensor, values: Tensor, num_valid: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out (B, h, N, dv), peak and log_sum (B, h, N) float32, best (B, h, N) int32."""
    tensors, sizes, options = _prepare(queries, keys, values, num_valid)
    rows = queries.shape[:-1]
    out = queries.new_empty(*rows, values.shape[-1])
    peak, log_sum = (queries.new_empty(rows, dtype=torch.float32) for _ in range(2))
    best = queries.new_empty(rows, dtype=torch.int32)
    programs = rows[0] * rows[1] * triton.cdiv(rows[2], options["BLOCK_N"])
    if programs:
        with torch.cuda.device_of(queries):
            forward_kernel[(programs,)](
                *tensors, out, peak, log_sum, best, float(scale), *sizes, **options
            )
    return out, peak, log_sum, best


def backward(
    queries: Tensor, keys: Tensor, values: Tensor, num_valid: Tensor | None, out: Tensor, peak: Tensor,
    log_sum: Tensor, best: Tensor, d_out: Tensor, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys and values, in their dtype."""
    tensors, sizes, options = _prepare(queries, keys, values, num_valid)
    d_out = d_out.to(queries.dtype).contiguous()
    rows = queries.shape[:-1]
    d_queries, d_keys, d_values = (torch.empty_like(t) for t in tensors[:3])
    dot, share = (queries.new_empty(rows, dtype=torch.float32) for _ in range(2))
    heads = rows[0] * rows[1]
    with torch.cuda.device_of(queries):
        if heads and rows[2]:
            query_gradient_kernel[(heads * triton.cdiv(rows[2], options["BLOCK_N"]),)](
                *tensors, out.contiguous(), peak, log_sum, best, d_out, d_queries, dot, share,
                float(scale), *sizes, **options,
            )  # fmt: skip
        if heads:
            key_gradient_kernel[(heads * triton.cdiv(sizes[2], options["BLOCK_M"]),)](
                *tensors, peak, log_sum, best, d_out, dot, share, d_keys, d_values, float(scale),
                *sizes, **options,
            )  # fmt: skip
    return d_queries, d_keys, d_values
