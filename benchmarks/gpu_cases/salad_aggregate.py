# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""salad_aggregate, forward and backward, at the published head's size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting, relative_error

OPERATOR = "salad_aggregate"


def problem(setting: Setting, shape: tuple[int, ...], dtype: torch.dtype):
    """Scores, features and token of B, m, n, l, t; dustbin; slope of the descriptor."""
    batch, m, n, depth, t = shape
    g = torch.Generator().manual_seed(setting.seed)
    sizes = ((batch, m, n), (batch, depth, n), (batch, t))
    arrays = [torch.randn(*size, generator=g).to(dtype) for size in sizes]
    slope = torch.randn(batch, t + depth * m, generator=g).to(dtype)
    return [x.to(setting.device) for x in (*arrays, torch.ones(()), slope)]


def eager(scores, features, token, dustbin):
    batch, m, n = scores.shape
    full = torch.cat([scores.float(), dustbin.expand(batch, 1, n)], 1)
    log_a = full.new_zeros(batch, m + 1)
    log_a[:, m] = math.log(n - m)
    v = full.new_zeros(batch, n)
    for _ in range(3):
        u = log_a - torch.logsumexp(full + v[:, None], 2)
        v = -torch.logsumexp(full + u[:, :, None], 1)
    weights = (full + u[:, :, None] + v[:, None])[:, :m].exp().to(features.dtype)
    sums = torch.nn.functional.normalize(features @ weights.transpose(1, 2), dim=1)
    parts = [torch.nn.functional.normalize(token, dim=1), sums.flatten(1)]
    return torch.nn.functional.normalize(torch.cat(parts, 1), dim=1)


def both(form, *arrays):
    *given, slope = arrays
    inputs = [x.detach().requires_grad_() for x in given]
    out = form(*inputs)
    found = torch.autograd.grad(out, inputs[:3], slope.to(out.dtype))
    return out, *found


def check(setting: Setting) -> Iterator[Check]:
    shape = (2, 6, 15, 5, 4) if setting.tiny else (8, 64, 529, 128, 256)
    for dtype, tolerance in (
        (torch.float32, 2e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2),
    ):  # fmt: skip
        arrays = problem(setting, shape, dtype)
        found = both(lambda *a: pl.salad_aggregate(*a, implementation=setting.forced), *arrays)
        exact = [x.cpu().double() for x in arrays]
        truth = both(lambda *a: pl.salad_aggregate(*a, implementation="reference"), *exact)
        name = str(dtype).removeprefix("torch.")
        for what, a, b in zip(("descriptor", "scores", "features", "token"), found, truth):
            yield Check(f"{name}: {what}, relative", relative_error(a, b), tolerance)


def cases(setting: Setting) -> Iterator[Case]:
    shape = (64, 64, 529, 128, 256)
    for dtype, name, size in ((torch.float32, "fp32", 4), (torch.float16, "fp16", 2)):
        arrays = problem(setting, shape, dtype)
        given = arrays[:4]
        read = size * sum(x.numel() for x in given)
        yield Case(
            f"salad_aggregate, batch 64, 64 x 529 x 128, {name}",
            lambda g=given: pl.salad_aggregate(*g), lambda g=given: eager(*g),
            max(4e-6, read / 4.3e12),
        )  # fmt: skip
        yield Case(
            f"salad_aggregate forward + backward, same size, {name}",
            lambda a=arrays: both(pl.salad_aggregate, *a), lambda a=arrays: both(eager, *a),
            goal=20e-6,
        )  # fmt: skip
