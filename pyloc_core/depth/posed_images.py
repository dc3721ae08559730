# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The images of a COLMAP model, undistorted and brought to one size, with what the model's points say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.camera import CAMERA_MODELS, Camera
from pyloc_core.geometry import Size
from pyloc_core.localization.colmap_model import read_model
from pyloc_core.localization.images import fit_size, read_image
from pyloc_core.localization.photo_camera import fit_camera
from pyloc_core.pose import compose_poses, inverse_pose, transform_points

Array = npt.NDArray[np.float64]

# Of what a model's points say about a view's depths: the quantiles that count, so that a few wrong
# points do not widen the range, and the factor by which it reaches beyond them, since points lie where
# there is texture and not on the floor before the camera.
RANGE_QUANTILES = (0.01, 0.99)
RANGE_FACTOR = 1.3
LEAST_POINTS = 8
_PHOTOS = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}
_NAMED = 5  # names in a message


@dataclass(frozen=True)
class PosedImage:
    """A view ready for stereo.

    Attributes:
        name: as in the model.
        image: (H, W, 3) uint8 RGB, undistorted.
        camera: PINHOLE, of that image.
        cam_from_world: (3, 4).
        point_ids: (N,) of the model's points that this image observes.
        points: (N, 3) those points in the world.
        seen: (H, W) bool, where the photo has pixels; None for everywhere. Undistortion of a pincushion
            leaves a border without.
    """

    name: str
    image: npt.NDArray[np.uint8]
    camera: Camera
    cam_from_world: Array
    point_ids: npt.NDArray[np.int64]
    points: Array
    seen: npt.NDArray[np.bool_] | None = None

    @property
    def size(self) -> Size:
        """(H, W)."""
        return self.camera.size

    @property
    def center(self) -> Array:
        """Camera centre in the world."""
        return np.asarray(-self.cam_from_world[:, :3].T @ self.cam_from_world[:, 3])

    def project_points(self) -> tuple[Array, Array, npt.NDArray[np.intp]]:
        """Pixels (M, 2), depths (M,) and indices (M,) of the observed points that lie in the image."""
        if not len(self.points):
            return np.zeros((0, 2)), np.zeros(0), np.zeros(0, np.intp)
        local = np.asarray(transform_points(self.cam_from_world, self.points))
        xy, front = self.camera.project(local)
        width_height = (self.camera.width, self.camera.height)
        with np.errstate(invalid="ignore"):
            inside = front & ((xy >= 0) & (xy < width_height)).all(1)
        chosen = np.flatnonzero(inside)
        return xy[chosen], local[chosen, 2], chosen

    def point_range(self) -> tuple[float, float] | None:
        """Nearest and farthest depth to look at, from the points observed; None for too few of them."""
        depths = self.project_points()[1]
        if len(depths) < LEAST_POINTS:
            return None
        low, high = np.quantile(depths, RANGE_QUANTILES)
        return float(low / RANGE_FACTOR), float(high * RANGE_FACTOR)


