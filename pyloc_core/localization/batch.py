# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Localizing a list of photos: find each one's camera and prior, go on when one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyloc_core.camera import Camera
from pyloc_core.localization.nearby import check_scene
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
from pyloc_core.localization.results_file import finite
from pyloc_core.localization.work_list import Answer, Query, fingerprint_of_files
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


class PhotoLocalizer:
    """One map, loaded, and what is needed to make a photo's entry; calls may come from many threads.

    `weights` is the file of the network that the map's images were described by, where one was.

    Raises ValueError when the map cannot be read.
    """

    def __init__(
        self,
        map_folder: str | Path,
        source: CameraSource,
        *,
        plot: str | Path | None = None,
        seed: int = 0,
        num_threads: int | None = None,
        weights: str | None = None,
        device: str = "cpu",
        scene: str | None = None,
    ) -> None:
        from pyloc_core.localization import Localizer, Map
        from pyloc_core.localization.description import network_of_map

        loaded = Map.load(map_folder)
        network = network_of_map(loaded.global_descriptor, weights, device)
        self.source = source
        self.plot = None if plot is None else Path(plot)
        self.seed, self.num_threads, self.scene = seed, num_threads, scene
        self._known = dict(zip(loaded.image_names, loaded.cameras))
        self._localizer = Localizer(loaded, global_descriptor=network)

    def __call__(self, photo: Path, stated: Camera | None, prior: Any = None) -> dict[str, Any]:
        """The photo's `pose_entry`, with "error": why it could not be worked on, or None.

        Whatever is wrong with a photo is in its entry; a package that is missing raises.
        """
        camera = None
        try:
            if stated is None:
                camera = self.source.of(photo, self._known)
            else:
                camera = fit_camera(stated, *image_size(photo), photo)
            found = self._localizer.localize_detailed(
                photo, camera, prior, scene=self.scene, seed=self.seed, num_threads=self.num_threads
            )
            if self.plot is not None and found.estimate.success:
                _draw(photo, found, self.plot)
            return pose_entry(str(photo), camera, found.estimate) | {"error": None}
        except ImportError:
            raise
        except ValueError as error:
            text = str(error)
        except Exception as error:  # no photo stops the others
            text = f"{type(error).__name__}: {error}"
        return pose_entry(str(photo), camera, PoseEstimate.failed(text, 0)) | {"error": text}


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
    """Entries of `PhotoLocalizer`, one per photo, as they are done.

    A photo that cannot be read or has no camera gives an entry without success; a map or prior
    that cannot be read raises ValueError.
    """
    localizer = PhotoLocalizer(map_folder, source, plot=plot, seed=seed, num_threads=num_threads)
    priors = {} if prior is None else read_priors(prior)
    for photo, stated in photos:
        yield localizer(photo, stated, lookup(priors, photo))


@dataclass(frozen=True)
class LocalizeJob:
    """Localizing a list of photos, for an engine. `map_folder`, and `weights` of the network that the
    map's images were described by, must be there for every worker; `device` is where it runs; `scene`
    is the one of the map's to look in, None for all."""

    map_folder: str
    source: CameraSource
    seed: int = 0
    plot: str | None = None
    weights: str | None = None
    device: str = "cpu"
    batch_size: int = 4
    scene: str | None = None

    def check(self) -> None:
        """ValueError when the map cannot be read here: no worker need be started to find that out."""
        from pyloc_core.localization import Map

        check_scene(Map.load(self.map_folder).scenes, self.scene)
        if self.weights is not None and not Path(self.weights).is_file():
            raise ValueError(f"no such file: {self.weights}")

    def start(self, num_threads: int | None) -> Callable[[Sequence[Query]], list[Answer]]:
        """Load the map by memory mapping: workers of one machine share its pages."""
        localizer = PhotoLocalizer(
            self.map_folder, self.source, plot=self.plot, seed=self.seed, num_threads=num_threads,
            weights=self.weights, device=self.device, scene=self.scene,
        )  # fmt: skip

        def answer(query: Query) -> Answer:
            entry = localizer(Path(query.path), query.camera, query.prior)
            return self._answer(query, entry)

        return lambda queries: [answer(query) for query in queries]

    def failed(self, query: Query, error: str) -> Answer:
        """The answer of a photo that could not be worked on."""
        entry = pose_entry(query.image, query.camera, PoseEstimate.failed(error, 0))
        return self._answer(query, entry | {"error": error})

    def options(self) -> dict[str, Any]:
        """What decides the answers, beside map and list, as plain values."""
        camera = self.source.camera
        known = {name: entry.to_dict() for name, entry in self.source.by_name.items()}
        stated = None if camera is None else camera.to_dict()
        return {
            "seed": self.seed, "camera": stated, "focal": self.source.focal, "cameras": known,
            "weights": None if self.weights is None else fingerprint_of_files(self.weights),
            "device": self.device.split(":")[0], "scene": self.scene,
        }  # fmt: skip

    @staticmethod
    def _answer(query: Query, entry: dict[str, Any]) -> Answer:
        return Answer(query.index, finite(entry | {"query": query.index, "image": query.image}))


def _draw(photo: Path, found: Any, folder: Path) -> None:
    from pyloc_core.localization import read_image
    from pyloc_core.localization.plot import plot_localization

    estimate = found.estimate
    title = f"{photo.name}:  {estimate.num_consistent} of {len(found.point_indices)} points agree"
    plot_localization(read_image(photo), found, folder / f"{photo.stem}.png", title=title)
