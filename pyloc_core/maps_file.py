# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Loss maps on disk: one .npz or .safetensors file. Nothing in it is ever run as code."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pyloc_core.maps import LossMaps

FORMAT = 1
ARRAYS = ("row_ptr", "xy", "gain", "flat_gain", "origins")


def save(maps: LossMaps, path: str | os.PathLike[str]) -> None:
    """Write atomically: a reader never sees half a file."""
    path = Path(path)
    arrays = {name: getattr(maps, name) for name in ARRAYS if getattr(maps, name) is not None}
    arrays["shape"] = np.array([FORMAT, *maps.size, *maps.window], np.int64)
    if maps.origin != (0, 0) or maps.image_cells != maps.size:
        arrays["frame"] = np.array([*maps.origin, *maps.image_cells], np.int64)
    arrays["log_cardinality"] = np.array([maps.log_cardinality], np.float64)
    partial = path.with_name(path.name + ".part")
    if path.suffix == ".npz":
        with open(partial, "wb") as stream:
            np.savez(stream, **arrays)
    elif path.suffix == ".safetensors":
        _safetensors().save_file(arrays, str(partial))
    else:
        raise ValueError(f"path must end in .npz or .safetensors, got {path.name!r}")
    os.replace(partial, path)


def load(path: str | os.PathLike[str]) -> LossMaps:
    """Read and check; FileNotFoundError when absent, ValueError when damaged."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no loss maps at {path}")
    try:
        arrays = _read(path)
        shape = arrays["shape"]
        if shape.shape != (5,) or shape[0] != FORMAT:
            raise ValueError(f"format {shape.tolist()} is not known")
        placed = arrays.get("frame", np.array([0, 0, *shape[1:3]]))
        if placed.shape != (4,):
            raise ValueError(f"frame must hold 4 values, got shape {placed.shape}")
        x0, y0, rows, columns = (int(v) for v in placed)
        return LossMaps(
            arrays["row_ptr"],
            arrays["xy"],
            arrays["gain"],
            size=(int(shape[1]), int(shape[2])),
            window=(int(shape[3]), int(shape[4])),
            log_cardinality=float(arrays["log_cardinality"].reshape(-1)[0]),
            origins=arrays.get("origins"),
            flat_gain=arrays["flat_gain"],
            origin=(x0, y0),
            image_cells=(rows, columns),
        )
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(f"{path} does not hold loss maps: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        library = _safetensors()
        try:
            return dict(library.load_file(str(path)))
        except Exception as error:  # the package has its own exception type
            raise ValueError(str(error)) from error
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("a .safetensors file needs: pip install safetensors") from error
    return safetensors.numpy