def undistort(
    image: npt.NDArray[np.uint8], camera: Camera
) -> tuple[npt.NDArray[np.uint8], Camera, npt.NDArray[np.bool_] | None]:
    """The image as a PINHOLE camera of the same focal lengths, centre and size would have taken it.

    Third comes the mask (H, W) of the pixels that the photo covers, None for all of them. Sampling is
    bilinear. An image of a camera without distortion comes back as it is.
    """
    K = camera.K
    pinhole = Camera("PINHOLE", camera.width, camera.height, (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    names = CAMERA_MODELS[camera.model]
    distortion = [v for n, v in zip(names, camera.params) if n[0] in "kp"]
    if not any(distortion) and "FISHEYE" not in camera.model:
        return image, pinhole, None
    cv2 = require("cv2", "undistorting images")
    height, width = camera.size
    y, x = np.mgrid[0:height, 0:width] + 0.5
    rays = np.ones((height * width, 3))
    rays[:, 0] = (x.ravel() - K[0, 2]) / K[0, 0]
    rays[:, 1] = (y.ravel() - K[1, 2]) / K[1, 1]
    at, front = camera.project(rays)
    at = np.where(front[:, None] & np.isfinite(at), at, -10.0).reshape(height, width, 2)
    covered = ((at >= 0) & (at <= (width, height))).all(-1) & _unfolded(at, K)
    at = (at - 0.5).astype(np.float32)  # array positions: centres of pixels at integers
    straight = cv2.remap(
        image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    straight[~covered] = 0
    mask = None if covered.all() else np.asarray(covered)
    return np.asarray(straight, np.uint8), pinhole, mask


def _unfolded(at: Array, K: Array) -> npt.NDArray[np.bool_]:
    """Where distorted positions (H, W, 2) of a pinhole's pixels still move outwards with them. Beyond the
    angle at which a polynomial turns back, what lies further inside would appear again, mirrored."""
    height, width = at.shape[:2]
    if min(height, width) < 2:
        return np.ones((height, width), bool)
    down, right = np.gradient(at, axis=0), np.gradient(at, axis=1)
    turned = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]
    x, y = np.arange(width) + 0.5 - K[0, 2], np.arange(height)[:, None] + 0.5 - K[1, 2]
    outwards = (at[..., 0] - K[0, 2]) * x + (at[..., 1] - K[1, 2]) * y
    # At the centre itself noise would decide; a pixel around it is never folded.
    return np.asarray((turned > 0) & ((outwards > 0) | (np.hypot(x, y) < 2)))


def poses_from(reference: Any, sources: Sequence[Any]) -> npt.NDArray[np.float64]:
    """source_from_reference (V, 3, 4) of views with a `cam_from_world`."""
    world_from_reference = inverse_pose(reference.cam_from_world)
    return np.stack([compose_poses(s.cam_from_world, world_from_reference) for s in sources])


def read_posed_images(
    model_folder: str | Path,
    image_folder: str | Path,
    *,
    max_size: int | None = 1024,
    exclude: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> list[PosedImage]:
    """All registered images of a COLMAP model, by name, with the points that each observes.

    Photos that the model has not registered are named through `say` and left out. Longer sides are shrunk
    to `max_size` pixels (None: as stored).

    Raises ValueError for a folder or file that is missing or damaged, and where fewer than two images
    are registered; MissingExtra without pycolmap or Pillow.
    """
    model = read_model(model_folder, image_folder, exclude)
    images = sorted(model.images.values(), key=lambda image: image.name)
    registered = [image for image in images if image.has_pose]
    left_out = _not_registered(images, Path(image_folder)) - set(exclude)
    if left_out and say is not None:
        some = ", ".join(sorted(left_out)[:_NAMED]) + (", ..." if len(left_out) > _NAMED else "")
        say(f"{len(left_out)} photos are not registered in the model and skipped: {some}")
    if len(registered) < 2:
        raise ValueError(
            f"{model_folder} has {len(registered)} registered images; depth needs at least 2"
        )
    return [_posed(model, image, Path(image_folder), max_size) for image in registered]


def _not_registered(images: Sequence[Any], folder: Path) -> set[str]:
    """Names that the model lists without a pose, and photos of the folder that it does not list."""
    photos = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in _PHOTOS
    }
    listed = {image.name for image in images if not image.has_pose}
    return (photos | listed) - {image.name for image in images if image.has_pose}


def _posed(model: Any, image: Any, folder: Path, max_size: int | None) -> PosedImage:
    photo = read_image(folder / image.name)
    camera = Camera.from_pycolmap(image.camera)
    camera = fit_camera(camera, photo.shape[1], photo.shape[0], image.name)
    photo = fit_size(photo, max_size)
    photo, pinhole, seen = undistort(photo, camera.resized(photo.shape[:2]))
    ids = np.array(sorted({p.point3D_id for p in image.points2D if p.has_point3D()}), np.int64)
    points = np.array([model.points3D[i].xyz for i in ids.tolist()], np.float64).reshape(-1, 3)
    pose = image.cam_from_world
    matrix = np.asarray((pose() if callable(pose) else pose).matrix(), np.float64)
    return PosedImage(image.name, photo, pinhole, matrix, ids, points, seen)
