# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dense depth from posed images: plane sweeps without weights, refinement by SfM, fusion, evaluation."""

from __future__ import annotations

__all__: list[str] = []
