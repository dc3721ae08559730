# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Histograms of gradient orientations on a 4 x 4 grid: densely, at points, and of patches.

All three evaluate the same sum: gradients of the blurred image, shared linearly between the two
nearest orientations and, by a triangle of half width `bin`, between neighbouring bins of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.localization.features import Float32

GRID = 4  # bins per side
CLIP = 0.2  # share of the norm that one entry may hold (Lowe 2004, section 6.1)
# Width of the Gaussian over the grid, in units of the grid's side (Lowe 2004: half the window).
_GRID_SIGMA = 0.5
_CELLS_AT_ONCE = 8192  # normalised together, so that they stay in the cache


@dataclass(frozen=True)
class SiftLevel:
    """One level: bin width, stride and blur in pixels, orientations, sharpness of the softmax."""

    bin: int
    stride: int
    sigma: float
    orientations: int
    beta: float

    @property
    def channels(self) -> int:
        return GRID * GRID * self.orientations

    @property
    def reach(self) -> int:
        """Pixels from a descriptor's centre to the end of its outermost triangle, rounded up."""
        return (GRID + 1) * self.bin // 2 + 1

    @property
    def margin(self) -> int:
        """Pixels around a patch that only blur and differences read."""
        return int(np.ceil(3 * self.sigma)) + 1


