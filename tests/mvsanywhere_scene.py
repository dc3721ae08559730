# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Small MVSAnywhere networks and posed views for their tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from pyloc_core import models

SMALL = {"backbone": (48, 4, 4), "width": 16, "matching_width": 16, "num_depths": 12}


def small(name: str, **options: Any) -> Any:
    """The same random weights every time."""
    return models.create(name, seed=3, **{**SMALL, **options})


class Scene(NamedTuple):
    """Arguments of a network, in its order."""

    reference: torch.Tensor
    sources: torch.Tensor
    K_reference: torch.Tensor
    K_sources: torch.Tensor
    poses: torch.Tensor

    @classmethod
    def drawn(
        cls, seed: int, *, views: int, batch: int = 1, size: tuple[int, int] = (64, 96)
    ) -> Scene:
        """Smooth pictures that have nothing to do with each other, cameras near each other."""
        g = torch.Generator().manual_seed(seed)
        coarse = torch.randn(batch * (views + 1), 3, 6, 8, generator=g)
        fine = F.interpolate(coarse, size, mode="bicubic")
        fine = fine + 0.1 * torch.randn(fine.shape, generator=g)
        images = fine.unflatten(0, (batch, views + 1))
        h, w = size
        K = torch.tensor([[0.9 * w, 0, 0.51 * w], [0, 0.9 * w, 0.48 * h], [0, 0, 1]])
        K = K.expand(batch, views + 1, 3, 3).clone()
        K[..., 0, 0] *= 1 + 0.05 * torch.rand(batch, views + 1, generator=g)
        vector = 0.08 * torch.randn(batch, views, 3, generator=g, dtype=torch.float64)
        skew = torch.zeros(batch, views, 3, 3, dtype=torch.float64)
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            skew[..., k, j], skew[..., j, k] = vector[..., i], -vector[..., i]
        poses = torch.eye(4, dtype=torch.float64).repeat(batch, views, 1, 1)
        poses[..., :3, :3] = torch.linalg.matrix_exp(skew)
        poses[..., :3, 3] = 0.2 * torch.randn(batch, views, 3, generator=g)
        return cls(images[:, 0], images[:, 1:], K[:, 0], K[:, 1:], poses)

    def double(self) -> Scene:
        return self.to(torch.float64)

    def to(self, dtype: torch.dtype) -> Scene:
        """Images of another dtype; the cameras keep theirs."""
        return self._replace(reference=self.reference.to(dtype), sources=self.sources.to(dtype))

    def picked(self, views: Iterable[int]) -> Scene:
        at = list(views)
        return self._replace(
            sources=self.sources[:, at], K_sources=self.K_sources[:, at], poses=self.poses[:, at]
        )

    def item(self, index: int) -> Scene:
        return Scene(*(each[index : index + 1] for each in self))

    def nothing(self) -> Scene:
        return Scene(*(each[:0] for each in self))

    def scaled(self, factor: float) -> Scene:
        poses = self.poses.clone()
        poses[..., :3, 3] *= factor
        return self._replace(poses=poses)

    def filled(self, height: int, width: int) -> Scene:
        """Images continued to a size by their last row and column, spelt out as an index."""
        rows = torch.arange(height).clamp(max=self.reference.shape[-2] - 1)
        columns = torch.arange(width).clamp(max=self.reference.shape[-1] - 1)
        return self._replace(
            reference=self.reference[..., rows[:, None], columns].contiguous(),
            sources=self.sources[..., rows[:, None], columns].contiguous(),
        )


def wall(depth: float, size: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """(1, 3, H, W) of a wall at a depth, two views (2, 3, H, W) of it from the sides, their poses
    (1, 2, 3, 4), and K (3, 3). The wall moves by 32 pixels at depth 1, by 16 at 2, by 8 at 4."""
    h, w = size
    g = torch.Generator().manual_seed(11)
    texture = torch.randn(1, 3, h, w + 64, generator=g)
    shift = int(32 / depth)

    def seen(offset: int) -> torch.Tensor:
        return texture[..., 32 + offset : 32 + offset + w]

    K = torch.tensor([[64.0, 0, w / 2], [0, 64.0, h / 2], [0, 0, 1]])
    poses = torch.eye(4)[:3].repeat(1, 2, 1, 1)
    poses[0, :, 0, 3] = torch.tensor([-0.5, 0.5])  # a camera to the right sees the wall moved left
    return seen(0), torch.cat([seen(shift), seen(-shift)]), poses, K
