# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of a reconstructed surface against the true one: point to point, both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays
from pyloc_core._checks import integer, number
from pyloc_core._extras import require

Array = npt.NDArray[np.float64]

THRESHOLD = 0.05  # metres, of precision and recall (thesis, section 9.2.3)
NUM_SAMPLES = 200_000  # points drawn on each mesh for them


@dataclass(frozen=True)
class SurfaceErrors:
    """Distances in the unit of the points; shares in [0, 1].

    Attributes:
        accuracy: mean distance from predicted points to the nearest true one.
        completeness: mean distance from true points to the nearest predicted one.
        chamfer: mean of the two.
        precision: share of predicted points nearer to the truth than the threshold.
        recall: share of true points nearer to the prediction than the threshold.
        f_score: harmonic mean of precision and recall; 0 where both are.
    """

    accuracy: float
    completeness: float
    chamfer: float
    precision: float
    recall: float
    f_score: float


def surface_errors(
    predicted: Any, truth: Any, *, threshold: float = THRESHOLD, num_threads: int = 1
) -> SurfaceErrors:
    """Errors between two sets of points (N, 3) and (M, 3) in the same frame.

    Args:
        predicted, truth: vertices of the meshes (the published protocol's accuracy and completeness), or
            points of `sample_mesh` (its precision, recall and F-score).
        threshold: distance below which a point is right.
        num_threads: of the search.

    Raises:
        ValueError: shapes, values that are not finite, an empty set. MissingExtra without SciPy.

    Sources: Murez et al., "Atlas" (2020); Bozic et al., "TransformerFusion" (2021), the protocol of the
    thesis' Table 9.6. The text there names the two directions the other way round; these are the names
    of the cited papers.
    """
    spatial = require("scipy.spatial", "errors of surfaces")
    near = number("threshold", threshold, positive=True)
    workers = integer("num_threads", num_threads, 1)
    first, second = (
        _arrays.as_array(x, name, shape=("N", 3)).data
        for x, name in ((predicted, "predicted"), (truth, "truth"))
    )
    for points, name in ((first, "predicted"), (second, "truth")):
        if len(points) == 0:
            raise ValueError(f"{name} must hold at least one point")
    to_truth = spatial.cKDTree(second).query(first, workers=workers)[0]
    to_predicted = spatial.cKDTree(first).query(second, workers=workers)[0]
    accuracy, completeness = float(to_truth.mean()), float(to_predicted.mean())
    precision, recall = float((to_truth < near).mean()), float((to_predicted < near).mean())
    both = precision + recall
    return SurfaceErrors(
        accuracy, completeness, (accuracy + completeness) / 2, precision, recall,
        2 * precision * recall / both if both else 0.0,
    )  # fmt: skip


def sample_mesh(vertices: Any, faces: Any, count: int = NUM_SAMPLES, *, seed: int = 0) -> Array:
    """Points (count, 3) drawn uniformly over the area of triangles.

    Args:
        vertices: (V, 3). faces: (F, 3) integers, rows of `vertices`.
        count: how many points. seed: of the draw.

    Raises ValueError: shapes, faces that point outside, a mesh without area.
    """
    corners = _arrays.as_array(vertices, "vertices", shape=("V", 3)).data
    triangles = np.asarray(faces)
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        raise ValueError(f"faces must be integers (F, 3), got {triangles.dtype} {triangles.shape}")
    if triangles.size and not (triangles.min() >= 0 and triangles.max() < len(corners)):
        raise ValueError(f"faces must lie within 0 and {len(corners) - 1}")
    a, b, c = (corners[triangles[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    if not area.sum() > 0:
        raise ValueError("faces have no area")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(area), integer("count", count, 1), p=area / area.sum())
    # Uniform in the triangle: Osada et al., "Shape Distributions" (2002), Eq. 1.
    root, part = np.sqrt(rng.uniform(size=count))[:, None], rng.uniform(size=count)[:, None]
    return np.asarray(
        (1 - root) * a[chosen] + root * (1 - part) * b[chosen] + root * part * c[chosen]
    )
