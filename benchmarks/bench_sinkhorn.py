# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sinkhorn at SALAD's and SuperGlue's sizes, 1 thread: eager torch, torch.compile and POT side by side.

POT runs its scaling form, `sinkhorn` on the cost -S at regularisation 1, in float32 and with its stopping
test off, and takes one item at a time.
"""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
CASES = {
    "SALAD, 8 x 65 x 529, 3 it.": (8, 65, 529, 3),
    "SuperGlue, 1024 x 1024, 100 it.": (1, 1024, 1024, 100),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    torch.set_num_threads(1)
    batch, m, n, iterations = CASES[request.param]
    g = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(batch, m, n, generator=g)
    row = torch.full((m,), -np.log(m))
    column = torch.full((n,), -np.log(n))
    slope = torch.randn(scores.shape, generator=g)
    return request.param, (scores, row, column, iterations), slope


def rounds(arguments):
    return 100 if arguments[3] < 10 else 5


def ours(s, a, b, iterations):
    return pl.sinkhorn(s, a, b, iterations=iterations, num_threads=1)


def iteration(s, a, b, v):
    u = a - torch.logsumexp(s + v[:, None], 2)
    return u, b - torch.logsumexp(s + u[:, :, None], 1)


def looped(step):
    def form(s, a, b, iterations):
        v = torch.zeros_like(s[:, 0])
        for _ in range(iterations):
            u, v = step(s, a, b, v)
        return s + u[:, :, None] + v[:, None]

    return form


eager = looped(iteration)


def compiled():
    """One iteration is compiled; 100 in one graph take minutes to compile."""
    form = looped(torch.compile(iteration))
    try:
        form(torch.randn(1, 3, 4), torch.zeros(3), torch.zeros(4), 1)
    except Exception as error:  # whatever its back end lacks
        pytest.skip(f"torch.compile has no back end here: {type(error).__name__}")
    return form


def pot():
    ot = pytest.importorskip("ot")

    def form(s, a, b, iterations):
        weights = a.exp().numpy(), b.exp().numpy()
        options = {"numItermax": iterations, "stopThr": 0.0, "warn": False, "method": "sinkhorn"}
        return np.log(np.stack([ot.sinkhorn(*weights, -x, 1.0, **options) for x in s.numpy()]))

    return form


FORMS = {"pyloc": lambda: ours, "eager": lambda: eager, "torch.compile": compiled, "POT": pot}


@pytest.mark.parametrize("form", FORMS)
def test_forward(benchmark, case, form):
    name, arguments, _ = case
    benchmark.group = f"Sinkhorn, {name}, 1 thread"
    run = FORMS[form]()
    with torch.no_grad():
        found = benchmark.pedantic(run, arguments, rounds=rounds(arguments), warmup_rounds=1)
        truth = eager(*(x.double() if isinstance(x, torch.Tensor) else x for x in arguments))
    assert (torch.as_tensor(found) - truth).abs().max() < (1e-4 if form != "POT" else 1.0)


@pytest.mark.parametrize("form", ["pyloc", "eager"])
def test_forward_and_backward(benchmark, case, form):
    name, (scores, *rest), slope = case
    benchmark.group = f"Sinkhorn, {name}, 1 thread, forward and backward"
    run = FORMS[form]()

    def both():
        leaf = scores.detach().requires_grad_()
        run(leaf, *rest).backward(slope)
        return leaf.grad

    found = benchmark.pedantic(both, rounds=rounds((scores, *rest)), warmup_rounds=1)
    assert torch.isfinite(found).all()
