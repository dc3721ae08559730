# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The global descriptor that a map makes of its own: a VLAD (Jegou et al. 2010) of the coarse dense
descriptors with normalised words (Arandjelovic and Zisserman 2013), learned from the map's images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyloc_core._extras import require
from pyloc_core.localization.features import Features, Float32

_SAMPLES_PER_IMAGE, _SAMPLES = 1500, 60000
_KMEANS_ROUNDS = 20


def sample_cells(features: Features, seed: int) -> Float32:
    """(n, D) descriptors of random cells, to learn a vocabulary from."""
    cells = _cells(features)
    order = np.random.default_rng(seed).permutation(len(cells))
    return np.ascontiguousarray(cells[order[:_SAMPLES_PER_IMAGE]])


def learn_vocabulary(samples: Sequence[Float32], words: int) -> Float32:
    """(words, D) k-means centres; fewer when there are fewer samples, (0, D) when words is 0."""
    cv2 = require("cv2", "image retrieval")
    data = np.concatenate(list(samples)).astype(np.float32)
    if len(data) > _SAMPLES:
        data = data[np.random.default_rng(0).permutation(len(data))[:_SAMPLES]]
    words = min(words, len(data))
    if words == 0:
        return np.zeros((0, data.shape[1]), np.float32)
    stop = (cv2.TERM_CRITERIA_MAX_ITER, _KMEANS_ROUNDS, 0)
    cv2.setRNGSeed(0)
    _, _, centres = cv2.kmeans(data, words, None, stop, 1, cv2.KMEANS_PP_CENTERS)
    return np.asarray(centres, np.float32)


def global_descriptor(features: Features, vocabulary: Float32) -> Float32:
    """(words * D,) unit VLAD of one image's coarse features; zeros when nothing is described."""
    cells = _cells(features)
    words = len(vocabulary)
    nearest = (cells @ vocabulary.T - 0.5 * (vocabulary**2).sum(1)).argmax(1)
    member = np.zeros((words, len(cells)), np.float32)
    member[nearest, np.arange(len(cells))] = 1
    residual = member @ cells - member.sum(1, keepdims=True) * vocabulary
    norm = np.linalg.norm(residual, axis=1, keepdims=True)
    vlad = (residual / np.maximum(norm, 1e-9)).ravel()
    return np.asarray(vlad / max(float(np.linalg.norm(vlad)), 1e-9), np.float32)


def _cells(features: Features) -> Float32:
    """(cells, D) of a level, those without any gradient left out."""
    depth = features.values.shape[0]
    cells = np.asarray(features.values, np.float32).reshape(depth, -1).T
    alive = np.abs(cells).sum(1) > 0
    return cells if alive.all() else cells[alive]
