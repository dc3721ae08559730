# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""When does a pose over loss maps count as found? The rule of csrc/include/pyloc/consensus.h, derived there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyloc_core.maps import LossMaps

USABLE_GAIN = 1.0  # nats above a flat map
CONSISTENT_SHARE = 0.5  # of the peak gain
MIN_USABLE = 4
MAX_LOG_FALSE_ALARMS = math.log(0.1)


class Consensus(NamedTuple):
    """Usable maps, consistent ones, mean chance share, ln of the expected false alarms, the verdict."""

    usable: int
    consistent: int
    chance: float
    log_false_alarms: float
    success: bool


def map_evidence(maps: LossMaps) -> tuple[Tensor, Tensor, Tensor]:
    """Peak gain, share of the window at half the peak or above, and usability of every map (N,)."""
    rows = torch.repeat_interleave(torch.tensor(maps.entries_per_map))
    gain = torch.tensor(maps.gain)
    peak = torch.tensor(maps.peak_gain)
    high = torch.bincount(rows[gain >= CONSISTENT_SHARE * peak[rows]], minlength=len(maps))
    share = high.double() / (maps.window[0] * maps.window[1])
    usable = peak - torch.tensor(maps.flat_gain) > USABLE_GAIN
    return peak.double(), share, usable


def log_binomial_tail(n: int, k: int, p: float) -> float:
    """ln P[Binomial(n, p) >= k]; 0 wherever k does not exceed the mean."""
    if k <= 0 or p >= 1 or k <= n * p:
        return 0.0
    if k > n or p <= 0:
        return -1e300
    i = torch.arange(k, n + 1, dtype=torch.float64)
    log_choose = math.lgamma(n + 1) - torch.lgamma(i + 1) - torch.lgamma(n - i + 1)
    terms = log_choose + i * math.log(p) + (n - i) * math.log1p(-p)
    return min(0.0, float(torch.logsumexp(terms, 0)))


def log_false_alarms(usable: int, consistent: int, chance: float) -> float:
    """ln of the expected number of wrong poses that do as well."""
    if usable < 3:
        return 0.0
    tests = math.log(4 * math.comb(usable, 3))
    return tests + log_binomial_tail(usable - 3, consistent - 3, chance)


def consensus(maps: LossMaps, gain: Tensor) -> Consensus:
    """The verdict on a pose at which the maps have bilinear gains (N,)."""
    peak, share, usable = map_evidence(maps)
    count = int(usable.sum())
    consistent = int((usable & (gain >= CONSISTENT_SHARE * peak)).sum())
    chance = float(share[usable].mean()) if count else 0.0
    alarms = log_false_alarms(count, consistent, chance)
    success = min(count, consistent) >= MIN_USABLE and alarms <= MAX_LOG_FALSE_ALARMS
    return Consensus(count, consistent, chance, alarms, success)
