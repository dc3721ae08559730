# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""NRE: coarse and fine descriptors, and the localization around them (Germain et al., CVPR 2021)."""

MODELS = {
    "nre": "pyloc_core.models.nre.descriptor:NRE",
    "nre_coarse": "pyloc_core.models.nre.network:NRECoarse",
    "nre_fine": "pyloc_core.models.nre.network:NREFine",
}
