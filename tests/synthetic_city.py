# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A made-up city of street-level sequences, for the tests and benchmarks of mining and retrieval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK = 100.0  # metres between parallel streets
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


class City(NamedTuple):
    """positions (F, 2) UTM metres, sequence (F,), city (F,), descriptors (S, D) of unit length."""

    positions: npt.NDArray[np.float64]
    sequence: npt.NDArray[np.int64]
    city: npt.NDArray[np.int64]
    descriptors: npt.NDArray[np.float32]


def drive(rng: np.random.Generator, length: float, spacing: float, blocks: int) -> np.ndarray:
    """(n, 2) frames every `spacing` metres of a drive along the grid of streets, that turns at corners."""
    corners = [rng.integers(0, blocks + 1, 2)]
    way = int(rng.integers(4))
    for _ in range(int(length / BLOCK) + 2):
        ways = [w for w in (way, way, (way + 1) % 4, (way + 3) % 4, (way + 2) % 4)
                if (c := corners[-1] + STEPS[w]).min() >= 0 and c.max() <= blocks]  # fmt: skip
        way = ways[int(rng.integers(len(ways)))]
        corners.append(corners[-1] + STEPS[way])
    along = np.arange(rng.uniform(0, BLOCK), length, spacing) / BLOCK
    block = along.astype(int)
    points = np.array(corners, float)
    return BLOCK * (points[block] + (along - block)[:, None] * (points[block + 1] - points[block]))


def synthetic_city(
    frames: int, *, seed: int = 0, cities: int = 1, dimension: int = 32, blocks: int | None = None
) -> City:
    """At least `frames` frames in `cities` cities of equal size.

    Sequences have 10 to 250 frames (about 60 in the mean, as in MSLS), 2 to 12 m apart, with 2 m of noise
    across the street. Descriptors of sequences that begin near each other are alike.
    """
    rng = np.random.default_rng(seed)
    blocks = blocks or max(int(np.sqrt(frames / cities / 100.0)), 2)
    projection = rng.standard_normal((2, dimension)) / 300.0
    phase = rng.uniform(0, 2 * np.pi, dimension)
    positions, sequence, city, descriptors = [], [], [], []
    for c in range(cities):
        done = 0
        while done * cities < frames:
            spacing = rng.uniform(2.0, 12.0)
            wanted = int(np.clip(rng.lognormal(np.log(45), 0.7), 10, 250))
            points = drive(rng, BLOCK + wanted * spacing, spacing, blocks)
            seen = np.cos(points[len(points) // 2] @ projection + phase)
            seen = seen + 0.5 * rng.standard_normal(dimension)
            points = points + rng.normal(0.0, 2.0, points.shape) + (5.5e5, 4.18e6)
            positions.append(points)
            sequence.append(np.full(len(points), len(sequence)))
            city.append(np.full(len(points), c))
            descriptors.append(seen / np.linalg.norm(seen))
            done += len(points)
    return City(
        np.concatenate(positions),
        np.concatenate(sequence),
        np.concatenate(city),
        np.array(descriptors, np.float32),
    )
