# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From a batch of pairs to the neural reprojection error (Germain et al. 2021; thesis, Eq. 4.10).

A module here takes what `PairDataset` makes and returns losses per pair, one entry per level. The loop
knows nothing else of a network, so another one is trained by wrapping it likewise.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyloc_core.models.gradnet.network import GradNet
from pyloc_core.ops.nre_loss import nre_loss

Batch = dict[str, Tensor]
_RATE_FACTORS = {"stem_filters": 0.05, "pool": 0.1, "project": 0.2, "offset": 0.2}


class DensePairLoss(nn.Module):
    """For any network (B, 1, H, W) -> (B, D, h, w): the reference map is read at the points.

    Args:
        network: its cells must tile the image.
        beta: the correlation of two descriptors is multiplied by it; 1 for networks whose vectors are
            not normalised.
    """

    def __init__(self, network: nn.Module, beta: float = 1.0) -> None:
        super().__init__()
        self.network, self.beta = network, beta

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        size = batch["query"].shape[-2:]
        reference, query = self.network(batch["reference"]), self.network(batch["query"])
        at = cells(batch["reference_xy"], size, reference.shape[-2:])
        described = read_bilinear(reference, at) * self.beta
        targets = cells(batch["query_xy"], size, query.shape[-2:])
        return {"dense": pair_losses(described, query, targets, batch["weight"])}


class GradNetPairLoss(nn.Module):
    """Both levels of `GradNet`, described as a localizer does it.

    Coarse: the reference map is read between its cells. Fine: patches, warped as the query sees them,
    so the dataset must make patches of `PATCH` pixels.
    """

    def __init__(self, network: GradNet) -> None:
        super().__init__()
        self.network = network

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with factors for the learning rate: what starts as a histogram moves slowly.

        The entries of the stem's filters are of the order of 0.01, those of the projections of 0.05.
        """
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            factor = next((f for part, f in _RATE_FACTORS.items() if part in name), 1.0)
            groups.setdefault(factor, []).append(parameter)
        return [{"params": params, "factor": factor} for factor, params in groups.items()]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        network, size = self.network, batch["query"].shape[-2:]
        beta = network.beta
        coarse, fine = network(batch["query"])
        reference = network.coarse(batch["reference"])
        at = cells(batch["reference_xy"], size, reference.shape[-2:])
        losses = {}
        described = F.normalize(read_bilinear(reference, at), dim=2) * beta[0]
        targets = cells(batch["query_xy"], size, coarse.shape[-2:])
        losses["coarse"] = pair_losses(described, coarse, targets, batch["weight"])
        b, n = batch["patches"].shape[:2]
        patches = network.patches(batch["patches"].flatten(0, 1)).reshape(b, n, -1) * beta[1]
        targets = cells(batch["query_xy"], size, fine.shape[-2:])
        losses["fine"] = pair_losses(patches, fine, targets, batch["weight"])
        return losses


def pair_losses(descriptors: Tensor, features: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """(B,) weighted mean NRE: descriptors (B, N, D), features (B, D, H, W), targets (B, N, 2) cells.

    A point's error E is softened to `-ln(exp(-E) + 1 / |O|)`, |O| = 1 + H W: like the loss maps that a
    localizer makes, which end at ln |O|, it does not pull at points that cannot be found.
    Always in float32: under mixed precision only the network runs in fewer bits.
    """
    limit = math.log(1 + features.shape[-2] * features.shape[-1])
    with torch.autocast(features.device.type, enabled=False):
        errors = nre_loss(descriptors.float(), features.float(), targets.float(), outside="mask")
        each = -torch.logaddexp(-errors, errors.new_tensor(-limit))
        return (each * weight).sum(1) / weight.sum(1).clamp_min(1)


def cells(xy: Tensor, image_size: torch.Size, map_size: torch.Size) -> Tensor:
    """Image points (..., 2) to map coordinates, as `map_from_image` does it, differentiable."""
    scale = [m / i for m, i in zip(map_size[::-1], image_size[::-1])]
    return xy * xy.new_tensor(scale) - 0.5


def read_bilinear(features: Tensor, at: Tensor) -> Tensor:
    """(B, N, D) of features (B, D, H, W) at map coordinates (B, N, 2), border repeated."""
    h, w = features.shape[-2:]
    grid = (2 * at + 1) / at.new_tensor([w, h]) - 1
    read = F.grid_sample(
        features.float(), grid[:, None].float(), padding_mode="border", align_corners=False
    )
    return read[:, :, 0].transpose(1, 2)
