# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of places: P places of K pictures each, from one source or mixed from several."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from pyloc_core._extras import require
from pyloc_core.training.distributed import Processes
from pyloc_core.training.loss import Batch
from pyloc_core.training.options import check_int
from pyloc_core.training.pictures import Ints, Pictures, PictureTable
from pyloc_core.training.random_changes import RandomChanges

Image = require("PIL.Image", "training")

_log = logging.getLogger(__name__)
# (source, epoch, step, slot in the batch, pictures of the place)
Key = tuple[int, int, int, int, tuple[int, ...]]
# What a generator is for: streams of one seed that must not meet.
_ORDER, _MEMBERS, _CHANGES, _MINED = range(4)


class PlaceSource(Protocol):
    """Draws the places of a batch.

    Attributes:
        pictures: what the numbers drawn mean.
        places, images: P and K.
    """

    pictures: Pictures
    places: int
    images: int

    def steps(self) -> int:
        """Batches of an epoch."""

    def draw(self, epoch: int, step: int) -> Ints:
        """(P, K) picture numbers: a row is a place. The same arguments give the same rows."""

    def label(self) -> str:
        """What a resumed run must find unchanged."""


class RandomPlaces:
    """Every place once per epoch, in a new order, with K of its pictures chosen at random.

    Places with fewer than K pictures are left out, and `left_out` and a line in the log say how many;
    so are the last places of an epoch that fill no batch.

    Args:
        table: pictures with places.
        places, images: P and K.
        one_city: batches of one city each, which are harder; the table must have cities.

    Raises:
        ValueError: no places, or fewer with K pictures than P.
    """

    def __init__(
        self,
        table: PictureTable,
        places: int = 60,
        images: int = 4,
        *,
        one_city: bool = False,
        seed: int = 0,
    ) -> None:
        check_int("places", places, 1)
        check_int("images", images, 2)
        every = table.members()
        self.members = [m for m in every if len(m) >= images]
        self.left_out = len(every) - len(self.members)
        if self.left_out:
            _log.warning("%d of %d places have fewer than %d pictures and are left out",
                         self.left_out, len(every), images)  # fmt: skip
        self.pictures, self.places, self.images, self.seed = table.pictures, places, images, seed
        self._city: Ints | None = None
        if one_city:
            if table.cities is None:
                raise ValueError("one_city needs a table with cities")
            self._city = np.array([table.cities[m[0]] for m in self.members], np.int64)
        self._drawn: tuple[int, Ints] = (-1, np.empty((0, places), np.int64))
        if self.steps() == 0:
            raise ValueError(
                f"a batch of {places} places is more than the {len(self.members)} places with "
                f"{images} pictures{' of any city' if one_city else ''}"
            )

    def steps(self) -> int:
        return len(self._batches(0))

    def label(self) -> str:
        of = "" if self._city is None else " of one city"
        return f"{self.places} of {len(self.members)} places{of}, {len(self.pictures)} pictures"

    def draw(self, epoch: int, step: int) -> Ints:
        rows = []
        for place in self._batches(epoch)[step].tolist():
            rng = np.random.default_rng([self.seed, _MEMBERS, epoch, place])
            rows.append(rng.permutation(self.members[place])[: self.images])
        return np.stack(rows)

    def _batches(self, epoch: int) -> Ints:
        """(T, P) places of an epoch's batches."""
        if self._drawn[0] != epoch:
            rng = np.random.default_rng([self.seed, _ORDER, epoch])
            if self._city is None:
                groups = [rng.permutation(len(self.members))]
            else:
                groups = [
                    rng.permutation(np.flatnonzero(self._city == c)) for c in np.unique(self._city)
                ]
            cut = [g[: len(g) // self.places * self.places] for g in groups]
            batches = np.concatenate(cut).reshape(-1, self.places)
            # Batches of one city follow each other otherwise.
            self._drawn = epoch, batches if self._city is None else rng.permutation(batches)
        return self._drawn[1]


class MinedPlaces:
    """Batches that were put together before, as `mining.CliqueSampler` does it: all once per pass, in an
    order that is new in every pass.

    Args:
        pictures: what the numbers in `batches` mean, or a table of them.
        batches: (T, P, K) picture numbers, T batches of P places of K pictures.
        length: batches per epoch, None for T; more begin another pass, with another order.

    Raises:
        ValueError: another shape, numbers outside the table, a picture twice in one batch.
    """

    def __init__(
        self,
        pictures: Pictures | PictureTable,
        batches: npt.ArrayLike,
        *,
        length: int | None = None,
        seed: int = 0,
    ) -> None:
        found = np.asarray(batches)
        if found.ndim != 3 or 0 in found.shape or found.dtype.kind not in "iu":
            raise ValueError(
                "batches must be integers (batches, places, images) and not empty, "
                f"got {found.shape} {found.dtype}"
            )
        self.pictures: Pictures = (
            pictures.pictures if isinstance(pictures, PictureTable) else pictures
        )
        if found.min() < 0 or found.max() >= len(self.pictures):
            raise ValueError(
                f"batches names pictures {found.min()} to {found.max()}, there are "
                f"{len(self.pictures)}"
            )
        ordered = np.sort(found.reshape(len(found), -1), axis=1)
        twice = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(1))
        if len(twice):
            raise ValueError(f"{len(twice)} batches hold a picture twice, the first is {twice[0]}")
        self.rows = found.astype(np.int64)
        self.places, self.images = found.shape[1:]
        self.length = len(found) if length is None else length
        self.seed = seed
        check_int("length", self.length, 1)

    @classmethod
    def of_sampler(
        cls,
        table: PictureTable,
        sampler: Any,
        count: int = 4000,
        *,
        length: int | None = None,
        seed: int = 0,
    ) -> MinedPlaces:
        """The first `count` batches of a `CliqueSampler` over the pictures of a table (published: 4000)."""
        check_int("count", count, 1)
        batches = np.stack([sampler.batch(index) for index in range(count)])
        return cls(table, batches, length=length, seed=seed)

    def steps(self) -> int:
        return self.length

    def label(self) -> str:
        crc = zlib.crc32(np.ascontiguousarray(self.rows).tobytes())
        return f"{self.places} places of {len(self.rows)} mined batches {crc:08x}, {self.length} an epoch"

    def draw(self, epoch: int, step: int) -> Ints:
        turn, at = divmod(epoch * self.length + step, len(self.rows))
        order = np.random.default_rng([self.seed, _MINED, turn]).permutation(len(self.rows))
        return np.asarray(self.rows[order[at]])


class PlaceBatches:
    """Batches of one source, or of several side by side: half and half, or as the sources' P have it.

    A batch has "images" (M, 3, H, W) uint8, "labels" (M,), which places of different sources never
    share, and "source" (M,). Pictures are resized to a square and changed at random. An epoch is one of
    the first source. Nothing depends on the number of workers or processes.

    Args:
        sources: where places come from; all with the same K.
        size: side of the pictures in pixels.
        changes: random changes; None for none.
        workers: processes that read pictures; 0 reads them in line.
    """

    def __init__(
        self,
        sources: Sequence[PlaceSource],
        *,
        size: int = 224,
        changes: RandomChanges | None = None,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        if not sources:
            raise ValueError("sources must name at least one source of places")
        if len({source.images for source in sources}) > 1:
            raise ValueError(
                f"sources must have places of one size, got {[s.images for s in sources]} pictures"
            )
        check_int("size", size, 1)
        self.sources, self.size, self.changes = list(sources), size, changes
        self.seed, self.workers = seed, workers

    def steps(self, group: Processes) -> int:
        total = sum(source.places for source in self.sources)
        if total % group.count:
            raise ValueError(
                f"a batch of {total} places does not divide over {group.count} processes"
            )
        return self.sources[0].steps()

    def batches(self, epoch: int, first: int, group: Processes) -> Iterator[Batch]:
        plan: Any = _Plan(self, epoch, first, group)
        yield from DataLoader(
            _Reader(self), batch_sampler=plan, num_workers=self.workers, collate_fn=_together,
            pin_memory=group.device.type == "cuda",
            generator=torch.Generator(),  # the global one is left alone
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        return {"sources": [source.label() for source in self.sources]}

    def keys(self, epoch: int, step: int) -> list[Key]:
        """The places of a batch over all processes, source after source."""
        drawn = [(s, row) for s, q in enumerate(self.sources) for row in q.draw(epoch, step)]
        return [(s, epoch, step, i, tuple(row.tolist())) for i, (s, row) in enumerate(drawn)]


class _Plan:
    """Which places this process reads, batch by batch: every count-th, so each has both sources."""

    def __init__(self, batches: PlaceBatches, epoch: int, first: int, group: Processes) -> None:
        self.of, self.epoch, self.first, self.group = batches, epoch, first, group
        self.steps = batches.steps(group)

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.first, self.steps):
            yield self.of.keys(self.epoch, step)[self.group.rank :: self.group.count]


class _Reader(Dataset[Any]):
    """One place: its pictures as the network takes them."""

    def __init__(self, batches: PlaceBatches) -> None:
        self.of = batches

    def __getitem__(self, key: Key) -> Batch:
        source, epoch, step, slot, pictures = key
        size, changes = self.of.size, self.of.changes
        pixels = []
        for number, index in enumerate(pictures):
            image = square(self.of.sources[source].pictures.read(index), size)
            if changes is not None:
                seeds = [self.of.seed, _CHANGES, epoch, step, slot, number]
                image = changes(np.random.default_rng(seeds), image)
            pixels.append(as_tensor(image))
        k = len(pictures)
        return {
            "images": torch.stack(pixels),
            # The slot in the whole batch: sources share no label.
            "labels": torch.full((k,), slot),
            "source": torch.full((k,), source),
        }


def square(image: Any, size: int) -> Any:
    """A `PIL.Image` stretched to (size, size)."""
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR)


def as_tensor(image: Any) -> torch.Tensor:
    """(3, H, W) uint8 of a `PIL.Image` in RGB."""
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def _together(items: Sequence[Batch]) -> Batch:
    return {name: torch.cat([item[name] for item in items]) for name in items[0]}
