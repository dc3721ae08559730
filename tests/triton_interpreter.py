# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Whether Triton's interpreter works with the NumPy that is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np


def interpreter_fault() -> str:
    """Why kernels cannot be interpreted here; empty where they can. Does not import Triton.

    The interpreter of Triton 3.6, which torch 2.11 brings, takes arrays of one element for integers. NumPy
    refuses that since 2.4.
    """
    found = importlib.util.find_spec("triton")
    if found is None or found.origin is None:
        return "no Triton"
    source = Path(found.origin).with_name("runtime") / "interpreter.py"
    numpy = tuple(int(part) for part in np.__version__.split(".")[:2])
    if numpy >= (2, 4) and "lambda self: int(self.handle.data))" in source.read_text():
        return f"the interpreter of this Triton does not work with NumPy {np.__version__}"
    return ""
