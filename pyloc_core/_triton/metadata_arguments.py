# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the launchers of the metadata cost volume hand to their kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from pyloc_core._triton.sweep_tiles import block_of, check, pack

_OP = "metadata_cost_volume"
MAX_HIDDEN = 64


class Problem(NamedTuple):
    """Arguments of the kernels, tensors first; what is absent is another tensor that is not read."""

    tensors: tuple[Tensor, ...]
    num_views: Tensor
    batch: int
    views: int
    planes: int
    size: tuple[int, int]
    source_size: tuple[int, int]
    channels: int
    hidden: tuple[int, int]
    options: dict[str, Any]

    @property
    def cells(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def sizes(self) -> tuple[int, ...]:
        """views, planes, cells, width, hs, ws, channels, h1, h2."""
        first = (self.views, self.planes, self.cells, self.size[1])
        return (*first, *self.source_size, self.channels, *self.hidden)


def prepare(
    reference: Tensor, sources: Tensor, weights: tuple[Tensor, ...], geometry: tuple[Tensor, ...],
    num_views: Tensor | None,
) -> Problem:  # fmt: skip
    """weights: w1 to b3; geometry: projection, rays, centres, pose values, depths, depth limits."""
    (b, channels, height, width), views = reference.shape, sources.shape[1]
    depths = geometry[4]
    block = block_of(channels, least=16)
    check(_OP, reference, sources, depths, block)
    hidden = weights[0].shape[0], weights[2].shape[0]
    if max(hidden) > MAX_HIDDEN:
        raise ValueError(
            f"{_OP}: the Triton kernels take hidden layers of up to {MAX_HIDDEN}, got {hidden}"
        )
    packed = [pack(reference, 0, block), pack(sources, 1, block)] if b else [reference, sources]
    rest = [t.contiguous() for t in (*weights, *geometry)]
    options = {
        "HAS_VIEWS": int(num_views is not None), "PER_CELL": int(depths.dim() == 4),
        "H1": max(16, triton.next_power_of_2(hidden[0])),
        "H2": max(16, triton.next_power_of_2(hidden[1])),
        "DEPTH": block * triton.cdiv(channels, block), "BLOCK_C": block,
        "SPLIT": int(reference.dtype == torch.float32),
    }  # fmt: skip
    source_size = (sources.shape[-2], sources.shape[-1])
    return Problem(
        (*packed, *rest), depths if num_views is None else num_views.contiguous(), b, views,
        depths.shape[1], (height, width), source_size, channels, hidden, options,
    )  # fmt: skip
