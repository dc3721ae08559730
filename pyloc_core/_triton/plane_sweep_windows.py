# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""Which reference cells can fall within one cell of a source cell, for a plane that is a homography H.

They lie in a window around H^-1 (i, j, 1), of one size for a tile of source cells. Its half extents are the
largest derivatives of H^-1 over the tile, times one cell and what float32 can move a projection by, plus what
float32 can move the centre by: all found in float64, for every view, plane and tile. A tile all of whose
preimage is behind the source or off the reference map has no window. One that the horizon of the plane crosses
(its preimage has no end), or whose H hardly has an inverse, has the whole reference map.
"""

from __future__ import annotations

import triton
import triton.language as tl

TILE = (8, 16)  # rows and columns of source cells that a program owns


@triton.jit
def _largest(a, b, c, d):
    return tl.maximum(tl.maximum(a, b), tl.maximum(c, d))


@triton.jit
def _smallest(a, b, c, d):
    return tl.minimum(tl.minimum(a, b), tl.minimum(c, d))


@triton.jit
def _wide_row(row, inverse):
    """A row of H in float64, and the sum of magnitudes that its last entry is made of."""
    a = tl.load(row).to(tl.float64)
    b = tl.load(row + 1).to(tl.float64)
    c = tl.load(row + 2).to(tl.float64)
    m = tl.load(row + 3).to(tl.float64) * inverse
    return a, b, c + m, tl.abs(c) + tl.abs(m)


@triton.jit
def _bend(k0, k1, low, high):
    """Largest |k0 + k1 t| for t within low and high."""
    return tl.maximum(tl.abs(k0 + k1 * low), tl.abs(k0 + k1 * high))


@triton.jit
def plan_kernel(
    projection, depths, inverses, counts, halves, programs, views, planes, tiles, tiles_x, height,
    width, TILE_Y: tl.constexpr, TILE_X: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Windows of every (view, plane, tile): counts (maps, D, tiles, 2) of cells across and down, 0 for none,
    and halves (.., 2) of their extents; inverses (maps, D, 9), rows of H^-1 up to a positive factor."""
    map_index = (tl.program_id(0) // programs).to(tl.int64)
    entry = (tl.program_id(0) % programs) * BLOCK + tl.arange(0, BLOCK)
    exists = entry < planes * tiles
    plane = entry // tiles
    tile = entry % tiles
    d = tl.load(depths + (map_index // views) * planes + plane, mask=exists, other=1.0)
    inverse = (1.0 / d).to(tl.float64)
    row = projection + map_index * 12
    a, b, c, c_size = _wide_row(row, inverse)
    e, f, g, g_size = _wide_row(row + 4, inverse)
    p, q, r, r_size = _wide_row(row + 8, inverse)
    # Cofactors of H = [a b c; e f g; p q r].
    x0 = f * r - g * q
    x1 = c * q - b * r
    x2 = b * g - c * f
    y0 = g * p - e * r
    y1 = a * r - c * p
    y2 = c * e - a * g
    z0 = e * q - f * p
    z1 = b * p - a * q
    z2 = a * f - b * e
    det = a * x0 + b * y0 + c * z0
    biggest = _largest(
        _largest(tl.abs(x0), tl.abs(x1), tl.abs(x2), tl.abs(y0)), tl.abs(y1), tl.abs(y2),
        _largest(tl.abs(z0), tl.abs(z1), tl.abs(z2), 1e-300),
    )  # fmt: skip
    s = tl.where(det < 0, -1.0, 1.0) / biggest
    x0, x1, x2, y0, y1, y2, z0, z1, z2 = (
        x0 * s, x1 * s, x2 * s, y0 * s, y1 * s, y2 * s, z0 * s, z1 * s, z2 * s
    )  # fmt: skip
    det = tl.abs(det) / biggest  # q_z of what falls on (i, j) is det / Z(i, j)
    # What float32 can move a projection by: its rounding, relative to the sums of magnitudes.
    span_x = tl.abs(a) * width + tl.abs(b) * height + c_size
    span_y = tl.abs(e) * width + tl.abs(f) * height + g_size
    span_z = tl.abs(p) * width + tl.abs(q) * height + r_size
    low_i = (tile % tiles_x) * TILE_X - 1.0
    low_j = (tile // tiles_x) * TILE_Y - 1.0
    high_i = low_i + (TILE_X + 1.0)
    high_j = low_j + (TILE_Y + 1.0)
    far = tl.maximum(tl.abs(high_i), tl.abs(high_j)) + 1.0
    top_z = z2 + tl.maximum(z0 * low_i, z0 * high_i) + tl.maximum(z1 * low_j, z1 * high_j)
    move = (tl.maximum(span_x, span_y) + far * span_z) * 1e-6 * (top_z / det)
    slack = tl.maximum(move, 0.0) + 0.01
    low_i -= slack
    low_j -= slack
    high_i += slack
    high_j += slack
    z_00 = z0 * low_i + z1 * low_j + z2
    z_01 = z0 * high_i + z1 * low_j + z2
    z_10 = z0 * low_i + z1 * high_j + z2
    z_11 = z0 * high_i + z1 * high_j + z2
    z_low = _smallest(z_00, z_01, z_10, z_11)
    z_high = _largest(z_00, z_01, z_10, z_11)
    z_sum = tl.abs(z0) * far + tl.abs(z1) * far + tl.abs(z2)
    sound = (slack < 4.0) & (z_low > 1e-5 * z_sum) & (det > 1e-12)  # false for NaN
    behind = (z_high < -1e-5 * z_sum) & (det > 1e-12)
    z_low = tl.where(sound, z_low, 1.0)
    # d X/Z / di = (x0 Z - z0 X) / Z^2, whose numerator depends on j alone, and so on.
    square = (1.0 + slack) / (z_low * z_low)
    half_x = square * (
        _bend(x0 * z2 - z0 * x2, x0 * z1 - z0 * x1, low_j, high_j)
        + _bend(x1 * z2 - z1 * x2, x1 * z0 - z1 * x0, low_i, high_i)
    )
    half_y = square * (
        _bend(y0 * z2 - z0 * y2, y0 * z1 - z0 * y1, low_j, high_j)
        + _bend(y1 * z2 - z1 * y2, y1 * z0 - z1 * y0, low_i, high_i)
    )
    # float32 again, of the window's centre, for centres on the map or near it.
    x_sum = tl.abs(x0) * far + tl.abs(x1) * far + tl.abs(x2)
    y_sum = tl.abs(y0) * far + tl.abs(y1) * far + tl.abs(y2)
    half_x += 1e-6 * (x_sum + 2.0 * width * z_sum) / z_low + 1e-3
    half_y += 1e-6 * (y_sum + 2.0 * height * z_sum) / z_low + 1e-3
    # Where the whole tile comes from: the corners, since it is in front.
    u_00 = (x0 * low_i + x1 * low_j + x2) / z_00
    u_01 = (x0 * high_i + x1 * low_j + x2) / z_01
    u_10 = (x0 * low_i + x1 * high_j + x2) / z_10
    u_11 = (x0 * high_i + x1 * high_j + x2) / z_11
    v_00 = (y0 * low_i + y1 * low_j + y2) / z_00
    v_01 = (y0 * high_i + y1 * low_j + y2) / z_01
    v_10 = (y0 * low_i + y1 * high_j + y2) / z_10
    v_11 = (y0 * high_i + y1 * high_j + y2) / z_11
    off = (_largest(u_00, u_01, u_10, u_11) < -0.5) | (_largest(v_00, v_01, v_10, v_11) < -0.5)
    off |= _smallest(u_00, u_01, u_10, u_11) > width - 0.5
    off |= _smallest(v_00, v_01, v_10, v_11) > height - 0.5
    nothing = behind | (sound & off)
    across = tl.where(sound & (half_x < width), half_x, 1.0 * width)
    down = tl.where(sound & (half_y < height), half_y, 1.0 * height)
    n_x = tl.minimum((2.0 * across).to(tl.int32) + 1, width)
    n_y = tl.minimum((2.0 * down).to(tl.int32) + 1, height)
    at = (map_index * planes * tiles + entry) * 2
    tl.store(counts + at, tl.where(nothing, 0, n_x), mask=exists)
    tl.store(counts + at + 1, tl.where(nothing, 0, n_y), mask=exists)
    tl.store(halves + at, across.to(tl.float32), mask=exists)
    tl.store(halves + at + 1, down.to(tl.float32), mask=exists)
    first = exists & (tile == 0)
    at = inverses + (map_index * planes + plane) * 9
    tl.store(at, x0.to(tl.float32), mask=first)
    tl.store(at + 1, x1.to(tl.float32), mask=first)
    tl.store(at + 2, x2.to(tl.float32), mask=first)
    tl.store(at + 3, y0.to(tl.float32), mask=first)
    tl.store(at + 4, y1.to(tl.float32), mask=first)
    tl.store(at + 5, y2.to(tl.float32), mask=first)
    tl.store(at + 6, z0.to(tl.float32), mask=first)
    tl.store(at + 7, z1.to(tl.float32), mask=first)
    tl.store(at + 8, z2.to(tl.float32), mask=first)


@triton.jit
def first_of_window(centre, half, count, size):
    """First of `count` cells that hold every integer within `half` of the centre."""
    low = centre - half
    low = tl.where((low > -1e6) & (low < 1e6), low, -1e6)  # NaN, too
    return tl.where(count >= size, 0, tl.ceil(low).to(tl.int32))
