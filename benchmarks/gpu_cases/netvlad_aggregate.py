# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""netvlad_aggregate, forward and backward, at the size of a VGG-16 map with 64 clusters."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting, relative_error

OPERATOR = "netvlad_aggregate"


def problem(setting: Setting, shape: tuple[int, int, int, int], dtype: torch.dtype):
    """Features, logits and centroids of B, D, K, n; slope of the descriptor."""
    batch, depth, clusters, n = shape
    g = torch.Generator().manual_seed(setting.seed)
    sizes = ((batch, depth, n), (batch, clusters, n), (clusters, depth), (batch, clusters * depth))
    return [torch.randn(*s, generator=g).to(setting.device, dtype) for s in sizes]


def eager(features, logits, centroids):
    weights = logits.softmax(1)
    sums = weights @ features.transpose(1, 2) - weights.sum(2, keepdim=True) * centroids
    parts = torch.nn.functional.normalize(sums, dim=2).flatten(1)
    return torch.nn.functional.normalize(parts, dim=1)


def both(form, *arrays):
    *given, slope = arrays
    inputs = [x.detach().requires_grad_() for x in given]
    out = form(*inputs)
    return out, *torch.autograd.grad(out, inputs, slope.to(out.dtype))


def check(setting: Setting) -> Iterator[Check]:
    shape = (2, 6, 5, 15) if setting.tiny else (3, 512, 64, 700)
    for dtype, tolerance in (
        (torch.float32, 5e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2),
    ):  # fmt: skip
        arrays = problem(setting, shape, dtype)
        found = both(lambda *a: pl.netvlad_aggregate(*a, implementation=setting.forced), *arrays)
        exact = [x.cpu().double() for x in arrays]
        truth = both(lambda *a: pl.netvlad_aggregate(*a, implementation="reference"), *exact)
        name = str(dtype).removeprefix("torch.")
        for what, a, b in zip(("descriptor", "features", "logits", "centroids"), found, truth):
            yield Check(f"{name}: {what}, relative", relative_error(a, b), tolerance)


def cases(setting: Setting) -> Iterator[Case]:
    for dtype, name, size in ((torch.float32, "fp32", 4), (torch.float16, "fp16", 2)):
        arrays = problem(setting, (8, 512, 64, 1200), dtype)
        given = arrays[:3]
        yield Case(
            f"netvlad_aggregate, batch 8, 512 x 64 x 1200, {name}",
            lambda g=given: pl.netvlad_aggregate(*g), lambda g=given: eager(*g),
            size * sum(x.numel() for x in given) / 4.3e12,
        )  # fmt: skip
        yield Case(
            f"netvlad_aggregate forward + backward, same size, {name}",
            lambda a=arrays: both(pl.netvlad_aggregate, *a), lambda a=arrays: both(eager, *a),
        )  # fmt: skip
