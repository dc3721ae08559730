# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What every reader of depth benchmarks gives: posed images, and a depth map for some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyloc_core.localization.images import read_image

Array = npt.NDArray[np.float64]
DepthMap = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SampleView:
    """An image with its camera, nothing read yet.

    Attributes:
        name: unique within its scene.
        path: of the file.
        K: (3, 3) pinhole intrinsics in image pixels, the first pixel's centre at (0.5, 0.5).
        cam_from_world: (3, 4), metres unless the data set has no unit.
    """

    name: str
    path: Path
    K: Array
    cam_from_world: Array

    def read(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB. ValueError naming the file that is missing or no image."""
        return read_image(self.path)


@dataclass(frozen=True)
class DepthSample:
    """One reference image, its sources, best first, and its true depth.

    Attributes:
        name: unique within the set.
        reference, sources: the views.
        read_depth: reads (H, W) float32, 0 where unknown; of another size than the image in some sets.
        depth_range: (near, far) that the set gives along, or None.
    """

    name: str
    reference: SampleView
    sources: tuple[SampleView, ...]
    read_depth: Callable[[], DepthMap]
    depth_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class DepthSet:
    """Samples of one data set."""

    name: str
    samples: tuple[DepthSample, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[DepthSample]:
        return iter(self.samples)


def from_pixel_centres(K: Array) -> Array:
    """Intrinsics that count from 0 at the first pixel's centre as ones that count from 0.5."""
    shifted = np.array(K[:3, :3], np.float64)
    shifted[:2, 2] += 0.5 * shifted[2, 2]
    return shifted


def existing(path: Path) -> Path:
    """The file. FileNotFoundError that names it."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    return path


def only(pattern: str, folder: Path) -> list[Path]:
    """Files or folders that match, sorted, those with numbers by the number; FileNotFoundError for none."""
    found = sorted(folder.glob(pattern), key=lambda p: (_number(p), p.name))
    if not found:
        raise FileNotFoundError(f"{folder} holds no {pattern}")
    return found


def _number(path: Path) -> int:
    digits = "".join(c for c in path.stem if c.isdigit())
    return int(digits) if digits else -1
