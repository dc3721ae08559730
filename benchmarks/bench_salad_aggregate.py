# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD's aggregation of 8 images of 23 x 23 patches, 64 clusters of 128 and a token of 256, 1 thread.

Against the plain form in torch (log-domain iterations and one einsum), the same compiled by torch.compile,
and the published form, which repeats features and assignment to (B, l, m, n) before it adds up.
"""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
BATCH, CLUSTERS, PATCHES, DEPTH, TOKEN = 8, 64, 529, 128, 256
GROUP = f"SALAD aggregation, {BATCH} x {PATCHES} patches, {CLUSTERS} x {DEPTH} + {TOKEN}, 1 thread"


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def tensors(request):
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    sizes = ((BATCH, CLUSTERS, PATCHES), (BATCH, DEPTH, PATCHES), (BATCH, TOKEN))
    found = [torch.randn(s, generator=g).to(getattr(torch, request.param)) for s in sizes]
    found[0] *= 2
    return [*found, torch.tensor(1.0)]


def assignment(scores, dustbin):
    b, m, n = scores.shape
    full = torch.cat([scores.float(), dustbin.expand(b, 1, n)], 1)
    log_mass = full.new_zeros(m + 1)
    log_mass[m] = float(np.log(n - m))
    u, v = full.new_zeros(b, m + 1), full.new_zeros(b, n)
    for _ in range(3):
        u = log_mass - torch.logsumexp(full + v[:, None], 2)
        v = -torch.logsumexp(full + u[..., None], 1)
    return (full + u[..., None] + v[:, None])[:, :m].exp()


def finish(sums, token):
    from torch.nn.functional import normalize

    parts = [normalize(token.float(), dim=1), normalize(sums.float(), dim=1).flatten(1)]
    return normalize(torch.cat(parts, 1), dim=1)


def eager(scores, features, token, dustbin):
    weights = assignment(scores, dustbin).to(features.dtype)
    return finish(torch.einsum("bln,bmn->blm", features, weights), token)


def published(scores, features, token, dustbin):
    weights = assignment(scores, dustbin).to(features.dtype)
    weights = weights[:, None].repeat(1, features.shape[1], 1, 1)
    return finish((features[:, :, None].repeat(1, 1, scores.shape[1], 1) * weights).sum(-1), token)


def ours(scores, features, token, dustbin):
    return pl.salad_aggregate(scores, features, token, dustbin, num_threads=1)


def compiled():
    return torch.compile(eager)


FORMS = {
    "pyloc": lambda: ours,
    "eager": lambda: eager,
    "compile": compiled,
    "published": lambda: published,
}


def rounds(name):
    return {"rounds": 2 if name == "published" else 15, "warmup_rounds": 1}


def both(form, given, slope):
    leaves = [x.detach().requires_grad_() for x in given]
    form(*leaves).backward(slope)
    return leaves


@pytest.mark.parametrize("name", FORMS)
def test_forward(benchmark, tensors, name):
    benchmark.group = f"{GROUP}, {str(tensors[0].dtype)[6:]}"
    with torch.no_grad():
        found = benchmark.pedantic(FORMS[name](), tensors, **rounds(name))
        truth = eager(*(x.double() if i == 3 else x.float() for i, x in enumerate(tensors)))
    assert (found - truth).abs().max() < 0.01 * truth.abs().max()


@pytest.mark.parametrize("name", FORMS)
def test_forward_and_backward(benchmark, tensors, name):
    benchmark.group = f"{GROUP}, {str(tensors[0].dtype)[6:]}, forward and backward"
    form, g = FORMS[name](), torch.Generator().manual_seed(1)
    slope = torch.randn(BATCH, TOKEN + CLUSTERS * DEPTH, generator=g)
    slope = slope.to(tensors[1].dtype) if name == "pyloc" else slope
    found = benchmark.pedantic(both, (form, tensors, slope), **rounds(name))
    assert all(torch.isfinite(x.grad).all() for x in found)
