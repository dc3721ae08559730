# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which camera took a photo: stated by the user, known to the model, or read from EXIF."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.camera import CAMERA_MODELS, Camera
from pyloc_core.pose import as_cam_from_world, rotation_from_quaternion

# EXIF tags (Exif 2.32, tables 7 and 8).
_EXIF_IFD, _FOCAL_35MM, _FOCAL_MM = 0x8769, 0xA405, 0x920A
_RESOLUTION_X, _RESOLUTION_UNIT = 0xA20E, 0xA210
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}
FILM_LONG_SIDE_MM = 36.0


def parse_camera(text: str) -> Camera:
    """A camera from "MODEL width height params...", separated by spaces or commas.

    Raises ValueError when the model is unknown or a number is missing.
    """
    words = text.replace(",", " ").split()
    if len(words) < 4:
        raise ValueError(f"a camera is 'MODEL width height params...', got {text!r}")
    try:
        width, height = int(words[1]), int(words[2])
        params = tuple(float(word) for word in words[3:])
    except ValueError:
        raise ValueError(f"a camera is 'MODEL width height params...', got {text!r}") from None
    return Camera(words[0].upper(), width, height, params)


def camera_of_focal(focal: float, width: int, height: int) -> Camera:
    """SIMPLE_PINHOLE with the principal point in the middle; `focal` in pixels."""
    return Camera("SIMPLE_PINHOLE", width, height, (focal, width / 2, height / 2))


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of an image file as stored. ValueError if it cannot be read."""
    image_module = require("PIL.Image", "reading image sizes")
    try:
        with image_module.open(path) as image:
            return int(image.width), int(image.height)
    except FileNotFoundError:
        raise ValueError(f"no such image: {path}") from None
    except Exception as error:  # Pillow raises many types for damaged files
        raise ValueError(f"cannot read image {path}: {error}") from None


def camera_from_exif(path: str | Path) -> Camera | None:
    """SIMPLE_PINHOLE from the EXIF focal length, or None where the file does not tell.

    The 35 mm equivalent is taken relative to the long side of the film (36 mm); without it, the
    focal length in millimetres and the focal plane resolution.
    """
    image_module = require("PIL.Image", "reading EXIF data")
    width, height = image_size(path)
    try:
        with image_module.open(path) as image:
            tags = dict(image.getexif().get_ifd(_EXIF_IFD))
        equivalent = float(tags.get(_FOCAL_35MM) or 0.0)
        focal_mm = float(tags.get(_FOCAL_MM) or 0.0)
        per_unit = float(tags.get(_RESOLUTION_X) or 0.0)
        unit_mm = _MM_PER_UNIT.get(int(tags.get(_RESOLUTION_UNIT) or 2), 25.4)
    except Exception:  # a damaged EXIF block is no reason to refuse the photo
        return None
    focal = 0.0
    if equivalent > 0:
        focal = equivalent / FILM_LONG_SIDE_MM * max(width, height)
    elif focal_mm > 0 and per_unit > 0:
        focal = focal_mm * per_unit / unit_mm
    if not np.isfinite(focal) or focal <= 0:
        return None
    return camera_of_focal(focal, width, height)


def read_cameras(path: str | Path) -> dict[str, Camera]:
    """Cameras by image name from JSON: name -> {"model", "width", "height", "params", ...}."""
    return {name: Camera.from_dict(entry) for name, entry in _read_json(path).items()}


def read_priors(path: str | Path) -> dict[str, npt.NDArray[np.float64]]:
    """Poses (3, 4) cam_from_world by image name.

    Reads what `localize --out poses.json` writes, and JSON of the form name -> entry, where an
    entry is a 3 x 4 matrix or holds "cam_from_world", or "R_cam_from_world" and
    "t_cam_from_world", or "qvec_wxyz" and "tvec".
    """
    content = _read_json(path)
    if isinstance(content.get("poses"), list):
        content = {str(entry.get("image")): entry for entry in content["poses"]}
        content = {name: e for name, e in content.items() if e.get("success", True)}
    return {name: _pose(name, entry) for name, entry in content.items()}


def read_list(path: str | Path) -> list[tuple[str, Camera | None]]:
    """Lines "image" or "image MODEL width height params..."; blank lines and # are skipped."""
    result: list[tuple[str, Camera | None]] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        words = line.split()
        model = next((i for i, word in enumerate(words) if word in CAMERA_MODELS and i > 0), None)
        try:
            camera = None if model is None else parse_camera(" ".join(words[model:]))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        result.append((line if model is None else " ".join(words[:model]), camera))
    return result


def lookup(entries: Mapping[str, Any], image: str | Path) -> Any:
    """Entry of an image by its path as given, by the end of the path, or by its file name."""
    path = Path(image)
    for name in (str(image), path.as_posix(), path.name):
        if name in entries:
            return entries[name]
    ends = [name for name in entries if "/" in name and path.as_posix().endswith("/" + name)]
    return entries[ends[0]] if len(ends) == 1 else None


def fit_camera(camera: Camera, width: int, height: int, image: str | Path) -> Camera:
    """The camera for a photo of this size: resized when the photo is a scaled copy.

    Raises ValueError when the shape of the photo is not the camera's.
    """
    if (camera.width, camera.height) == (width, height):
        return camera
    sx, sy = width / camera.width, height / camera.height
    if abs(sx / sy - 1) > 0.01:
        raise ValueError(
            f"{image} is {width} x {height} but its camera is for {camera.width} x {camera.height}"
        )
    return camera.resized((height, width))


def _pose(name: str, entry: Any) -> npt.NDArray[np.float64]:
    if isinstance(entry, Mapping):
        if "cam_from_world" in entry:
            entry = entry["cam_from_world"]
        elif "R_cam_from_world" in entry and "t_cam_from_world" in entry:
            t = np.asarray(entry["t_cam_from_world"], np.float64).reshape(3, 1)
            entry = np.hstack([np.asarray(entry["R_cam_from_world"], np.float64), t])
        elif "qvec_wxyz" in entry and "tvec" in entry:
            t = np.asarray(entry["tvec"], np.float64).reshape(3, 1)
            entry = np.hstack([rotation_from_quaternion(np.asarray(entry["qvec_wxyz"])), t])
        else:
            raise ValueError(f"the prior of {name} holds no cam_from_world")
    return as_cam_from_world(np.asarray(entry, np.float64), f"the prior of {name}")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def _read_json(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
