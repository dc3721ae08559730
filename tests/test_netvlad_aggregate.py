# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""NetVLAD's aggregation: by hand, against float64, its gradient, equal bits, as torch sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")

# Leading dimensions, D, K, n: odd sizes, several blocks of patches and depths.
SHAPES = [((), 3, 2, 3), ((3,), 5, 7, 12), ((1, 2), 150, 9, 385), ((2,), 20, 140, 100)]


def arguments(shape: Any, seed: int) -> list[Any]:
    """Features, logits and centroids in float64."""
    leading, depth, clusters, n = shape
    g = torch.Generator().manual_seed(seed)
    sizes = ((*leading, depth, n), (*leading, clusters, n), (clusters, depth))
    return [torch.randn(*s, generator=g, dtype=torch.float64) for s in sizes]


def plain(features: Any, logits: Any, centroids: Any) -> Any:
    from torch.nn.functional import normalize

    weights = logits.softmax(-2)
    mixed = weights @ features.transpose(-1, -2)
    residual = mixed - weights.sum(-1, keepdim=True) * centroids
    return normalize(normalize(residual, dim=-1).flatten(-2), dim=-1)


def worst(found: Any, truth: Any) -> float:
    found, truth = found.detach().double(), truth.detach().double()
    return float((found - truth).abs().max() / truth.abs().max())


def with_gradient(form: Any, given: list[Any], slope: Any, **options: Any) -> tuple[Any, list[Any]]:
    leaves = [x.detach().clone().requires_grad_() for x in given]
    out = form(*leaves, **options)
    out.backward(slope.to(out))
    return out.detach(), [x.grad for x in leaves]


