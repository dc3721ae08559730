# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Random changes of pictures with Pillow, after RandAugment (Cubuk et al. 2020).

Each picture goes through a few operations that are drawn uniformly, all with one strength. The operations
and the ranges of their parameters are those of the paper's table (Cubuk et al. 2019, AutoAugment, Table 6):
shear to 0.3, shift to 0.45 of the side, turn to 30 degrees, factors to 0.1 and 1.9, 4 to 8 bits, thresholds
from 256 to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyloc_core._extras import require
from pyloc_core.training.options import check_int

Image = require("PIL.Image", "training")
ImageEnhance = require("PIL.ImageEnhance", "training")
ImageOps = require("PIL.ImageOps", "training")

Random = np.random.Generator
_GREY = (128, 128, 128)  # what comes in from outside, where a picture is moved


@dataclass(frozen=True)
class RandomChanges:
    """A few random operations per picture.

    Attributes:
        operations: how many per picture; 0 for none.
        strength: 0 to 1 of the ranges; the recipe of SALAD uses 9 of 30.
    """

    operations: int = 3
    strength: float = 0.3

    def __post_init__(self) -> None:
        check_int("operations", self.operations, 0)
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must lie in [0, 1], got {self.strength!r}")

    def __call__(self, rng: Random, image: Any) -> Any:
        """A changed `PIL.Image` in RGB of the same size; the same generator state changes it alike."""
        for which in rng.integers(len(OPERATIONS), size=self.operations):
            sign = 1.0 if rng.random() < 0.5 else -1.0
            image = OPERATIONS[int(which)](image, self.strength, sign)
        return image


def _moved(image: Any, coefficients: tuple[float, ...]) -> Any:
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        coefficients,
        resample=Image.Resampling.BILINEAR,
        fillcolor=_GREY,
    )


def _same(image: Any, strength: float, sign: float) -> Any:
    return image


def _shear_x(image: Any, strength: float, sign: float) -> Any:
    s = sign * 0.3 * strength
    return _moved(image, (1, s, -s * image.height / 2, 0, 1, 0))


def _shear_y(image: Any, strength: float, sign: float) -> Any:
    s = sign * 0.3 * strength
    return _moved(image, (1, 0, 0, s, 1, -s * image.width / 2))


def _shift_x(image: Any, strength: float, sign: float) -> Any:
    return _moved(image, (1, 0, sign * 0.45 * strength * image.width, 0, 1, 0))


def _shift_y(image: Any, strength: float, sign: float) -> Any:
    return _moved(image, (1, 0, 0, 0, 1, sign * 0.45 * strength * image.height))


def _turn(image: Any, strength: float, sign: float) -> Any:
    return image.rotate(sign * 30 * strength, resample=Image.Resampling.BILINEAR, fillcolor=_GREY)


def _enhance(kind: str) -> Callable[[Any, float, float], Any]:
    def change(image: Any, strength: float, sign: float) -> Any:
        return getattr(ImageEnhance, kind)(image).enhance(1 + sign * 0.9 * strength)

    return change


def _posterize(image: Any, strength: float, sign: float) -> Any:
    return ImageOps.posterize(image, 8 - round(4 * strength))


def _solarize(image: Any, strength: float, sign: float) -> Any:
    return ImageOps.solarize(image, round(256 * (1 - strength)))


def _stretch(image: Any, strength: float, sign: float) -> Any:
    return ImageOps.autocontrast(image)


def _equalize(image: Any, strength: float, sign: float) -> Any:
    return ImageOps.equalize(image)


OPERATIONS: tuple[Callable[[Any, float, float], Any], ...] = (
    _same, _shear_x, _shear_y, _shift_x, _shift_y, _turn,
    _enhance("Brightness"), _enhance("Color"), _enhance("Contrast"), _enhance("Sharpness"),
    _posterize, _solarize, _stretch, _equalize,
)  # fmt: skip
