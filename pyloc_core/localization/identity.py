# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What tells whether a descriptor is the one that a map was built with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def identity(descriptor: Any) -> dict[str, Any]:
    """Its `to_dict()`, or its class's name."""
    if hasattr(descriptor, "to_dict"):
        return dict(descriptor.to_dict())
    return {"name": type(descriptor).__name__}


def plain(values: Mapping[str, Any]) -> Any:
    """As JSON would give it back."""
    return json.loads(json.dumps(values, default=str))
