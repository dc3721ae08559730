# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Loss maps in windows of a fine feature map on the GPU, without waiting for the device.

One program per window and share of its cells multiplies the window's features with one descriptor, by
the ordinary units: every feature is used once per window, so that the pass is bound by reading N x h x w
x D features (the windows are not gathered in memory). The logits of the windows, 4 bytes per cell, are
kept until the live entries have been chosen from them (map_entries); more than 128 MB of them go in
groups. At N 1000, D 288, 64 x 64 the pass reads 2.4 GB in 16 bits, 0.5 ms at 4.3 TB/s where windows do not
overlap in the caches: the goal of 400 us needs those. Counted, not measured: never run on a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton import map_entries
from pyloc_core._triton.correlation_stream import LOG2E, merge_partials
from pyloc_core._triton.map_entries import GainRule, MapEntries, Softmax

LOGIT_BYTES = 128 << 20
_ROWS = 4
_FAR = tl.constexpr(1e6)  # centres further away see nothing of any map; int32 origins hold them


@triton.jit
def whole_cell(center, PUBLISHED: tl.constexpr):
    """The cell of a coordinate: floor, or towards zero as the published program does; int32."""
    cell = tl.floor(center)
    if PUBLISHED:
        cell = tl.where(center < 0, -tl.floor(-center), cell)
    return cell.to(tl.int32)


