# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Training for place recognition, by the recipe of DINOv2 SALAD, on any pictures of places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from pyloc_core._extras import require
from pyloc_core.training.loop import Outcome, run_training
from pyloc_core.training.pictures import PictureTable
from pyloc_core.training.place_batches import MinedPlaces, PlaceBatches, PlaceSource, RandomPlaces
from pyloc_core.training.place_loss import PlaceLoss
from pyloc_core.training.place_options import PlaceOptions
from pyloc_core.training.place_recall import RecallJudge
from pyloc_core.training.random_changes import RandomChanges


def train_places(
    network: nn.Module,
    table: PictureTable,
    held_out: PictureTable,
    folder: str | Path,
    options: PlaceOptions,
    *,
    mined: MinedPlaces | None = None,
    one_city: bool = False,
    radius: float | None = None,
    device: str | None = None,
    resume: bool = False,
    progress_bar: bool = True,
    tensorboard: bool = True,
) -> Outcome:
    """Train a network that turns images (B, 3, H, W), normalised as ImageNet's, into unit descriptors.

    Multi-similarity loss with online selection, AdamW, a rate that falls linearly; recall on the held-out
    pictures after every epoch decides which weights lie in best.safetensors. Where the network has
    `parameters_to_train()`, only those are trained (the last blocks and the head).

    Args:
        table: pictures of places, `options.places` times `options.images` per batch.
        held_out: other pictures; see `RecallJudge`, also for `radius`.
        folder: checkpoints and TensorBoard files.
        mined: a second source, which takes its own number of places out of `options.places`: half, as
            published. The two are mined online apart, and their losses added.
        one_city: batches of one city each.
        resume: go on from the folder's checkpoint, with the same bits as without the interruption (on
            the CPU).

    Returns:
        The outcome; `best` is 1 - recall@1.

    Raises:
        ValueError: fewer places than a batch, mined batches that leave no place to the others or have
            another number of pictures per place, and what `run_training` raises.
        MissingExtra: pytorch-metric-learning is not installed.
    """
    require("pytorch_metric_learning", "training for place recognition")
    options = options.on(device)
    sources = place_sources(table, options, mined, one_city=one_city)
    batches = PlaceBatches(
        sources, size=options.image_size, seed=options.seed, workers=options.workers,
        changes=RandomChanges(options.operations, options.strength),
    )  # fmt: skip
    judge = RecallJudge(
        held_out, size=options.judged_size or options.image_size, batch=options.judged_batch,
        radius=radius, workers=options.workers,
    )  # fmt: skip
    model = PlaceLoss(network, options, ("places", "mined")[: len(sources)])
    return run_training(
        model, batches, judge, folder, options, device=device, resume=resume,
        save_best=save_network, progress_bar=progress_bar, tensorboard=tensorboard,
    )  # fmt: skip


def place_sources(
    table: PictureTable,
    options: PlaceOptions,
    mined: MinedPlaces | None = None,
    *,
    one_city: bool = False,
) -> Sequence[PlaceSource]:
    """Where the places of a batch come from: the table, or the table and mined batches."""
    share = options.places - (0 if mined is None else mined.places)
    if share < 2:
        raise ValueError(
            f"mined batches of {options.places - share} places leave {share} of {options.places} "
            "to the table: at least 2 are needed"
        )
    drawn = RandomPlaces(table, share, options.images, one_city=one_city, seed=options.seed)
    return [drawn] if mined is None else [drawn, mined]


def save_network(model: nn.Module, path: Path) -> None:
    """The network alone, as safetensors."""
    assert isinstance(model, PlaceLoss)
    safetensors = require("safetensors.torch", "saving weights")
    state = {k: v.detach().cpu().contiguous() for k, v in model.network.state_dict().items()}
    safetensors.save_file(state, str(path))
