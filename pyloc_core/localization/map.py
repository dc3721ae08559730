# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The map: points with their descriptors, reference cameras, and what finds the nearby images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.localization.options import MapOptions, with_overrides

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Map:
    """A model that photos are localized against. N points, V reference images, O observations.

    Made by `Map.build` from a COLMAP model, by `Map.from_arrays`, or by `Map.load`.

    Attributes:
        xyz: (N, 3) float64 world points; their unit is the unit of every pose.
        point_ids: (N,) int64, the model's ids.
        obs_ptr: (N + 1,) int64: point n has observations `obs_ptr[n]:obs_ptr[n + 1]`.
        obs_view: (O,) int32 reference image of an observation.
        obs_xy: (O, 2) float64 projection of the point in it, pixels of the image as described.
        coarse: (O, S, D) float16 coarse descriptors at the S scales of the options.
        fine: (O, S, D) float16 fine descriptors, or None where they are made from `images` when a
            photo is localized.
        image_names, cameras, cam_from_world: of the V reference images; the cameras belong to the
            images as described, shrunk to `options.max_size`.
        images: V arrays (H, W) uint8, or empty when they are not needed.
        vocabulary: (words, D) float32; `global_descriptors` (V, words * D) float16.
        descriptor: `to_dict()` of the descriptor it was built with.
        options: what it was built with.
    """

    xyz: Array
    point_ids: npt.NDArray[np.int64]
    obs_ptr: npt.NDArray[np.int64]
    obs_view: npt.NDArray[np.int32]
    obs_xy: Array
    coarse: npt.NDArray[np.float16]
    fine: npt.NDArray[np.float16] | None
    image_names: list[str]
    cameras: list[Camera]
    cam_from_world: Array
    images: Sequence[npt.NDArray[np.uint8]]
    vocabulary: npt.NDArray[np.float32]
    global_descriptors: npt.NDArray[np.float16]
    descriptor: dict[str, Any]
    options: MapOptions = field(default_factory=MapOptions)

    def __len__(self) -> int:
        return len(self.xyz)

    @cached_property
    def obs_point(self) -> npt.NDArray[np.int64]:
        """(O,) point of every observation."""
        return np.repeat(np.arange(len(self.xyz)), np.diff(self.obs_ptr))

    @cached_property
    def _obs_by_view(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        order = np.argsort(self.obs_view, kind="stable")
        ends = np.cumsum(np.bincount(self.obs_view, minlength=len(self.cameras)))
        return order, np.concatenate([[0], ends])

    def observations_of(self, view: int) -> npt.NDArray[np.int64]:
        """Observations in a reference image, ordered by point."""
        order, start = self._obs_by_view
        return order[start[view] : start[view + 1]]

    def summary(self) -> dict[str, Any]:
        """Counts and sizes as plain numbers."""
        arrays: list[npt.NDArray[Any]] = [self.xyz, self.obs_xy, self.coarse, *self.images]
        arrays.append(self.global_descriptors)
        arrays += [] if self.fine is None else [self.fine]
        return {
            "points": len(self.xyz),
            "images": len(self.cameras),
            "observations": len(self.obs_view),
            "descriptor": self.descriptor.get("name", "?"),
            "megabytes": round(sum(a.nbytes for a in arrays) / 1e6, 2),
        }

    @classmethod
    def build(
        cls,
        model: Any,
        image_folder: str | Path,
        *,
        descriptor: Any = None,
        options: MapOptions | None = None,
        progress: bool = True,
        **overrides: Any,
    ) -> Map:
        """Build from a COLMAP model and its images.

        Args:
            model: folder with cameras, images and points3D (.bin or .txt), or a
                `pycolmap.Reconstruction`.
            image_folder: where the model's image names lie.
            descriptor: None for `DenseRootSIFT`; see `Descriptor` for what to pass otherwise.
            options: `MapOptions`; single ones can be given by name as well.
            progress: show a bar.

        Raises ValueError naming what is wrong: a missing or truncated model file, a model without
        images or points, an image that is missing, unreadable or of another size than its camera;
        TypeError for an unknown option; MissingExtra without pycolmap or OpenCV.
        """
        from pyloc_core.localization.map_build import arrays_of_model, build_map

        chosen = with_overrides(options or MapOptions(), overrides)
        in_colour = bool(getattr(descriptor, "in_colour", False))
        arrays = arrays_of_model(model, Path(image_folder), in_colour=in_colour)
        return build_map(arrays, descriptor, chosen, progress)

    @classmethod
    def from_arrays(
        cls,
        xyz: Any,
        obs_ptr: Any,
        obs_view: Any,
        *,
        image_names: Sequence[str],
        cameras: Sequence[Camera],
        cam_from_world: Any,
        images: Sequence[npt.NDArray[Any]] | Callable[[int], npt.NDArray[Any]],
        point_ids: Any = None,
        descriptor: Any = None,
        options: MapOptions | None = None,
        progress: bool = False,
        **overrides: Any,
    ) -> Map:
        """Build from arrays instead of a COLMAP model.

        Args:
            xyz: (N, 3) world points; `obs_ptr` (N + 1,) and `obs_view` (O,): point n is seen by the
                reference images `obs_view[obs_ptr[n]:obs_ptr[n + 1]]`.
            image_names, cameras, cam_from_world: V names, V `Camera` objects, (V, 3, 4) poses.
            images: V arrays (H, W) or (H, W, 3) uint8, or a function of the view that returns one.
            point_ids: (N,) integers, 0 to N - 1 when None.

        Raises ValueError or TypeError for arrays that do not fit together.
        """
        from pyloc_core.localization.map_build import ModelArrays, build_map

        arrays = ModelArrays.checked(
            xyz,
            obs_ptr,
            obs_view,
            list(image_names),
            list(cameras),
            cam_from_world,
            images,
            point_ids,
        )
        return build_map(
            arrays, descriptor, with_overrides(options or MapOptions(), overrides), progress
        )

    def save(self, folder: str | Path) -> None:
        """Write map.json and map.safetensors into a folder, made when missing."""
        from pyloc_core.localization import map_file

        map_file.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Map:
        """Read what `save` wrote; large arrays stay on disk and are mapped into memory.

        Raises ValueError naming the file that is missing or damaged.
        """
        from pyloc_core.localization import map_file

        return map_file.load(Path(folder))
