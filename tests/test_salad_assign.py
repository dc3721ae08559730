# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD's assignment: against the published steps, sums, gradient, masks, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_salad_aggregate import published_assignment

import pyloc_core as pl

torch = pytest.importorskip("torch")


def scores_of(seed: int, *shape: int) -> Any:
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 2), (3, 64, 529), (2, 2, 5, 40)])
@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_equals_the_published_steps(shape: tuple[int, ...], iterations: int) -> None:
    scores, dustbin = scores_of(1, *shape), torch.tensor(0.7, dtype=torch.float64)
    truth = published_assignment(scores, dustbin, iterations)
    wide = pl.salad_assign(scores, dustbin, iterations=iterations)
    torch.testing.assert_close(wide, truth, rtol=1e-12, atol=1e-12)
    found = pl.salad_assign(scores.float(), 0.7, iterations=iterations)
    assert found.dtype == torch.float32 and found.shape == truth.shape
    low = published_assignment(scores.float().double(), dustbin, iterations)
    torch.testing.assert_close(found.double(), low, rtol=0, atol=1e-5)
    arrays, options = (
        scores.float().numpy(),
        {"iterations": iterations, "implementation": "reference"},
    )
    np.testing.assert_allclose(pl.salad_assign(arrays, 0.7, **options), low, atol=1e-6)


def test_sums() -> None:
    """Patches give 1 after any iteration; clusters take 1 and the dustbin n - m in the limit."""
    scores = scores_of(2, 4, 8, 50).float().numpy()
    plan = np.exp(pl.salad_assign(scores, 1.0))
    np.testing.assert_allclose(plan.sum(1), 1, atol=1e-5)
    limit = np.exp(pl.salad_assign(scores, 1.0, iterations=200))
    np.testing.assert_allclose(limit.sum(2), [[1] * 8 + [42]] * 4, rtol=1e-4)


def test_gradient() -> None:
    scores, dustbin = scores_of(3, 2, 4, 9), torch.tensor(0.3, dtype=torch.float64)
    inputs = (scores.requires_grad_(), dustbin.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda s, z: pl.salad_assign(s, z, num_valid=[6, 9]).exp(), inputs
    )
    slope = scores_of(4, 2, 5, 9)
    truth = torch.autograd.grad(published_assignment(*inputs), inputs, slope)
    low = (scores.detach().float().requires_grad_(), dustbin.detach().float().requires_grad_())
    found = torch.autograd.grad(pl.salad_assign(*low), low, slope.float())
    torch.testing.assert_close(found[0].double(), truth[0], rtol=0, atol=2e-5)
    assert found[1].shape == () and abs(found[1]) < 1e-4  # a constant on a row moves nothing


def test_num_valid_has_the_bits_of_the_shorter_call() -> None:
    scores = scores_of(5, 3, 6, 70).float().numpy()
    counts = [7, 64, 70]
    found = pl.salad_assign(scores, -0.5, num_valid=counts)
    for b, n in enumerate(counts):
        assert np.array_equal(found[b, :, :n], pl.salad_assign(scores[b, :, :n], -0.5))
        assert np.all(found[b, :, n:] == -np.inf)
    tensors = pl.salad_assign(
        torch.from_numpy(scores), torch.tensor(-0.5), num_valid=torch.tensor(counts)
    )
    assert np.array_equal(tensors.numpy(), found)
    assert np.array_equal(
        pl.salad_assign(scores, 3.0, num_valid=30)[..., :30], pl.salad_assign(scores[..., :30], 3.0)
    )


def test_compiles_in_one_graph() -> None:
    scores, dustbin = scores_of(6, 2, 5, 12).float().requires_grad_(), torch.tensor(1.0)
    compiled = torch.compile(pl.salad_assign, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(scores, dustbin), pl.salad_assign(scores, dustbin))
    torch.testing.assert_close(compiled(scores, 1.0), pl.salad_assign(scores, dustbin))


def test_refusals() -> None:
    scores = scores_of(7, 2, 5, 12).float()
    nan = scores.clone()
    nan[1, 2, 3] = torch.nan
    for bad, dustbin, options, text in (
        (scores[..., :5], 1.0, {}, "more patches than clusters"),
        (scores[..., :0], 1.0, {}, "scores must have"),
        (scores[0, 0], 1.0, {}, "scores must have"),
        (nan, 1.0, {}, "scores holds NaN"),
        (scores, np.ones(3), {}, "dustbin"),
        (scores, np.nan, {}, "dustbin"),
        (scores, 1.0, {"num_valid": 5}, "num_valid"),
        (scores, 1.0, {"num_valid": np.array([6, 13])}, "num_valid"),
        (scores, 1.0, {"iterations": 0}, "iterations"),
    ):
        for x in (bad, bad.numpy(), bad.clone().requires_grad_()):
            with pytest.raises(ValueError, match=text):
                pl.salad_assign(x, dustbin, **options)
    assert pl.salad_assign(scores[:0], 1.0).shape == (0, 6, 12)
