# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the network gives for a reference image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyloc_core.localization.features import Float32
from pyloc_core.models.network import as_numpy


@dataclass(frozen=True)
class DepthPrediction:
    """Depth of B reference images (H, W), in the unit of the poses.

    Attributes:
        depth: (B, H, W) float32 along the optical axis, sky included.
        log_depth: (B, H, W), its natural logarithm.
        sky_probability: (B, H, W) in [0, 1]; not calibrated (the published training takes the sigmoid
            twice).
        near, far: (B,) range of the last pass; `planes` and `log_depth` lie within.
        first_near, first_far: (B,) range of the first pass: the caller's, or that of the cameras.
        planes: (B, D) depths of the volume.
        mask: (B, h, w) bool, a quarter of the padded image a side: cells that some source sees at depth
            `far` (as published; see `Cameras.overall_mask`).
        volume: (B, D, h, w) of the last pass, where it was asked for.
        log_depths, sky_logits: (B, 1, H_s, W_s) per scale, finest first, of the *padded* image; one scale
            unless more were asked for.
    """

    depth: Tensor
    log_depth: Tensor
    sky_probability: Tensor
    near: Tensor
    far: Tensor
    first_near: Tensor
    first_far: Tensor
    planes: Tensor
    mask: Tensor
    volume: Tensor | None
    log_depths: tuple[Tensor, ...]
    sky_logits: tuple[Tensor, ...]

    @property
    def sky(self) -> Tensor:
        """(B, H, W) bool: sky probability of one half or more."""
        return self.sky_probability >= 0.5

    @property
    def masked_depth(self) -> Tensor:
        """(B, H, W): the depth, and 0 in the sky."""
        return torch.where(self.sky, torch.zeros_like(self.depth), self.depth)

    def depth_map(self, index: int = 0) -> Float32:
        """(H, W) float32 NumPy array: `masked_depth` of one image of the batch."""
        return as_numpy(self.masked_depth[index])

    @property
    def lowest_cost(self) -> Tensor:
        """(B, h, w): depth of the plane with the highest value of the volume, to look at what was matched.
        ValueError without `volume`."""
        if self.volume is None:
            raise ValueError("there is no volume: ask for it with return_volume=True")
        index = self.volume.argmax(1)
        return self.planes.gather(1, index.flatten(1)).view_as(index)
