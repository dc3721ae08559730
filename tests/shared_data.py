# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Where photos, golden outputs and synthetic problems lie: beside the repository, or at PYLOC_SHARED."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path(os.environ.get("PYLOC_SHARED", Path(__file__).resolve().parents[2] / "shared"))
