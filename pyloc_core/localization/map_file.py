# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A map on disk: map.json (what it is) and map.safetensors (arrays, memory-mapped when read)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.camera import Camera
from pyloc_core.localization.map import Map
from pyloc_core.localization.options import MapOptions
from pyloc_core.retrieval import Index
from pyloc_core.retrieval.index_file import DESCRIPTION, VECTORS

FORMAT = "pyloc_core map"
VERSION = 2
# What a map is; its folder may hold anything else.
FILES = ("map.json", "map.safetensors", DESCRIPTION, VECTORS)
_READABLE = (1, 2)  # 1 knew neither scenes nor other global descriptors than the VLAD
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
# Tensor -> (dtype, number of axes); "fine" and "image_*" are optional.
_TENSORS = {
    "xyz": ("F64", 2), "point_ids": ("I64", 1), "obs_ptr": ("I64", 1), "obs_view": ("I32", 1),
    "obs_xy": ("F64", 2), "coarse": ("F16", 3), "cam_from_world": ("F64", 3),
    "vocabulary": ("F32", 2), "global_descriptors": ("F16", 2),
}  # fmt: skip
_SINCE_2 = {"view_scene": ("I32", 1), "point_scene": ("I32", 1)}
# Small arrays that every photo reads as a whole: held in memory.
_IN_MEMORY = (
    "point_ids", "xyz", "obs_ptr", "obs_view", "cam_from_world", "vocabulary", *_SINCE_2,
)  # fmt: skip


def save(built: Map, folder: Path) -> None:
    """Write both files; each appears complete or not at all."""
    numpy_io = require("safetensors.numpy", "saving a map")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: np.ascontiguousarray(getattr(built, name)) for name in {**_TENSORS, **_SINCE_2}
    }
    if built.fine is not None:
        tensors["fine"] = np.ascontiguousarray(built.fine)
    for view, image in enumerate(built.images):
        tensors[f"image_{view}"] = np.ascontiguousarray(image)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "descriptor": built.descriptor,
        "options": asdict(built.options),
        "global_descriptor": built.global_descriptor,
        "scenes": list(built.scenes),
        "images": [
            {"name": name, "camera": camera.to_dict()}
            for name, camera in zip(built.image_names, built.cameras)
        ],
    }
    # As `plain` compares what descriptors say of themselves.
    description = json.dumps(content, indent=1, default=str)
    for name in (DESCRIPTION, VECTORS):  # of an earlier map: it would not fit this one
        (folder / name).unlink(missing_ok=True)
    with _replacing(folder / "map.safetensors") as part:
        numpy_io.save_file(tensors, part)
    with _replacing(folder / "map.json") as part:
        part.write_text(description)
    if built.index is not None:
        built.index.save(folder, source=built.retrieval_fingerprint())


