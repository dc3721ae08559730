# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Coloured surfaces for drawn scenes: a small stock of textures, ready at every level of detail.

Drawing and lighting a texture for every rectangle takes a second per scene. Here a stock is drawn once
per seed, and a rectangle takes parts of it with another tint, so that a scene takes tens of milliseconds.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.localization.demo_render import SUN, Face
from pyloc_core.training.textures import surface

cv2 = require("cv2", "training")

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]
Random = np.random.Generator

SIDE = 256  # texels of one texture
_LEVELS = 6  # 256 down to 8


@cache
def stock(seed: int, count: int, photos: tuple[str, ...]) -> tuple[tuple[Picture, ...], ...]:
    """`count` textures (256, 256, 3) in [0, 1] with their mip levels; the same for the same seed."""
    rng = np.random.default_rng([seed, 0])
    return tuple(_levels(_coloured(rng, surface(rng, SIDE, photos))) for _ in range(count))


def _coloured(rng: Random, grey: Picture) -> Picture:
    """Grey values between two colours of different brightness."""
    dark = rng.uniform(0.02, 0.45) * rng.uniform(0.6, 1.0, 3)
    bright = rng.uniform(0.6, 1.0) * rng.uniform(0.7, 1.0, 3)
    share = grey[..., None] / np.float32(255)
    return np.asarray(dark + share * (bright - dark), np.float32)


def _levels(picture: Picture) -> tuple[Picture, ...]:
    made = [picture]
    while len(made) < _LEVELS:
        half = made[-1].shape[1] // 2, made[-1].shape[0] // 2
        made.append(cv2.resize(made[-1], half, interpolation=cv2.INTER_AREA))
    return tuple(made)


def clothed(
    rng: Random,
    textures: tuple[tuple[Picture, ...], ...],
    face: Face,
    metres: float = 4.0,
    pixel: float = 0.0,
) -> Face:
    """The face with a patchwork of textures of about `metres` each, tinted, shaded by the sun.

    The pyramid of a patchwork is the patchwork of the pyramids, so levels are put together, not computed;
    those finer than `pixel`, the size in metres of the smallest sample on the face, are left out.
    """
    edges = [float(np.linalg.norm(edge)) for edge in (face.edge_v, face.edge_u)]
    count = [int(np.clip(round(edge / metres), 1, 4)) for edge in edges]
    chosen = rng.integers(len(textures), size=count)
    mirrored = np.where(rng.random((*count, 2)) < 0.5, -1, 1)
    shade = 0.6 + 0.4 * max(0.0, float(face.normal @ SUN))
    tint = shade * np.exp(rng.normal(0, 0.25, (*count, 3)))
    texel = min(edge / (SIDE * n) for edge, n in zip(edges, count))
    finest = int(np.clip(np.log2(max(pixel / texel, 1.0)), 0, _LEVELS - 1))
    levels = []
    for level in range(finest, _LEVELS):
        side = SIDE >> level
        made = np.empty((count[0] * side, count[1] * side, 3), np.float32)
        for i, j in np.ndindex(*count):
            part = textures[chosen[i, j]][level][:: mirrored[i, j, 0], :: mirrored[i, j, 1]]
            into = made[i * side : (i + 1) * side, j * side : (j + 1) * side]
            np.multiply(part, tint[i, j].astype(np.float32), out=into)
        levels.append(made)
    return Face(face.corner, face.edge_u, face.edge_v, levels[0], face.block, levels)
