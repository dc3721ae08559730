# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The map: points with their descriptors, reference cameras, and what finds the nearby images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.localization.options import MapOptions, with_overrides
from pyloc_core.retrieval import Index

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Map:
    """A model that photos are localized against. N points, V reference images, O observations.

    Made by `Map.build` from a COLMAP model, by `Map.from_arrays`, by `Map.merge`, or by `Map.load`. A
    merged map holds several scenes, each with a frame of reference of its own: coordinates and poses of
    different scenes have nothing to do with each other.

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
        vocabulary: (words, D) float32, empty with a global descriptor of another kind.
        global_descriptors: (V, D) float16, what finds the images near a photo; D = 0 for none.
        descriptor: `to_dict()` of the descriptor it was built with.
        options: what it was built with.
        global_descriptor: `to_dict()` of the global descriptor it was built with; None for a VLAD with
            the map's own vocabulary.
        scenes: names of the scenes; ("",) for a map that was not merged.
        view_scene, point_scene: (V,) and (N,) int32 positions in `scenes`.
        index: what searches the global descriptors, None for inner products with all of them.
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
    global_descriptor: dict[str, Any] | None = None
    scenes: tuple[str, ...] = ("",)
    view_scene: npt.NDArray[np.int32] = None  # type: ignore[assignment]
    point_scene: npt.NDArray[np.int32] = None  # type: ignore[assignment]
    index: Index | None = None

    def __post_init__(self) -> None:
        for name, count in (("view_scene", len(self.cameras)), ("point_scene", len(self.xyz))):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.zeros(count, np.int32))

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
            "scenes": list(self.scenes),
            "megabytes": round(sum(a.nbytes for a in arrays) / 1e6, 2),
        }

    @classmethod
    def build(
        cls,
        model: Any,
        image_folder: str | Path,
        *,
        descriptor: Any = None,
        global_descriptor: Any = None,
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
            global_descriptor: what finds the images near a photo (see `GlobalDescriptor`); None for
                a VLAD of the descriptor with a vocabulary learned from these images.
            options: `MapOptions`; single ones can be given by name as well.
            progress: show a bar.

        Raises ValueError naming what is wrong: a missing or truncated model file, a model without
        images or points, an image that is missing, unreadable or of another size than its camera;
        TypeError for an unknown option; MissingExtra without pycolmap or OpenCV.
        """
        from pyloc_core.localization.map_build import arrays_of_model, build_map

        chosen = with_overrides(options or MapOptions(), overrides)
        in_colour = bool(getattr(descriptor, "in_colour", False))
        if global_descriptor is not None:
            in_colour |= bool(getattr(global_descriptor, "in_colour", True))
        arrays = arrays_of_model(model, Path(image_folder), in_colour=in_colour)
        return build_map(arrays, descriptor, chosen, progress, global_descriptor)

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
        global_descriptor: Any = None,
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
        chosen = with_overrides(options or MapOptions(), overrides)
        return build_map(arrays, descriptor, chosen, progress, global_descriptor)

    @classmethod
    def merge(cls, maps: Mapping[str, Map], *, descriptor: Any = None) -> Map:
        """One map of several, whose frames of reference stay apart: scene name -> map.

        Images are called scene/name. A vocabulary is learned anew from the images of all scenes, so
        that their global descriptors can be compared; those of a `GlobalDescriptor` are kept.

        Args:
            maps: at least one; a merged map among them brings its scenes as name/scene.
            descriptor: what the maps were built with; None makes the one that they name.

        Raises:
            ValueError: maps of different descriptors, global descriptors or options, by scene; a scene
                without points; names that collide; a vocabulary to learn where no images are stored.
        """
        from pyloc_core.localization.map_merge import merge_maps

        return merge_maps(maps, descriptor)

    def with_index(self, *, num_threads: int | None = None, **options: Any) -> Map:
        """The map with an index of its global descriptors; `options` are those of `IndexOptions`.

        Raises ValueError for a map without global descriptors, MissingExtra without FAISS.
        """
        if not self.global_descriptors.shape[1]:
            raise ValueError("the map has no global descriptors to index")
        described = np.asarray(self.global_descriptors, np.float32)
        built = Index.build(described, self.image_names, num_threads=num_threads, **options)
        return replace(self, index=built)

    def retrieval_fingerprint(self) -> str:
        """What an index beside the map must have been made of: images and their global descriptors."""
        known = hashlib.sha256()
        known.update(json.dumps([self.image_names, self.global_descriptor], default=str).encode())
        known.update(np.ascontiguousarray(self.vocabulary).tobytes())
        known.update(np.ascontiguousarray(self.global_descriptors).tobytes())
        return known.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write map.json and map.safetensors into a folder, made when missing, and the index beside
        them; the index of a map that was there before is deleted."""
        from pyloc_core.localization import map_file

        map_file.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, *, index: bool = True) -> Map:
        """Read what `save` wrote; large arrays stay on disk and are mapped into memory.

        Raises ValueError naming the file that is missing or damaged, or the index that was made for
        another map; MissingExtra when there is an index and no FAISS. `index=False` passes it over.
        """
        from pyloc_core.localization import map_file

        return map_file.load(Path(folder), index)
