# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs from one picture: two photos of a plane that a homography relates exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.localization.images import read_gray
from pyloc_core.training.pairs import Array, Pair, Random, corner_points
from pyloc_core.training.photometric import taken
from pyloc_core.training.textures import TRAINING_PHOTOS, surface

cv2 = require("cv2", "training")

Gray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WarpedPairs:
    """Photos of textures under random homographies.

    Attributes:
        size: (H, W) of the photos.
        angle: largest turn, degrees; `log_scale` standard deviation of the logarithm of the scale;
            `perspective` of the corners, in widths.
        slant_error: how wrong the affine maps that come with the points are (standard deviation of
            their entries), as those of a localizer are, which does not know the surface.
        strength: the largest of the photometric changes; see `taken`.
        points: places tried per pair.
        images: files to warp instead of the built-in textures.
        photos: the built-in photos that take part.
    """

    size: tuple[int, int] = (320, 320)
    angle: float = 25.0
    log_scale: float = 0.2
    perspective: float = 0.08
    slant_error: float = 0.1
    strength: float = 1.0
    points: int = 400
    images: tuple[str, ...] = ()
    photos: tuple[str, ...] = TRAINING_PHOTOS

    @classmethod
    def of_images(cls, images: Sequence[str | Path], size: tuple[int, int]) -> WarpedPairs:
        """Pairs of the user's own photos. ValueError when there are none."""
        if not images:
            raise ValueError("images must name at least one file")
        return cls(size=size, images=tuple(str(path) for path in images))

    def pair(self, rng: Random) -> Pair:
        """Both photos are warped from one picture, so neither is sharper by construction."""
        h, w = self.size
        side = int(1.5 * max(h, w))
        picture = self._picture(rng, side)
        middle = np.array([side / 2, side / 2])
        first = self._view(rng, middle, 0.15)
        second = self._view(rng, middle, 1.0)
        scenes = [_photographed(picture, view, (h, w)) for view in (first, second)]
        strength = self.strength * rng.uniform(0.1, 1)
        reference, query = (taken(rng, scene, strength) for scene in scenes)
        reference_from_query = first @ np.linalg.inv(second)
        query_xy = corner_points(rng, query, self.points, 12)
        reference_xy, affine = moved(reference_from_query, query_xy)
        inside = (reference_xy > 12).all(1) & (reference_xy < [w - 12, h - 12]).all(1)
        wrong = np.eye(2) + self.slant_error * rng.standard_normal((len(query_xy), 2, 2))
        return Pair(
            reference, query, reference_xy[inside], query_xy[inside], (affine @ wrong)[inside]
        )

    def _picture(self, rng: Random, side: int) -> Gray:
        if not self.images:
            return surface(rng, side, self.photos)
        image = read_gray(self.images[int(rng.integers(len(self.images)))]).astype(np.float32)
        scale = max(1.0, side / min(image.shape))
        if scale > 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        side = min(side, *image.shape)
        y, x = (int(rng.integers(s - side + 1)) for s in image.shape)
        return np.ascontiguousarray(image[y : y + side, x : x + side])

    def _view(self, rng: Random, middle: Array, share: float) -> Array:
        """(3, 3) photo pixels from picture pixels, with `share` of the largest changes."""
        h, w = self.size
        turn = np.radians(share * rng.uniform(-self.angle, self.angle))
        scale = np.exp(share * rng.normal(0, self.log_scale))
        squeeze = np.exp(share * rng.normal(0, 0.5 * self.log_scale))
        c, s = np.cos(turn), np.sin(turn)
        linear = scale * np.array([[c, -s], [s, c]]) @ np.diag([squeeze, 1 / squeeze])
        lean = np.array([[1, 0, 0], [0, 1, 0], [*share * rng.normal(0, self.perspective, 2), 1.0]])
        lean[2, :2] /= max(h, w)
        centre = np.array([w / 2, h / 2]) + share * rng.uniform(-0.12, 0.12, 2) * [w, h]
        from_middle = np.eye(3)
        from_middle[:2, :2] = linear
        to, back = np.eye(3), np.eye(3)
        to[:2, 2], back[:2, 2] = centre, -middle
        return np.asarray(to @ lean @ from_middle @ back)


def moved(homography: Array, xy: Array) -> tuple[Array, Array]:
    """Points (N, 2) through a homography, and its Jacobians (N, 2, 2) there."""
    mapped = xy @ homography[:, :2].T + homography[:, 2]
    out = mapped[:, :2] / mapped[:, 2:]
    jacobian = (homography[None, :2, :2] - out[:, :, None] * homography[None, 2:, :2]) / mapped[
        :, 2, None, None
    ]
    return out, jacobian


def _photographed(picture: Gray, photo_from_picture: Array, size: tuple[int, int]) -> Gray:
    """The picture through a homography on image points, against aliasing where it shrinks."""
    # OpenCV puts the first pixel's centre at zero, image points at one half.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    shrink = float(np.sqrt(abs(np.linalg.det(photo_from_picture[:2, :2]))))
    if shrink < 0.95:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.5 * np.sqrt(1 / shrink**2 - 0.8))
    return np.asarray(
        cv2.warpPerspective(
            picture, np.linalg.inv(half) @ photo_from_picture @ half, (size[1], size[0]),
            flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT,
        )
    )  # fmt: skip
