# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Principal components of global descriptors, fitted to the reference images of a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Directions with less than this share of the largest standard deviation are rounding errors: V centred
# descriptors span V - 1 dimensions at most.
_LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """A projection to fewer dimensions: mean (D,) and components (K, D), orthonormal rows."""

    mean: npt.NDArray[np.float64]
    components: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, descriptors: Any, dimensions: int = 1024) -> PrincipalComponents:
        """Of V descriptors (V, D): at most `dimensions`, and at most V - 1, components.

        The published program keeps min(1024, V) of them; the V-th has no variance among the
        references and an arbitrary direction, so it is left out here.

        Raises ValueError for another shape, for values that are not finite, and for V = 0.
        """
        x = _matrix(descriptors, "descriptors")
        if len(x) == 0:
            raise ValueError("descriptors must hold one or more rows")
        if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1:
            raise ValueError(f"dimensions must be a positive int, got {dimensions!r}")
        mean = x.mean(0)
        _, deviation, rows = np.linalg.svd(x - mean, full_matrices=False)
        scale = max(float(deviation.max()), np.finfo(float).tiny)
        keep = min(dimensions, int((deviation > _LEAST * scale).sum()))
        return cls(mean, rows[:keep])

    def transform(self, descriptors: Any) -> npt.NDArray[np.float64]:
        """(V, K) unit vectors of descriptors (V, D); zero where nothing is left of one."""
        x = _matrix(descriptors, "descriptors")
        if x.shape[1] != len(self.mean):
            raise ValueError(f"descriptors must be (V, {len(self.mean)}), got {x.shape}")
        y = (x - self.mean) @ self.components.T
        return y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), np.finfo(float).tiny)


def rank_references(query: Any, references: Any) -> npt.NDArray[np.int64]:
    """References (V, K), most similar to the query (K,) first; ties in order."""
    return np.argsort(-(np.asarray(references) @ np.asarray(query)), kind="stable")


def _matrix(values: Any, name: str) -> npt.NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    if x.ndim != 2:
        raise ValueError(f"{name} must be (V, D), got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    return x
