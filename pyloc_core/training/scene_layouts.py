# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Where things stand in drawn scenes: streets, rooms and open ground, with things near and far.

Metres, z up; the cameras stand near the origin and look along y. Every layout has something close to the
camera and something far, so that one picture holds depths that differ by a factor of twenty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyloc_core.localization.demo_render import Block, Face
from pyloc_core.training.rendered_pairs import box_faces

Array = npt.NDArray[np.float64]
Random = np.random.Generator

_X, _Y, _Z = np.eye(3)
_BLANK = np.zeros((1, 1, 3), np.float32)


@dataclass(frozen=True)
class Layout:
    """Faces without pictures; the eye's height; the usual step between views; what is too close."""

    faces: list[Face]
    height: float
    step: float
    nearest: float


def street(rng: Random, sky: bool) -> Layout:
    """A road between houses, with things on it up to 40 m away and its end at 55 to 90 m."""
    half, length = rng.uniform(4, 8), rng.uniform(55, 90)
    faces = _ground(half + 30, length)
    for side in (-1, 1):
        y = -2.0
        while y < length:
            along, deep = rng.uniform(6, 15), rng.uniform(4, 9)
            x = side * (half + deep / 2 + rng.uniform(0, 2))
            high = rng.uniform(4, 12) if sky else rng.uniform(5, 40)
            faces += _box((x, y + along / 2), (deep, along), high)
            y += along + (rng.uniform(0.5, 4) if rng.random() < 0.4 else 0)
    faces += _end(rng, half + 30, length, sky)
    for _ in range(int(rng.integers(5, 10))):
        at = (rng.uniform(-half, half), rng.uniform(5, 40))
        faces += _thing(rng, at, rng.uniform(0.4, 2.2, 3))
    size = rng.uniform([0.12, 0.12, 0.9], [0.5, 0.5, 2.2])
    faces += _thing(rng, _near(rng, 1.7, 2.3), size)
    return Layout(faces, rng.uniform(1.3, 1.9), 0.55, 1.1)


def ground(rng: Random, sky: bool) -> Layout:
    """Open ground with boxes and leaning boards at all distances."""
    length = rng.uniform(40, 80)
    faces = _ground(80, length) + _end(rng, 80, length, sky)
    for _ in range(int(rng.integers(12, 22))):
        far = float(np.exp(rng.uniform(np.log(3), np.log(0.8 * length))))
        at = (rng.uniform(-0.7, 0.7) * far, far)
        if rng.random() < 0.3:
            faces += _board(rng, at, far)
        else:
            faces += _thing(rng, at, rng.uniform(0.15, 0.7, 3) * far**0.8)
    faces += _thing(rng, _near(rng, 1.3, 1.9), rng.uniform([0.1, 0.1, 0.8], [0.5, 0.5, 1.8]))
    return Layout(faces, rng.uniform(0.9, 2.0), 0.4, 0.8)


def room(rng: Random, sky: bool) -> Layout:
    """Four walls and a ceiling (open with `sky`), furniture, and something within reach."""
    half, length, high = rng.uniform(2.5, 4), rng.uniform(8, 11), rng.uniform(2.5, 3.2)
    wide, deep, up = 2 * half * _X, (length + 2) * _Y, high * _Z
    corner = np.array([-half, length, 0.0])
    faces = [
        Face(corner, wide, -deep, _BLANK),
        Face(corner + up, wide, -up, _BLANK),
        Face(corner + up - deep, deep, -up, _BLANK),
        Face(corner + up + wide, -deep, -up, _BLANK),
    ]
    if not sky:
        faces.append(Face(corner - deep + up, wide, deep, _BLANK))
    for _ in range(int(rng.integers(6, 12))):
        at = (rng.uniform(-half, half), rng.uniform(1.8, length))
        base = float(rng.choice([0.0, 0.0, rng.uniform(0.5, 1.6)]))
        faces += _thing(rng, at, rng.uniform(0.2, 1.1, 3), base)
    for _ in range(int(rng.integers(0, 3))):
        faces += _board(rng, (rng.uniform(-half, half), rng.uniform(2, length)), 2.0)
    eye = rng.uniform(1.2, 1.7)
    near, high = _near(rng, 0.38, 0.42), rng.uniform(0.1, 0.35)
    faces += _thing(rng, near, rng.uniform([0.03, 0.03, high], [0.12, 0.12, high]), eye - high)
    return Layout(faces, eye, 0.1, 0.22)


LAYOUTS: dict[str, Callable[[Random, bool], Layout]] = {
    "street": street,
    "ground": ground,
    "room": room,
}


def _ground(half: float, length: float) -> list[Face]:
    """A strip near the camera, whose texture is finer, and the rest."""
    split = 14.0
    near = Face(np.array([-10.0, split, 0.0]), 20 * _X, -(split + 2) * _Y, _BLANK)
    far = Face(np.array([-half, length, 0.0]), 2 * half * _X, -(length - split) * _Y, _BLANK)
    sides = [
        Face(np.array([x, split, 0.0]), (half - 10) * _X, -(split + 2) * _Y, _BLANK)
        for x in (-half, 10.0)
    ]
    return [near, far, *sides]


def _end(rng: Random, half: float, length: float, sky: bool) -> list[Face]:
    """The far wall; without sky it and two side walls are higher than any picture sees."""
    high = rng.uniform(3, 15) if sky else 120.0
    corner, up = np.array([-half, length, high]), -high * _Z
    walls = [Face(corner, 2 * half * _X, up, _BLANK)]
    if not sky:
        walls.append(Face(corner - (length + 2) * _Y, (length + 2) * _Y, up, _BLANK))
        walls.append(Face(corner + 2 * half * _X, -(length + 2) * _Y, up, _BLANK))
    return walls


def _near(rng: Random, low: float, high: float) -> tuple[float, float]:
    """A place to the left or right of the middle of the picture."""
    y = rng.uniform(low, high)
    return float(rng.choice([-1, 1]) * y * rng.uniform(0.15, 0.4)), float(y)


def _thing(rng: Random, at: tuple[float, float], size: Array, base: float = 0.0) -> list[Face]:
    return _box(at, (float(size[0]), float(size[1])), float(size[2]), rng.uniform(-45, 45), base)


def _box(
    at: tuple[float, float],
    size: tuple[float, float],
    high: float,
    yaw: float = 0.0,
    base: float = 0.0,
) -> list[Face]:
    block = Block((float(at[0]), float(at[1])), size, high, yaw, (), base)
    return box_faces(block, lambda: _BLANK)


def _board(rng: Random, at: tuple[float, float], far: float) -> list[Face]:
    """A leaning rectangle with two sides."""
    a, b, c = rng.normal(0, [0.4, 0.5, 0.3])
    right = np.array([np.cos(a) * np.cos(c), np.sin(a) * np.cos(c), np.sin(c)])
    down = np.array([0.0, np.sin(b), -np.cos(b)])
    down -= (down @ right) * right
    down /= np.linalg.norm(down)
    size = rng.uniform(0.2, 0.5, 2) * far**0.8
    corner = np.array([*at, 0.0]) - size[0] / 2 * right - size[1] * down
    across, drop = size[0] * right, size[1] * down
    return [Face(corner, across, drop, _BLANK), Face(corner + across, -across, drop, _BLANK)]
