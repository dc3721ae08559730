# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""One sample of the metadata cost volume, for a tile of cells: warped features, metadata, and the perceptron.

A tile's rows are cells of the reference, at one plane and one view. The first layer is a sum of three products:
W_r r of the reference's features, which is the same for all planes and views (`reference_part`); W_s of the
warped features; and W_m of the 14 metadata values and a 1, whose weight is the bias, in a tile of 16 columns.

Products take three TF32 products for float32 features, which restores float32's precision, and one for those
of half precision, whose mantissas are no longer. Sums are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pyloc_core._triton.sweep_tiles import interpolate, project, taps

SLOPE = tl.constexpr(0.01)  # of both LeakyReLUs
META = tl.constexpr(16)  # columns of the metadata tile: 14 values, 1, 0


@triton.jit
def high_part(x):
    """The bits of x that TF32 holds: x minus it is exact."""
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def product(a, b, sums, SPLIT: tl.constexpr):
    """sums + a @ b: as one TF32 product, or split into three of high and low parts. (The compiler's own
    "tf32x3" asks of every entry whether it is finite, which costs more than the products.)"""
    if SPLIT:
        a_high = high_part(a)
        b_high = high_part(b)
        sums = tl.dot(a - a_high, b_high, sums, input_precision="tf32")
        sums = tl.dot(a_high, b - b_high, sums, input_precision="tf32")
        return tl.dot(a_high, b_high, sums, input_precision="tf32")
    return tl.dot(a, b, sums, input_precision="tf32")


@triton.jit
def leaky(x):
    return tl.maximum(x, SLOPE * x)


@triton.jit
def leaky_slope(x):
    return tl.where(x > 0, 1.0, SLOPE)


@triton.jit
def matrix(weights, row, column, rows, columns, stride):
    """weights[row, column] as float32, zeros beyond its ends; `row` and `column` are of two dimensions."""
    mask = (row < rows) & (column < columns)
    return tl.load(weights + row * stride + column, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def meta_weights(w1, b1, channels, h1, H1: tl.constexpr):
    """W_m^T (META, H1), the bias in the row of the constant."""
    stride = 2 * channels + 14
    row = tl.arange(0, META)[:, None]
    h = tl.arange(0, H1)[None, :]
    w = matrix(w1 + 2 * channels, h, row, h1, 14, stride)
    bias = tl.load(b1 + h, mask=h < h1, other=0.0).to(tl.float32)
    return tl.where(row == 14, bias, w)


@triton.jit
def reference_tile(reference, cell, inside, c, DEPTH: tl.constexpr):
    place = reference + (cell * DEPTH)[:, None] + c[None, :]
    return tl.load(place, mask=inside[:, None], other=0.0).to(tl.float32)


@triton.jit
def reference_part(
    reference, w1, cell, inside, channels, h1, ROWS: tl.constexpr, H1: tl.constexpr,
    DEPTH: tl.constexpr, BLOCK_C: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """W_r r (ROWS, H1)."""
    h = tl.arange(0, H1)[None, :]
    sums = tl.zeros([ROWS, H1], tl.float32)
    for first in range(0, DEPTH, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        r = reference_tile(reference, cell, inside, c, DEPTH)
        w = matrix(w1 + channels, h, c[:, None], h1, channels, 2 * channels + 14)
        sums = product(r, w, sums, SPLIT)
    return sums


@triton.jit
def ray_of(rays, x, y):
    """K_r^-1 (x, y, 1)."""
    a = tl.load(rays) * x + (tl.load(rays + 1) * y + tl.load(rays + 2))
    b = tl.load(rays + 3) * x + (tl.load(rays + 4) * y + tl.load(rays + 5))
    c = tl.load(rays + 6) * x + (tl.load(rays + 7) * y + tl.load(rays + 8))
    return a, b, c


@triton.jit
def unit(a, b, c):
    """A vector of length 1; one without length stays 0."""
    square = a * a + b * b + c * c
    scale = tl.where(square > 0, 1.0 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)
    return a * scale, b * scale, c * scale


@triton.jit
def columns_of(
    x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15, ROWS: tl.constexpr
):
    """Sixteen vectors as the columns of a tile, in the registers of the row's thread."""
    a = tl.join(
        tl.join(tl.join(x0, x8), tl.join(x4, x12)), tl.join(tl.join(x2, x10), tl.join(x6, x14))
    )
    b = tl.join(
        tl.join(tl.join(x1, x9), tl.join(x5, x13)), tl.join(tl.join(x3, x11), tl.join(x7, x15))
    )
    return tl.reshape(tl.join(a, b), (ROWS, 16))


@triton.jit
def metadata_tile(
    inner, front, qz, depth, inverse, low, reciprocal_high, ray, centre, pose, ROWS: tl.constexpr
):
    """Channels 2 C to 2 C + 13 in the published order, a 1 and a 0."""
    a, b, c = ray
    zero = tl.zeros([ROWS], tl.float32)
    ua, ub, uc = unit(a, b, c)
    sa, sb, sc = unit(
        a - tl.load(centre) * inverse,
        b - tl.load(centre + 1) * inverse,
        c - tl.load(centre + 2) * inverse,
    )
    cosine = ua * sa + ub * sb + uc * sc
    return columns_of(
        front, (depth * qz - low) * reciprocal_high, zero + (depth - low) * reciprocal_high,
        inner * front, cosine, ua, ub, uc, sa, sb, sc, zero + tl.load(pose), zero + tl.load(pose + 1),
        zero + tl.load(pose + 2), zero + 1.0, zero, ROWS,
    )  # fmt: skip


@triton.jit
def first_layer(
    base, reference, maps, w1, w_source, w_meta, view, centre, pose, ray, cell, inside, x, y, depth,
    inverse, low, reciprocal_high, channels, h1, hs, ws, ROWS: tl.constexpr, H1: tl.constexpr,
    DEPTH: tl.constexpr, BLOCK_C: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """W_1 of a view's samples, their metadata, whether they are in front (0 or 1), and their taps."""
    u, v, qz = project(view, x, y, inverse)
    offset, fx, fy, on_map = taps(u, v, inside, hs, ws, DEPTH)
    sums = base
    inner = tl.zeros([ROWS], tl.float32)
    h = tl.arange(0, H1)[None, :]
    for first in range(0, DEPTH, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        warped = interpolate(maps, offset, fx, fy, ws, c, DEPTH)
        inner += tl.sum(warped * reference_tile(reference, cell, inside, c, DEPTH), 1)
        w = w_source
        if DEPTH != BLOCK_C:
            w = matrix(w1, h, c[:, None], h1, channels, 2 * channels + 14)
        sums = product(warped, w, sums, SPLIT)
    front = (qz > 0).to(tl.float32)
    meta = metadata_tile(
        inner, front, qz, depth, inverse, low, reciprocal_high, ray, centre, pose, ROWS
    )
    return product(meta, w_meta, sums, SPLIT), meta, front, offset, fx, fy, on_map
