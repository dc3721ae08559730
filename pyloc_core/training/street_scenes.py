# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A drawn city for place recognition: streets of alike houses, driven along more than once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.training.photometric import taken
from pyloc_core.training.pictures import PictureArrays, PictureTable
from pyloc_core.training.textures import surface

cv2 = require("cv2", "training")

Random = np.random.Generator
Gray = npt.NDArray[np.float32]
_METRES_APART = 1000.0  # of two streets
_BORDER = 1.5  # picture heights of wall beyond the first and the last position


@dataclass(frozen=True)
class StreetScenes:
    """Streets along the east axis, each a wall of houses that a camera passes and looks at sideways.

    The houses of a street are of few kinds with small differences, so that its places look alike, and
    pictures nearer than `size / pixels_per_metre` metres overlap.

    Attributes:
        streets: how many; `length` of each in metres.
        size: side of the square pictures in pixels.
        pixels_per_metre: of the wall, in pictures without zoom.
        kinds: of houses in a street.
        strength: of light, lens and noise; see `taken`. `turn`, `zoom` and `offset` (in metres) of the view.
        seed: of the city. Pictures have seeds of their own.
    """

    streets: int = 40
    length: float = 200.0
    size: int = 64
    pixels_per_metre: float = 1.0
    kinds: int = 4
    strength: float = 0.8
    turn: float = 6.0
    zoom: float = 0.12
    offset: float = 2.0
    seed: int = 0

    def places(self, images: int = 6, spacing: float = 100.0, seed: int = 0) -> PictureTable:
        """Sparse places, as of GSV-Cities: spots `spacing` metres apart, with pictures within 5 m."""
        rng = np.random.default_rng([self.seed, 1, seed])
        spots = np.arange(spacing / 4, self.length, spacing)
        street = np.repeat(np.arange(self.streets), len(spots) * images)
        east = np.tile(np.repeat(spots, images), self.streets)
        east = east + rng.uniform(-5, 5, len(east))
        return self._table(rng, street, east, np.repeat(np.arange(len(east) // images), images), 1)

    def drives(
        self, spacing: float = 5.0, passes: int = 2, seed: int = 0, *, roles: bool = False
    ) -> PictureTable:
        """Dense sequences: every street passed `passes` times with a picture every `spacing` metres.

        With `roles` the last pass asks and the others are the database.
        """
        rng = np.random.default_rng([self.seed, 2, seed])
        stops = np.arange(0, self.length, spacing)
        street = np.repeat(np.arange(self.streets), len(stops) * passes)
        east = np.tile(stops, self.streets * passes)
        east = east + rng.uniform(-0.3, 0.3, len(east)) * spacing
        sequence = np.repeat(np.arange(self.streets * passes), len(stops))
        table = self._table(rng, street, east, None, len(stops))
        query = sequence % passes == passes - 1 if roles else None
        return PictureTable(
            table.pictures, positions=table.positions, sequences=sequence, query=query
        )

    def _table(
        self,
        rng: Random,
        street: npt.NDArray[np.int64],
        east: npt.NDArray[np.float64],
        place: npt.NDArray[np.int64] | None,
        run: int,
    ) -> PictureTable:
        """Pictures at places; `run` of them in a row share the light."""
        walls = [self._wall(number) for number in range(self.streets)]
        pixels = np.empty((len(street), self.size, self.size, 3), np.uint8)
        tint, light = np.ones(3), 0
        for index in range(len(street)):
            if index % run == 0:
                tint, light = np.exp(rng.normal(0, 0.15, 3)), int(rng.integers(2**31))
            pixels[index] = self._picture(rng, walls[street[index]], east[index], tint, light)
        positions = np.stack([east, street * _METRES_APART], 1)
        return PictureTable(PictureArrays(pixels), place, positions)

    def _wall(self, number: int) -> Gray:
        """(H, L) grey values of a street's houses."""
        rng = np.random.default_rng([self.seed, 0, number])
        height = int(1.5 * self.size)
        houses = [surface(rng, height, ()) for _ in range(self.kinds)]
        width = int(self.length * self.pixels_per_metre + 2 * _BORDER * self.size)
        parts: list[Gray] = []
        while sum(p.shape[1] for p in parts) < width:
            house = houses[int(rng.integers(self.kinds))].copy()
            for _ in range(3):  # a door, a sign: what tells one house from the next of its kind
                y, x = rng.integers(0, height - 12, 2)
                h, w = rng.integers(6, 12 + self.size // 8, 2)
                house[y : y + h, x : x + w] = rng.uniform(0, 255)
            parts.append(np.clip(house * rng.uniform(0.85, 1.15), 0, 255)[:, : rng.integers(
                height // 2, height + 1)])  # fmt: skip
        return np.ascontiguousarray(np.concatenate(parts, axis=1)[:, :width])

    def _picture(
        self, rng: Random, wall: Gray, east: float, tint: npt.NDArray[np.float64], light: int
    ) -> npt.NDArray[np.uint8]:
        """(size, size, 3): the wall at a place, with a view of its own."""
        s = self.size
        at = [
            east * self.pixels_per_metre + _BORDER * s + self.pixels_per_metre * rng.normal(0, self.offset),
            wall.shape[0] / 2 + 0.06 * s * rng.normal(),
        ]  # fmt: skip
        turn, zoom = np.radians(rng.normal(0, self.turn)), np.exp(rng.normal(0, self.zoom))
        c, si = zoom * np.cos(turn), zoom * np.sin(turn)
        lean = rng.normal(0, 0.1, 2) / s
        wall_from_picture = np.array([[c, -si, 0], [si, c, 0], [*lean, 1.0]])
        centre = np.array([[1, 0, -s / 2], [0, 1, -s / 2], [0, 0, 1.0]])
        to = np.array([[1, 0, at[0]], [0, 1, at[1]], [0, 0, 1.0]])
        scene = cv2.warpPerspective(
            wall, to @ wall_from_picture @ centre, (s, s),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT,
        )  # fmt: skip
        for _ in range(int(rng.integers(0, 3))):  # cars and people in front
            x, w = rng.uniform(-0.2, 1) * s, rng.uniform(0.1, 0.3) * s
            top = rng.uniform(0.55, 0.85) * s
            cv2.rectangle(
                scene, (int(x), int(top)), (int(x + w), s), float(rng.uniform(0, 255)), -1
            )
        # The light of a pass stays, grain and blur do not: the generator starts anew for every picture.
        gray = taken(np.random.default_rng([light, int(rng.integers(3))]), scene, self.strength)
        return np.clip(gray[:, :, None] * tint, 0, 255).astype(np.uint8)
