# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of the NRE loss; nre_loss.py says how they share the work and launches them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _product(a, b, acc, WIDE: tl.constexpr):
    """acc + a @ b in float32. WIDE: operands as float32, for Triton's interpreter, whose bfloat16 are bits."""
    if WIDE:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a.to(b.dtype), b, acc, input_precision="ieee")


@triton.jit
def _taps(targets, at, width, height, x0, y0, rows):
    """First cell, fractions and validity of the targets `at` (in points); the taps of nre_rows.h."""
    x = tl.load(targets + 2 * at, mask=rows, other=0.0) - x0
    y = tl.load(targets + 2 * at + 1, mask=rows, other=0.0) - y0
    # A comparison with NaN is false.
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x = tl.where(inside, x, 0.0)
    y = tl.where(inside, y, 0.0)
    column = tl.maximum(tl.minimum(tl.floor(x), width - 2), 0.0)
    row = tl.maximum(tl.minimum(tl.floor(y), height - 2), 0.0)
    cell = row.to(tl.int32) * width + column.to(tl.int32)
    return cell, (x - column).to(tl.float32), (y - row).to(tl.float32), inside & rows


@triton.jit
def _logits(
    h_ptr, f_ptr, rows, cells, offs_n, offs_p, depth, plane, cell_stride,
    BLOCK_K: tl.constexpr, TRANSPOSED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """<h_n, F(p)> for depths of any number: (BLOCK_N, BLOCK_P), or (BLOCK_P, BLOCK_N)."""
    if TRANSPOSED:
        c = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    else:
        c = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)
    for k in range(0, depth, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        kept = offs_k < depth
        h = tl.load(
            h_ptr + offs_n[:, None].to(tl.int64) * depth + offs_k[None, :],
            mask=rows[:, None] & kept[None, :], other=0.0,
        )  # fmt: skip
        f = tl.load(
            f_ptr + offs_k[:, None].to(tl.int64) * plane + offs_p[None, :].to(tl.int64) * cell_stride,
            mask=kept[:, None] & cells[None, :], other=0.0,
        )  # fmt: skip
        if TRANSPOSED:
            c = _product(tl.trans(f), tl.trans(h), c, WIDE)
        else:
            c = _product(h, f, c, WIDE)
    return c


@triton.jit
def reduce_cells(
    h_ptr, f_ptr, num_valid_ptr, peak_ptr, sum_ptr, mean_ptr, count, depth, n_cells, item, plane,
    cell_stride, tiles_per_share, scale,
    BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    WHOLE: tl.constexpr, WIDE: tl.constexpr, MEAN: tl.constexpr, HAS_VALID: tl.constexpr,
    P_SCALE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of points * blocks of depths, shares, B). Partial results (B, share, N[, D])."""
    blocks_d = tl.cdiv(depth, BLOCK_D) if MEAN else 1
    first = (tl.program_id(0) // blocks_d) * BLOCK_N
    first_d = (tl.program_id(0) % blocks_d) * BLOCK_D
    share = tl.program_id(1)
    item_index = tl.program_id(2).to(tl.int64)
    valid = count
    if HAS_VALID:
        valid = tl.load(num_valid_ptr + item_index).to(tl.int32)
    offs_n = first + tl.arange(0, BLOCK_N)
    offs_d = first_d + tl.arange(0, BLOCK_D)
    rows = offs_n < valid
    h_ptr += item_index * count * depth
    f_ptr += item_index * item
    peak = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    mean = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    if WHOLE:  # the descriptors fit one block of depths and stay
        h = tl.load(
            h_ptr + offs_n[:, None].to(tl.int64) * depth + offs_d[None, :],
            mask=rows[:, None] & (offs_d < depth)[None, :], other=0.0,
        )  # fmt: skip
    tiles = tiles_per_share
    if first >= valid:
        tiles = 0
    for tile in range(tiles):
        offs_p = (share * tiles_per_share + tile) * BLOCK_P + tl.arange(0, BLOCK_P)
        cells = offs_p < n_cells
        if WHOLE or MEAN:
            f = tl.load(
                f_ptr + offs_d[:, None].to(tl.int64) * plane + offs_p[None, :].to(tl.int64) * cell_stride,
                mask=(offs_d < depth)[:, None] & cells[None, :], other=0.0,
            )  # fmt: skip
        if WHOLE:
            c = _product(h, f, tl.zeros((BLOCK_N, BLOCK_P), tl.float32), WIDE)
        else:
            c = _logits(
                h_ptr, f_ptr, rows, cells, offs_n, offs_p, depth, plane, cell_stride,
                BLOCK_K, False, BLOCK_N, BLOCK_P, WIDE,
            )  # fmt: skip
        c = tl.where(cells[None, :], c, float("-inf"))
        raised = tl.maximum(peak, tl.max(c, 1))
        # The last share may begin beyond the last cell: nothing is seen, and nothing may become NaN.
        shift = tl.where(raised == float("-inf"), 0.0, raised)
        factor = tl.exp2((peak - shift) * scale)
        e = tl.exp2((c - shift[:, None]) * scale)
        total = total * factor + tl.sum(e, 1)
        if MEAN:
            mean *= factor[:, None]
            mean = _product(e * P_SCALE, tl.trans(f), mean, WIDE)
        peak = raised
    at = (item_index * tl.num_programs(1) + share) * count + offs_n
    if first_d == 0:
        tl.store(peak_ptr + at, peak, mask=offs_n < count)
        tl.store(sum_ptr + at, total, mask=offs_n < count)
    if MEAN:
        tl.store(
            mean_ptr + at[:, None] * depth + offs_d[None, :], mean,
            mask=(offs_n < count)[:, None] & (offs_d < depth)[None, :],
        )  # fmt: skip


@triton.jit
def finish_points(
    h_ptr, f_ptr, target_ptr, num_valid_ptr, peak_ptr, sum_ptr, mean_ptr,
    loss_ptr, statistics_ptr, counted_ptr, by_target_ptr, by_descriptor_ptr,
    count, depth, width, height, item, plane, cell_stride, shares, inverse_temperature, scale, x0, y0,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, MEAN: tl.constexpr, HAS_VALID: tl.constexpr,
    MASK: tl.constexpr, P_SCALE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of points, B): the shares joined, the loss, and its derivatives by target and h."""
    item_index = tl.program_id(1).to(tl.int64)
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = count
    if HAS_VALID:
        valid = tl.load(num_valid_ptr + item_index).to(tl.int32)
    exists = offs_n < count
    rows = offs_n < valid
    at = item_index * count + offs_n
    cell, fx, fy, inside = _taps(target_ptr, at, width, height, x0, y0, rows)
    right = tl.where(width > 1, 1, 0)
    down = tl.where(height > 1, width, 0)
    # The softmax of all shares.
    partial = item_index * shares * count + offs_n
    peak = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    for s in range(shares):
        peak = tl.maximum(peak, tl.load(peak_ptr + partial + s * count, mask=rows, other=0.0))
    total = tl.zeros((BLOCK_N,), tl.float32)
    for s in range(shares):
        of_share = tl.load(peak_ptr + partial + s * count, mask=rows, other=0.0)
        sum_of_share = tl.load(sum_ptr + partial + s * count, mask=rows, other=1.0)
        total += sum_of_share * tl.exp2((of_share - peak) * scale)
    # Features at the target, and the correlations there.
    h_ptr += at[:, None] * depth
    f_ptr += item_index * item
    base = f_ptr + cell[:, None].to(tl.int64) * cell_stride
    c00 = tl.zeros((BLOCK_N,), tl.float32)
    c01 = tl.zeros((BLOCK_N,), tl.float32)
    c10 = tl.zeros((BLOCK_N,), tl.float32)
    c11 = tl.zeros((BLOCK_N,), tl.float32)
    for k in range(0, depth, BLOCK_D):
        offs_d = k + tl.arange(0, BLOCK_D)
        kept = inside[:, None] & (offs_d < depth)[None, :]
        corner = base + offs_d[None, :].to(tl.int64) * plane
        h = tl.load(h_ptr + offs_d[None, :], mask=kept, other=0.0).to(tl.float32)
        f00 = tl.load(corner, mask=kept, other=0.0).to(tl.float32)
        f01 = tl.load(corner + right * cell_stride, mask=kept, other=0.0).to(tl.float32)
        f10 = tl.load(corner + down * cell_stride, mask=kept, other=0.0).to(tl.float32)
        f11 = tl.load(corner + (down + right) * cell_stride, mask=kept, other=0.0).to(tl.float32)
        c00 += tl.sum(h * f00, 1)
        c01 += tl.sum(h * f01, 1)
        c10 += tl.sum(h * f10, 1)
        c11 += tl.sum(h * f11, 1)
        if MEAN:
            mean = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
            for s in range(shares):
                of_share = tl.load(peak_ptr + partial + s * count, mask=rows, other=0.0)
                part = tl.load(
                    mean_ptr + (partial + s * count)[:, None] * depth + offs_d[None, :],
                    mask=kept, other=0.0,
                )  # fmt: skip
                mean += part * tl.exp2((of_share - peak) * scale)[:, None]
            upper = (1 - fx)[:, None] * f00 + fx[:, None] * f01
            lower = (1 - fx)[:, None] * f10 + fx[:, None] * f11
            read = (1 - fy)[:, None] * upper + fy[:, None] * lower
            derivative = (mean / (total * P_SCALE)[:, None] - read) * inverse_temperature
            if MASK:
                derivative = tl.where(inside[:, None], derivative, 0.0)
            else:
                nothing = tl.where(rows, float("nan"), 0.0)
                derivative = tl.where(inside[:, None], derivative, nothing[:, None])
            tl.store(
                by_descriptor_ptr + at[:, None] * depth + offs_d[None, :], derivative,
                mask=exists[:, None] & (offs_d < depth)[None, :],
            )  # fmt: skip
    above = (1 - fy) * ((1 - fx) * (peak - c00) + fx * (peak - c01))
    below = fy * ((1 - fx) * (peak - c10) + fx * (peak - c11))
    log_sum = tl.log(total)
    loss = log_sum + (above + below) * inverse_temperature
    by_x = -((1 - fy) * (c01 - c00) + fy * (c11 - c10)) * inverse_temperature
    by_y = -((1 - fx) * (c10 - c00) + fx * (c11 - c01)) * inverse_temperature
    if MASK:
        outside = tl.zeros((BLOCK_N,), tl.float32)
        tl.store(counted_ptr + at, inside, mask=exists)
    else:
        outside = tl.where(rows, float("nan"), 0.0)
        tl.store(counted_ptr + at, rows, mask=exists)
    tl.store(loss_ptr + at, tl.where(inside, loss, outside), mask=exists)
    tl.store(by_target_ptr + 2 * at, tl.where(inside, by_x, outside), mask=exists)
    tl.store(by_target_ptr + 2 * at + 1, tl.where(inside, by_y, outside), mask=exists)
    tl.store(statistics_ptr + 2 * at, tl.where(rows, peak, 0.0).to(tl.float64), mask=exists)
    tl.store(statistics_ptr + 2 * at + 1, tl.where(rows, log_sum, 0.0).to(tl.float64), mask=exists)


@triton.jit
def feature_gradient(
    weight_ptr, largest_ptr, statistics_ptr, h_ptr, f_ptr, target_ptr, num_valid_ptr, out_ptr,
    count, depth, width, height, n_cells, item, plane, cell_stride, out_item, out_plane, out_cell,
    inverse_temperature, scale, x0, y0,
    BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    WHOLE: tl.constexpr, WIDE: tl.constexpr, HAS_VALID: tl.constexpr, P_SCALE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of cells, blocks of depths, B): dL/dF = sum_n dL/dloss_n / T (C_n - w_n) h_n.

    Works on transposed tiles (cells, points), whose products need no trip through shared memory.
    Weights are taken relative to the largest, so that float16 operands do not underflow.
    """
    item_index = tl.program_id(2).to(tl.int64)
    offs_p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    cells = (
        offs_p < n_cells
    )  # an argument: whether 16 divides it decides how wide memory is accessed
    valid = count
    if HAS_VALID:
        valid = tl.load(num_valid_ptr + item_index).to(tl.int32)
    largest = tl.load(largest_ptr)
    unit = tl.where(largest > 0, largest, 1.0)
    h_ptr += item_index * count * depth
    f_ptr += item_index * item
    if WHOLE:
        f = tl.load(
            f_ptr + offs_d[:, None].to(tl.int64) * plane + offs_p[None, :].to(tl.int64) * cell_stride,
            mask=(offs_d < depth)[:, None] & cells[None, :], other=0.0,
        )  # fmt: skip
        f = tl.trans(f)
    gradient = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    for first in range(0, valid, BLOCK_N):
        offs_n = first + tl.arange(0, BLOCK_N)
        rows = offs_n < valid
        at = item_index * count + offs_n
        cell, fx, fy, inside = _taps(target_ptr, at, width, height, x0, y0, rows)
        h = tl.load(
            h_ptr + offs_n[:, None].to(tl.int64) * depth + offs_d[None, :],
            mask=inside[:, None] & (offs_d < depth)[None, :], other=0.0,
        )  # fmt: skip
        if WHOLE:
            c = _product(f, tl.trans(h), tl.zeros((BLOCK_P, BLOCK_N), tl.float32), WIDE)
        else:
            c = _logits(
                h_ptr, f_ptr, inside, cells, offs_n, offs_p, depth, plane, cell_stride,
                BLOCK_K, True, BLOCK_N, BLOCK_P, WIDE,
            )  # fmt: skip
        peak = tl.load(statistics_ptr + 2 * at, mask=inside, other=0.0).to(tl.float32)
        log_sum = tl.load(statistics_ptr + 2 * at + 1, mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32) / unit * P_SCALE
        probability = tl.exp2((c - peak[None, :]) * scale - (log_sum * 1.4426950408889634)[None, :])
        # Bilinear weights of the targets' cells. A map of one column has no cell to the right: its
        # neighbour in the flat order is the one below, so the rows are asked for first.
        step = offs_p[:, None] - cell[None, :]
        w = tl.where(step == 0, ((1 - fx) * (1 - fy))[None, :], 0.0)
        w = tl.where(step == 1, (fx * (1 - fy))[None, :], w)
        w = tl.where(step == width + 1, (fx * fy)[None, :], w)
        w = tl.where(step == width, ((1 - fx) * fy)[None, :], w)
        share = tl.where(inside[None, :], (probability - w) * weight[None, :], 0.0)
        gradient = _product(share, h, gradient, WIDE)
    gradient *= unit * inverse_temperature / P_SCALE
    tl.store(
        out_ptr + item_index * out_item + offs_p[:, None].to(tl.int64) * out_cell
        + offs_d[None, :].to(tl.int64) * out_plane,
        gradient, mask=cells[:, None] & (offs_d < depth)[None, :],
    )  # fmt: skip
