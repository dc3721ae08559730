# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Who belongs to whom, and who to nobody: three assignments of the same scores, side by side.

python examples/assignment.py
"""

from __future__ import annotations

import time

import numpy as np

import pyloc_core as pc
from pyloc_core.integrations.superglue import log_optimal_transport


def noisy_pair(common: int, alone: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit descriptors of two images: `common` points seen in both (row i is row i), `alone` in one only."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((common, 64))
    views = []
    for _ in range(2):
        own = rng.standard_normal((alone, 64))
        seen = truth + noise * rng.standard_normal(truth.shape)
        rows = np.concatenate([seen, own])
        views.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    return views[0], views[1]


def quality(log_assignment: np.ndarray, common: int, least: float) -> tuple[float, float]:
    """Precision and recall of the mutual choices whose probability is at least `least`."""
    best = log_assignment.argmax(1)
    mutual = log_assignment.argmax(0)[best] == np.arange(len(best))
    rows = np.flatnonzero(mutual & (log_assignment.max(1) >= np.log(least)))
    right = (best[rows] == rows) & (rows < common)
    return float(right.mean()) if len(rows) else 0.0, float(right.sum() / common)


def main(common: int = 300, alone: int = 200, seed: int = 5) -> dict[str, tuple[float, float]]:
    """Prints precision and recall of each; returns them."""
    first, second = noisy_pair(common, alone, noise=1.0, seed=seed)
    scores = 20.0 * first @ second.T  # inner products over a temperature of 0.05
    m, n = scores.shape
    uniform = np.full(m, -np.log(m)), np.full(n, -np.log(n))

    def everybody(s: np.ndarray) -> np.ndarray:
        """Masses without a dustbin: each point must go somewhere. Rows of P as probabilities."""
        return pc.sinkhorn(s, *uniform, iterations=50) + np.float32(np.log(m))

    forms = {
        "dual softmax": pc.dual_softmax,
        "Sinkhorn, all must match": everybody,
        "Sinkhorn with dustbins": lambda s: log_optimal_transport(s[None], 5.0, 50)[0, :-1, :-1],
    }
    found = {}
    for name, form in forms.items():
        start = time.perf_counter()
        log_assignment = form(scores)
        seconds = time.perf_counter() - start
        found[name] = quality(log_assignment, common, least=0.2)
        print(f"{name:26s} precision {found[name][0]:.3f}  recall {found[name][1]:.3f}"
              f"  {1e3 * seconds:.2f} ms")  # fmt: skip
    return found


if __name__ == "__main__":
    main()
