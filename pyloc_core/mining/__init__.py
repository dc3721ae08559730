# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Mining of training batches for place recognition (Izquierdo and Civera, ECCV 2024)."""

from __future__ import annotations

from pyloc_core.mining.clique_sampler import CliqueSampler, MiningError
from pyloc_core.mining.sequences import representative_frames, sequence_labels

__all__ = ["CliqueSampler", "MiningError", "representative_frames", "sequence_labels"]
