# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The plane sweep in torch, in the dtype of its arguments (float64 in the tests).

Letters: B batch, V source views, C channels, D planes, H W reference map, Hs Ws source maps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]


class Samples(NamedTuple):
    """Where the cells of the reference lie in the sources, (B, V, D, H, W): x, y in map cells of the
    source, and z, the depth there over the plane's depth."""

    x: Tensor
    y: Tensor
    z: Tensor

    def in_front(self) -> Tensor:
        return self.z > 0

    def seen(self, source: Size) -> Tensor:
        """In front, and within the edges of the map's outermost cells."""
        height, width = source
        across = (self.x >= -0.5) & (self.x <= width - 0.5)
        return self.in_front() & across & (self.y >= -0.5) & (self.y <= height - 0.5)


def samples(projection: Tensor, depths: Tensor, size: Size) -> Samples:
    """q = M (x, y, 1) + m / d for [M | m] (B, V, 3, 4) and depths (B, D) or (B, D, H, W)."""
    height, width = size
    y, x = torch.meshgrid(
        torch.arange(height, dtype=projection.dtype, device=projection.device),
        torch.arange(width, dtype=projection.dtype, device=projection.device),
        indexing="ij",
    )
    cells = torch.stack([x, y, torch.ones_like(x)])  # (3, H, W)
    rays = torch.einsum("bvij,jhw->bvihw", projection[..., :3], cells)
    if depths.ndim == 2:
        depths = depths[..., None, None]
    inverse = 1 / depths[:, None].to(projection.dtype)  # (B, 1, D, 1 or H, 1 or W)
    q = [rays[:, :, i, None] + projection[:, :, i, 3, None, None, None] * inverse for i in range(3)]
    return Samples(q[0] / q[2], q[1] / q[2], q[2])


def used_views(num_views: Tensor | None, views: int) -> Tensor:
    """(B or 1, V, 1, 1, 1): which views take part."""
    if num_views is None:
        return torch.ones(1, views, 1, 1, 1, dtype=torch.bool)
    index = torch.arange(views, device=num_views.device)
    return (index < num_views[:, None])[..., None, None, None]


def view_weights(at: Samples, num_views: Tensor | None, source: Size, reduce: str) -> Tensor:
    """What every view's inner product counts for, (B, V, D, H, W)."""
    used = used_views(num_views, at.z.shape[1]).to(at.z.device)
    if reduce == "valid_mean":
        seen = (used & at.seen(source)).to(at.z.dtype)
        return seen / seen.sum(1, keepdim=True).clamp_min(1)
    weights = (used & at.in_front()).to(at.z.dtype)
    return weights if reduce == "none" else weights / used.sum(1, keepdim=True)


def taps(x: Tensor, y: Tensor, z: Tensor, source: Size) -> list[tuple[Tensor, Tensor]]:
    """Four pairs of index into the flat source map and weight for samples (B, D, H, W); the weight of a tap
    outside the map is zero."""
    height, width = source
    near = (
        (z > 0) & (x > -1) & (x < width) & (y > -1) & (y < height)
    )  # False for what is not finite
    x, y = torch.where(near, x, -1.0), torch.where(near, y, -1.0)
    x0, y0 = x.floor(), y.floor()
    found = []
    for column, wx in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
        for row, wy in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
            inside = near & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = torch.where(inside, row * width + column, 0.0).long()
            found.append((index, torch.where(inside, wx * wy, 0.0)))
    return found


def warped(source: Tensor, at: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The features (B, C, Hs, Ws) of one view at samples (B, D, H, W): (B, C, D, H, W)."""
    b, c = source.shape[:2]
    total = torch.zeros((), dtype=source.dtype, device=source.device)
    for index, weight in at:
        places = index.reshape(b, 1, -1).expand(b, c, -1)
        total = (
            total
            + source.flatten(2).gather(2, places).reshape(b, c, *index.shape[1:]) * weight[:, None]
        )
    return total


def plane_sweep(
    reference: Tensor,
    sources: Tensor,
    projection: Tensor,
    depths: Tensor,
    num_views: Tensor | None,
    reduce: str,
) -> Tensor:
    """Inner products of the features (B, C, H, W) with those of the sources (B, V, C, Hs, Ws), sampled at
    every plane: (B, D, H, W), or (B, V, D, H, W) for reduce = "none"."""
    at, weights = _geometry(reference, sources, projection, depths, num_views, reduce)
    size = (sources.shape[-2], sources.shape[-1])
    volumes = []
    for v in range(sources.shape[1]):
        there = warped(sources[:, v], taps(at.x[:, v], at.y[:, v], at.z[:, v], size))
        volumes.append((reference[:, :, None] * there).sum(1) * weights[:, v])
    volume = torch.stack(volumes, 1)
    return volume if reduce == "none" else volume.sum(1)


def plane_sweep_backward(
    reference: Tensor,
    sources: Tensor,
    projection: Tensor,
    depths: Tensor,
    num_views: Tensor | None,
    d_volume: Tensor,
    reduce: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of the features: with g the volume's gradient times the weight of the view, sum g F over
    planes and views for the reference, and g times the reference, spread to the four taps, for a source."""
    at, weights = _geometry(reference, sources, projection, depths, num_views, reduce)
    size = (sources.shape[-2], sources.shape[-1])
    d_reference, d_sources = torch.zeros_like(reference), torch.zeros_like(sources).flatten(3)
    for v in range(sources.shape[1]):
        found = taps(at.x[:, v], at.y[:, v], at.z[:, v], size)
        g = (d_volume[:, v] if reduce == "none" else d_volume) * weights[:, v]  # (B, D, H, W)
        d_reference += (warped(sources[:, v], found) * g[:, None]).sum(2)
        for index, weight in found:
            spread = reference[:, :, None] * (g * weight)[:, None]  # (B, C, D, H, W)
            places = index.flatten(1)[:, None].expand(*spread.shape[:2], -1)
            d_sources[:, v].scatter_add_(2, places, spread.flatten(2))
    return d_reference, d_sources.reshape(sources.shape)


def plane_sweep_mask(
    projection: Tensor,
    depths: Tensor,
    num_views: Tensor | None,
    size: Size,
    source: Size,
    per_view: bool,
) -> Tensor:
    """Whether views see the cells at every plane, (B, V, D, H, W), or at least one does, (B, D, H, W)."""
    at = samples(projection, depths, size)
    used = used_views(num_views, projection.shape[1]).to(projection.device)
    seen = at.seen(source) & used
    return seen if per_view else seen.any(1)


def _geometry(
    reference: Tensor, sources: Tensor, projection: Tensor, depths: Tensor,
    num_views: Tensor | None, reduce: str,
) -> tuple[Samples, Tensor]:  # fmt: skip
    height, width = reference.shape[-2:]
    at = samples(projection.to(reference.dtype), depths.to(reference.dtype), (height, width))
    hs, ws = sources.shape[-2:]
    return at, view_weights(at, num_views, (hs, ws), reduce)
