# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Gated attention as NeurHal uses it, 4 heads of 96 channels, 1 thread, against eager torch.

The self-attention of a padded 60 x 80 target map has 19200 queries and 4800 pooled keys; a quarter of the
queries is timed here, since eager torch stores their 368 MB of logits several times over.
"""

from __future__ import annotations

import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
QUERIES, KEYS = 4800, 4800
GROUP = f"gated attention, 4 heads, {QUERIES} x {KEYS} x 96, 1 thread"


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def tensors(request):
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    sizes = (QUERIES, KEYS, KEYS, QUERIES)
    spread = (0.3, 0.3, 1.0, 1.0)
    return [
        (s * torch.randn(1, 4, n, 96, generator=g)).to(getattr(torch, request.param))
        for n, s in zip(sizes, spread)
    ]


def eager(q, k, v):
    scores = q @ k.transpose(-1, -2)
    gate = torch.sigmoid(scores.amax(-1, keepdim=True))
    return torch.softmax(gate * scores, -1) @ v


def ours(q, k, v):
    return pl.gated_attention(q, k, v, num_threads=1)


def both(form, q, k, v, slope):
    inputs = [t.detach().requires_grad_() for t in (q, k, v)]
    form(*inputs).backward(slope)
    return inputs


@pytest.mark.parametrize("form", [ours, eager], ids=["pyloc", "eager"])
def test_forward(benchmark, tensors, form):
    benchmark.group = f"{GROUP}, {str(tensors[0].dtype)[6:]}"
    with torch.no_grad():
        found = benchmark.pedantic(form, tensors[:3], rounds=3, warmup_rounds=1)
        truth = eager(*(t[..., :50, :].double() if i == 0 else t.double()
                        for i, t in enumerate(tensors[:3])))  # fmt: skip
    assert (found[..., :50, :] - truth).abs().max() < 0.02


@pytest.mark.parametrize("form", [ours, eager], ids=["pyloc", "eager"])
def test_forward_and_backward(benchmark, tensors, form):
    benchmark.group = f"{GROUP}, {str(tensors[0].dtype)[6:]}, forward and backward"
    found = benchmark.pedantic(both, (form, *tensors), rounds=3, warmup_rounds=1)
    assert all(torch.isfinite(t.grad).all() for t in found)
