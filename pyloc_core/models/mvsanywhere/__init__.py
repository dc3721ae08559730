# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""MVSAnywhere: depth of a posed photo from other posed photos, whatever their number and the scale of the
scene (Izquierdo et al. 2025), in its two published variants."""

from __future__ import annotations

MODELS = {
    "mvsanywhere_dot": "pyloc_core.models.mvsanywhere.variants:MVSAnywhereDot",
    "mvsanywhere_hero": "pyloc_core.models.mvsanywhere.variants:MVSAnywhereHero",
}
