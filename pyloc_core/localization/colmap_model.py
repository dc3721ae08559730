# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Reading a COLMAP model with errors that say what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyloc_core._extras import require


def read_model(
    folder: str | Path, image_folder: str | Path | None, exclude: Sequence[str] = ()
) -> Any:
    """A `pycolmap.Reconstruction` whose registered images all exist, less the excluded ones.

    Without an image folder the pictures are not looked for.

    Raises ValueError naming what is missing: the folder, a file of the model, an image, or the
    name to exclude; MissingExtra without pycolmap.
    """
    pycolmap = require("pycolmap", "reading a COLMAP model")
    folder, pictures = Path(folder), None if image_folder is None else Path(image_folder)
    if not folder.is_dir():
        raise ValueError(f"no such model folder: {folder}")
    for ending in (".bin", ".txt"):
        missing = [
            n for n in ("cameras", "images", "points3D") if not (folder / f"{n}{ending}").is_file()
        ]
        if not missing:
            break
    else:
        raise ValueError(f"{folder} is no COLMAP model: cameras, images and points3D .bin or .txt")
    if pictures is not None and not pictures.is_dir():
        raise ValueError(f"no such image folder: {pictures}")
    if ending == ".bin":
        _check_counts(folder)
    try:
        model = pycolmap.Reconstruction(str(folder))
    except Exception as error:  # pycolmap raises RuntimeError and others for damaged files
        raise ValueError(f"cannot read the COLMAP model in {folder}: {error}") from None
    names = {image.name: image for image in model.images.values() if image.has_pose}
    for name in exclude:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"the model has no image {name}{hint}")
        model.deregister_frame(names.pop(name).frame_id)
    absent = sorted(name for name in names if pictures and not (pictures / name).is_file())
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ValueError(f"{pictures} lacks the model's image {absent[0]}{more}")
    return model


# Bytes of the shortest entry: of a SIMPLE_PINHOLE camera, an image without name or points, a point
# without a track.
_SHORTEST = {
    "cameras": 4 + 4 + 8 + 8 + 24,
    "images": 4 + 32 + 24 + 4 + 1 + 8,
    "points3D": 8 + 24 + 3 + 8 + 8,
}


def _check_counts(folder: Path) -> None:
    """A damaged count makes pycolmap read on past the end for ever: refuse what cannot fit."""
    for name, shortest in _SHORTEST.items():
        path = folder / f"{name}.bin"
        with path.open("rb") as file:
            head = file.read(8)
        count = int.from_bytes(head, "little")
        if len(head) < 8 or count * shortest > path.stat().st_size - 8:
            raise ValueError(
                f"cannot read the COLMAP model in {folder}: {path.name} is truncated or damaged"
            )
