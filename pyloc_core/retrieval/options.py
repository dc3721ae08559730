# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Options of the index: frozen, checked, no unknown names."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from typing import Any

KINDS = ("flat", "ivf_pq")


@dataclass(frozen=True)
class IndexOptions:
    """How an index keeps and searches its vectors.

    Attributes:
        kind: "flat" keeps every vector and is exact; "ivf_pq" keeps codes of a few bytes in inverted
            lists (Jegou et al. 2011) and is approximate.
        lists: inverted lists; None for the square root of the number of training vectors, and at
            least 39 of these per list.
        probes: lists that a query looks into.
        code_bytes: bytes per vector, each of which codes one of as many equal parts of the vector;
            None for the largest number up to 64 that divides the dimension.
        training_vectors: the most vectors that lists and codes are learned from, drawn evenly.
        seed: of that learning.
    """

    kind: str = "flat"
    lists: int | None = None
    probes: int = 16
    code_bytes: int | None = None
    training_vectors: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            close = difflib.get_close_matches(str(self.kind), KINDS, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(KINDS)}"
            raise ValueError(f"kind must name a kind of index, got {self.kind!r}{hint}")
        for name in ("lists", "probes", "code_bytes", "training_vectors", "seed"):
            value = getattr(self, name)
            if value is None and name in ("lists", "code_bytes"):
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {value!r}")
            if value < (0 if name == "seed" else 1):
                raise ValueError(f"{name} must be positive, got {value}")

    def code_size(self, dimension: int) -> int:
        """Bytes per code for vectors of this dimension."""
        if self.code_bytes is None:
            return max(m for m in range(1, min(64, dimension) + 1) if dimension % m == 0)
        if dimension % self.code_bytes:
            raise ValueError(
                f"code_bytes must divide the dimension {dimension}, got {self.code_bytes}"
            )
        return self.code_bytes


def with_overrides(options: IndexOptions | None, overrides: dict[str, Any]) -> IndexOptions:
    """The options with some replaced. TypeError for a name that does not exist, with the nearest."""
    if not isinstance(options, (IndexOptions, type(None))):
        raise TypeError(f"options must be IndexOptions, got {type(options).__name__}")
    known = [f.name for f in fields(IndexOptions)]
    for name in overrides:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
            raise TypeError(f"IndexOptions has no option {name!r}{hint}")
    return replace(options or IndexOptions(), **overrides)
