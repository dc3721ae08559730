# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""From a batch of places to the multi-similarity loss (Wang et al. 2019) with its online selection.

With s_ij the dot product of descriptors of unit length, P_i the other pictures of i's place and N_i those
of other places, a negative j is selected when s_ij > min over P_i of s_ik - margin, and a positive j when
s_ij < max over N_i of s_ik + margin. Over what is selected,

    loss_i = log(1 + sum_P exp(-alpha (s_ij - base))) / alpha + log(1 + sum_N exp(beta (s_ij - base))) / beta.

The thesis prints the selection with distances (Eqs. 5.3 and 5.4) and calls frames within tau of each other
a positive pair. The program behind it, and this, take similarities and the places' labels: the order is
the same, since ||x_i - x_j||^2 = 2 - 2 s_ij, but a margin on distances selects other pairs than one on
similarities. Labels and tau agree on mined batches, whose places are cliques at least tau apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyloc_core._extras import require
from pyloc_core.models.pixels import MEAN, STD
from pyloc_core.training.loss import Batch
from pyloc_core.training.place_options import PlaceOptions


class PlaceLoss(nn.Module):
    """What the loop trains: a network and one loss per source of places.

    Every source is mined by itself and has a loss of its own; the loop adds them up. Under several
    processes the descriptors of all are gathered first, so that the mined pairs, the loss and the
    gradient are those of one process with the whole batch.

    Args:
        network: images (B, 3, H, W) -> descriptors (B, D) of unit length. Where it has
            `parameters_to_train()`, only those are trained.
        sources: names of the batch's sources, in their order.
        mean, std: what pixels in [0, 1] are shifted and divided by; ImageNet's, as most networks expect.

    Raises:
        MissingExtra: pytorch-metric-learning is not installed.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        options: PlaceOptions,
        sources: Sequence[str] = ("places",),
        *,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.network, self.sources = network, tuple(sources)
        # Not a submodule: it has no weights, and checkpoints shall not know of the library.
        self._losses = (MultiSimilarity(options),)
        self.register_buffer("mean", torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(3, 1, 1), persistent=False)
        choose = getattr(network, "parameters_to_train", None)
        if choose is not None:
            chosen = {id(parameter) for parameter in choose()}
            for parameter in network.parameters():
                parameter.requires_grad_(id(parameter) in chosen)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters that are trained. ValueError when there are none."""
        found = [p for p in self.network.parameters() if p.requires_grad]
        if not found:
            raise ValueError("the network has no parameters to train")
        return [{"params": found}]

    def describe(self, images: Tensor) -> Tensor:
        """(B, D) descriptors of images (B, 3, H, W) uint8."""
        return self.network((images.float() / 255 - self.mean) / self.std)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        described = self.describe(batch["images"])
        with torch.autocast(described.device.type, enabled=False):
            descriptors = gathered(described.float())
            labels, source = gathered(batch["labels"]), gathered(batch["source"])
            losses = {}
            for number, name in enumerate(self.sources):
                own = source == number
                losses[name] = self._losses[0](descriptors[own], labels[own])
        return losses


class MultiSimilarity:
    """The loss of descriptors (M, D) of unit length with labels (M,), over the pairs that its miner selects.

    Both come from pytorch-metric-learning, with dot products as similarities.
    """

    def __init__(self, options: PlaceOptions) -> None:
        distances = require("pytorch_metric_learning.distances", "training for place recognition")
        losses = require("pytorch_metric_learning.losses", "training for place recognition")
        miners = require("pytorch_metric_learning.miners", "training for place recognition")
        self.miner = miners.MultiSimilarityMiner(
            epsilon=options.margin, distance=distances.CosineSimilarity()
        )
        self.loss = losses.MultiSimilarityLoss(
            alpha=options.alpha, beta=options.beta, base=options.base,
            distance=distances.DotProductSimilarity(),
        )  # fmt: skip

    def selected(self, descriptors: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Anchors and positives, anchors and negatives of the selected pairs."""
        return tuple(self.miner(descriptors, labels))

    def __call__(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        return self.loss(descriptors, labels, self.selected(descriptors, labels))


def gathered(values: Tensor) -> Tensor:
    """Values (B, ...) of all processes, (count B, ...), with gradients.

    The gradient of a process' values sums those of all processes' losses, which are the same loss; the
    mean over processes that follows makes it the gradient of one.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    return _Gathered.apply(values)


class _Gathered(torch.autograd.Function):
    """All processes' rows; backward sums the gradients of all and keeps the own rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
