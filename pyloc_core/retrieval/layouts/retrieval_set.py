# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What every reader returns: images of queries and database, where they are, and the rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core.retrieval.positives import positives_by_frame, positives_within
from pyloc_core.retrieval.recall_curve import RecallCurve, recall_curve

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

IMAGES = (".jpg", ".jpeg", ".png")
# Metres between regions whose coordinates must not be compared; far above any city, exact in float64.
_APART = 1e8


class ImageSet(NamedTuple):
    """One side: n images. What a layout does not know is None.

    images: n paths. positions: (n, 2) UTM easting and northing, metres. frames: (n,) frame numbers of a
    sequence that both sides drive. sequence: (n,) labels. region: (n,) labels, such as cities; positions
    of two regions are never near each other.
    """

    images: tuple[Path, ...]
    positions: Floats | None = None
    frames: Indices | None = None
    sequence: npt.NDArray[Any] | None = None
    region: npt.NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class RetrievalSet:
    """A benchmark: queries to be found among the images of a database.

    rule: what is correct: "metres", within `threshold` of the position; "frames", at most `threshold`
    frame numbers away; "listed", what `listed` names, an array of database indices per query.
    """

    name: str
    queries: ImageSet
    database: ImageSet
    rule: str
    threshold: float = 25.0
    listed: tuple[Indices, ...] | None = None

    def __str__(self) -> str:
        rule = {"metres": f"within {self.threshold:g} m", "frames": f"at most {self.threshold:g} frames away",
                "listed": "as listed"}[self.rule]  # fmt: skip
        return (
            f"{self.name}: {len(self.queries.images)} queries, "
            f"{len(self.database.images)} database images, {rule}"
        )

    def positives(self) -> list[Indices]:
        """Q arrays of the correct database indices, by the rule of the set."""
        if self.rule == "listed":
            assert self.listed is not None
            return list(self.listed)
        if self.rule == "frames":
            return positives_by_frame(*self.places(), int(self.threshold))
        return positives_within(*self.places(), self.threshold)

    def curve(self, ranked: Any, thresholds: Any, ks: Sequence[int] = (1, 5, 10)) -> RecallCurve:
        """`recall_curve` in metres or frames. ValueError for a set whose correct images are listed."""
        return recall_curve(ranked, *self.places(), thresholds, ks)

    def all_images(self) -> ImageSet:
        """Queries, then database, as one set: what `CliqueSampler` mines of MSLS."""
        parts = [[getattr(s, f) for s in (self.queries, self.database)] for f in ImageSet._fields]
        joined = [None if any(v is None for v in part) else np.concatenate(part) for part in parts]
        return ImageSet((*self.queries.images, *self.database.images), *joined[1:])

    def places(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Queries and database: (Q,) and (N,) frame numbers, or positions (Q, 2) and (N, 2) in metres.

        With regions positions get a third coordinate, so different between regions that they are never near
        each other. ValueError for a set whose correct images are listed.
        """
        q, d = self.queries, self.database
        if self.rule == "listed":
            raise ValueError(f"{self.name} lists its correct images: there are no distances")
        if self.rule == "frames":
            assert q.frames is not None and d.frames is not None
            return q.frames, d.frames
        assert q.positions is not None and d.positions is not None
        if q.region is None or d.region is None:
            return q.positions, d.positions
        _, at = np.unique(np.concatenate([q.region, d.region]), return_inverse=True)
        height = _APART * at.astype(np.float64)
        split = len(q.positions)
        return (
            np.column_stack([q.positions, height[:split]]),
            np.column_stack([d.positions, height[split:]]),
        )


def pictures(folder: Path) -> list[Path]:
    """All pictures under a folder in sorted order. FileNotFoundError or ValueError when there are none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)
    if not found:
        raise ValueError(f"{folder} holds no pictures ({', '.join(IMAGES)})")
    return found


def check_files(images: Sequence[Path]) -> None:
    """FileNotFoundError names the first of the pictures that are not there, and how many there are."""
    missing = [path for path in images if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} pictures are not there, the first is {missing[0]}")


def check_finite(source: Path, names: Sequence[Any], positions: Floats) -> Floats:
    """ValueError names the first image whose position is no number."""
    bad = np.flatnonzero(~np.isfinite(positions).all(1))
    if len(bad):
        raise ValueError(
            f"{source}: {len(bad)} positions are not finite, the first is of {names[bad[0]]}"
        )
    return positions
