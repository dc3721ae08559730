# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Building a map: which observations to keep, and their descriptors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays
from pyloc_core._extras import require
from pyloc_core.camera import Camera, as_camera
from pyloc_core.localization.features import Float32
from pyloc_core.localization.identity import identity
from pyloc_core.localization.images import check_image, fit_size, read_gray, read_image, to_luma
from pyloc_core.localization.map import Map
from pyloc_core.localization.options import MapOptions
from pyloc_core.localization.rootsift import DenseRootSIFT
from pyloc_core.localization.whole_images import WholeImages, learned_vocabulary
from pyloc_core.pose import as_cam_from_world, transform_points

Array = npt.NDArray[np.float64]
ImageSource = Sequence[npt.NDArray[Any]] | Callable[[int], npt.NDArray[Any]]


@dataclass(frozen=True)
class ModelArrays:
    """A sparse model as arrays: N points, V images, O observations sorted by point."""

    xyz: Array
    point_ids: npt.NDArray[np.int64]
    obs_ptr: npt.NDArray[np.int64]
    obs_view: npt.NDArray[np.int64]
    image_names: list[str]
    cameras: list[Camera]
    cam_from_world: Array
    images: ImageSource

    @classmethod
    def checked(
        cls,
        xyz: Any,
        obs_ptr: Any,
        obs_view: Any,
        image_names: list[str],
        cameras: list[Camera],
        cam_from_world: Any,
        images: ImageSource,
        point_ids: Any,
    ) -> ModelArrays:
        """From the caller's arrays; errors name the argument."""
        points = np.array(_arrays.as_array(xyz, "xyz", shape=("N", 3)).data)
        ptr, view = np.asarray(obs_ptr), np.asarray(obs_view)
        for name, array in (("obs_ptr", ptr), ("obs_view", view)):
            if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
                raise TypeError(f"{name} must be 1-d integers, got {array.dtype} {array.shape}")
        if len(ptr) != len(points) + 1 or (len(ptr) and (ptr[0] != 0 or ptr[-1] != len(view))):
            raise ValueError(f"obs_ptr must hold {len(points) + 1} values from 0 to {len(view)}")
        if (np.diff(ptr) < 0).any():
            raise ValueError("obs_ptr must not fall")
        count = len(cameras)
        if len(image_names) != count:
            raise ValueError(f"{len(image_names)} image_names for {count} cameras")
        if not callable(images) and len(images) != count:
            raise ValueError(f"{len(images)} images for {count} cameras")
        poses = _arrays.as_array(cam_from_world, "cam_from_world", shape=("V", 3, 4)).data
        _arrays.check_equal_length(len(poses), "cam_from_world", count, "cameras")
        if view.size and not (view.min() >= 0 and view.max() < count):
            raise ValueError(f"obs_view must lie within 0 and {count - 1}")
        ids = np.arange(len(points)) if point_ids is None else np.asarray(point_ids)
        if ids.shape != (len(points),):
            raise ValueError(f"point_ids must be ({len(points)},), got {ids.shape}")
        clean = [as_cam_from_world(pose, f"cam_from_world[{i}]") for i, pose in enumerate(poses)]
        return cls(
            points, ids.astype(np.int64), ptr.astype(np.int64), view.astype(np.int64),
            [str(n) for n in image_names], [as_camera(c) for c in cameras],
            np.array(clean).reshape(-1, 3, 4), images,
        )  # fmt: skip


def arrays_of_model(model: Any, image_folder: Path, *, in_colour: bool = False) -> ModelArrays:
    """Points, tracks, cameras and poses of a COLMAP model (folder or pycolmap.Reconstruction)."""
    read = read_image if in_colour else read_gray
    if isinstance(model, (str, Path)):
        from pyloc_core.localization.colmap_model import read_model

        model = read_model(model, image_folder)
    images = sorted((i for i in model.images.values() if i.has_pose), key=lambda image: image.name)
    if not images:
        raise ValueError("the model has no image with a pose")
    index = {image.image_id: i for i, image in enumerate(images)}
    ids = np.array(sorted(model.points3D), dtype=np.int64)
    # An image that sees a point twice in one track counts once.
    tracks = [
        sorted({index[e.image_id] for e in model.points3D[i].track.elements if e.image_id in index})
        for i in ids.tolist()
    ]
    if not any(tracks):
        raise ValueError("the model has no 3D point that one of its images sees")
    names = [image.name for image in images]
    return ModelArrays.checked(
        np.array([model.points3D[i].xyz for i in ids.tolist()]).reshape(-1, 3),
        np.cumsum([0] + [len(t) for t in tracks]),
        np.array([view for track in tracks for view in track], dtype=np.int64),
        names,
        [Camera.from_pycolmap(model.cameras[image.camera_id]) for image in images],
        np.array([image.cam_from_world().matrix() for image in images]),
        lambda view: read(image_folder / names[view]),
        ids,
    )


