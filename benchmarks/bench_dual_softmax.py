# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dual softmax of 1024 x 1024 scores, 1 thread, against eager torch and torch.compile."""

from __future__ import annotations

import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
GROUP = "dual softmax, 2 x 1024 x 1024, 1 thread"


@pytest.fixture(scope="module")
def scores():
    torch.set_num_threads(1)
    return 2 * torch.randn(2, 1024, 1024, generator=torch.Generator().manual_seed(0))


def ours(s):
    return pl.dual_softmax(s, num_threads=1)


def eager(s):
    return torch.log_softmax(s, 2) + torch.log_softmax(s, 1)


def compiled():
    form = torch.compile(eager)
    try:
        form(torch.randn(1, 3, 4))
    except Exception as error:  # whatever its back end lacks
        pytest.skip(f"torch.compile has no back end here: {type(error).__name__}")
    return form


FORMS = {"pyloc": lambda: ours, "eager": lambda: eager, "torch.compile": compiled}


@pytest.mark.parametrize("form", FORMS)
def test_forward(benchmark, scores, form):
    benchmark.group = GROUP
    run = FORMS[form]()
    with torch.no_grad():
        found = benchmark.pedantic(run, (scores,), rounds=20, warmup_rounds=1)
        assert (found - eager(scores.double())).abs().max() < 1e-4


@pytest.mark.parametrize("form", ["pyloc", "eager"])
def test_forward_and_backward(benchmark, scores, form):
    benchmark.group = f"{GROUP}, forward and backward"
    slope = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))

    def both():
        leaf = scores.detach().requires_grad_()
        FORMS[form]()(leaf).backward(slope)
        return leaf.grad

    assert torch.isfinite(benchmark.pedantic(both, rounds=10, warmup_rounds=1)).all()
