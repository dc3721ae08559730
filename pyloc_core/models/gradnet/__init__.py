# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""GradNet: this project's own small dense descriptor, with its weights."""

from __future__ import annotations

MODELS = {"gradnet": "pyloc_core.models.gradnet.network:GradNet"}