def test_by_hand() -> None:
    """Two patches, two clusters, weights 3 / 4 and 1 / 4: every residual is a vector that one can add up."""
    features = np.array([[1.0, 0.0], [0.0, 2.0]])
    logits = np.array([[np.log(3.0), 0.0], [0.0, np.log(3.0)]])
    centroids = np.array([[0.5, 0.0], [0.0, 1.0]])
    rows = np.array([[0.75 - 0.5, 0.5], [0.25, 1.5 - 1.0]])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True) / np.sqrt(2)
    found = pl.netvlad_aggregate(features, logits, centroids)
    np.testing.assert_allclose(found, unit.reshape(-1), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_forward_and_gradient_equal_the_plain_form(shape: Any, dtype: str) -> None:
    given = [x.to(getattr(torch, dtype)) for x in arguments(shape, 1)]
    wide = [x.double() for x in given]
    slope = torch.randn(plain(*wide).shape, generator=torch.Generator().manual_seed(2))
    slope = slope.to(given[0].dtype)
    truth, expected = with_gradient(plain, wide, slope)
    found, gradients = with_gradient(pl.netvlad_aggregate, given, slope)
    eager, theirs = with_gradient(plain, given, slope)
    assert found.dtype == given[0].dtype and found.shape == truth.shape
    limit = {"float32": 4e-6, "bfloat16": 1e-2, "float16": 2e-3}[dtype]
    assert worst(found, truth) < limit
    assert worst(found, truth) <= 1.2 * worst(eager, truth) + 3e-7  # error rule 7
    for ours, low, true in zip(gradients, theirs, expected):
        assert worst(ours, true) < 4 * limit
        assert worst(ours, true) <= 1.2 * worst(low, true) + limit / 2
    reference = pl.netvlad_aggregate(*given, implementation="reference")
    torch.testing.assert_close(reference, truth, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("valid", [None, (2, 5)])
def test_gradcheck(valid: Any) -> None:
    given = [x.requires_grad_() for x in arguments(((2,), 3, 4, 5), 7)]
    counts = None if valid is None else torch.tensor(valid)
    assert torch.autograd.gradcheck(lambda *a: pl.netvlad_aggregate(*a, num_valid=counts), given)


def test_num_valid_and_threads_have_equal_bits() -> None:
    given = [x.float() for x in arguments(((3,), 33, 9, 300), 5)]
    slope = torch.randn(3, 297, generator=torch.Generator().manual_seed(2))
    counts = [1, 193, 300]
    found = [
        with_gradient(
            pl.netvlad_aggregate, given, slope, num_valid=torch.tensor(counts), num_threads=t
        )
        for t in (1, 2, 5)
    ]
    for out, gradients in found[1:]:
        assert torch.equal(out, found[0][0])
        assert all(torch.equal(a, b) for a, b in zip(gradients, found[0][1]))
    out, (d_features, d_logits, d_centroids) = found[0]
    total = torch.zeros_like(d_centroids)
    for b, n in enumerate(counts):
        alone = [given[0][b : b + 1, :, :n], given[1][b : b + 1, :, :n], given[2]]
        expected, grads = with_gradient(pl.netvlad_aggregate, alone, slope[b : b + 1])
        assert torch.equal(out[b], expected[0])
        for ours, theirs in zip((d_features, d_logits), grads):
            assert torch.equal(ours[b, :, :n], theirs[0]) and not ours[b, :, n:].any()
        total += grads[2]
    assert torch.equal(total, d_centroids)


def test_opcheck_and_compile() -> None:
    given = [x.float() for x in arguments(((2,), 5, 4, 12), 11)]
    pl.netvlad_aggregate(given[0].clone().requires_grad_(), *given[1:])  # registers
    inputs = (*given, torch.tensor([12, 7]))
    _, *kept = torch.ops.pyloc_core.netvlad_aggregate(*inputs, 1, "")
    slope = torch.randn(2, 20, generator=torch.Generator().manual_seed(1))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.pyloc_core.netvlad_aggregate, (*inputs, 1, ""), test_utils=tests
    )
    torch.library.opcheck(
        torch.ops.pyloc_core.netvlad_aggregate_backward,
        (*inputs, *kept, slope, 1, ""),
        test_utils=tests,
    )
    compiled = torch.compile(pl.netvlad_aggregate, fullgraph=True, backend="aot_eager")
    expected = with_gradient(pl.netvlad_aggregate, given, slope)
    found = with_gradient(compiled, given, slope)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_kinds_empty_and_refusals() -> None:
    f, s, c = (x.float() for x in arguments(((2,), 5, 4, 12), 13))
    expected = pl.netvlad_aggregate(f, s, c)
    assert isinstance(pl.netvlad_aggregate(f.numpy(), s.numpy(), c.numpy()), np.ndarray)
    assert torch.equal(pl.netvlad_aggregate(f[0], s[0], c), expected[0])
    assert pl.netvlad_aggregate(f[:0], s[:0], c).shape == (0, 20)
    assert pl.netvlad_aggregate(f.bfloat16(), s, c).dtype == torch.bfloat16
    leaf = c.clone().requires_grad_()
    pl.netvlad_aggregate(f[:0], s[:0], leaf).sum().backward()
    assert not leaf.grad.any()
    nan = f.clone()
    nan[1, 2, 3] = torch.nan
    for bad, options, text in (
        ((f[..., :-1], s, c), {}, "features and logits"),
        ((f[:1], s, c), {}, "features and logits"),
        ((f, s[:, :0], c[:0]), {}, "logits must have at least one row"),
        ((f, s, c[1:]), {}, "centroids must have shape"),
        ((nan, s, c), {}, "features holds NaN"),
        ((f, s * torch.inf, c), {}, "logits holds NaN"),
        ((f, s, c * torch.nan), {}, "centroids holds NaN"),
        ((3e38 * f.sign(), s, c), {}, "leave float32"),
        ((f, s, c), {"num_valid": 0}, "num_valid"),
        ((f, s, c), {"num_valid": torch.tensor([3, 13])}, "num_valid"),
        ((f, s, c), {"implementation": "cuda"}, "implementation"),
    ):
        for arrays in (bad, [x.clone().requires_grad_() for x in bad]):
            with pytest.raises(ValueError, match=text):
                pl.netvlad_aggregate(*arrays, **options)
