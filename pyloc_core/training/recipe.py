# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""How GradNet is trained: its start, its pairs, its held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pyloc_core.models.gradnet.network import PATCH, GradNet
from pyloc_core.models.gradnet.start import start_from_components
from pyloc_core.models.gradnet.weights import load_network, save_network
from pyloc_core.training.loss import GradNetPairLoss
from pyloc_core.training.options import TrainingOptions
from pyloc_core.training.pairs import PairDataset, PairSource
from pyloc_core.training.posed_pairs import PosedPairs
from pyloc_core.training.rendered_pairs import RenderedPairs
from pyloc_core.training.textures import HELD_OUT_PHOTOS, TRAINING_PHOTOS
from pyloc_core.training.warped_pairs import WarpedPairs

# Held-out pairs have seeds of their own, far from those of any run.
_HELD_OUT_SEED, _HELD_OUT_ROOMS = 1000, 99
_START_IMAGES, _START_SEED = 30, 1
SIZE = (320, 320)
_MILD_WARPS: dict[str, Any] = {
    "angle": 10.0,
    "log_scale": 0.1,
    "slant_error": 0.04,
    "strength": 0.7,
}


@dataclass(frozen=True)
class Material:
    """What to train on.

    Attributes:
        textures, rooms: the built-in pairs, warped and rendered.
        images: photos of yours to warp; `models` pairs (COLMAP model folder, image folder).
        room_count: rooms that are drawn once and kept in memory.
        mild: smaller changes of view, light and affine maps, near those between a photo and the
            reference that a localizer picks: a second stage, which gains precision.
    """

    textures: bool = True
    rooms: bool = True
    images: tuple[Path, ...] = ()
    models: tuple[tuple[Path, Path], ...] = ()
    room_count: int = 24
    mild: bool = False

    def sources(self, held_out: bool = False) -> list[PairSource]:
        """Sources of pairs. Held-out pairs use other photos and rooms; the images and models given
        have no second set and are shared, with other warps and views. ValueError when there is none."""
        found: list[PairSource] = []
        photos = HELD_OUT_PHOTOS if held_out else TRAINING_PHOTOS
        if self.textures:
            found.append(
                WarpedPairs(size=SIZE, photos=photos, **(_MILD_WARPS if self.mild else {}))
            )
        if self.rooms:
            count = min(4, self.room_count) if held_out else self.room_count
            seed = _HELD_OUT_ROOMS if held_out else 0
            strength = _MILD_WARPS["strength"] if self.mild else 1.0
            found.append(
                RenderedPairs(size=SIZE, rooms=count, seed=seed, strength=strength, photos=photos)
            )
        if self.images:
            found.append(WarpedPairs.of_images(self.images, SIZE))
        found += [PosedPairs.of_colmap(model, images, size=SIZE) for model, images in self.models]
        if not found:
            raise ValueError("nothing to train on: every source is off")
        return found


def datasets(material: Material, options: TrainingOptions) -> tuple[PairDataset, PairDataset]:
    """Training pairs, new ones every epoch, and held-out pairs, always the same."""
    training = PairDataset(
        material.sources(), options.pairs_per_epoch, points=options.points, patch=PATCH,
        seed=options.seed,
    )  # fmt: skip
    held_out = PairDataset(
        material.sources(held_out=True), options.held_out_pairs, points=options.points,
        patch=PATCH, seed=_HELD_OUT_SEED, fresh=False,
    )  # fmt: skip
    return training, held_out


def fresh_network(seed: int = 0) -> GradNet:
    """GradNet at its start: principal components of rooted gradient histograms of textures."""
    network, source = GradNet(seed=seed), WarpedPairs(size=SIZE)
    rng = np.random.default_rng(_START_SEED)
    images = (source.pair(rng).query for _ in range(_START_IMAGES))
    start_from_components(
        network, (torch.from_numpy(i[None, None] / np.float32(255)) for i in images)
    )
    return network


def network_loss(start: Path | None = None, seed: int = 0) -> GradNetPairLoss:
    """What the loop trains: a fresh GradNet, or the one of a weights file."""
    network = fresh_network(seed) if start is None else load_network(start)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return GradNetPairLoss(network.train())


def save_weights(model: nn.Module, path: Path) -> None:
    """The network alone, as `LearnedDescriptor` reads it."""
    assert isinstance(model, GradNetPairLoss)
    save_network(model.network, path)


def image_files(folders: Sequence[Path]) -> tuple[Path, ...]:
    """All pictures in folders, sorted. ValueError for a folder without any."""
    endings = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}
    found: list[Path] = []
    for folder in folders:
        files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in endings]
        if not files:
            raise ValueError(f"{folder} holds no pictures")
        found += files
    return tuple(found)
