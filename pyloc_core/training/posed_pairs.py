# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs from a posed model: two photos of a COLMAP model and the 3D points that both see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.camera import Camera
from pyloc_core.localization.images import check_image, fit_size
from pyloc_core.localization.map_build import ModelArrays, arrays_of_model
from pyloc_core.localization.patches import affine_between
from pyloc_core.pose import transform_points
from pyloc_core.training.pairs import Array, Pair, Random

cv2 = require("cv2", "training")

_BORDER = 12
_TRIES = 20


@dataclass
class PosedPairs:
    """Two views of a model that share points, each cropped to `size` around some of them.

    Attributes:
        model: points, tracks, cameras, poses and images.
        size: (H, W) of the photos; smaller ones are refused.
        max_size: longer sides are shrunk to it first.
        least: points that two views must share.
    """

    model: ModelArrays
    size: tuple[int, int] = (320, 320)
    max_size: int = 1200
    least: int = 20

    def __post_init__(self) -> None:
        views = len(self.model.cameras)
        seen = np.zeros((views, len(self.model.xyz)), bool)
        point_of = np.repeat(np.arange(len(self.model.xyz)), np.diff(self.model.obs_ptr))
        seen[self.model.obs_view, point_of] = True
        shared = seen.astype(np.float32) @ seen.T.astype(np.float32)
        np.fill_diagonal(shared, 0)
        self._pairs = np.argwhere(shared >= self.least)
        self._seen = seen
        if not len(self._pairs):
            raise ValueError(f"no two images of the model share {self.least} points")

    @classmethod
    def of_colmap(cls, model: Any, image_folder: str | Path, **options: Any) -> PosedPairs:
        """Pairs of a COLMAP model: a folder or a `pycolmap.Reconstruction`."""
        return cls(arrays_of_model(model, Path(image_folder)), **options)

    def pair(self, rng: Random) -> Pair:
        """Two views at random, cropped around a point that both see; errors name the image."""
        for _ in range(_TRIES):
            first, second = (int(v) for v in self._pairs[int(rng.integers(len(self._pairs)))])
            common = np.flatnonzero(self._seen[first] & self._seen[second])
            xyz = self.model.xyz[common]
            reference, reference_camera = self._view(first)
            query, query_camera = self._view(second)
            reference_xy, ok = _projected(reference_camera, self.model.cam_from_world[first], xyz)
            query_xy, front = _projected(query_camera, self.model.cam_from_world[second], xyz)
            affine, usable = affine_between(
                xyz, reference_camera, self.model.cam_from_world[first], query_camera,
                self.model.cam_from_world[second],
            )  # fmt: skip
            keep = np.flatnonzero(ok & front & usable)
            if not len(keep):
                continue
            middle = int(rng.choice(keep))
            crops = [
                _corner(rng, xy[middle], image.shape, self.size)
                for xy, image in ((reference_xy, reference), (query_xy, query))
            ]
            moved = [xy - corner for xy, corner in zip((reference_xy, query_xy), crops)]
            h, w = self.size
            for xy in moved:
                inside = np.asarray(((xy > _BORDER) & (xy < [w - _BORDER, h - _BORDER])).all(1))
                keep = keep[inside[keep]]
            if len(keep):
                return Pair(
                    _cropped(reference, crops[0], self.size), _cropped(query, crops[1], self.size),
                    moved[0][keep], moved[1][keep], affine[keep],
                )  # fmt: skip
        raise ValueError(f"found no common point inside crops of {self.size} in {_TRIES} tries")

    def _view(self, view: int) -> tuple[npt.NDArray[np.uint8], Camera]:
        """Grey image and camera at the size that is cropped."""
        source, name = self.model.images, self.model.image_names[view]
        image = check_image(source(view) if callable(source) else source[view], f"image {name}")
        camera = self.model.cameras[view]
        if image.shape[:2] != camera.size:
            raise ValueError(f"image {name} is {image.shape[:2]} and its camera {camera.size}")
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = fit_size(image, self.max_size)
        if image.shape[0] < self.size[0] or image.shape[1] < self.size[1]:
            raise ValueError(f"image {name} is {image.shape}, smaller than the crops {self.size}")
        same = image.shape[:2] == camera.size
        return image.astype(np.uint8), camera if same else camera.resized(image.shape[:2])


def _projected(
    camera: Camera, cam_from_world: Array, xyz: Array
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Pixels (N, 2) and where they are in front of the camera and finite."""
    xy, front = camera.project(transform_points(cam_from_world, xyz))
    finite = np.isfinite(xy).all(1)
    return np.where(finite[:, None], xy, -1e6), np.asarray(front) & finite


def _corner(
    rng: Random, xy: Array, shape: tuple[int, ...], size: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """(x, y) of a crop's first pixel: around a point, inside the image."""
    jitter = rng.uniform(-0.2, 0.2, 2) * [size[1], size[0]]
    corner = np.round(xy - np.array([size[1], size[0]]) / 2 + jitter)
    limit = np.array([shape[1] - size[1], shape[0] - size[0]])
    return np.clip(corner, 0, limit).astype(np.int64)


def _cropped(
    image: npt.NDArray[np.uint8], corner: npt.NDArray[np.int64], size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    x, y = (int(v) for v in corner)
    return np.ascontiguousarray(image[y : y + size[0], x : x + size[1]])