def load(folder: Path, with_index: bool = True) -> Map:
    """Read and check both files. ValueError names the one that is missing or damaged."""
    if not folder.is_dir():
        raise ValueError(f"no such map folder: {folder}")
    description = folder / "map.json"
    content = _read_description(description)
    path = folder / "map.safetensors"
    tensors = _read_tensors(path)
    try:
        names = [str(entry["name"]) for entry in content["images"]]
        cameras = [Camera.from_dict(entry["camera"]) for entry in content["images"]]
        options = MapOptions(**content["options"])
        descriptor = dict(content["descriptor"])
        network = content.get("global_descriptor")
        network = None if network is None else dict(network)
        scenes = tuple(str(scene) for scene in content.get("scenes", [""]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{description} is damaged: {error}") from None
    wanted = _TENSORS if content["version"] == 1 else {**_TENSORS, **_SINCE_2}
    for name, (dtype, axes) in wanted.items():
        if name not in tensors:
            raise ValueError(f"{path} is damaged: it lacks {name}")
        array = tensors[name]
        if array.dtype != np.dtype(_DTYPES[dtype]) or array.ndim != axes:
            raise ValueError(f"{path} is damaged: {name} is {array.dtype} {array.shape}")
    images = [tensors[f"image_{v}"] for v in range(len(names)) if f"image_{v}" in tensors]
    arrays: dict[str, Any] = {
        n: np.array(tensors[n]) if n in _IN_MEMORY else tensors[n] for n in wanted
    }
    built = Map(
        **arrays,
        fine=tensors.get("fine"),
        image_names=names,
        cameras=cameras,
        images=images,
        descriptor=descriptor,
        options=options,
        global_descriptor=network,
        scenes=scenes,
    )
    problem = _inconsistency(built)
    if problem:
        raise ValueError(f"{path} is damaged: {problem}")
    if not with_index or not (folder / DESCRIPTION).exists():
        return built
    index = Index.load(folder, source=built.retrieval_fingerprint())
    if index.names != built.image_names:
        raise ValueError(f"{folder / DESCRIPTION} does not list the images of the map")
    return replace(built, index=index)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file to write in the place of another, which it takes when it is complete."""
    part = path.with_name(path.name + ".part")
    yield part
    os.replace(part, path)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is no map: {path.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} does not describe a map")
    if content.get("version") not in _READABLE:
        raise ValueError(
            f"{path} has version {content.get('version')}; this program reads versions 1 to {VERSION}"
        )
    return content


def _read_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a safetensors file as read-only views of one memory map.

    The file is an 8-byte length, a JSON header, and the data; `safetensors.numpy` would copy it all.
    """
    try:
        data = np.memmap(path, np.uint8, mode="r")
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is no map: {path.name} is missing") from None
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise ValueError(f"cannot read {path}: {error}") from None
    try:
        length = int.from_bytes(data[:8].tobytes(), "little")
        if len(data) < 8 or length > len(data) - 8:
            raise ValueError("it is truncated")
        header = json.loads(data[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        body = data[8 + length :]
        return {name: _tensor(body, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _tensor(body: npt.NDArray[np.uint8], entry: dict[str, Any]) -> npt.NDArray[Any]:
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    start, end = (int(v) for v in entry["data_offsets"])
    shape = tuple(int(s) for s in entry["shape"])
    if not 0 <= start <= end <= len(body):
        raise ValueError("it is truncated")
    if (
        end - start != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        or min(shape, default=0) < 0
    ):
        raise ValueError("the size of a tensor does not fit its shape")
    raw = body[start:end]
    if start % dtype.itemsize:  # not written by `save`, which aligns
        return np.frombuffer(raw.tobytes(), dtype).reshape(shape)
    return raw.view(dtype).reshape(shape)


def _inconsistency(built: Map) -> str | None:
    """What does not fit together, if anything: indices must be safe to use."""
    points, views, obs = len(built.xyz), len(built.cameras), len(built.obs_view)
    ptr = built.obs_ptr
    shapes = {
        "xyz": (points, 3), "point_ids": (points,), "obs_ptr": (points + 1,), "obs_xy": (obs, 2),
        "cam_from_world": (views, 3, 4), "view_scene": (views,), "point_scene": (points,),
    }  # fmt: skip
    for name, shape in shapes.items():
        if getattr(built, name).shape != shape:
            return f"{name} is {getattr(built, name).shape}, expected {shape}"
    if built.coarse.shape[:2] != (obs, len(built.options.scales)):
        return f"coarse is {built.coarse.shape}"
    if built.fine is not None and built.fine.shape[:2] != built.coarse.shape[:2]:
        return f"fine is {built.fine.shape}"
    if len(built.global_descriptors) != views:
        return f"global_descriptors is {built.global_descriptors.shape}"
    if ptr[0] != 0 or ptr[-1] != obs or (np.diff(ptr) < 0).any():
        return "obs_ptr does not rise from 0 to the number of observations"
    if obs and not (built.obs_view.min() >= 0 and built.obs_view.max() < views):
        return "obs_view names an image that does not exist"
    if len(set(built.scenes)) != len(built.scenes):
        return f"scenes are {built.scenes}"
    for name in ("view_scene", "point_scene"):
        label = getattr(built, name)
        if len(label) and not (label.min() >= 0 and label.max() < len(built.scenes)):
            return f"{name} names a scene that does not exist"
    if (built.view_scene[built.obs_view] != built.point_scene[built.obs_point]).any():
        return "an image sees a point of another scene"
    finite = all(np.isfinite(a).all() for a in (built.xyz, built.cam_from_world, built.obs_xy))
    if not finite:
        return "it holds values that are not finite"
    if built.images and (
        len(built.images) != views
        or any(
            i.shape != c.size or i.dtype != np.uint8 for i, c in zip(built.images, built.cameras)
        )
    ):
        return "images do not fit their cameras"
    return None
