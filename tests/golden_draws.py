# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Arrays that golden cases describe in words, as calls of the functions of golden.py."""

from __future__ import annotations

import ast
from types import ModuleType
from typing import Any


def drawn(text: str, golden: ModuleType, seed: int) -> Any:
    """The array of a call like `normal(seed,"name",(40,24),std=0.1)`."""
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name), text
    arguments = [ast.literal_eval(each) for each in call.args[1:]]
    options = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
    return getattr(golden, call.func.id)(seed, *arguments, **options)