def build_map(
    arrays: ModelArrays, descriptor: Any, options: MapOptions, progress: bool, network: Any = None
) -> Map:
    """Describe every kept observation, image by image; `network` is the global descriptor."""
    descriptor = DenseRootSIFT() if descriptor is None else descriptor
    views = range(len(arrays.cameras))
    vocabulary = np.zeros((0, 1), np.float32)
    if network is None:
        images = (lambda v: _prepared(arrays, v, options)[0], len(views))
        vocabulary = learned_vocabulary(*images, descriptor, options.vocabulary)
    whole = WholeImages(descriptor, network, vocabulary)
    kept = _kept_observations(arrays, options.max_views)
    point_of = np.repeat(np.arange(len(arrays.xyz)), np.diff(arrays.obs_ptr))
    parts = [
        _describe_view(arrays, descriptor, options, whole, view, kept[view], point_of)
        for view in _progress(views, progress)
    ]
    obs = np.concatenate([part.obs for part in parts])
    order = np.argsort(obs, kind="stable")
    points = point_of[obs[order]]
    ptr = np.concatenate([[0], np.cumsum(np.bincount(points, minlength=len(arrays.xyz)))])
    fine = [part.fine for part in parts if part.fine is not None]
    seen = np.concatenate([np.full(len(part.obs), i, np.int32) for i, part in enumerate(parts)])
    return Map(
        xyz=arrays.xyz,
        point_ids=arrays.point_ids,
        obs_ptr=ptr.astype(np.int64),
        obs_view=seen[order],
        obs_xy=np.concatenate([part.xy for part in parts])[order],
        coarse=np.concatenate([part.coarse for part in parts])[order],
        fine=np.concatenate(fine)[order] if fine else None,
        image_names=list(arrays.image_names),
        cameras=[part.camera for part in parts],
        cam_from_world=arrays.cam_from_world,
        images=[part.image for part in parts if part.image is not None],
        vocabulary=vocabulary,
        global_descriptors=np.array([part.whole for part in parts], np.float16),
        descriptor=identity(descriptor),
        options=options,
        global_descriptor=None if network is None else identity(network),
    )


class _View(NamedTuple):
    """What one image adds: n observations with their positions and descriptors."""

    obs: npt.NDArray[np.int64]
    xy: Array
    coarse: npt.NDArray[np.float16]
    fine: npt.NDArray[np.float16] | None
    camera: Camera
    image: npt.NDArray[np.uint8] | None
    whole: Float32


def _describe_view(
    arrays: ModelArrays,
    descriptor: Any,
    options: MapOptions,
    whole: WholeImages,
    view: int,
    obs: npt.NDArray[np.int64],
    point_of: npt.NDArray[np.int64],
) -> _View:
    image, camera = _prepared(arrays, view, options)
    # The projection of the point is described and not the keypoint that triangulated it: it is the
    # place that the query has to find.
    local = transform_points(arrays.cam_from_world[view], arrays.xyz[point_of[obs]])
    xy, front = camera.project(local)
    with np.errstate(invalid="ignore"):
        inside = np.asarray(front) & (xy >= 0).all(1) & (xy < [camera.width, camera.height]).all(1)
    obs, xy = obs[inside], np.ascontiguousarray(xy[inside])
    warps = hasattr(descriptor, "describe_warped")
    if warps and hasattr(descriptor, "describe_coarse"):
        levels = [descriptor.describe_coarse(image, xy, options.scales)]
    else:
        levels = list(descriptor.describe(image, xy, options.scales))
    return _View(
        obs, xy, np.asarray(levels[0]).astype(np.float16),
        None if warps or len(levels) < 2 else np.asarray(levels[-1]).astype(np.float16),
        camera, to_luma(image) if warps else None,
        whole.describe(image),
    )  # fmt: skip


def _prepared(
    arrays: ModelArrays, view: int, options: MapOptions
) -> tuple[npt.NDArray[Any], Camera]:
    """Image and camera at the size that is described."""
    name, camera = arrays.image_names[view], arrays.cameras[view]
    image = arrays.images(view) if callable(arrays.images) else arrays.images[view]
    image = check_image(image, f"image {name}")
    if image.shape[:2] != camera.size:
        raise ValueError(
            f"image {name} has {image.shape[1]} x {image.shape[0]} pixels and its camera "
            f"{camera.width} x {camera.height}"
        )
    image = fit_size(image, options.max_size)
    return image, camera if image.shape[:2] == camera.size else camera.resized(image.shape[:2])


def _kept_observations(arrays: ModelArrays, most: int) -> list[npt.NDArray[np.int64]]:
    """Observations per view. A track longer than `most` is thinned evenly, in order of the views."""
    lengths = np.repeat(np.diff(arrays.obs_ptr), np.diff(arrays.obs_ptr))
    rank = np.arange(len(arrays.obs_view)) - np.repeat(arrays.obs_ptr[:-1], np.diff(arrays.obs_ptr))
    few = np.minimum(lengths, most)
    obs = np.flatnonzero(
        (rank + 1) * few // np.maximum(lengths, 1) > rank * few // np.maximum(lengths, 1)
    )
    view = arrays.obs_view[obs]
    order = np.argsort(view, kind="stable")
    ends = np.searchsorted(view[order], np.arange(1, len(arrays.cameras)))
    return np.split(obs[order], ends)


def _progress(items: Iterable[int], show: bool) -> Iterable[int]:
    if not show:
        return items
    tqdm = require("tqdm", "a progress bar").tqdm
    return tqdm(items, desc="Describing images", unit="image")  # type: ignore[no-any-return]
