# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""gated_attention, forward and backward, at NeurHal's padded target map of 60 x 80 cells."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting, relative_error

OPERATOR = "gated_attention"


def tensors(setting: Setting, queries: int, keys: int, depth: int, dtype: torch.dtype):
    g = torch.Generator().manual_seed(setting.seed)
    sizes, spread = (queries, keys, keys, queries), (0.3, 0.3, 1.0, 1.0)
    return [
        (s * torch.randn(1, 4, n, depth, generator=g)).to(setting.device, dtype)
        for n, s in zip(sizes, spread)
    ]


def eager(q, k, v):
    scores = q @ k.transpose(-1, -2)
    gate = torch.sigmoid(scores.amax(-1, keepdim=True))
    return torch.softmax(gate * scores, -1) @ v


def both(form, q, k, v, slope):
    inputs = [t.detach().requires_grad_() for t in (q, k, v)]
    out = form(*inputs)
    return out, *torch.autograd.grad(out, inputs, slope.to(out.dtype))


def check(setting: Setting) -> Iterator[Check]:
    shape = (9, 21, 8) if setting.tiny else (400, 700, 96)
    for dtype, tolerance in (
        (torch.float32, 5e-5), (torch.bfloat16, 3e-2), (torch.float16, 5e-3),
    ):  # fmt: skip
        arrays = tensors(setting, *shape, dtype)
        found = both(lambda *a: pl.gated_attention(*a, implementation=setting.forced), *arrays)
        exact = [x.cpu().double() for x in arrays]
        truth = both(lambda *a: pl.gated_attention(*a, implementation="reference"), *exact)
        name = str(dtype).removeprefix("torch.")
        for what, a, b in zip(("result", "queries", "keys", "values"), found, truth):
            yield Check(f"{name}: {what}, relative", relative_error(a, b), tolerance)


def cases(setting: Setting) -> Iterator[Case]:
    arrays = tensors(setting, 19200, 4800, 96, torch.bfloat16)
    products = 2 * 4 * 19200 * 4800 * 96
    yield Case(
        "gated_attention, 4 heads, 19200 x 4800 x 96, bf16",
        lambda: pl.gated_attention(*arrays[:3]), lambda: eager(*arrays[:3]), 2 * products / 790e12,
    )  # fmt: skip
    yield Case(
        "gated_attention forward + backward, same size",
        lambda: both(pl.gated_attention, *arrays), lambda: both(eager, *arrays),
        7 * products / 790e12,
    )  # fmt: skip
