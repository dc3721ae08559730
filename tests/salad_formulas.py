# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The head of SALAD written out in float64, for tests; the transport by plain scaling of rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np


def two_layers(x: np.ndarray, state: dict[str, Any], name: str, second: int) -> np.ndarray:
    """(out, n) of columns x (C, n)."""
    w1, b1, w2, b2 = (
        state[f"{name}.{layer}.{part}"].double().numpy()
        for layer in (0, second) for part in ("weight", "bias")
    )  # fmt: skip
    hidden = np.maximum(w1.reshape(len(w1), -1) @ x + b1[:, None], 0)
    return w2.reshape(len(w2), -1) @ hidden + b2[:, None]


def transport_by_hand(scores: np.ndarray, dustbin: float, iterations: int) -> np.ndarray:
    """(m + 1, n) of scores (m, n): rows to 1 and n - m, then columns to 1, again and again."""
    m, n = scores.shape
    p = np.exp(np.vstack([scores, np.full((1, n), dustbin)]))
    mass = np.append(np.ones(m), n - m)
    for _ in range(iterations):
        p *= (mass / p.sum(1))[:, None]
        p /= p.sum(0)
    return p


def descriptor_by_hand(state: dict[str, Any], patches: Any, token: Any, steps: int) -> np.ndarray:
    """(t + l m,) of one image's patches (C, h, w) and token (C,), in float64."""
    x = patches.double().flatten(1).numpy()
    scores, values = two_layers(x, state, "score", 3), two_layers(x, state, "cluster_features", 3)
    p = transport_by_hand(scores, float(state["dust_bin"]), steps)[:-1]
    v = np.array([[(value * weight).sum() for weight in p] for value in values])
    parts = [(v / np.linalg.norm(v, axis=0)).ravel()]  # (l, k): the dimension first
    if "token_features.0.weight" in state:
        g = two_layers(token.double().numpy()[:, None], state, "token_features", 2)[:, 0]
        parts.insert(0, g / np.linalg.norm(g))
    whole = np.concatenate(parts)
    return whole / np.linalg.norm(whole)
