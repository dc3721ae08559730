# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Cameras and features for the tests of the sweeps, and the sweep as one writes it with grid_sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


def rotation(vector: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3)."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector, -1, 0)
    o = np.zeros_like(x)
    k = np.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*vector.shape, 3)
    a = np.maximum(angle, 1e-12)
    return np.eye(3) + np.sin(angle) / a * k + (1 - np.cos(angle)) / a**2 * (k @ k)


def intrinsics(size: tuple[int, int]) -> np.ndarray:
    """In cells of a map (H, W), a little skewed and off its centre."""
    height, width = size
    return np.array(
        [[0.9 * width, 0.1, width / 2 - 0.7], [0, 0.9 * width, height / 2 - 0.3], [0, 0, 1]]
    )


@dataclass(frozen=True)
class Scene:
    """Arguments of plane_sweep, float64 but for what a test changes."""

    reference: Any
    sources: Any
    K_reference: Any
    K_sources: Any
    source_from_reference: Any
    depths: Any

    def arguments(self) -> list[Any]:
        return list(vars(self).values())

    def but(self, **changes: Any) -> Scene:
        return replace(self, **changes)

    def tensors(self, dtype: str = "float64") -> list[Any]:
        """Tensors with features of a dtype."""
        import torch

        found = [torch.as_tensor(x) for x in self.arguments()]
        return [x.to(getattr(torch, dtype)) for x in found[:2]] + found[2:]


def scene(
    sizes: tuple[int, int, int, int, int] = (2, 3, 5, 7, 0),
    size: tuple[int, int] = (6, 9),
    source_size: tuple[int, int] = (7, 8),
    *,
    form: str = "shared",
    baseline: float = 0.3,
) -> Scene:
    """`sizes`: B, V, C, D, seed. `form` of the depths: shared, item or cell."""
    b, v, c, d, seed = sizes
    g = np.random.default_rng(seed)
    turn = rotation(0.05 * g.normal(size=(b, v, 3)))
    poses = np.concatenate([turn, baseline * g.normal(size=(b, v, 3, 1))], -1)
    depths = np.geomspace(0.7, 15, d)
    if form != "shared":
        depths = depths * g.uniform(0.8, 1.2, (b, 1))
    if form == "cell":
        depths = depths[..., None, None] * g.uniform(0.9, 1.1, (b, 1, *size))
    return Scene(
        g.normal(size=(b, c, *size)),
        g.normal(size=(b, v, c, *source_size)),
        np.broadcast_to(intrinsics(size), (b, 3, 3)).copy(),
        np.broadcast_to(intrinsics(source_size), (b, v, 3, 3)).copy(),
        poses,
        depths,
    )


def source_points(
    K_reference: Any, K_sources: Any, source_from_reference: Any, depths: Any, size: tuple[int, int]
) -> tuple[Any, Any]:
    """Cells of the source maps (B, V, D, H, W, 2) and depths there, backprojected and projected."""
    import torch

    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack([x, y, torch.ones_like(x)]).to(K_reference)
    rays = torch.einsum("bij,jhw->bihw", torch.linalg.inv(K_reference), cells)
    if depths.ndim == 1:
        depths = depths.expand(len(K_reference), -1)
    depths = depths if depths.ndim == 4 else depths[..., None, None]
    points = rays[:, :, None] * depths[:, None].to(rays)  # (B, 3, D, H, W)
    turn, shift = source_from_reference[..., :3], source_from_reference[..., 3]
    there = torch.einsum("bvij,bjdhw->bvidhw", turn, points) + shift[..., None, None, None]
    q = torch.einsum("bvij,bvjdhw->bvidhw", K_sources, there)
    return torch.stack([q[:, :, 0] / q[:, :, 2], q[:, :, 1] / q[:, :, 2]], -1), there[:, :, 2]


def grid_sample_sweep(
    reference: Any, sources: Any, K_reference: Any, K_sources: Any,
    source_from_reference: Any, depths: Any, *, per_plane: bool = False,
) -> Any:  # fmt: skip
    """The mean over views of inner products (B, D, H, W) in the dtype of the features: all planes of a view
    in one call of grid_sample, or a plane at a time. What a network's source would do."""
    import torch
    from torch.nn.functional import grid_sample

    b, v, c, hs, ws = sources.shape
    size = reference.shape[-2:]
    uv, z = source_points(K_reference, K_sources, source_from_reference, depths, size)
    scale = torch.tensor([ws, hs], dtype=uv.dtype, device=uv.device)
    grid = ((2 * uv + 1) / scale - 1).to(reference.dtype)
    grid = torch.where((z > 0)[..., None], grid, 2.0 * torch.ones_like(grid)).nan_to_num(
        9.0, 9.0, 9.0
    )
    planes = grid.shape[2]
    total = torch.zeros(b, planes, *size, dtype=reference.dtype, device=reference.device)
    for i in range(v):
        if per_plane:
            warped = [
                grid_sample(sources[:, i], grid[:, i, k], align_corners=False)
                for k in range(planes)
            ]
            total = total + torch.stack([(reference * w).sum(1) for w in warped], 1)
        else:
            flat = grid[:, i].reshape(b, planes * size[0], size[1], 2)
            there = grid_sample(sources[:, i], flat, align_corners=False)
            there = there.reshape(b, c, planes, *size)
            total = total + (reference[:, :, None] * there).sum(1)
    return total / v
