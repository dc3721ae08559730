# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""NeurHal: correspondents found, behind things and beyond the image (Germain et al., ICLR 2022)."""

MODELS = {"neurhal": "pyloc_core.models.neurhal.network:NeurHal"}
