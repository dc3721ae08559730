# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Training pairs: two photos, and points whose place in both is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyloc_core._extras import require
from pyloc_core.models.gradnet.descriptor import centred_patches

cv2 = require("cv2", "training")

Array = npt.NDArray[np.float64]
Gray8 = npt.NDArray[np.uint8]
Random = np.random.Generator


@dataclass(frozen=True)
class Pair:
    """Two grey photos of one scene and N places in both.

    Attributes:
        reference, query: (H, W) uint8.
        reference_xy, query_xy: (N, 2) image pixels.
        reference_from_query: (N, 2, 2) affine maps from offsets in the query to offsets in the
            reference photo: how the surroundings of a point change.
    """

    reference: Gray8
    query: Gray8
    reference_xy: Array
    query_xy: Array
    reference_from_query: Array

    def __len__(self) -> int:
        return len(self.query_xy)


class PairSource(Protocol):
    """Makes pairs: the same rng state gives the same pair."""

    def pair(self, rng: Random) -> Pair:
        """One pair, with the number of points that its photos allow."""


class PairDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A fixed number of pairs from one or several sources, as tensors of one size.

    Item (epoch, index) depends on the seed and these two alone, so a resumed run, another number of
    workers or of processes sees the same pairs. `set_epoch` changes the pairs; `fresh=False` keeps
    those of epoch 0, for held-out pairs.

    Args:
        sources: what makes pairs; `shares` their weights in the mixture.
        length: pairs per epoch.
        points: N per pair; a pair with fewer repeats some with weight zero.
        patch: side in pixels of the patches around the reference points, even; 0 for none.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        length: int,
        *,
        shares: Sequence[float] | None = None,
        points: int = 128,
        patch: int = 0,
        seed: int = 0,
        fresh: bool = True,
    ) -> None:
        if not sources:
            raise ValueError("sources must name at least one source of pairs")
        if length < 1 or points < 1:
            raise ValueError(f"length and points must be positive, got {length} and {points}")
        if patch < 0 or patch % 2:
            raise ValueError(f"patch must be even and not negative, got {patch}")
        weights = np.ones(len(sources)) if shares is None else np.asarray(shares, float)
        if weights.shape != (len(sources),) or (weights < 0).any() or not weights.sum() > 0:
            raise ValueError(f"shares must be {len(sources)} weights that are not all zero")
        self.sources, self.length, self.points, self.patch = list(sources), length, points, patch
        self.shares, self.seed, self.fresh, self.epoch = weights / weights.sum(), seed, fresh, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(f"pair {index} of {self.length}")
        epoch = self.epoch if self.fresh else 0
        rng = np.random.default_rng([self.seed, epoch, index])
        source = self.sources[int(rng.choice(len(self.sources), p=self.shares))]
        for _ in range(20):
            pair = source.pair(rng)
            if len(pair):
                return as_tensors(pair, rng, self.points, self.patch)
        raise ValueError(f"{type(source).__name__} made 20 pairs without a common point")


def as_tensors(pair: Pair, rng: Random, points: int, patch: int) -> dict[str, Tensor]:
    """A pair with exactly `points` points: photos (1, H, W) in [0, 1], xy (N, 2), weight (N,).

    With `patch`, "patches" (N, 1, patch, patch) are the reference points' surroundings as the query
    sees them, centred on the points, as a localizer's fine stage describes them.
    """
    chosen, weight = np.arange(len(pair)), np.ones(points, np.float32)
    if len(pair) >= points:
        chosen = rng.permutation(len(pair))[:points]
    else:
        weight[len(pair) :] = 0
        chosen = np.concatenate([chosen, rng.integers(0, len(pair), points - len(pair))])
    item = {
        "reference": _image(pair.reference),
        "query": _image(pair.query),
        "reference_xy": torch.from_numpy(pair.reference_xy[chosen]).float(),
        "query_xy": torch.from_numpy(pair.query_xy[chosen]).float(),
        "weight": torch.from_numpy(weight),
    }
    if patch:
        around = centred_patches(
            pair.reference.astype(np.float32), pair.reference_xy[chosen],
            pair.reference_from_query[chosen], patch,
        )  # fmt: skip
        item["patches"] = torch.from_numpy(around[:, None] / np.float32(255))
    return item


def corner_points(rng: Random, image: Gray8, count: int, border: int) -> Array:
    """(count, 2) random image points, mostly near corners, which is where models have their points."""
    strength = cv2.cornerMinEigenVal(cv2.GaussianBlur(image, (0, 0), 1.0), 5)
    inner = np.sqrt(np.maximum(strength[border:-border:2, border:-border:2], 0)).astype(np.float64)
    flat = inner.ravel() + 0.1 * inner.mean() + 1e-12
    picked = rng.choice(flat.size, count, p=flat / flat.sum())
    rows, columns = np.divmod(picked, inner.shape[1])
    at = np.stack([columns, rows], 1) * 2 + border
    return np.asarray(at + rng.uniform(-1, 2, (count, 2)))


def stack(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of items of one size."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def _image(pixels: Gray8) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32)[None] / np.float32(255))
