# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""S2DNet: sparse-to-dense features on three levels (Germain et al. 2020)."""

from __future__ import annotations

MODELS = {"s2dnet": "pyloc_core.models.s2dnet.network:S2DNet"}
