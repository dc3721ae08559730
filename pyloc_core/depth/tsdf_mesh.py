# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A mesh of many depth maps, by fusion of truncated signed distances in Open3D.

Curless and Levoy, "A volumetric method for building complex models from range images", SIGGRAPH 1996.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.depth.consistency import DepthMap

# Open3D's names for its blocks of voxels; both are what its own examples take.
_BLOCK = 16
_BLOCKS = 20_000
_VOXELS_PER_PIXEL = 1.5  # width of a voxel in pixels' widths at the median depth
_TRUNCATION = 4.0  # voxels


@dataclass(frozen=True)
class Mesh:
    """`vertices` (N, 3) in the world, unit `normals` (N, 3), `colours` (N, 3) RGB, `triangles` (M, 3)."""

    vertices: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    colours: npt.NDArray[np.uint8]
    triangles: npt.NDArray[np.int32]


def default_voxel(views: Sequence[DepthMap]) -> float:
    """Width of a voxel, in units of the world, that suits the maps' resolution.

    Raises ValueError when no map knows a depth.
    """
    widths = [
        float(np.median(view.depth[view.depth > 0])) / view.K[0, 0]
        for view in views
        if (view.depth > 0).any()
    ]
    if not widths:
        raise ValueError("no depth map knows a depth: there is nothing to mesh")
    return _VOXELS_PER_PIXEL * float(np.median(widths))


def mesh_of_depths(
    views: Sequence[DepthMap],
    picture: Callable[[int], npt.NDArray[np.uint8]],
    *,
    voxel: float | None = None,
    least_weight: float = 2.0,
) -> Mesh:
    """Mesh of the surface that the depth maps show.

    Args:
        views: depth maps, 0 where unknown.
        picture: image (H, W, 3) RGB of a view by its index, of the size of its map.
        voxel: width in units of the world; None for `default_voxel`.
        least_weight: a voxel counts when so many views saw it.

    Raises ValueError for a voxel that is not positive and when no map knows a depth; MissingExtra without
    Open3D.
    """
    o3d: Any = require("open3d", "meshing depth maps")
    if voxel is not None and not voxel > 0:
        raise ValueError(f"voxel must be positive, got {voxel}")
    width = voxel or default_voxel(views)
    core = o3d.core
    device = core.Device("CPU:0")
    grid = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight", "color"), (core.float32,) * 3, ((1), (1), (3)), width, _BLOCK, _BLOCKS,
        device,
    )  # fmt: skip
    for index, view in enumerate(views):
        if not (view.depth > 0).any():
            continue
        depth = o3d.t.geometry.Image(core.Tensor(np.ascontiguousarray(view.depth, np.float32)))
        colour = o3d.t.geometry.Image(core.Tensor(picture(index).astype(np.float32)))
        K = core.Tensor(view.K)
        pose = core.Tensor(np.vstack([view.cam_from_world, [0, 0, 0, 1]]))
        far = float(view.depth.max()) * 1.01
        blocks = grid.compute_unique_block_coordinates(depth, K, pose, 1.0, far, _TRUNCATION)
        grid.integrate(blocks, depth, colour, K, K, pose, 1.0, far, _TRUNCATION)
    return _as_mesh(grid.extract_triangle_mesh(weight_threshold=least_weight))


def _as_mesh(mesh: Any) -> Mesh:
    if "positions" not in mesh.vertex or "indices" not in mesh.triangle:
        empty = np.zeros((0, 3), np.float32)
        return Mesh(empty, empty, empty.astype(np.uint8), empty.astype(np.int32))
    vertices = mesh.vertex.positions.numpy().astype(np.float32)
    colours = mesh.vertex.colors.numpy().round().clip(0, 255).astype(np.uint8)
    normals = mesh.vertex.normals.numpy().astype(np.float32)
    return Mesh(vertices, normals, colours, mesh.triangle.indices.numpy().astype(np.int32))
