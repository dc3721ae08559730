# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Recall on held-out pictures: what a run for place recognition is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pyloc_core.retrieval import recall
from pyloc_core.training.distributed import Processes
from pyloc_core.training.loop import Call
from pyloc_core.training.options import check_int
from pyloc_core.training.pictures import PictureTable
from pyloc_core.training.place_batches import as_tensor, square

RADIUS = 25.0  # metres: the usual rule, used by the thesis, section 4.2.2


class RecallJudge:
    """Recall@k: the share of queries with a picture of the same place among the k nearest others.

    The score is 1 - recall@1. A query that nothing in the database can answer does not count.

    Args:
        table: held-out pictures. Right are its `answers`, if it has them; with `radius` those within so
            many metres; otherwise those of the same place.
        size: side of the pictures; `batch` how many are described at a time.
        radius: in metres; None for places. The table must have what is asked for.
        at: which k.
        workers: processes that read pictures; 0 reads them in line.

    Raises:
        ValueError: a table without places (positions), or no query that can be answered.
    """

    def __init__(
        self,
        table: PictureTable,
        *,
        size: int = 224,
        batch: int = 32,
        radius: float | None = None,
        at: Sequence[int] = (1, 5, 10),
        workers: int = 0,
    ) -> None:
        check_int("size", size, 1)
        check_int("batch", batch, 1)
        if radius is None and table.place is None and table.answers is None:
            raise ValueError("held-out pictures need places, or positions and a radius")
        if radius is not None and table.positions is None:
            raise ValueError("held-out pictures need positions for a radius")
        self.table, self.radius, self.at = table, radius, tuple(at)
        self.size, self.batch, self.workers = size, batch, workers
        n = len(table)
        self.queries = np.arange(n) if table.query is None else np.flatnonzero(table.query)
        self.database = np.arange(n) if table.query is None else np.flatnonzero(~table.query)
        positives = list(table.answers or ()) or [
            self.database[row]
            for part in _parts(self.queries)
            for row in self._right(part[:, None], self.database[None])
        ]
        able = np.array([len(p) > 0 for p in positives])
        self.unanswerable = int((~able).sum())
        self.queries = self.queries[able]
        self.positives = [p for p in positives if len(p)]
        if not len(self.queries):
            raise ValueError("no held-out query has a picture of the same place in the database")

    def __call__(
        self, model: nn.Module, call: Call, group: Processes
    ) -> tuple[float, dict[str, float]]:
        describe: Any = model.describe
        found = recalls(self, self._described(lambda x: call(describe, x), group))
        return 1 - found[self.at[0]], {f"recall_at_{k}": v for k, v in found.items()}

    @torch.no_grad()
    def _described(self, describe: Callable[[Tensor], Tensor], group: Processes) -> Tensor:
        """(N, D) descriptors; the processes share the work."""
        own = list(range(group.rank, len(self.table), group.count))
        loader = DataLoader(
            TablePictures(self.table, self.size, own), self.batch, num_workers=self.workers,
            generator=torch.Generator(),
        )  # fmt: skip
        parts = [describe(images.to(group.device)).float() for images in loader]
        # A process without pictures learns the size from the others.
        sizes = torch.tensor([parts[0].shape[1], 1] if parts else [0, 0], device=group.device)
        width, counted = group.total(sizes).tolist()
        every = torch.zeros(len(self.table), width // counted, device=group.device)
        if parts:
            every[own] = torch.cat(parts)
        return group.total(every)

    def _right(self, query: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether other pictures answer queries; a picture never answers itself."""
        table = self.table
        if self.radius is None:
            assert table.place is not None
            same = (table.place[query] == table.place[other]) & (table.place[query] >= 0)
        else:
            assert table.positions is not None
            offset = table.positions[query] - table.positions[other]
            same = np.hypot(offset[..., 0], offset[..., 1]) <= self.radius
            if table.cities is not None:  # each has its own coordinates
                same &= table.cities[query] == table.cities[other]
        return np.asarray(same & (query != other))


def recalls(judge: RecallJudge, descriptors: Tensor) -> dict[int, float]:
    """Recall@k of descriptors (N, D) of unit length of a judge's pictures, by dot product."""
    database = torch.from_numpy(judge.database).to(descriptors.device)
    k = min(max(judge.at), len(judge.database))
    ranked = []
    for part in _parts(judge.queries):
        query = torch.from_numpy(part).to(descriptors.device)
        similar = descriptors[query] @ descriptors[database].T
        similar.masked_fill_(query[:, None] == database, -torch.inf)  # last: never an answer
        ranked.append(judge.database[similar.topk(k, dim=1).indices.cpu().numpy()])
    found = recall(np.concatenate(ranked), judge.positives, sorted({min(a, k) for a in judge.at}))
    return {at: found[min(at, k)] for at in judge.at}


def _parts(queries: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    return np.array_split(queries, -(-len(queries) // 256))


class TablePictures(Dataset[Tensor]):
    """Chosen pictures of a table as (3, size, size) uint8."""

    def __init__(self, table: PictureTable, size: int, chosen: Sequence[int]) -> None:
        self.table, self.size, self.chosen = table, size, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Tensor:
        return as_tensor(square(self.table.pictures.read(self.chosen[index]), self.size))
