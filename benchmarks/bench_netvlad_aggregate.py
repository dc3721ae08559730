# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""NetVLAD's aggregation as S2DHM uses it: 64 clusters of 512 channels, 32 x 32 patches, 1 thread, against
the plain form in torch (one product and one subtraction)."""

from __future__ import annotations

import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
BATCH, DEPTH, CLUSTERS, PATCHES = 2, 512, 64, 1024
GROUP = f"NetVLAD aggregation, {BATCH} x {PATCHES} patches, {CLUSTERS} x {DEPTH}, 1 thread"


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def tensors(request):
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    sizes = ((BATCH, DEPTH, PATCHES), (BATCH, CLUSTERS, PATCHES), (CLUSTERS, DEPTH))
    return [torch.randn(s, generator=g).to(getattr(torch, request.param)) for s in sizes]


def eager(features, logits, centroids):
    from torch.nn.functional import normalize

    weights = logits.softmax(1)
    residual = weights @ features.transpose(1, 2) - weights.sum(2, keepdim=True) * centroids
    return normalize(normalize(residual, dim=2).flatten(1), dim=1)


def ours(features, logits, centroids):
    return pl.netvlad_aggregate(features, logits, centroids, num_threads=1)


FORMS = {"pyloc": lambda: ours, "eager": lambda: eager, "compile": lambda: torch.compile(eager)}


def both(form, given, slope):
    leaves = [x.detach().requires_grad_() for x in given]
    form(*leaves).backward(slope)
    return leaves


@pytest.mark.parametrize("name", FORMS)
def test_forward(benchmark, tensors, name):
    benchmark.group = f"{GROUP}, {str(tensors[0].dtype)[6:]}"
    with torch.no_grad():
        found = benchmark.pedantic(FORMS[name](), tensors, rounds=9, warmup_rounds=2)
        truth = eager(*(x.float() for x in tensors))
    assert (found - truth).abs().max() < 0.02 * truth.abs().max()


@pytest.mark.parametrize("name", FORMS)
def test_forward_and_backward(benchmark, tensors, name):
    benchmark.group = f"{GROUP}, {str(tensors[0].dtype)[6:]}, forward and backward"
    slope = torch.randn(BATCH, CLUSTERS * DEPTH, generator=torch.Generator().manual_seed(1))
    slope = slope.to(tensors[0].dtype)
    found = benchmark.pedantic(both, (FORMS[name](), tensors, slope), rounds=9, warmup_rounds=2)
    assert all(torch.isfinite(x.grad).all() for x in found)
