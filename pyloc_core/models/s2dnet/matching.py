# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse-to-dense matching of two images with S2DNet, and its training loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from pyloc_core.geometry import Size, check_size, image_from_map, map_from_image
from pyloc_core.localization.hpatches import PointMatches
from pyloc_core.match_filters import cyclic_check, filter_matches
from pyloc_core.models.s2dnet.network import S2DNet
from pyloc_core.ops.match import match
from pyloc_core.ops.nre_loss import nre_loss

# Probability of a match on HPatches (thesis 3.6.2.2; 0 on InLoc), distance of the way back (A.2.1.1).
MIN_PROBABILITY, MAX_CYCLIC = 0.2, 1.0


def match_points(
    model: S2DNet,
    first: Any,
    xy: Any,
    second: Any,
    *,
    min_probability: float = MIN_PROBABILITY,
    max_cyclic: float | None = MAX_CYCLIC,
    num_threads: int | None = None,
) -> PointMatches:
    """Find points of one image anywhere in another.

    Args:
        model: the network.
        first, second: images (H, W, 3) RGB or (H, W), uint8, of any two sizes.
        xy: (N, 2) points of the first, pixels.
        min_probability: matches of at most this probability are not valid.
        max_cyclic: nor are those whose way back ends this far from the point, in pixels, or
            farther; None skips the way back.
        num_threads: see `match`.

    Returns:
        PointMatches: (N, 2) points of the second image, and which are valid.

    Source: Germain et al., "S2DNet" (2020), thesis Eq. 3.3, 3.5 and A.1 to A.3.
    """
    points = np.asarray(xy, np.float64).reshape(-1, 2)
    size_a, size_b = np.shape(first)[:2], np.shape(second)[:2]
    levels_a, levels_b = model.levels(first), model.levels(second)
    found = match(
        model.read(levels_a, points, size_a), levels_b, size=size_b, num_threads=num_threads
    )
    cells = found.xy.cpu().numpy()
    there = np.asarray(image_from_map(cells, size_b, size_b))
    valid = filter_matches(found, min_probability=min_probability).cpu().numpy()
    if max_cyclic is not None and len(points):
        back = cyclic_check(
            torch.from_numpy(map_from_image(points, size_a, size_a)).to(model.device),
            model.read(levels_b, there, size_b), levels_a, size=size_a, max_distance=max_cyclic,
            num_threads=num_threads,
        )  # fmt: skip
        valid &= back.valid.cpu().numpy()
    return PointMatches(there, valid)


def pixel_cross_entropy(
    descriptors: Sequence[torch.Tensor],
    levels: Sequence[torch.Tensor],
    targets: torch.Tensor,
    *,
    size: Size | None = None,
    outside: str = "raise",
    reduction: str = "mean",
) -> torch.Tensor:
    """Cross-entropy of the correspondence maps at the pixels nearest to the targets.

    It is `nre_loss` at rounded targets; the published training uses it (S2DNet). `nre_loss` at the
    targets themselves reads between the pixels and gives the targets a gradient.

    Args:
        descriptors: per level (N, D_l).
        levels: per level (D_l, h_l, w_l).
        targets: (N, 2) points (x, y) of the map of `size`; no gradient flows to them.
        size: (H, W) of the map; default the size of the level with most cells. Levels of another size
            are resized bilinearly: 4 D H W bytes are held for them.
        outside, reduction: see `nre_loss`.

    Returns:
        A scalar, or (N,) with reduction "none"; nats. Differentiable in descriptors and levels.

    Source: Germain et al., "S2DNet" (2020), thesis 3.5.
    """
    if not levels or len(levels) != len(descriptors):
        raise ValueError(f"{len(descriptors)} descriptors for {len(levels)} levels")
    largest = max(levels, key=lambda level: level.shape[-1] * level.shape[-2])
    target_size = check_size(largest.shape[-2:] if size is None else size, "size")
    resized = [
        level
        if tuple(level.shape[-2:]) == target_size
        else F.interpolate(level[None], target_size, mode="bilinear", align_corners=False)[0]
        for level in levels
    ]
    rounded = (targets.detach() + 0.5).floor()
    return nre_loss(
        torch.cat(list(descriptors), dim=1), torch.cat(resized), rounded, outside=outside,
        reduction=reduction,
    )  # fmt: skip
