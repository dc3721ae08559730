# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What a structure-from-motion model says of the depth in its images: sparse supervision for a network.

Data preparation of SfM-TTR (Izquierdo and Civera, CVPR 2023; thesis, section 8.1.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _checks
from pyloc_core._extras import require
from pyloc_core.depth.metrics import CROPS
from pyloc_core.geometry import Size, check_size
from pyloc_core.localization.colmap_model import read_model
from pyloc_core.pose import as_cam_from_world, transform_points

Array = npt.NDArray[np.float64]

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class SfmView:
    """The 3D points that one image observes; L of them, none for an image that is not registered.

    Attributes:
        name: of the image.
        size: (H, W) of what `xy` counts in, the image or the part of it that a network sees.
        xy: (L, 2) float64, image pixels: where the points were observed.
        depths: (L,) float64, along the optical axis, in units of the model.
        errors: (L,) float64, the points' mean reprojection errors, pixels.
        point_ids: (L,) int64.
    """

    name: str
    size: Size
    xy: Any
    depths: Any
    errors: Any
    point_ids: Any = None

    def __post_init__(self) -> None:
        xy = np.array(self.xy, np.float64).reshape(-1, 2)
        count = len(xy)
        ids = np.arange(count) if self.point_ids is None else np.asarray(self.point_ids, np.int64)
        fields: dict[str, Any] = {"size": check_size(self.size), "xy": xy, "point_ids": ids}
        for name in ("depths", "errors"):
            fields[name] = np.array(getattr(self, name), np.float64)
        for name, value in fields.items():
            if name in ("depths", "errors", "point_ids") and value.shape != (count,):
                raise ValueError(f"{name} must be ({count},) as xy has it, got {value.shape}")
            if name != "size" and not np.isfinite(value).all():
                raise ValueError(f"{name} of {self.name} holds NaN or infinite values")
            object.__setattr__(self, name, value)
        if not (self.depths > 0).all() or not (self.errors >= 0).all():
            raise ValueError(f"{self.name}: depths must be positive and errors not negative")

    def __len__(self) -> int:
        return len(self.depths)

    def select(self, keep: Any) -> SfmView:
        """The points of a mask or of indices."""
        parts = {n: getattr(self, n)[keep] for n in ("xy", "depths", "errors", "point_ids")}
        return replace(self, **parts)

    def crop(self, box: Box) -> SfmView:
        """What lies in a box (x0, y0, width, height) of the image, for a network that sees this part alone."""
        x0, y0, width, height = box
        xy = self.xy - [x0, y0]
        moved = replace(self, xy=xy, size=(round(height), round(width)))
        return moved.select(_inside(xy, moved.size))

    def within(self, crop: str = "garg") -> SfmView:
        """The points strictly inside a crop of KITTI's evaluation, by its name in `kitti_errors`."""
        _checks.known_name("crop", crop, CROPS)
        top, bottom, left, right = CROPS[crop]
        x, y = (self.xy / self.size[::-1]).T
        return self.select((top < y) & (y < bottom) & (left < x) & (x < right))


def kitti_benchmark_box(size: Size) -> Box:
    """(x0, y0, 1216, 352) of KITTI's benchmark crop: the middle of the last 352 rows of an image (H, W).

    Raises ValueError for a smaller image.
    """
    height, width = check_size(size)
    if height < 352 or width < 1216:
        raise ValueError(f"an image of {height} x {width} has no crop of 352 x 1216")
    return (width - 1216) // 2, height - 352, 1216, 352


def sfm_supervision(
    sfm_model: Any, names: Iterable[str] | None = None, *, image_folder: str | Path | None = None
) -> tuple[SfmView, ...]:
    """Sparse depths of the images of a COLMAP model.

    Depths are the z of R X + t. Positions are the observations that the model stores, as they lie in the
    image, distortion and all: a network sees the image, not the reprojection. Errors are the mean
    reprojection error of each point over its track; where the model has none they are computed (on a copy).
    Points behind the camera and observations outside the image are left out, and a point that an image
    observes twice counts once.

    Args:
        sfm_model: a `pycolmap.Reconstruction`, or the folder of one.
        names: of the images to supervise, in order; None for all that are registered, by name. A name
            that is not registered gives a view without points.
        image_folder: where the images of a folder's model must exist; None does not look.

    Returns:
        One SfmView per name.

    Raises:
        ValueError: a folder that is no COLMAP model, twice the same name, or no point in any of the images.
        MissingExtra: without pycolmap.
    """
    pycolmap = require("pycolmap", "reading a COLMAP model")
    if isinstance(sfm_model, (str, Path)):
        sfm_model = read_model(sfm_model, image_folder)
    registered = {i.name: i for i in sfm_model.images.values() if i.has_pose}
    chosen = sorted(registered) if names is None else [str(name) for name in names]
    if len(set(chosen)) < len(chosen):
        raise ValueError("names holds the same image twice")
    if not all(point.has_error() for point in sfm_model.points3D.values()):
        sfm_model = pycolmap.Reconstruction(sfm_model)
        sfm_model.update_point_3d_errors()
        registered = {i.name: i for i in sfm_model.images.values() if i.has_pose}
    views = tuple(_view(sfm_model, registered[n]) if n in registered else _empty(n) for n in chosen)
    if not any(len(view) for view in views):
        raise ValueError(
            f"none of the {len(chosen)} images observes a 3D point of the model, which has "
            f"{len(registered)} registered images"
        )
    return views


def _view(model: Any, image: Any) -> SfmView:
    camera = model.cameras[image.camera_id]
    observed = {p.point3D_id: p.xy for p in image.points2D if p.has_point3D()}
    ids = np.array(sorted(observed), np.int64)
    xy = np.array([observed[i] for i in ids.tolist()]).reshape(-1, 2)
    points = [model.points3D[i] for i in ids.tolist()]
    cam_from_world = as_cam_from_world(image.cam_from_world().matrix())
    xyz = np.array([point.xyz for point in points]).reshape(-1, 3)
    depths = np.asarray(transform_points(cam_from_world, xyz))[:, 2]
    errors = np.array([point.error for point in points])
    size = (camera.height, camera.width)
    keep = (depths > 0) & _inside(xy, size) & np.isfinite(depths) & np.isfinite(errors)
    return SfmView(image.name, size, xy[keep], depths[keep], errors[keep], ids[keep])


def _empty(name: str) -> SfmView:
    return SfmView(name, (1, 1), np.zeros((0, 2)), np.zeros(0), np.zeros(0))


def _inside(xy: Array, size: Size) -> npt.NDArray[np.bool_]:
    height, width = size
    return np.asarray((xy >= 0).all(1) & (xy[:, 0] < width) & (xy[:, 1] < height))


def nearest_cells(
    xy: Any, image_size: Size, map_size: Size, *, align_corners: bool = False
) -> npt.NDArray[np.int64]:
    """Flat indices (L,) of the map cells that image pixels (L, 2) read; points at the border read the border.

    By the project's convention the cell that a pixel lies in. With `align_corners` as SfM-TTR publishes it,
    `round(x / W * (W_map - 1))`: that reads up to half a cell further right and below in the first half
    of the image, left and above in the second half.
    """
    rows, columns = check_size(map_size, "map_size")
    share = np.asarray(xy, np.float64).reshape(-1, 2) / check_size(image_size, "image_size")[::-1]
    if align_corners:
        cells = np.rint(share * [columns - 1, rows - 1])
    else:
        cells = np.floor(share * [columns, rows])
    column, row = np.clip(cells, 0, [columns - 1, rows - 1]).astype(np.int64).T
    return np.asarray(row * columns + column)
