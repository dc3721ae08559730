# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""DINOv2 SALAD: one global descriptor per image, by optimal transport of patches to clusters (Izquierdo
and Civera 2024), as published and as trained with CliqueMining."""

from __future__ import annotations

MODELS = {
    "salad": "pyloc_core.models.salad.network:SALAD",
    "cliquemining": "pyloc_core.models.salad.network:CliqueMining",
}
