# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""dual_softmax, forward and backward, at LoFTR's coarse maps."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting, relative_error

OPERATOR = "dual_softmax"
TEMPERATURE = 0.1


def problem(setting: Setting, shape: tuple[int, int, int], dtype: torch.dtype):
    """Scores of B, m, n and a slope of the result."""
    g = torch.Generator().manual_seed(setting.seed)
    return [torch.randn(shape, generator=g).to(setting.device, dtype) for _ in range(2)]


def eager(scores):
    x = scores / TEMPERATURE
    return x.log_softmax(1) + x.log_softmax(2)


def both(form, scores, slope):
    leaf = scores.detach().requires_grad_()
    out = form(leaf)
    return out, torch.autograd.grad(out, leaf, slope.to(out.dtype))[0]


def check(setting: Setting) -> Iterator[Check]:
    shape = (2, 7, 11) if setting.tiny else (2, 700, 1300)

    def form(scores, name=setting.forced):
        return pl.dual_softmax(scores, temperature=TEMPERATURE, implementation=name)

    for dtype, tolerance in (
        (torch.float32, 5e-6), (torch.float16, 3e-3), (torch.bfloat16, 2e-2),
    ):  # fmt: skip
        arrays = problem(setting, shape, dtype)
        found = both(form, *arrays)
        truth = both(lambda s: form(s, "reference"), *(x.cpu().double() for x in arrays))
        name = str(dtype).removeprefix("torch.")
        for what, a, b in zip(("log P", "gradient"), found, truth):
            yield Check(f"{name}: {what}, relative", relative_error(a, b), tolerance)


def cases(setting: Setting) -> Iterator[Case]:
    for dtype, name, size in ((torch.float32, "fp32", 4), (torch.float16, "fp16", 2)):
        scores, slope = problem(setting, (1, 4800, 4800), dtype)
        once = size * scores.numel() / 4.3e12

        def run(s):
            return pl.dual_softmax(s, temperature=TEMPERATURE)

        yield Case(
            f"dual_softmax, 4800 x 4800, {name}",
            lambda s=scores, f=run: f(s), lambda s=scores: eager(s), 2 * once,
        )  # fmt: skip
        yield Case(
            f"dual_softmax forward + backward, same size, {name}",
            lambda s=scores, g=slope, f=run: both(f, s, g),
            lambda s=scores, g=slope: both(eager, s, g), 5 * once,
        )  # fmt: skip
