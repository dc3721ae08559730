# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Localizing a list of photos: find each one's camera and prior, go on when one fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyloc_core.camera import Camera
from pyloc_core.localization.photo_camera import (
    camera_from_exif,
    camera_of_focal,
    fit_camera,
    image_size,
    lookup,
    parse_camera,
    read_cameras,
    read_priors,
)
from pyloc_core.localization.poses_file import pose_entry
from pyloc_core.pose import PoseEstimate


@dataclass(frozen=True)
class CameraSource:
    """Where cameras come from: one for all, a focal length for all, or by image name."""

    camera: Camera | None = None
    focal: float | None = None
    by_name: Mapping[str, Camera] = field(default_factory=dict)

    @classmethod
    def from_options(
        cls, *, camera: str | None, focal: float | None, cameras: str | Path | None
    ) -> CameraSource:
        """From the command line's options. ValueError if both `camera` and `focal` are given."""
        if camera is not None and focal is not None:
            raise ValueError("give --camera or --focal, not both")
        if focal is not None and not 0 < focal < float("inf"):
            raise ValueError(f"--focal must be a positive number of pixels, got {focal}")
        return cls(
            camera=None if camera is None else parse_camera(camera),
            focal=focal,
            by_name={} if cameras is None else read_cameras(cameras),
        )

    def of(self, photo: Path, model_cameras: Mapping[str, Camera]) -> Camera:
        """Camera of a photo: options first, then the model's by name, then EXIF."""
        width, height = image_size(photo)
        if self.focal is not None:
            return camera_of_focal(self.focal, width, height)
        for known in (self.camera, lookup(self.by_name, photo), lookup(model_cameras, photo)):
            if known is not None:
                return fit_camera(known, width, height, photo)
        guessed = camera_from_exif(photo)
        if guessed is None:
            raise ValueError(
                f"no camera for {photo}: it has no EXIF focal length; give --focal, --camera or "
                "--cameras"
            )
        return guessed


def localize_photos(
    map_folder: str | Path,
    photos: Sequence[tuple[Path, Camera | None]],
    source: CameraSource,
    *,
    prior: str | Path | None = None,
    plot: str | Path | None = None,
    seed: int = 0,
    num_threads: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Entries of `pose_entry`, one per photo, as they are done.

    A photo that cannot be read or has no camera gives an entry without success; a map or prior
    that cannot be read raises ValueError.
    """
    from pyloc_core.localization import Localizer, Map

    loaded = Map.load(map_folder)
    priors = {} if prior is None else read_priors(prior)
    known = dict(zip(loaded.image_names, loaded.cameras))
    localizer = Localizer(loaded)
    for photo, stated in photos:
        camera = None
        try:
            if stated is None:
                camera = source.of(photo, known)
            else:
                camera = fit_camera(stated, *image_size(photo), photo)
            found = localizer.localize_detailed(
                photo, camera, lookup(priors, photo), seed=seed, num_threads=num_threads
            )
        except ValueError as error:
            yield pose_entry(str(photo), camera, PoseEstimate.failed(str(error), 0))
            continue
        if plot is not None and found.estimate.success:
            _draw(photo, found, Path(plot))
        yield pose_entry(str(photo), camera, found.estimate)


def _draw(photo: Path, found: Any, folder: Path) -> None:
    from pyloc_core.localization import read_image
    from pyloc_core.localization.plot import plot_localization

    estimate = found.estimate
    title = f"{photo.name}:  {estimate.num_consistent} of {len(found.point_indices)} points agree"
    plot_localization(read_image(photo), found, folder / f"{photo.stem}.png", title=title)
