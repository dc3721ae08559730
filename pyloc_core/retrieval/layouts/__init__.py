# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Readers for the usual layouts of place-recognition benchmarks. The data come from their authors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyloc_core import _checks
from pyloc_core.retrieval.layouts.msls import read_msls
from pyloc_core.retrieval.layouts.nordland import read_nordland
from pyloc_core.retrieval.layouts.pittsburgh import read_pittsburgh
from pyloc_core.retrieval.layouts.retrieval_set import RetrievalSet
from pyloc_core.retrieval.layouts.sped import read_image_lists, read_sped
from pyloc_core.retrieval.layouts.utm_names import read_sf_xl, read_utm_names

__all__ = [
    "LAYOUTS",
    "RetrievalSet",
    "read_image_lists",
    "read_layout",
    "read_msls",
    "read_nordland",
    "read_pittsburgh",
    "read_sf_xl",
    "read_sped",
    "read_utm_names",
]

# Name -> reader of a folder, whose options are all keyword-only.
LAYOUTS: dict[str, Callable[..., RetrievalSet]] = {
    "image_lists": read_image_lists,
    "msls": read_msls,
    "nordland": read_nordland,
    "pittsburgh": read_pittsburgh,
    "sf_xl": read_sf_xl,
    "sped": read_sped,
    "utm_names": read_utm_names,
}


def read_layout(layout: str, folder: str | Path, **options: Any) -> RetrievalSet:
    """The reader of this name on a folder. ValueError for an unknown name, with the nearest known one."""
    _checks.known_name("layout", layout, LAYOUTS)
    return LAYOUTS[layout](folder, **options)
