# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sampling, rounds and the adaptive stop of consensus loops; twin of csrc/include/pyloc/{random,msac}.h."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROOTS = 4
FIRST_ROUND, LARGEST_ROUND = 64, 1024
MIN_ITERATIONS, MAX_ITERATIONS = 128, 20000
_MASK = 0xFFFFFFFF


def philox(seed: int, counter: int) -> tuple[int, int, int, int]:
    """Four 32-bit words of Philox4x32-10 (Salmon et al. 2011)."""
    c = [counter & _MASK, counter >> 32, 0, 0]
    k0, k1 = seed & _MASK, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & _MASK, (p0 >> 32) ^ c[3] ^ k1, p0 & _MASK]
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c[0], c[1], c[2], c[3]


def sample_triplets(seed: int, first: int, count: int, n: int) -> Tensor:
    """(count, 3) distinct indices in [0, n) of the triplets first .. first + count - 1."""
    picks = []
    for hypothesis in range(first, first + count):
        words = philox(seed, hypothesis)
        a = words[0] * n >> 32
        b = words[1] * (n - 1) >> 32
        b += b >= a
        c = words[2] * (n - 2) >> 32
        for taken in sorted((a, b)):
            c += c >= taken
        picks.append((a, b, c))
    return torch.tensor(picks, dtype=torch.int64).reshape(-1, 3)


def required_triplets(consistent: float, confidence: float) -> int:
    """Smallest k with 1 - (1 - w^3)^k >= confidence, between the two bounds."""
    good = consistent**3
    if good <= 0:
        return MAX_ITERATIONS
    if good >= 1:
        return MIN_ITERATIONS
    k = math.ceil(math.log1p(-confidence) / math.log1p(-good))
    return max(MIN_ITERATIONS, min(MAX_ITERATIONS, k))


def round_size(done: int, wanted: int) -> int:
    """Triplets of the next round: doubling from 64 to 1024, at most what is still wanted."""
    return min(max(done, FIRST_ROUND), LARGEST_ROUND, wanted - done)
