# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Files of depth maps and of coloured points.

- `.npy`: (H, W) float32, 0 where unknown.
- `.pfm`: portable float map, one channel, little endian, rows from the bottom up.
- `.bin`: COLMAP's dense maps: "width&height&channels&" in ASCII, then float32, little endian, row by row.
- `.ply`: points with normals and colours, binary, little endian.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

FORMATS = ("npy", "pfm", "bin")


def write_depth(path: str | Path, depth: npt.NDArray[np.floating]) -> None:
    """Write (H, W), or for `.bin` also (H, W, channels), in the format that the file's ending names.

    Raises ValueError for another ending or shape.
    """
    path = Path(path)
    values = np.ascontiguousarray(depth, "<f4")
    if values.ndim not in ((2, 3) if path.suffix == ".bin" else (2,)) or 0 in values.shape:
        raise ValueError(f"a depth map must be (H, W) and not empty, got shape {values.shape}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".pfm":
        head = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n"
        path.write_bytes(head.encode() + values[::-1].tobytes())
    elif path.suffix == ".bin":
        layers = values[..., None] if values.ndim == 2 else values
        head = f"{layers.shape[1]}&{layers.shape[0]}&{layers.shape[2]}&"
        path.write_bytes(head.encode() + np.ascontiguousarray(layers.transpose(2, 0, 1)).tobytes())
    else:
        raise ValueError(f"depth maps are .{', .'.join(FORMATS)}: got {path}")


def read_depth(path: str | Path) -> Float32:
    """(H, W) float32 of a file of `write_depth`; (H, W, channels) of a `.bin` with several.

    Raises ValueError for a file that is missing, damaged or of another kind.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        elif path.suffix == ".pfm":
            values = _read_pfm(path.read_bytes())
        elif path.suffix == ".bin":
            values = _read_bin(path.read_bytes())
        else:
            raise ValueError(f"the ending must be one of {', '.join(FORMATS)}")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read the depth map {path}: {error}") from None
    if values.dtype.kind != "f" or values.ndim not in (2, 3):
        raise ValueError(f"{path} holds {values.dtype} of shape {values.shape}, not a depth map")
    return np.asarray(values, np.float32)


def _read_pfm(content: bytes) -> Float32:
    match = re.match(rb"Pf\s+(\d+)\s+(\d+)\s+(-?[\d.]+(?:[eE][-+]?\d+)?)\s", content)
    if match is None:
        raise ValueError("no header of a portable float map with one channel")
    width, height, scale = int(match[1]), int(match[2]), float(match[3])
    kind = "<f4" if scale < 0 else ">f4"
    return _array(content[match.end() :], kind, (height, width))[::-1]


def _read_bin(content: bytes) -> Float32:
    match = re.match(rb"(\d+)&(\d+)&(\d+)&", content)
    if match is None:
        raise ValueError("no header width&height&channels&")
    width, height, channels = (int(group) for group in match.groups())
    layers = _array(content[match.end() :], "<f4", (channels, height, width))
    return layers[0] if channels == 1 else layers.transpose(1, 2, 0)


def _array(content: bytes, kind: str, shape: tuple[int, ...]) -> Float32:
    if 0 in shape or len(content) != 4 * int(np.prod(shape)):
        raise ValueError(f"{len(content)} bytes do not hold {' x '.join(map(str, shape))} floats")
    return np.frombuffer(content, kind).reshape(shape)


def write_ply(
    path: str | Path,
    points: npt.NDArray[np.floating],
    normals: npt.NDArray[np.floating],
    colours: npt.NDArray[np.uint8],
    triangles: npt.NDArray[np.integer] | None = None,
) -> None:
    """Points (N, 3), unit normals (N, 3) and RGB (N, 3), and triangles (M, 3) of a mesh.

    Raises ValueError for arrays that do not belong together.
    """
    count = len(points)
    if any(a.shape != (count, 3) for a in (points, normals, colours)):
        shapes = [a.shape for a in (points, normals, colours)]
        raise ValueError(f"points, normals and colours must be (N, 3), got {shapes}")
    names = ("x", "y", "z", "nx", "ny", "nz")
    kind = [(n, "<f4") for n in names] + [(n, "u1") for n in ("red", "green", "blue")]
    rows = np.empty(count, kind)
    for k in range(3):
        rows[names[k]], rows[names[3 + k]] = points[:, k], normals[:, k]
        rows[("red", "green", "blue")[k]] = colours[:, k]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    head += [f"property float {name}" for name in names]
    head += [f"property uchar {name}" for name in ("red", "green", "blue")]
    faces = b""
    if triangles is not None:
        head += [f"element face {len(triangles)}", "property list uchar int vertex_indices"]
        table = np.empty(len(triangles), [("n", "u1"), ("v", "<i4", (3,))])
        table["n"], table["v"] = 3, triangles
        faces = table.tobytes()
    text = "\n".join([*head, "end_header", ""])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() + rows.tobytes() + faces)
