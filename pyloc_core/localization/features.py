# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What a descriptor hands to the localizer, so that networks plug in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import CAMERA_MODELS, Camera
from pyloc_core.geometry import Size, check_size, image_from_map, map_from_image

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """One level of dense features.

    Attributes:
        values: (D, H, W) float32 or float16; the correlation of two descriptors is their dot product.
        covers: (height, width) in image pixels that the H x W cells cover, from `corner` on. It exceeds
            the image where the last cells hang over its border; cell [row, col] is centred at image
            point ((col + 0.5) width / W, (row + 0.5) height / H) + corner.
        corner: image point (x, y) where cell [0, 0] begins, the image's own corner by default. A network
            of stride s whose cell i sees around pixel i s begins at -(s - 1) / 2.
    """

    values: Any
    covers: Size
    corner: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        shape = getattr(self.values, "shape", ())
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"features must be (D, H, W) and not empty, got shape {tuple(shape)}")
        object.__setattr__(self, "covers", check_size(self.covers, "covers"))
        x, y = (float(v) for v in self.corner)
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"corner must be finite, got {self.corner}")
        object.__setattr__(self, "corner", (x, y))

    @property
    def size(self) -> Size:
        """(H, W) in cells."""
        return int(self.values.shape[1]), int(self.values.shape[2])

    @property
    def stride(self) -> float:
        """Image pixels per cell, along x."""
        return self.covers[1] / self.size[1]

    def camera(self, camera: Camera) -> Camera:
        """The camera over the pixels that the cells cover: what the pose operators take."""
        params = camera.params
        if any(self.corner):
            shift = dict(zip(("cx", "cy"), self.corner))
            names = CAMERA_MODELS[camera.model]
            params = tuple(v - shift.get(name, 0.0) for name, v in zip(names, params))
        return Camera(camera.model, self.covers[1], self.covers[0], params)

    def cells(self, xy: Any) -> npt.NDArray[np.float64]:
        """Image pixels (N, 2) to cells (N, 2)."""
        at = np.asarray(xy, np.float64) - self.corner
        return np.asarray(map_from_image(at, self.covers, self.size))

    def pixels(self, cells: Any) -> npt.NDArray[np.float64]:
        """Cells (N, 2) to image pixels (N, 2)."""
        at = image_from_map(np.asarray(cells, np.float64), self.covers, self.size)
        return np.asarray(at + np.array(self.corner))


@runtime_checkable
class Descriptor(Protocol):
    """Any object that describes images densely and at given points.

    `dense` returns one level, or two: coarse (matched over the whole image) and fine (matched in
    windows). `describe` returns the descriptors of points for the same levels. Both give vectors whose
    dot product is the similarity; `beta` holds the sharpness of the softmax per level, so that
    `exp(beta * similarity)` is proportional to a probability.

    An object that also has `describe_warped(image, xy, affine) -> (N, D)`, for the finest level, lets
    the localizer describe reference patches as the query would see them. One with `in_colour = True`
    is given the reference images of a model as RGB and not as luma.
    """

    beta: Sequence[float]

    def dense(self, image: npt.NDArray[Any]) -> Sequence[Features]:
        """Levels of features of an image (H, W) or (H, W, 3), uint8."""

    def describe(
        self, image: npt.NDArray[Any], xy: npt.NDArray[Any], scales: Sequence[float]
    ) -> Sequence[Float32]:
        """Per level (N, S, D) for points (N, 2) in image pixels, as if the image were shrunk by each
        of S scales (1.4: the surroundings seen from 1.4 times as far)."""

    def to_dict(self) -> dict[str, Any]:
        """Name and parameters, to tell whether a saved map was built with an equal descriptor."""


@runtime_checkable
class GlobalDescriptor(Protocol):
    """Any object that describes an image as a whole, so that inner products of the unit vectors tell
    which images show the same place. One with `in_colour = False` is given luma instead of RGB."""

    def global_descriptor(self, image: npt.NDArray[Any]) -> Any:
        """(D,) of an image (H, W) or (H, W, 3), uint8."""

    def to_dict(self) -> dict[str, Any]:
        """Name and parameters, to tell whether a saved map was built with an equal object."""
