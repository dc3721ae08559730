# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Published benchmarks as tables: to be judged by, and frames to mine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.retrieval.layouts import RetrievalSet, read_layout, read_msls
from pyloc_core.retrieval.layouts.msls import VALIDATION
from pyloc_core.training.pictures import Ints, PictureFiles, PictureTable


def held_out_layout(layout: str, folder: str | Path, **options: Any) -> PictureTable:
    """Queries and database of a benchmark, with the answers that its own rule calls right.

    Args:
        layout: one of `retrieval.layouts.LAYOUTS`, such as pittsburgh (the published runs were judged on
            Pitts30k), msls or nordland.
        options: of its reader.

    Raises what the reader raises.
    """
    return held_out_set(read_layout(layout, folder, **options))


def held_out_set(benchmark: RetrievalSet) -> PictureTable:
    """The same of a benchmark that was read before."""
    count = len(benchmark.queries.images)
    query = np.arange(count + len(benchmark.database.images)) < count
    return PictureTable(
        _files(benchmark.all_images().images), query=query,
        answers=tuple(np.asarray(right, np.int64) + count for right in benchmark.positives()),
    )  # fmt: skip


def msls_frames(folder: str | Path, **options: Any) -> PictureTable:
    """All frames of the training cities of Mapillary SLS, queries and database, with positions, cities and
    sequences (`unique_cluster`): what CliqueMining mines.

    Args:
        folder: with train_val/, or train_val itself.
        options: of `retrieval.layouts.read_msls`; `cities` (default: all but those of the validation).

    Raises:
        ValueError: a folder without training cities, and what the reader raises.
    """
    root = Path(folder)
    root = root / "train_val" if (root / "train_val").is_dir() else root
    if "cities" not in options:
        found = sorted(p.name for p in root.iterdir() if (p / "query").is_dir())
        options["cities"] = [name for name in found if name not in VALIDATION]
        if not options["cities"]:
            raise ValueError(f"{root} holds no training city of Mapillary SLS")
    frames = read_msls(folder, **options).all_images()
    assert frames.sequence is not None and frames.region is not None
    cities = _numbers(frames.region)
    labels = [f"{c}/{s}" for c, s in zip(cities.tolist(), frames.sequence.tolist())]
    return PictureTable(
        _files(frames.images), positions=frames.positions, cities=cities,
        sequences=_numbers(np.array(labels)),
    )  # fmt: skip


def _files(images: tuple[Path, ...]) -> PictureFiles:
    return PictureFiles(tuple(str(path) for path in images))


def _numbers(labels: npt.NDArray[Any]) -> Ints:
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)
