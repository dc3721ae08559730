# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Small depth sets in the layouts of the benchmarks, of a tilted plane whose depth is known everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZE = (24, 32)
K = np.array([[40.0, 0, 16.5], [0, 42.0, 12.5], [0, 0, 1]])  # pixels that count from the corner
NORMAL, DISTANCE = np.array([0.1, 0.2, -1.0]), 5.0  # plane n . X = -distance in the world


@dataclass
class PlaneView:
    """A camera that looks at the plane: pose, picture and depth."""

    cam_from_world: np.ndarray
    image: np.ndarray
    depth: np.ndarray


def camera(scale: int = 1) -> np.ndarray:
    """K of images `scale` times SIZE."""
    return K * [[scale], [scale], [1]]


def plane_view(index: int, scale: int = 1, step: float = 0.2) -> PlaneView:
    """Camera `index` of a row of them, each a little turned; images `scale` times SIZE."""
    angle = 0.03 * index
    c, s = np.cos(angle), np.sin(angle)
    R = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    centre = np.array([step * index, 0.05 * index, 0])
    size = (scale * SIZE[0], scale * SIZE[1])
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    rays = np.einsum(
        "ij,jhw->hwi", R.T @ np.linalg.inv(camera(scale)), np.stack([x, y, np.ones(size)])
    )
    depth = (-DISTANCE - NORMAL @ centre) / (rays @ NORMAL)
    points = centre + depth[..., None] * rays
    u, v = points[..., 0], points[..., 1]
    waves = [
        70 * np.sin(3 * u + k) * np.cos(4 * v - k) + 40 * np.sin(11 * u + 5 * v + k)
        for k in range(3)
    ]
    image = (127 + np.stack(waves, -1)).round().astype(np.uint8)
    return PlaneView(np.c_[R, -R @ centre], image, depth.astype(np.float32))


def save_image(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def save_depth_png(path: Path, depth: np.ndarray, units_per_metre: float) -> None:
    save_image(path, (depth * units_per_metre).round().astype(np.uint16))


def save_text(path: Path, *arrays: np.ndarray | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [a if isinstance(a, str) else "\n".join(" ".join(map(repr, r)) for r in np.atleast_2d(a).tolist())
            for a in arrays]  # fmt: skip
    path.write_text("\n".join(rows) + "\n")


def save_pfm(path: Path, depth: np.ndarray, order: str = "<") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = "-1.0" if order == "<" else "1.0"
    head = f"Pf\n{depth.shape[1]} {depth.shape[0]}\n{scale}\n".encode()
    path.write_bytes(head + depth[::-1].astype(f"{order}f4").tobytes())


def four(pose: np.ndarray) -> np.ndarray:
    return np.vstack([pose, [0, 0, 0, 1]])


def centres(matrix: np.ndarray) -> np.ndarray:
    """Intrinsics as files keep them that count from 0 at the first pixel's centre."""
    return matrix - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]


def write_scannet(scene: Path, count: int = 12) -> None:
    for i in range(count):
        view = plane_view(i)
        save_image(scene / "color" / f"{i}.png", view.image)
        save_depth_png(scene / "depth" / f"{i}.png", view.depth, 1000)
        save_text(scene / "pose" / f"{i}.txt", np.linalg.inv(four(view.cam_from_world)))
    save_text(
        scene / "intrinsic" / "intrinsic_color.txt",
        np.pad(centres(K), (0, 1)) + np.diag([0, 0, 0, 1]),
    )


def write_mvsnet(scene: Path, count: int = 5, unit: float = 1.0, images: str = "images",
                 depths: str = "depths", scale: int = 1) -> None:  # fmt: skip
    lines = [str(count)]
    for i in range(count):
        view = plane_view(i, scale)
        save_image(scene / images / f"{i:08d}.png", view.image)
        save_pfm(scene / depths / f"{i:08d}.pfm", view.depth / unit)
        pose = view.cam_from_world.copy()
        pose[:, 3] /= unit
        text = (
            "extrinsic",
            four(pose),
            "",
            "intrinsic",
            camera(scale),
            "",
            f"{2 / unit} {0.1 / unit} 64 {9 / unit}",
        )
        save_text(scene / "cams" / f"{i:08d}_cam.txt", *text)
        near = sorted((j for j in range(count) if j != i), key=lambda j: abs(j - i))
        lines += [str(i), " ".join([str(len(near))] + [f"{j} {10.0 - abs(j - i)}" for j in near])]
    save_text(scene / "pair.txt", *lines)


def write_kitti(raw: Path, depth: Path, count: int = 5) -> str:
    """A car that drives straight north: oxts, calibrations and depth maps. The drive's name."""
    drive = "2011_09_26_drive_0001_sync"
    day = raw / "2011_09_26"
    P = np.c_[centres(K), centres(K) @ [-0.06, 0, 0]]
    save_text(day / "calib_cam_to_cam.txt", "calib_time: 09-Jan-2012 13:57:47",
              "P_rect_02: " + " ".join(map(repr, P.ravel().tolist())),
              "R_rect_00: 1 0 0 0 1 0 0 0 1")  # fmt: skip
    save_text(day / "calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 0", "T: 0 -0.08 -0.27")
    save_text(day / "calib_imu_to_velo.txt", "R: 1 0 0 0 1 0 0 0 1", "T: -0.8 0.3 -0.8")
    for i in range(count):
        view = plane_view(i)
        save_image(day / drive / "image_02" / "data" / f"{i:010d}.png", view.image)
        # 1.5 m a frame, looking north: yaw 90 degrees.
        latitude = 49.0 + math.degrees(1.5 * i / 6378137.0)
        save_text(day / drive / "oxts" / "data" / f"{i:010d}.txt",
                  f"{latitude!r} 8.4 116.0 0 0 {np.pi / 2!r} 0 0 0")  # fmt: skip
        maps = depth / "val" / drive / "proj_depth" / "groundtruth" / "image_02"
        save_depth_png(maps / f"{i:010d}.png", view.depth, 256)
    return drive
