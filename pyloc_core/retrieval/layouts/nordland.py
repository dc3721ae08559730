# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Nordland: one railway line filmed in four seasons, frames aligned by their number.

Suenderhauf et al., ICRA workshop 2013. The usual copies have a folder per season whose pictures bear
the frame number as the last number of their name (images-00001.png, 1.jpg).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pyloc_core.retrieval.layouts.retrieval_set import ImageSet, RetrievalSet, pictures


def read_nordland(
    folder: str | Path,
    *,
    queries: str = "winter",
    database: str = "summer",
    tolerance: int = 1,
) -> RetrievalSet:
    """Frames of two seasons; correct are frames at most `tolerance` numbers away.

    Args:
        folder: with a folder per season.
        queries, database: names of two folders in it; pictures may lie deeper.
        tolerance: frames; 1 in chapter 5 of the thesis, 2 in chapter 4, 10 in other evaluations: figures
            of different tolerances do not compare.

    Raises:
        FileNotFoundError: a season is not there.
        ValueError: no pictures, a name without a number, a number twice in one season.
    """
    sides = [_season(Path(folder) / name) for name in (queries, database)]
    return RetrievalSet("nordland", sides[0], sides[1], "frames", tolerance)


def _season(folder: Path) -> ImageSet:
    images = pictures(folder)
    frames = np.array([_frame(path) for path in images], np.int64)
    numbers, counts = np.unique(frames, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{folder} has frame {numbers[counts > 1][0]} twice")
    order = np.argsort(frames)
    return ImageSet(tuple(images[i] for i in order), frames=frames[order])


def _frame(path: Path) -> int:
    numbers = re.findall(r"\d+", path.stem)
    if not numbers:
        raise ValueError(f"{path} bears no frame number")
    return int(numbers[-1])
