# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Surfaces to look at: drawn patterns, and photos that their makers gave to everybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.localization.images import read_gray

cv2 = require("cv2", "training")

Gray = npt.NDArray[np.float32]
Random = np.random.Generator

# Pictures inside scikit-image's wheel whose documentation there states CC0 or the public domain.
PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
# Kept for the held-out pairs.
HELD_OUT_PHOTOS = ("camera.png", "chelsea.png", "gravel.png")
TRAINING_PHOTOS = tuple(name for name in PHOTOS if name not in HELD_OUT_PHOTOS)
_LETTERS = "ABCDEFGHKLMNPRSTUVXYZabdefghkmnpqrstuy0123456789&%#?"


@cache
def photo(name: str) -> Gray:
    """(H, W) grey values in [0, 255] of a picture that scikit-image ships; never fetches one."""
    skimage = require("skimage", "training on photos")
    return read_gray(Path(skimage.__file__).parent / "data" / name).astype(np.float32)


def surface(rng: Random, side: int, photos: Sequence[str] = TRAINING_PHOTOS) -> Gray:
    """(side, side) grey values in [0, 255]: a photo, a drawn pattern, or pieces of both.

    `photos` names those of `PHOTOS` that take part.
    """
    kind = rng.random()
    if photos and kind < 0.45:
        return _from_photo(rng, side, photos)
    base = _drawn(rng, side)
    if kind > 0.8:
        for _ in range(int(rng.integers(2, 7))):
            half = side // 2
            piece = _from_photo(rng, half, photos) if photos else _drawn(rng, half)
            _paste(rng, base, piece)
    return base


def _drawn(rng: Random, side: int) -> Gray:
    return _PATTERNS[int(rng.integers(len(_PATTERNS)))](rng, side)


def _from_photo(rng: Random, side: int, photos: Sequence[str]) -> Gray:
    """A random part of a photo, turned by quarters, mirrored, at 0.6 to 1.5 times its size."""
    image = photo(photos[int(rng.integers(len(photos)))])
    part = min(int(side / rng.uniform(0.6, 1.5)), *image.shape)
    y, x = (int(rng.integers(s - part + 1)) for s in image.shape)
    piece = np.rot90(image[y : y + part, x : x + part], int(rng.integers(4)))
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    how = cv2.INTER_AREA if part > side else cv2.INTER_CUBIC
    return _clip(cv2.resize(np.ascontiguousarray(piece), (side, side), interpolation=how))


def _paste(rng: Random, base: Gray, piece: Gray) -> None:
    """A piece cut out along a random polygon, in place."""
    side, small = base.shape[0], piece.shape[0]
    y, x = (int(v) for v in rng.integers(0, side - small, 2))
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
    radius = rng.uniform(0.25, 0.5, len(angles)) * small
    corners = small / 2 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    mask = np.zeros((small, small), np.uint8)
    cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
    np.copyto(base[y : y + small, x : x + small], piece, where=mask > 0)


def noise(rng: Random, side: int) -> Gray:
    """Value noise over octaves, with a spectrum between cloudy and grainy."""
    out = np.zeros((side, side), np.float32)
    fall = rng.uniform(0.45, 0.85)
    for octave in range(8):
        cells = 3 * 2**octave
        if cells > side:
            break
        values = rng.standard_normal((cells, cells), dtype=np.float32)
        out += fall**octave * cv2.resize(values, (side, side), interpolation=cv2.INTER_CUBIC)
    return _spread(rng, out)


def shapes(rng: Random, side: int) -> Gray:
    """Discs, polygons and lines on a gradient, drawn with smooth edges."""
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    out = 255 * (rng.uniform(0, 0.5) * ramp + rng.uniform(0, 0.5) * ramp[:, None])
    for _ in range(int(rng.integers(30, 160))):
        colour = float(rng.uniform(0, 255))
        at = rng.uniform(0, side, 2)
        size = side * 0.15 * rng.random() ** 2 + 2
        what = rng.integers(4)
        if what == 0:
            cv2.circle(out, _fixed(at), int(size * 16), colour, -1, cv2.LINE_AA, 4)
        elif what == 1:
            axes = (int(size), int(size * rng.uniform(0.2, 1)))
            cv2.ellipse(
                out, (int(at[0]), int(at[1])), axes, rng.uniform(0, 180), 0, 360, colour, -1
            )
        elif what == 2:
            end = at + rng.normal(0, 3 * size, 2)
            cv2.line(out, _fixed(at), _fixed(end), colour, int(rng.integers(1, 5)), cv2.LINE_AA, 4)
        else:
            corners = at + rng.normal(0, size, (int(rng.integers(3, 6)), 2))
            cv2.fillPoly(out, [np.int32(corners * 16)], colour, cv2.LINE_AA, 4)
    return _clip(cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 0.9)) + _grain(rng, side))


