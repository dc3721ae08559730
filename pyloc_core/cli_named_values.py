# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Repeated options of the form --option NAME=VALUE, which commands hand on to a reader or a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any


def named_values(given: Iterable[str], of: str, known: Sequence[str] = ()) -> dict[str, str]:
    """{NAME: VALUE}; ValueError for text without "=" and, where names are known, for others."""
    result: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--option must be NAME=VALUE, got {text!r}")
        if known and name not in known:
            raise ValueError(f"{of} has no option {name!r}: {', '.join(known)}")
        result[name] = value
    return result


def named_options(given: Iterable[str]) -> dict[str, Any]:
    """The same with VALUE as JSON where it is JSON, as text otherwise."""
    options: dict[str, Any] = {}
    for name, value in named_values(given, "--option").items():
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options