def dense_histograms(image: Float32, level: SiftLevel) -> Float32:
    """(D, h, w) RootSIFT of an image (H, W), h = ceil(H / stride), w = ceil(W / stride)."""
    stride = level.stride
    h, w = (-(-side // stride) for side in image.shape)
    offsets, fraction = _bin_offsets(level, (stride - 1) / 2)
    first, last = int(offsets[0]), int(offsets[-1])
    pad_lo, pad_hi = max(0, -first), last + stride
    kernel = _triangle(level.bin, fraction)
    weights = _grid_weights()
    hist = np.empty((GRID, GRID, level.orientations, h, w), np.float32)
    cv2 = require("cv2", "DenseRootSIFT")
    for o, votes in enumerate(
        _orientation_maps(*_gradients(image, level.sigma), level.orientations)
    ):
        votes = cv2.copyMakeBorder(votes, pad_lo, pad_hi, pad_lo, pad_hi, cv2.BORDER_CONSTANT)
        votes = cv2.sepFilter2D(votes, -1, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
        for i in range(GRID):
            rows = votes[pad_lo + int(offsets[i]) :: stride][:h]
            for j in range(GRID):
                part = rows[:, pad_lo + int(offsets[j]) :: stride][:, :w]
                np.multiply(part, weights[i, j], out=hist[i, j, o])
    out = hist.reshape(level.channels, h * w)
    for start in range(0, h * w, _CELLS_AT_ONCE):
        _root(out[:, start : start + _CELLS_AT_ONCE], 0)
    return out.reshape(level.channels, h, w)


def sampled_histograms(image: Float32, at: npt.NDArray[np.float64], level: SiftLevel) -> Float32:
    """(N, D) RootSIFT at array positions (N, 2) (x, y), (0, 0) the centre of the first pixel."""
    kernel = _triangle(level.bin, 0.0)
    cv2 = require("cv2", "DenseRootSIFT")
    reach = (np.arange(GRID) - (GRID - 1) / 2) * level.bin
    # (N, GRID, GRID): one bilinear sample per bin of the filtered votes.
    x = np.broadcast_to(at[:, None, None, 0] + reach[None, None, :], (len(at), GRID, GRID))
    y = np.broadcast_to(at[:, None, None, 1] + reach[None, :, None], (len(at), GRID, GRID))
    x, y = (np.ascontiguousarray(v, np.float32).reshape(-1, GRID * GRID) for v in (x, y))
    hist = np.empty((len(at), GRID * GRID, level.orientations), np.float32)
    for o, votes in enumerate(
        _orientation_maps(*_gradients(image, level.sigma), level.orientations)
    ):
        votes = cv2.sepFilter2D(votes, -1, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
        hist[:, :, o] = remap(votes, x, y, zero_outside=True)
    hist *= _grid_weights().reshape(1, -1, 1)
    return _root(hist.reshape(len(at), level.channels), 1)


def patch_histograms(patches: Float32, level: SiftLevel) -> Float32:
    """(N, D) RootSIFT of patches (N, S, S), S = 2 (reach + margin) + 1, about their middle pixel."""
    if not len(patches):
        return np.zeros((0, level.channels), np.float32)
    side, m, c = patches.shape[1], level.margin, 2 * level.reach + 1
    blur = _blur_matrix(side, level.sigma)
    smooth = (blur @ patches) @ blur.T
    inner, fore, back = slice(m, m + c), slice(m + 1, m + c + 1), slice(m - 1, m + c - 1)
    gx = 0.5 * (smooth[:, inner, fore] - smooth[:, inner, back])
    gy = 0.5 * (smooth[:, fore, inner] - smooth[:, back, inner])
    flat = (len(patches) * c, c)
    maps = _orientation_maps(gx.reshape(flat), gy.reshape(flat), level.orientations)
    at = np.arange(c) - (c - 1) / 2
    centres = (np.arange(GRID) - (GRID - 1) / 2) * level.bin
    tri = np.maximum(0, 1 - np.abs(at[:, None] - centres) / level.bin).astype(np.float32)
    hist = np.empty((len(patches), GRID, GRID, level.orientations), np.float32)
    for o, votes in enumerate(maps):  # columns, then rows: (N c, c) @ (c, 4), (4, c) @ (N, c, 4)
        hist[..., o] = tri.T @ (votes @ tri).reshape(len(patches), c, GRID)
    hist *= _grid_weights()[..., None]
    return _root(hist.reshape(len(patches), level.channels), 1)


def remap(image: Float32, x: Float32, y: Float32, *, zero_outside: bool = False) -> Float32:
    """Bilinear samples at array positions x, y (R, C) each, rows taken in blocks OpenCV can address."""
    cv2 = require("cv2", "DenseRootSIFT")
    border = cv2.BORDER_CONSTANT if zero_outside else cv2.BORDER_REPLICATE
    out = np.empty(x.shape, np.float32)
    block = 16384  # remap indexes rows and columns with 16 bits
    for start in range(0, len(x), block):
        part = slice(start, start + block)
        out[part] = cv2.remap(image, x[part], y[part], cv2.INTER_LINEAR, borderMode=border)
    return out


def _bin_offsets(level: SiftLevel, base: float) -> tuple[npt.NDArray[np.int64], float]:
    """Whole pixels from a cell's first pixel to its bins' centres, and the fraction they share."""
    centres = (np.arange(GRID) - (GRID - 1) / 2) * level.bin + base
    whole = np.floor(centres).astype(np.int64)
    return whole, float(centres[0] - whole[0])


def _triangle(half_width: int, fraction: float) -> Float32:
    """Taps of a triangle of sum half_width, centred `fraction` of a pixel after the middle tap."""
    radius = half_width + 1
    taps = np.maximum(0.0, 1 - np.abs(np.arange(-radius, radius + 1) - fraction) / half_width)
    return taps.astype(np.float32)


def _gradients(image: Float32, sigma: float) -> tuple[Float32, Float32]:
    """Central differences of the blurred image."""
    cv2 = require("cv2", "DenseRootSIFT")
    smooth = cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0 else image
    row = np.array([[-0.5, 0.0, 0.5]], np.float32)
    border = cv2.BORDER_REPLICATE
    gx = cv2.filter2D(smooth, -1, row, borderType=border)
    return gx, cv2.filter2D(smooth, -1, row.T, borderType=border)


def _orientation_maps(gx: Float32, gy: Float32, orientations: int) -> list[Float32]:
    """Gradient magnitude, shared linearly between the two nearest orientations: one map each."""
    cv2 = require("cv2", "DenseRootSIFT")
    magnitude, angle = cv2.cartToPolar(gx, gy)
    angle *= np.float32(orientations / (2 * np.pi))
    maps = []
    for o in range(orientations):
        away = np.abs(angle - np.float32(o))
        np.minimum(away, np.float32(orientations) - away, out=away)
        np.subtract(np.float32(1), away, out=away)
        np.maximum(away, np.float32(0), out=away)
        away *= magnitude
        maps.append(away)
    return maps


def _grid_weights() -> Float32:
    """(GRID, GRID) Gaussian weight of the bins."""
    at = np.arange(GRID) - (GRID - 1) / 2
    g = np.exp(-(at**2) / (2 * (_GRID_SIGMA * GRID) ** 2))
    return np.outer(g, g).astype(np.float32)


def _blur_matrix(side: int, sigma: float) -> Float32:
    """(side, side) Gaussian blur of a row, normalised inside it."""
    if sigma <= 0:
        return np.eye(side, dtype=np.float32)
    at = np.arange(side)
    blur = np.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
    return (blur / blur.sum(1, keepdims=True)).astype(np.float32)


def _root(hist: Float32, axis: int) -> Float32:
    """RootSIFT in place along an axis: clip against the L2 norm, L1-normalise, square root.

    A patch without gradients has no direction: it becomes zero, similar to nothing.
    """
    norm = np.sqrt((hist * hist).sum(axis, keepdims=True))
    np.minimum(hist, np.float32(CLIP) * norm, out=hist)
    total = hist.sum(axis, keepdims=True)
    hist *= np.where(total > 1e-6, 1 / np.maximum(total, np.float32(1e-6)), np.float32(0))
    return np.sqrt(hist, out=hist)
