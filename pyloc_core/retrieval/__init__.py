# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Place recognition: an index of global descriptors, and how well retrieval with them works."""

from __future__ import annotations

from pyloc_core.retrieval.index import Index, Neighbours
from pyloc_core.retrieval.layouts import RetrievalSet, read_layout
from pyloc_core.retrieval.options import IndexOptions
from pyloc_core.retrieval.positives import positives_by_frame, positives_within
from pyloc_core.retrieval.recall import Recall, recall
from pyloc_core.retrieval.recall_curve import RecallCurve, plot_recall_curve, recall_curve
from pyloc_core.retrieval.sensitivity import Sensitivity, distance_sensitivity, plot_sensitivity

__all__ = [
    "Index",
    "IndexOptions",
    "Neighbours",
    "Recall",
    "RecallCurve",
    "RetrievalSet",
    "Sensitivity",
    "distance_sensitivity",
    "plot_recall_curve",
    "plot_sensitivity",
    "positives_by_frame",
    "positives_within",
    "read_layout",
    "recall",
    "recall_curve",
]
