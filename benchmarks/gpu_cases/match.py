# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""match: log-sum-exp and argmax, with and without the ratio test."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting, absolute_error

OPERATOR = "match"
QUANTILE = 0.006


def level(setting: Setting, n: int, d: int, h: int, w: int, dtype=torch.bfloat16):
    """Correlations of standard deviation 3: peaked, not degenerate."""
    g = torch.Generator().manual_seed(setting.seed)
    descriptors = 3 * torch.randn(n, d, generator=g) / d**0.5
    features = torch.randn(d, h, w, generator=g)
    return descriptors.to(setting.device, dtype), features.to(setting.device, dtype)


def eager(h, f, quantile=None):
    c = (h @ f.flatten(1)).float()
    best = c.max(1)
    found = best.indices, best.values - c.logsumexp(1)
    if quantile is None:
        return found
    rank = int(quantile * c.shape[1])
    return *found, best.values / c.topk(rank, dim=1).values[:, -1]


def check(setting: Setting) -> Iterator[Check]:
    shape = (9, 20, 11, 13) if setting.tiny else (500, 128, 60, 80)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        h, f = level(setting, *shape, dtype)
        options = {"quantile": 0.05, "entropy": True}
        found = pl.match(h, f, **options, implementation=setting.forced)
        truth = pl.match(h.cpu(), f.cpu(), **options, implementation="reference")
        name = str(dtype).removeprefix("torch.")
        differ = (found.xy.cpu() != truth.xy).any(1).double().mean()
        yield Check(f"{name}: share of other best cells", float(differ), 0.005)
        for field in ("log_probability", "entropy"):
            error = absolute_error(getattr(found, field), getattr(truth, field))
            yield Check(f"{name}: {field}, nats", error, 1e-4)
        ratio = found.quantile_ratio.cpu().double() / truth.quantile_ratio.double() - 1
        yield Check(f"{name}: quantile_ratio, relative", float(ratio.abs().max()), 1e-3)


def cases(setting: Setting) -> Iterator[Case]:
    h, f = level(setting, 1000, 128, 150, 200)
    yield Case(
        "match 1000 x 128 x 200 x 150, bf16", lambda: pl.match(h, f), lambda: eager(h, f),
        9.7e-6, 18e-6,
    )  # fmt: skip
    yield Case(
        "match + ratio test, same size", lambda: pl.match(h, f, quantile=QUANTILE),
        lambda: eager(h, f, QUANTILE), 9.7e-6,
    )  # fmt: skip
    h32, f32 = h.float(), f.float()
    yield Case(
        "match, same size, fp32", lambda: pl.match(h32, f32), lambda: eager(h32, f32),
        2 * 1000 * 128 * 30000 / 56e12,
    )  # fmt: skip
    big_h, big_f = level(setting, 1000, 128, 1200, 1600)
    yield Case(
        "match 1000 x 128 x 1600 x 1200, bf16", lambda: pl.match(big_h, big_f),
        lambda: eager(big_h, big_f), 622e-6, 850e-6,
    )  # fmt: skip
    yield Case(
        "match + ratio test 1600 x 1200, bf16",
        lambda: pl.match(big_h, big_f, quantile=QUANTILE),
        lambda: eager(big_h, big_f, QUANTILE), 622e-6, 1600e-6,
    )  # fmt: skip
