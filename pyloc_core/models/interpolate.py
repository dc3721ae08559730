# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Reading feature maps at points, and describing points at several scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from pyloc_core.localization.features import Features, Float32


def sample_cells(values: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """(N, D) of a map (D, H, W) at whole cells (N, 2), (x, y), clamped into the map."""
    height, width = values.shape[1:]
    x = cells[:, 0].long().clamp(0, width - 1)
    y = cells[:, 1].long().clamp(0, height - 1)
    return values[:, y, x].T


def sample_bilinear(values: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """(N, D) of a map (D, H, W) at map coordinates (N, 2), (x, y); border values continue outside.

    The centre of cell [row, col] is the point (col, row). Differentiable in the map and the points.
    """
    height, width = values.shape[1:]
    limit = torch.tensor([width - 1, height - 1], dtype=xy.dtype, device=xy.device)
    at = torch.minimum(xy.clamp_min(0), limit)
    low = torch.minimum(at.detach().floor(), (limit - 1).clamp_min(0))
    fx, fy = ((at - low).to(values.dtype)).unbind(1)
    x, y = low.long().unbind(1)
    x1, y1 = (x + 1).clamp_max(width - 1), (y + 1).clamp_max(height - 1)
    top = values[:, y, x] * (1 - fx) + values[:, y, x1] * fx
    bottom = values[:, y1, x] * (1 - fx) + values[:, y1, x1] * fx
    return (top * (1 - fy) + bottom * fy).T


def resized(image: npt.NDArray[np.uint8], scale: float) -> npt.NDArray[np.uint8]:
    """An image (H, W, 3) shrunk by `scale`, antialiased; enlarged when it is below 1."""
    height, width = (max(1, round(side / scale)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    values = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float()
    small = F.interpolate(values, (height, width), mode="bilinear", antialias=scale > 1)
    return small[0].round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()


def at_scales(
    dense: Callable[[npt.NDArray[Any]], Sequence[Features]],
    image: npt.NDArray[np.uint8],
    xy: npt.NDArray[Any],
    scales: Sequence[float],
) -> list[Float32]:
    """Per level (N, S, D): the dense features of the image shrunk by each of S scales, read at points
    (N, 2) in pixels of the image."""
    points = np.asarray(xy, np.float64).reshape(-1, 2)
    columns: list[list[Float32]] = []
    for scale in scales:
        small = resized(image, scale)
        moved = points * (np.array(small.shape[1::-1]) / np.array(image.shape[1::-1]))
        for index, level in enumerate(dense(small)):
            at = torch.from_numpy(level.cells(moved))
            read = sample_bilinear(torch.from_numpy(np.asarray(level.values)), at)
            if len(columns) <= index:
                columns.append([])
            columns[index].append(read.float().numpy())
    return [np.stack(each, axis=1) for each in columns]
