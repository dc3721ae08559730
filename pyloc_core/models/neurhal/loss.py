# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Training of NeurHal: the NRE of every correspondent, wherever it lies on the padded map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyloc_core.localization.pair import PairFeatures
from pyloc_core.models.neurhal.network import NeurHal
from pyloc_core.ops.nre_loss import nre_loss

# source image, target image (H, W, 3) uint8; keypoints and correspondents (N, 2) in their pixels
Pair = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float64], npt.NDArray[np.float64]]


def pair_loss(network: NeurHal, pairs: Sequence[Pair]) -> tuple[Tensor, int]:
    """Mean NRE (thesis, Eq. 5.1) over the keypoints of pairs of images, and how many took part.

    Visible, hidden and outside correspondents count alike; there are no labels. Those beyond the padded
    map have no probability there and are left out (the thesis does not say; its loss would be infinite).
    Pairs may differ in size and in number of keypoints: images of equal size go through the network as
    one batch, which batch norm sees.

    Published schedule: AdamW, 1e-3 after three epochs of linear warm-up from a tenth of it, halved every 8
    epochs, weight decay 0.1, at most 40 epochs, batch 8.

    Raises ValueError without pairs, and where images of a batch differ in size.
    """
    if not pairs:
        raise ValueError("pairs must hold at least one pair")
    near = [network.preprocess(pair[0]) for pair in pairs]
    far = [network.preprocess(pair[1]) for pair in pairs]
    if len({x.shape for x in near}) > 1 or len({x.shape for x in far}) > 1:
        raise ValueError("the source images of a batch must have one size, and so must the targets")
    counts = [len(pair[2]) for pair in pairs]
    keypoints = near[0].new_zeros(len(pairs), max(counts), 2)
    for b, (source, _, xy, _) in enumerate(pairs):
        ratio = np.array(near[b].shape[:1:-1]) / np.array(source.shape[1::-1])
        keypoints[b, : counts[b]] = torch.as_tensor(np.asarray(xy) * ratio).to(keypoints)
    found = network(torch.cat(near), torch.cat(far), keypoints)
    targets = torch.full_like(keypoints, torch.nan)
    for b, (_, target, _, seen) in enumerate(pairs):
        placed = PairFeatures(
            None, found.features[b], found.origin, found.image_cells, found.covers,
            (int(far[b].shape[2]), int(far[b].shape[3])), found.corner,
        )  # fmt: skip
        points = placed.to_map(seen, (target.shape[0], target.shape[1]))
        targets[b, : counts[b]] = torch.as_tensor(points).to(targets)
    size = torch.tensor(found.features.shape[:1:-1], device=targets.device)
    inside = targets - torch.tensor(found.origin, device=targets.device)
    used = int(((inside >= 0) & (inside <= size - 1)).all(-1).sum())
    loss = nre_loss(
        found.descriptors, found.features, targets, origin=found.origin, outside="mask",
        num_valid=torch.tensor(counts, device=targets.device), reduction="mean",
    )  # fmt: skip
    return loss, used
