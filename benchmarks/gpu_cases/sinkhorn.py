# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""sinkhorn, forward and backward, at SuperGlue's and SALAD's sizes, and salad_assign."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting, absolute_error, relative_error

OPERATOR = "sinkhorn"


def problem(setting: Setting, shape: tuple[int, int, int], dtype: torch.dtype, scale: float = 1.0):
    """Scores of B, m, n, and masses that balance."""
    g = torch.Generator().manual_seed(setting.seed)
    batch, m, n = shape
    scores = (scale * torch.randn(batch, m, n, generator=g)).to(dtype)
    masses = [0.3 * torch.randn(batch, size, generator=g) for size in (m, n)]
    masses = [x - x.logsumexp(1, keepdim=True) for x in masses]
    return [x.to(setting.device) for x in (scores, *masses)]


def eager(scores, log_a, log_b, iterations):
    scores, v = scores.float(), torch.zeros_like(log_b)
    for _ in range(iterations):
        u = log_a - torch.logsumexp(scores + v[:, None], 2)
        v = log_b - torch.logsumexp(scores + u[:, :, None], 1)
    return scores + u[:, :, None] + v[:, None]


def eager_salad(scores, dustbin, iterations):
    batch, m, n = scores.shape
    full = torch.cat([scores, dustbin.expand(batch, 1, n).to(scores.dtype)], 1)
    log_a = scores.new_zeros(batch, m + 1, dtype=torch.float32)
    log_a[:, m] = math.log(n - m)
    return eager(full, log_a, log_a.new_zeros(batch, n), iterations)


def both(form, slope, *arrays):
    inputs = [x.detach().requires_grad_() for x in arrays]
    out = form(*inputs)
    return out, *torch.autograd.grad(out, inputs, slope.to(out.dtype))


def check(setting: Setting) -> Iterator[Check]:
    shapes = [(2, 7, 11)] if setting.tiny else [(3, 200, 333), (1, 1024, 1024)]
    iterations = 4 if setting.tiny else 20
    for shape in shapes:
        for dtype, scale, tolerance in (
            (torch.float32, 1.0, 5e-6), (torch.float32, 100.0, 5e-6), (torch.float16, 1.0, 2e-3),
            (torch.bfloat16, 1.0, 1e-2),
        ):  # fmt: skip
            arrays = problem(setting, shape, dtype, scale)
            g = torch.Generator().manual_seed(setting.seed + 1)
            slope = torch.randn(shape, generator=g)

            def form(*given, name=setting.forced):
                return pl.sinkhorn(*given, iterations=iterations, implementation=name)

            found = both(form, slope.to(setting.device), *arrays)
            exact = [x.cpu().double() for x in arrays]
            truth = both(lambda *x, f=form: f(*x, name="reference"), slope.double(), *exact)
            name = (
                f"{str(dtype).removeprefix('torch.')}, {shape[1]} x {shape[2]}, scores x {scale:g}"
            )
            yield Check(f"{name}: log P, relative", relative_error(found[0], truth[0]), tolerance)
            limit = max(4 * tolerance, 1e-4 * max(1.0, scale / 10))
            for what, a, b in zip(("scores", "row mass", "column mass"), found[1:], truth[1:]):
                yield Check(f"{name}: gradient of {what}, relative", relative_error(a, b), limit)
    scores = problem(setting, (2, 6, 15) if setting.tiny else (64, 64, 529), torch.float32)[0]
    found = pl.salad_assign(scores, 1.0, implementation=setting.forced)
    truth = pl.salad_assign(scores.cpu().double(), 1.0, implementation="reference")
    yield Check("salad_assign: log P, nats", absolute_error(found, truth), 5e-5)


def cases(setting: Setting) -> Iterator[Case]:
    s, a, b = problem(setting, (1, 1024, 1024), torch.float32)
    slope = torch.randn(s.shape, generator=torch.Generator().manual_seed(setting.seed + 1))
    slope = slope.to(setting.device)
    yield Case(
        "sinkhorn, 1024 x 1024, 100 iterations", lambda: pl.sinkhorn(s, a, b),
        lambda: eager(s, a, b, 100), 54e-6, 120e-6,
    )  # fmt: skip
    yield Case(
        "sinkhorn forward + backward, same size", lambda: both(pl.sinkhorn, slope, s, a, b),
        lambda: both(lambda *x: eager(*x, 100), slope, s, a, b),
    )  # fmt: skip
    many = problem(setting, (16, 512, 512), torch.float16)
    yield Case(
        "sinkhorn, 16 x 512 x 512, 20 iterations, fp16",
        lambda: pl.sinkhorn(*many, iterations=20), lambda: eager(*many, 20),
        16 * 512 * 512 * 40 / 3.9e12,
    )  # fmt: skip
    scores = problem(setting, (64, 64, 529), torch.float32)[0]
    dustbin = torch.ones((), device=setting.device)
    yield Case(
        "salad_assign, batch 64, 64 x 529, 3 iterations", lambda: pl.salad_assign(scores, dustbin),
        lambda: eager_salad(scores, dustbin, 3), 4e-6, 8e-6,
    )  # fmt: skip
