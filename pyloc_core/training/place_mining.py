# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Mined batches for training: described with the network that the training starts from, once."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import DataLoader

from pyloc_core.mining import CliqueSampler, representative_frames
from pyloc_core.training.options import check_int
from pyloc_core.training.pictures import PictureTable
from pyloc_core.training.place_loss import PlaceLoss
from pyloc_core.training.place_options import PlaceOptions
from pyloc_core.training.place_recall import TablePictures


def mine_batches(
    network: nn.Module,
    table: PictureTable,
    options: PlaceOptions,
    *,
    places: int | None = None,
    count: int = 4000,
    device: str | torch.device = "cpu",
    **sampling: Any,
) -> npt.NDArray[np.int64]:
    """(T, P, K) picture numbers of mined batches (`CliqueSampler`; thesis, section 5.2).

    One random picture of every sequence is described by the network as it is, and alike sequences are
    drawn together. As published, this is done once, before the training.

    Args:
        table: pictures with positions and sequences, and cities where there are several.
        places: P; None for half of `options.places`.
        count: T (published: 4000).
        sampling: further options of `CliqueSampler`, such as threshold and similar_sequences.

    Raises:
        ValueError: a table without positions or sequences, a picture without a sequence, and what
            `CliqueSampler` refuses.
        MiningError: a batch that cannot be filled.
    """
    check_int("count", count, 1)
    if table.positions is None or table.sequences is None:
        raise ValueError("mining needs a table with positions and sequences")
    without = np.flatnonzero(table.sequences < 0)
    if len(without):
        raise ValueError(
            f"{len(without)} pictures have no sequence, the first is {table.name(int(without[0]))}"
        )
    frames = representative_frames(table.sequences, table.cities, seed=options.seed)
    sampler = CliqueSampler(
        table.positions, table.sequences,
        described(network, table, frames, options, device), city=table.cities,
        images_per_place=options.images, places_per_batch=places or options.places // 2,
        seed=options.seed, **sampling,
    )  # fmt: skip
    return np.stack([sampler.batch(index) for index in range(count)])


@torch.no_grad()
def described(
    network: nn.Module,
    table: PictureTable,
    chosen: npt.NDArray[np.int64],
    options: PlaceOptions,
    device: str | torch.device = "cpu",
) -> npt.NDArray[np.float32]:
    """(n, D) descriptors of some pictures of a table, in float32, in evaluation mode."""
    training = network.training
    model = PlaceLoss(network, options).to(device).eval()
    size = options.judged_size or options.image_size
    loader = DataLoader(
        TablePictures(table, size, chosen.tolist()), options.judged_batch,
        num_workers=options.workers, generator=torch.Generator(),
    )  # fmt: skip
    try:
        parts = [model.describe(images.to(device)).float().cpu() for images in loader]
    finally:
        network.train(training)
    return np.asarray(torch.cat(parts).numpy())


def stamp(table: PictureTable, **made_with: Any) -> str:
    """What tells whether mined batches are those of a table and of options."""
    crc = 0
    for values in (table.positions, table.sequences, table.cities):
        crc = zlib.crc32(b"none" if values is None else np.ascontiguousarray(values).tobytes(), crc)
    return json.dumps({"pictures": len(table), "table": f"{crc:08x}", **made_with}, sort_keys=True)


def save_batches(path: Path, batches: npt.NDArray[np.int64], made_with: str) -> None:
    """Write mined batches, with a stamp, as a NumPy archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part_{path.name}")
    np.savez(part, batches=batches, made_with=made_with)
    part.replace(path)


def load_batches(path: Path, made_with: str) -> npt.NDArray[np.int64]:
    """Read them again. ValueError when the file is damaged, or mined from another table or otherwise."""
    try:
        with np.load(path, allow_pickle=False) as file:
            batches, found = file["batches"], str(file["made_with"])
    except Exception as error:  # numpy and zipfile each raise their own
        raise ValueError(f"cannot read the mined batches {path}: {error}") from None
    if found != made_with:
        raise ValueError(f"{path} was mined otherwise: it has {found}, and not {made_with}")
    return np.asarray(batches)