def writing(rng: Random, side: int) -> Gray:
    """Lines of random letters in several sizes."""
    paper, ink = float(rng.uniform(120, 250)), float(rng.uniform(0, 100))
    if rng.random() < 0.3:
        paper, ink = ink, paper
    out = np.full((side, side), int(paper), np.uint8)  # OpenCV 5 writes on 8 bits only
    y = 0.0
    while y < side:
        size = float(rng.uniform(0.35, 1.8))
        y += 32 * size
        letters = rng.choice(list(_LETTERS), int(side / (14 * size)) + 2)
        start = (int(rng.uniform(-30, 10)), int(y))
        thick = max(1, round(2 * size))
        line, font = "".join(letters), int(rng.integers(8))
        cv2.putText(out, line, start, font, size, int(ink), thick, cv2.LINE_AA)
    return _clip(out + _grain(rng, side))


def masonry(rng: Random, side: int) -> Gray:
    """Courses of stones with joints, each stone with its own tone and grain: windows, too."""
    height, width = rng.uniform(14, 60), rng.uniform(20, 120)
    tone = float(rng.uniform(90, 200))
    out = np.full((side, side), tone * rng.uniform(0.4, 1.4), np.float32)
    joint = int(rng.integers(1, 4))
    rows = np.arange(0, side + height, height)
    for index, y in enumerate(rows):
        x = -width * (index % 2) / 2 - rng.uniform(0, 5)
        while x < side:
            w = width * rng.uniform(0.6, 1.3)
            colour = tone * rng.uniform(0.7, 1.3)
            low = (int(x) + joint, int(y) + joint)
            cv2.rectangle(out, low, (int(x + w) - joint, int(y + height) - joint), colour, -1)
            if rng.random() < 0.15:
                inner = (int(x + w) - 3 * joint, int(y + height) - 3 * joint)
                cv2.rectangle(out, (low[0] + 3, low[1] + 3), inner, tone * 0.3, -1)
            x += w
    out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.5, 1.0))
    return _clip(out + rng.uniform(0.05, 0.3) * (noise(rng, side) - 128))


def cells(rng: Random, side: int) -> Gray:
    """Distance to scattered points: pebbles, leaves, cracked paint."""
    count = int(rng.integers(40, 1200))
    seeds = np.full((side, side), 255, np.uint8)
    at = rng.integers(0, side, (count, 2))
    seeds[at[:, 0], at[:, 1]] = 0
    distance, label = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    tones = rng.uniform(0, 1, count + 1).astype(np.float32)[label % (count + 1)]
    mixed = (
        rng.uniform(0, 1) * distance / max(float(distance.max()), 1.0) + rng.uniform(0, 1) * tones
    )
    smooth = cv2.GaussianBlur(mixed.astype(np.float32), (0, 0), rng.uniform(0.5, 1.2))
    return _clip(_spread(rng, smooth) + _grain(rng, side))


def _grain(rng: Random, side: int) -> Gray:
    """Fine texture that belongs to the surface, of random strength."""
    grain = rng.standard_normal((side, side), dtype=np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.7, 2.0))
    return np.asarray(grain * rng.uniform(0, 25), np.float32)


def _spread(rng: Random, values: Gray) -> Gray:
    """Any values to a random range of grey."""
    low, high = np.percentile(values[::4, ::4], [1, 99])
    start, end = rng.uniform(0, 80), rng.uniform(150, 255)
    return _clip(start + (end - start) * (values - low) / max(float(high - low), 1e-6))


def _clip(values: npt.NDArray[Any]) -> Gray:
    return np.clip(values, 0, 255).astype(np.float32)


def _fixed(at: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Sixteenths of a pixel, as OpenCV draws them."""
    return int(at[0] * 16), int(at[1] * 16)


_PATTERNS: tuple[Callable[[Random, int], Gray], ...] = (
    noise,
    shapes,
    shapes,
    writing,
    masonry,
    cells,
)
