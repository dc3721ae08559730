# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Options of the map and of the localizer: frozen, checked, no unknown names."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar


@dataclass(frozen=True)
class MapOptions:
    """How a map is built.

    Attributes:
        max_views: observations kept per point; longer tracks are thinned evenly.
        scales: reference scales described per observation; 1.4 is the patch seen from 1.4 times as far.
        max_size: longer image sides are shrunk to this many pixels, in the map and of photos.
        vocabulary: words of the global descriptor (0: no retrieval, every image is a candidate).
    """

    max_views: int = 6
    scales: tuple[float, ...] = (0.7, 1.0, 1.4)
    max_size: int = 1200
    vocabulary: int = 64

    def __post_init__(self) -> None:
        _positive_int(self, "max_views", "max_size")
        _not_negative_int(self, "vocabulary")
        scales = tuple(float(s) for s in self.scales)
        if not scales or not all(math.isfinite(s) and 0.05 <= s <= 20 for s in scales):
            raise ValueError(
                f"scales must be one or more numbers within 0.05 and 20, got {self.scales}"
            )
        object.__setattr__(self, "scales", scales)


@dataclass(frozen=True)
class LocalizerOptions:
    """How a photo is localized. The defaults hold for every scene in benchmarks/results.

    Attributes:
        top_k: reference images looked up, more of them where `num_views` is more. They are parted
            into clusters that see the same points.
        min_shared_points: points that make two of them neighbours in a cluster.
        max_clusters: clusters tried, those with more images first.
        num_views: reference images of a cluster that a photo is compared with, the nearest ones.
        max_points: points used of a cluster, those seen by most of these images first.
        coarse_views: reference images per point whose descriptors are tried in the coarse stage.
        fine_views: reference images per point whose patches are matched in the fine stage. The one
            that sees it from nearest to where the photo does is the most exact; more make it no better.
        window: side of the fine windows, cells.
        max_angle: reference images that see a point from further than this many degrees away from
            the photo are left out of the fine stage.
        use_coarse_mass: weigh fine windows by the probability that the coarse maps give them.
        sigma_coarse, sigma_fine: first and last sigma of the two refinements, cells.
        fine_rounds: fine stages at most; another one follows while the pose moves by more than an
            eighth of a window.
        max_entries: live cells kept per loss map.
    """

    top_k: int = 10
    min_shared_points: int = 1
    max_clusters: int = 3
    num_views: int = 5
    max_points: int = 1500
    coarse_views: int = 2
    fine_views: int = 1
    window: int = 32
    max_angle: float = 60.0
    use_coarse_mass: bool = False
    sigma_coarse: tuple[float, float] = (2.0, 0.6)
    sigma_fine: tuple[float, float] = (8.0, 1.0)
    fine_rounds: int = 2
    max_entries: int = 256

    def __post_init__(self) -> None:
        _positive_int(
            self, "top_k", "min_shared_points", "max_clusters", "num_views", "max_points",
            "coarse_views", "fine_views", "window", "fine_rounds", "max_entries",
        )  # fmt: skip
        _positive(self, "max_angle")
        for name in ("sigma_coarse", "sigma_fine"):
            value = tuple(float(s) for s in getattr(self, name))
            if len(value) != 2 or not 0 < value[1] <= value[0] < math.inf:
                raise ValueError(
                    f"{name} must be (first, last) with first >= last > 0, got {value}"
                )
            object.__setattr__(self, name, value)


Options = TypeVar("Options", MapOptions, LocalizerOptions)


def with_overrides(options: Options, overrides: dict[str, Any]) -> Options:
    """The options with some replaced. TypeError for a name that does not exist, with the nearest."""
    known = [f.name for f in fields(options)]
    for name in overrides:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
            raise TypeError(f"{type(options).__name__} has no option {name!r}{hint}")
    return replace(options, **overrides)


def _positive_int(options: Any, *names: str) -> None:
    _not_negative_int(options, *names)
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be positive, got {getattr(options, name)}")


def _not_negative_int(options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r}")
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")


def _positive(options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
