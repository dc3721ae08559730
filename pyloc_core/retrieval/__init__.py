# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Place recognition: an index of global descriptors."""

from __future__ import annotations

from pyloc_core.retrieval.index import Index, Neighbours
from pyloc_core.retrieval.options import IndexOptions

__all__ = [
    "Index",
    "IndexOptions",
    "Neighbours",
]