@triton.jit
def place_kernel(
    center_ptr, mass_ptr, first_ptr, placed_ptr, log_weight_ptr, flat_ptr, count, height, width,
    window_h, window_w, half_h, half_w, shift, scale, log_cardinality,
    MASS: tl.constexpr, PUBLISHED: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Where the windows lie, (x, y) int32, their ln(mass * scale), -inf where dropped, and flat gains."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = rows < count
    x = tl.load(center_ptr + 2 * rows, mask=live, other=0.0)
    y = tl.load(center_ptr + 2 * rows + 1, mask=live, other=0.0)
    near = (tl.abs(x) < _FAR) & (tl.abs(y) < _FAR)  # NaN is not
    x0 = whole_cell(tl.where(near, x, 0.0), PUBLISHED) - half_w
    y0 = whole_cell(tl.where(near, y, 0.0), PUBLISHED) - half_h
    columns = tl.minimum(x0 + window_w, width) - tl.maximum(x0, 0)
    lines = tl.minimum(y0 + window_h, height) - tl.maximum(y0, 0)
    seen = near & (columns > 0) & (lines > 0)
    cells = columns.to(tl.float32) * lines.to(tl.float32)
    if PUBLISHED:
        cells = tl.zeros((BLOCK_R,), tl.float32) + window_w * window_h
    weight = tl.zeros((BLOCK_R,), tl.float64) + scale
    if MASS:
        weight = weight * tl.load(mass_ptr + rows, mask=live, other=0.0)
    seen = seen & (weight > 0)
    log_weight = tl.log(tl.where(seen, weight, 1.0).to(tl.float32))
    flat = log_cardinality + log_weight - tl.log(tl.where(seen, cells, 1.0))
    tl.store(flat_ptr + rows, tl.where(seen, tl.maximum(flat, 0.0), 0.0), mask=live)
    tl.store(log_weight_ptr + rows, tl.where(seen, log_weight, float("-inf")), mask=live)
    tl.store(first_ptr + 2 * rows, x0, mask=live)
    tl.store(first_ptr + 2 * rows + 1, y0, mask=live)
    tl.store(placed_ptr + 2 * rows, x0 + shift, mask=live)
    tl.store(placed_ptr + 2 * rows + 1, y0 + shift, mask=live)


@triton.jit
def window_kernel(
    h_ptr, f_ptr, first_ptr, log_weight_ptr, logit_ptr, peak_ptr, sum_ptr, count, h_row, h_column,
    f_plane, f_row, f_column, depth, height, width, window_h, window_w, tiles_each, shift, scale,
    PUBLISHED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Logits of one share of one window's cells, -inf where nothing may be stored, and its softmax.

    Grid (windows, shares). PUBLISHED: cells outside the map enter the softmax with logit 0."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    x0 = tl.load(first_ptr + 2 * row)
    y0 = tl.load(first_ptr + 2 * row + 1)
    log_weight = tl.load(log_weight_ptr + row)
    cells_total = window_h * window_w
    peak = tl.full((1,), float("-inf"), tl.float32)
    total = tl.zeros((1,), tl.float32)
    last = tl.minimum((split + 1) * tiles_each, tl.cdiv(cells_total, BLOCK_P))
    for tile in range(split * tiles_each, last):
        at = tile * BLOCK_P + tl.arange(0, BLOCK_P)
        y = y0 + at // window_w
        x = x0 + at % window_w
        in_window = (at < cells_total) & (
            log_weight + tl.zeros((BLOCK_P,), tl.float32) > float("-inf")
        )
        inside = in_window & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        cell = y.to(tl.int64) * f_row + x.to(tl.int64) * f_column
        acc = tl.zeros((BLOCK_P,), tl.float32)
        for first in range(0, depth, BLOCK_D):
            d = first + tl.arange(0, BLOCK_D)
            live = d < depth
            h = tl.load(h_ptr + row * h_row + d * tl.cast(h_column, tl.int64), mask=live, other=0.0)
            plane = d.to(tl.int64) * f_plane
            mask = live[:, None] & inside[None, :]
            f = tl.load(f_ptr + plane[:, None] + cell[None, :], mask=mask, other=0.0)
            acc += tl.sum(f.to(tl.float32) * h.to(tl.float32)[:, None], 0)
        takes_part = in_window if PUBLISHED else inside
        logit = tl.where(takes_part, acc, float("-inf"))
        raised = tl.maximum(peak, tl.max(logit, 0))
        safe = tl.where(raised == float("-inf"), 0.0, raised)
        total = total * tl.exp2(tl.maximum((peak - safe) * scale, -1000.0))
        total += tl.sum(tl.exp2((logit - safe) * scale), 0)
        peak = raised
        stored = takes_part & (y + shift >= 0) & (y + shift < height)
        stored = stored & (x + shift >= 0) & (x + shift < width)
        out = row * cells_total + at
        tl.store(logit_ptr + out, tl.where(stored, acc, float("-inf")), mask=at < cells_total)
    place = split.to(tl.int64) * count + row + tl.arange(0, 1)
    tl.store(peak_ptr + place, peak)
    tl.store(sum_ptr + place, total)


@triton.jit
def join_kernel(
    peak_ptr, sum_ptr, out_peak_ptr, out_log_sum_ptr, count, splits, scale,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Softmax of whole windows from their shares."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = rows < count
    peak, total, _ = merge_partials(
        peak_ptr, sum_ptr, sum_ptr, rows, live, count, splits, scale, False, BLOCK_R, BLOCK_S
    )
    tl.store(out_peak_ptr + rows, peak, mask=live)
    tl.store(out_log_sum_ptr + rows, tl.log(total), mask=live)


class WindowRule(NamedTuple):
    """Of all windows: extent (h, w) in cells and what lies before the centre's cell, displacement of the
    stored entries, factor of the probability, and the published program's edges."""

    window: tuple[int, int]
    half: tuple[int, int]
    shift: int
    factor: float
    published: bool


class LocalMaps(NamedTuple):
    """The entries, `origins` (N, 2) int32 of the windows as stored, and flat_gain (N,) float32."""

    entries: MapEntries
    origins: Tensor
    flat_gain: Tensor


def local_loss_maps(
    descriptors: Tensor,
    features: Tensor,
    centers: Tensor,
    mass: Tensor | None,
    windows: WindowRule,
    temperature: float,
    log_cardinality: float,
    epsilon: float,
    limit: int,
) -> LocalMaps:
    """As `pyloc_core.local_loss_maps`. Descriptors (N, D), features (D, H, W); centers (N, 2) and mass
    (N,) float64; `limit`: entries per map, at most the window's cells. A window that a NaN entered
    gives an empty map."""
    count = descriptors.shape[0]
    rule = GainRule(LOG2E / temperature, log_cardinality, epsilon)

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=descriptors.device)

    first, placed = (new(count, 2, dtype=torch.int32) for _ in range(2))
    log_weight, flat = new(count), new(count)
    if count == 0:
        return LocalMaps(map_entries.empty_entries(descriptors, 0, limit), placed, flat)
    with torch.cuda.device_of(descriptors):
        place_kernel[(triton.cdiv(count, 128),)](
            centers.contiguous(), centers if mass is None else mass.contiguous(), first, placed,
            log_weight, flat, count, *features.shape[1:], *windows.window, *windows.half,
            windows.shift, windows.factor, log_cardinality, MASS=mass is not None,
            PUBLISHED=windows.published, BLOCK_R=128,
        )  # fmt: skip
        staged = map_entries.empty_staging(descriptors, count, limit)
        cells = windows.window[0] * windows.window[1]
        group = max(1, LOGIT_BYTES // (4 * cells))
        for start in range(0, count, group):
            rows = slice(start, min(start + group, count))
            logits, softmax = _multiply(
                descriptors[rows], features, first[rows], log_weight[rows], windows, rule.scale
            )
            map_entries.choose(logits, None, first, softmax, rule, staged.rows(rows))
        entries = map_entries.fill(staged, windows.window[1], placed, ordered=True)
    return LocalMaps(entries, placed, flat)


def _multiply(
    descriptors: Tensor, features: Tensor, first: Tensor, log_weight: Tensor, windows: WindowRule,
    scale: float,
) -> tuple[Tensor, Softmax]:  # fmt: skip
    """Logits (N, h w) of the windows, and their softmax."""
    count, block = descriptors.shape[0], 128
    cells = windows.window[0] * windows.window[1]
    tiles = triton.cdiv(cells, block)
    each = triton.cdiv(
        tiles, min(tiles, max(1, 1024 // count))
    )  # shares only where windows are few
    splits = triton.cdiv(tiles, each)

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=features.device)

    logits, peaks, sums = new(count, cells), new(splits, count), new(splits, count)
    depth = min(64, max(16, triton.next_power_of_2(features.shape[0])))
    window_kernel[(count, splits)](
        descriptors, features, first, log_weight, logits, peaks, sums, count, *descriptors.stride(),
        *features.stride(), *features.shape, *windows.window, each, windows.shift, scale,
        PUBLISHED=windows.published, BLOCK_P=block, BLOCK_D=depth,
    )  # fmt: skip
    peak, log_sum = new(count), new(count)
    join_kernel[(triton.cdiv(count, _ROWS),)](
        peaks, sums, peak, log_sum, count, splits, scale, BLOCK_R=_ROWS,
        BLOCK_S=triton.next_power_of_2(splits),
    )  # fmt: skip
    return logits, Softmax(peak, log_sum, log_weight)
