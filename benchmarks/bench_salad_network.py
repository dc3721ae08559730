# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""DINOv2 SALAD on one image of 322 x 322, 1 thread: the whole network in two precisions and its parts, and
the aggregation in three forms.

"published" is the form of the released program: features and assignment repeated against each other, B x
l x m x n numbers; "eager" is the matrix product that gives the same.
"""

from __future__ import annotations

import pytest

import pyloc_core as pl
from pyloc_core import models

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")
ITERATIONS = 3


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return models.create("salad", seed=0)


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(1, 3, 322, 322, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=[1, 8], ids=["1 image", "8 images"])
def heads(request):
    """Scores, features, token, dustbin, as the golden cases have them."""
    g = torch.Generator().manual_seed(2)
    b = request.param
    return (
        2.5 * torch.randn(b, 64, 529, generator=g),
        1.5 * torch.randn(b, 128, 529, generator=g),
        torch.randn(b, 256, generator=g),
        torch.tensor(1.0),
    )


def plan(scores, dustbin):
    """Log-domain Sinkhorn, the dustbin as last row."""
    b, m, n = scores.shape
    s = torch.cat([scores, dustbin.expand(b, 1, n)], 1)
    log_a = torch.cat([torch.zeros(m), torch.tensor([float(n - m)]).log()]).to(s)
    v = torch.zeros(b, n).to(s)
    for _ in range(ITERATIONS):
        u = log_a - (s + v[:, None]).logsumexp(2)
        v = -(s + u[..., None]).logsumexp(1)
    return (s + u[..., None] + v[:, None])[:, :-1].exp()


def finished(sums, token):
    unit = torch.nn.functional.normalize
    return unit(torch.cat([unit(token, dim=1), unit(sums, dim=1).flatten(1)], 1), dim=1)


def eager(scores, features, token, dustbin):
    return finished(features @ plan(scores, dustbin).transpose(1, 2), token)


def published(scores, features, token, dustbin):
    p, (m, depth) = plan(scores, dustbin), (scores.shape[1], features.shape[1])
    p = p[:, None].repeat(1, depth, 1, 1)
    return finished((features[:, :, None].repeat(1, 1, m, 1) * p).sum(-1), token)


def ours(scores, features, token, dustbin):
    return pl.salad_aggregate(
        scores, features, token, dustbin, iterations=ITERATIONS, num_threads=1
    )


def both(form, *given):
    inputs = [each.detach().requires_grad_() for each in given]
    out = form(*inputs)
    (out * torch.arange(out.shape[1]).cos()).sum().backward()
    return inputs


FORMS = pytest.mark.parametrize(
    "form", [ours, eager, published], ids=["pyloc", "eager", "published"]
)


@FORMS
def test_aggregation(benchmark, heads, form):
    benchmark.group = f"SALAD aggregation, 64 + 1 x 529, {len(heads[0])} images, 1 thread"
    with torch.no_grad():
        found = benchmark.pedantic(form, heads, rounds=9, warmup_rounds=2)
        truth = eager(*(each.double() for each in heads))
    assert (found - truth).abs().max() < 1e-5


@FORMS
def test_aggregation_forward_and_backward(benchmark, heads, form):
    benchmark.group = f"SALAD aggregation, {len(heads[0])} images, with gradients, 1 thread"
    found = benchmark.pedantic(both, (form, *heads), rounds=5, warmup_rounds=1)
    truth = both(eager, *(each.double() for each in heads))
    for ours_, theirs in zip(found[:3], truth[:3]):
        error = (ours_.grad - theirs.grad).abs().max()
        assert error < 1e-4 * theirs.grad.abs().max()


@pytest.mark.parametrize("part", ["pyloc network", "pyloc network bfloat16", "backbone", "head"])
def test_network(benchmark, model, pixels, part):
    benchmark.group = "SALAD, ViT-B/14, 1 image of 322 x 322, 1 thread"
    with torch.inference_mode():
        patches, token = model.vit(pixels)
        run = {
            "backbone": lambda: model.vit(pixels)[1],
            "head": lambda: model.aggregator(patches, token),
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=part.endswith("bfloat16")):
            found = benchmark.pedantic(
                run.get(part, lambda: model(pixels)), rounds=3, warmup_rounds=1
            )
    assert torch.isfinite(found).all()
