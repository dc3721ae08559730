# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Positions in the names of the pictures: the format of the Deep Visual Geo-localization Benchmark.

Berton et al., CVPR 2022. A name is fields between `@`: an empty one, UTM easting, UTM northing, zone
number, zone letter, latitude, longitude, panorama id, tile, heading, pitch, roll, height, timestamp, note
and the suffix. Only the two coordinates are needed; other fields are often empty. SF-XL (Berton et al.,
CVPR 2022, "Rethinking visual geo-localization") comes in this format, and converted copies of many
others, Pittsburgh and MSLS among them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyloc_core.retrieval.layouts.retrieval_set import (
    ImageSet,
    RetrievalSet,
    check_finite,
    pictures,
)


def read_utm_names(
    folder: str | Path,
    *,
    queries: str = "queries",
    database: str = "database",
    threshold: float = 25.0,
    name: str = "utm_names",
) -> RetrievalSet:
    """Pictures under <folder>/<queries> and <folder>/<database>, positions from their names.

    Sequences and regions are not known: coordinates are compared as they are, so that a folder must not mix
    UTM zones. Converted copies of Nordland hold made-up coordinates, 2.4 m per frame: the rule of one
    frame is `threshold=2.4`, and 25 m are ten frames.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: no pictures, a name that is not of this format, a coordinate that is no number, several
            UTM zones.
    """
    sides = [_side(Path(folder) / part) for part in (queries, database)]
    zones = {zone for _, found in sides for zone in found}
    if len(zones) > 1:
        raise ValueError(f"{folder} mixes the UTM zones {', '.join(sorted(zones))}")
    return RetrievalSet(name, sides[0][0], sides[1][0], "metres", threshold)


def read_sf_xl(
    folder: str | Path, *, queries: str = "queries_v1", threshold: float = 25.0
) -> RetrievalSet:
    """SF-XL: `folder` holds database/ and queries_v1/ (or queries_v2, queries_night, queries_occlusion),
    as processed/test does. See `read_utm_names`."""
    return read_utm_names(folder, queries=queries, threshold=threshold, name="sf_xl")


def _side(folder: Path) -> tuple[ImageSet, set[str]]:
    images = pictures(folder)
    fields = [path.name.split("@") for path in images]
    positions = np.empty((len(images), 2))
    zones = set()
    for row, (path, parts) in enumerate(zip(images, fields)):
        if len(parts) < 4:
            raise ValueError(f"{path} is not named @easting@northing@...: it has no position")
        try:
            positions[row] = float(parts[1]), float(parts[2])
        except ValueError:
            raise ValueError(f"{path}: {parts[1]!r}, {parts[2]!r} are no coordinates") from None
        if parts[3].strip():
            zones.add(parts[3].strip().lstrip("0"))
    check_finite(folder, images, positions)
    return ImageSet(tuple(images), positions), zones
