# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""nre_loss, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting, absolute_error, relative_error

OPERATOR = "nre_loss"


def problem(setting: Setting, shape: tuple[int, ...], dtype: torch.dtype):
    """Descriptors, features and targets of B, N, D, H, W; leaves that take gradients."""
    batch, count, depth, height, width = shape
    g = torch.Generator().manual_seed(setting.seed)
    h = 3 * torch.randn(batch, count, depth, generator=g) / depth**0.5
    f = torch.randn(batch, depth, height, width, generator=g)
    t = torch.rand(batch, count, 2, generator=g) * torch.tensor([width - 1, height - 1])
    arrays = h.to(dtype), f.to(dtype), t
    return [x.to(setting.device).requires_grad_() for x in arrays]


def step(loss, arrays):
    value = loss(*arrays)
    return value, *torch.autograd.grad(value.float().mean(), arrays)


def eager(h, f, t):
    width = f.shape[3]
    c = torch.einsum("bnd,bdp->bnp", h, f.flatten(2))
    corner = t.detach().floor()
    fx, fy = (t - corner).unbind(-1)
    x, y = corner.long().unbind(-1)
    value = 0
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
            cell = (y + dy).clamp(max=f.shape[2] - 1) * width + (x + dx).clamp(max=width - 1)
            value = value + weight * c.gather(2, cell[..., None])[..., 0]
    return c.float().logsumexp(2) - value


def check(setting: Setting) -> Iterator[Check]:
    shapes = [(2, 9, 20, 9, 11)] if setting.tiny else [(2, 500, 128, 60, 80), (1, 90, 288, 50, 61)]
    for shape in shapes:
        for dtype, tolerance in (
            (torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3),
        ):  # fmt: skip
            arrays = problem(setting, shape, dtype)
            found = step(lambda *a: pl.nre_loss(*a, implementation=setting.forced), arrays)
            exact = [x.detach().cpu().double().requires_grad_() for x in arrays]
            truth = step(lambda *a: pl.nre_loss(*a, implementation="reference"), exact)
            name = f"{str(dtype).removeprefix('torch.')}, D {shape[2]}"
            yield Check(f"{name}: loss, nats", absolute_error(found[0], truth[0]), 1e-4)
            for what, a, b in zip(("descriptors", "features", "targets"), found[1:], truth[1:]):
                limit = 1e-4 if what == "targets" else tolerance
                yield Check(f"{name}: gradient of {what}, relative", relative_error(a, b), limit)


def cases(setting: Setting) -> Iterator[Case]:
    low = problem(setting, (16, 1000, 128, 150, 200), torch.bfloat16)
    yield Case(
        "nre_loss forward + backward, B 16 x 1000 x 128 x 30k, bf16",
        lambda: step(pl.nre_loss, low), lambda: step(eager, low), 622e-6, 1000e-6,
    )  # fmt: skip
    plain = [x.detach() for x in low]
    yield Case(
        "nre_loss forward alone, same size", lambda: pl.nre_loss(*plain), lambda: eager(*plain),
        622e-6 / 4,
    )  # fmt: skip
    single = problem(setting, (2, 1000, 128, 150, 200), torch.float32)
    yield Case(
        "nre_loss forward + backward, B 2, fp32",
        lambda: step(pl.nre_loss, single), lambda: step(eager, single),
        4 * 2 * 2 * 1000 * 128 * 30000 / 56e12,
    )  # fmt: skip
