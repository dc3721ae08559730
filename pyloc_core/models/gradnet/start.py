# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Weights to start training from: the principal components of dense RootSIFT."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyloc_core.models.gradnet.network import GradNet


@torch.no_grad()
def start_from_components(network: GradNet, images: Iterable[Tensor]) -> None:
    """Set both projections to the principal components of the rooted grids of images (1, 1, H, W).

    Then a descriptor is the projection of a RootSIFT vector less its mean, of unit length. Only the
    channels of the stem take part; those of the trunks start with no weight.
    """
    fine, coarse = [], []
    for gray in images:
        stem = network.stem(gray)
        fine.append(_scaled_grids(*network.fine_level.rooted(stem), network.fine_level, 2, 0))
        small = torch.nn.functional.avg_pool2d(stem, 2)
        coarse.append(
            _scaled_grids(*network.coarse_level.rooted(small), network.coarse_level, 1, 1)
        )
    channels = network.stem_filters.out_channels
    _set_components(
        network.fine_level.project, network.fine_level.offset, torch.cat(fine), channels
    )
    _set_components(
        network.coarse_level.project, network.coarse_level.offset, torch.cat(coarse), channels
    )


def _scaled_grids(root: Tensor, mass: Tensor, level: nn.Module, step: int, pad: int) -> Tensor:
    """(cells, C * 16) grids divided by the root of their mean mass, as the levels do."""
    grids = nn.functional.unfold(root, 4, dilation=step, padding=pad)[0].T
    around = nn.functional.unfold(mass, 4, dilation=step, padding=pad)[0].mean(0)
    picked = torch.linspace(0, len(grids) - 1, min(len(grids), 2000)).long()
    floor = level.log_floor.exp()  # type: ignore[operator]
    return (grids * torch.rsqrt(around + floor)[:, None])[picked]


def _set_components(project: nn.Conv2d, offset: Tensor, grids: Tensor, channels: int) -> None:
    """Projection on the leading components of the first `channels` channels."""
    used = grids[:, : channels * 16].double()
    mean = used.mean(0)
    _, vectors = torch.linalg.eigh(torch.cov((used - mean).T))
    count = min(project.out_channels, vectors.shape[1])
    leading = vectors.flip(1)[:, :count].T
    project.weight.zero_()
    offset.zero_()
    project.weight[:count, :channels] = leading.reshape(count, channels, 4, 4).float()
    offset[:count] = -(leading @ mean).float()
