# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""S2DHM: retrieval by NetVLAD, then sparse-to-dense matching of hypercolumns (Germain et al. 2019)."""

from __future__ import annotations

MODELS = {"s2dhm": "pyloc_core.models.s2dhm.network:S2DHM"}
