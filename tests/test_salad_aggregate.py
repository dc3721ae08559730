# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD's assignment and aggregation: by hand, against float64, gradients, properties, as torch sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")

# Leading dimensions, m clusters, n patches, l, t: odd sizes, several blocks of patches and depths, the head.
SHAPES = [
    ((), 1, 3, 2, 2),
    ((3,), 5, 12, 4, 3),
    ((1, 2), 7, 200, 9, 0),
    ((2,), 130, 385, 3, 2),
    ((2,), 16, 90, 150, 5),
    ((2,), 64, 529, 128, 256),
]


def arguments(shape: Any, seed: int, spread: float = 2.0) -> list[Any]:
    """Scores, features, token and dustbin in float64."""
    leading, m, n, depth, t = shape
    g = torch.Generator().manual_seed(seed)
    sizes = ((m, n), (depth, n), (t,), None)
    found = [
        torch.randn(*leading, *s, generator=g, dtype=torch.float64)
        if s is not None
        else torch.randn((), generator=g, dtype=torch.float64)
        for s in sizes
    ]
    found[0] *= spread
    return [None if x.ndim and x.shape[-1] == 0 else x for x in found]


def published_assignment(scores: Any, dustbin: Any, iterations: int = 3) -> Any:
    """The published steps, with their common factor 1 / (n + m) and the shift back."""
    *leading, m, n = scores.shape
    full = torch.cat([scores, dustbin.to(scores).expand(*leading, 1, n)], -2)
    norm = -np.log(n + m)
    log_mu = torch.full((m + 1,), norm, dtype=scores.dtype)
    log_mu[m] += np.log(n - m)
    u, v = scores.new_zeros(*leading, m + 1), scores.new_zeros(*leading, n)
    for _ in range(iterations):
        u = log_mu - torch.logsumexp(full + v[..., None, :], -1)
        v = norm - torch.logsumexp(full + u[..., None], -2)
    return full + u[..., None] + v[..., None, :] - norm


def published(scores: Any, features: Any, token: Any, dustbin: Any, iterations: int = 3) -> Any:
    from torch.nn.functional import normalize

    weights = published_assignment(scores, dustbin, iterations)[..., :-1, :].exp()
    parts = normalize(torch.einsum("...ln,...mn->...lm", features, weights), dim=-2).flatten(-2)
    if token is not None:
        parts = torch.cat([normalize(token, dim=-1), parts], -1)
    return normalize(parts, dim=-1)


def worst(found: Any, truth: Any) -> float:
    found, truth = found.detach().double(), truth.detach().double()
    return float((found - truth).abs().max() / truth.abs().max())


def with_gradient(form: Any, given: list[Any], slope: Any, **options: Any) -> tuple[Any, list[Any]]:
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in given]
    out = form(*leaves, **options)
    out.backward(slope.to(out))
    return out.detach(), [None if x is None else x.grad for x in leaves]


def test_by_hand() -> None:
    """One cluster, two patches, T = 1: the row gives s = softmax of the scores, the dustbin 1 / 2 to each,
    and the columns divide by s + 1 / 2. With two features of one patch each the weights are the direction."""
    s = np.array([0.25, 0.75])
    p = s / (s + 0.5)
    out = pl.salad_aggregate(np.log(s)[None] + 3, np.eye(2), None, 0.7, iterations=1)
    np.testing.assert_allclose(out, p / np.linalg.norm(p), rtol=1e-6)
    with_token = pl.salad_aggregate(
        np.log(s)[None], np.eye(2), np.array([0.0, -4.0]), 0.7, iterations=1
    )
    np.testing.assert_allclose(
        with_token, np.array([0, -1, *(p / np.linalg.norm(p))]) / np.sqrt(2), rtol=1e-6
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_forward_and_gradient_equal_the_published_form(shape: Any, dtype: str) -> None:
    given = [None if x is None else x.to(getattr(torch, dtype)) for x in arguments(shape, 1)]
    wide = [None if x is None else x.double() for x in given]
    generator = torch.Generator().manual_seed(2)
    truth = published(*wide)
    slope = torch.randn(truth.shape, generator=generator).to(given[0].dtype)
    truth, expected = with_gradient(published, wide, slope)
    found, gradients = with_gradient(pl.salad_aggregate, given, slope)
    assert found.dtype == given[1].dtype and found.shape == truth.shape
    tolerance = {"float32": 3e-6, "bfloat16": 1e-2, "float16": 1e-3}[dtype]
    assert worst(found, truth) < tolerance
    with torch.no_grad():
        assert worst(pl.salad_aggregate(*given), truth) < tolerance
    for ours, theirs in zip(gradients[:3], expected[:3]):
        if theirs is not None:
            assert worst(ours, theirs) < 4 * tolerance
    assert gradients[3] == 0 and expected[3].abs() < 1e-12
    reference = pl.salad_aggregate(*given, implementation="reference")
    torch.testing.assert_close(reference, truth, rtol=1e-11, atol=1e-12)


def test_error_is_no_worse_than_that_of_the_plain_form() -> None:
    """Architecture, error rule 7: against float64, forward and gradients."""
    for dtype in (torch.float32, torch.bfloat16):
        low = [x.to(dtype) for x in arguments(SHAPES[-1], 5)]
        wide = [x.double() for x in low]
        slope = torch.randn(2, 8448, generator=torch.Generator().manual_seed(3)).to(dtype)
        truths, plain, ours = (
            with_gradient(form, given, slope)
            for form, given in ((published, wide), (published, low), (pl.salad_aggregate, low))
        )
        pairs = [(truths[0], plain[0], ours[0]), *zip(truths[1][:3], plain[1][:3], ours[1][:3])]
        for truth, eager, found in pairs:
            assert worst(found, truth) <= 1.2 * worst(eager, truth) + 2e-7, dtype


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("iterations", [1, 3, 40])
def test_score_ranges(spread: float, iterations: int) -> None:
    """Scores from almost equal to one patch per cluster, and one that most clusters want."""
    given = [x.float() for x in arguments(((2,), 8, 40, 6, 3), 7, spread)]
    given[0][1, :6, 11] = 3 * spread
    wide = [x.double() for x in given]
    slope = torch.randn(2, 51, generator=torch.Generator().manual_seed(4))
    truth, expected = with_gradient(published, wide, slope, iterations=iterations)
    found, gradients = with_gradient(pl.salad_aggregate, given, slope, iterations=iterations)
    plain, eager = with_gradient(published, given, slope, iterations=iterations)
    assert worst(found, truth) < 1.2 * worst(plain, truth) + 1e-6
    for ours, theirs, low in zip(gradients[:3], expected[:3], eager[:3]):
        scale = expected[1].abs().max()  # of the features: that of scores may be nothing
        error, allowed = (ours - theirs).abs().max(), (low - theirs).abs().max()
        assert error < 1.2 * allowed + 4e-6 * scale


@pytest.mark.parametrize("token", [True, False])
@pytest.mark.parametrize("valid", [None, (6, 9)])
def test_gradcheck(token: bool, valid: Any) -> None:
    """The gradient written out against finite differences, through the operator, in float64."""
    given = arguments(((2,), 4, 9, 3, 2), 7)
    given = [x.requires_grad_() for x in given]
    counts = None if valid is None else torch.tensor(valid)

    def form(s: Any, f: Any, g: Any, z: Any) -> Any:
        return pl.salad_aggregate(s, f, g if token else None, z, num_valid=counts)

    assert torch.autograd.gradcheck(form, given)


def test_opcheck() -> None:
    given = [x.float() for x in arguments(((2,), 5, 12, 4, 3), 11)]
    pl.salad_aggregate(given[0].clone().requires_grad_(), *given[1:])  # registers
    slope = torch.randn(2, 23, generator=torch.Generator().manual_seed(1))
    tests = ("test_schema", "test_faketensor")
    for token, valid in ((given[2], torch.tensor([12, 7])), (None, None)):
        inputs = (*given[:2], token, given[3], valid)
        _, *kept = torch.ops.pyloc_core.salad_aggregate(*inputs, 3, 1, "")
        torch.library.opcheck(
            torch.ops.pyloc_core.salad_aggregate, (*inputs, 3, 1, ""), test_utils=tests
        )
        d = slope if token is not None else slope[:, 3:].contiguous()
        torch.library.opcheck(
            torch.ops.pyloc_core.salad_aggregate_backward,
            (*inputs, *kept, d, 3, 1, ""),
            test_utils=tests,
        )


def test_compiles_in_one_graph() -> None:
    given = [x.float().requires_grad_() for x in arguments(((2,), 5, 12, 4, 3), 13)]

    def form(s: Any, f: Any, g: Any, z: Any) -> Any:
        return pl.salad_aggregate(2 * s, f, g, z).tanh()

    eager = form(*given)
    eager.square().sum().backward()
    expected = [x.grad.clone() for x in given]
    for x in given:
        x.grad = None
    found = torch.compile(form, fullgraph=True, backend="aot_eager")(*given)
    found.square().sum().backward()
    torch.testing.assert_close(found, eager, rtol=0, atol=1e-6)
    for x, gradient in zip(given, expected):
        torch.testing.assert_close(x.grad, gradient, rtol=0, atol=1e-6)
    with torch.no_grad():
        compiled = torch.compile(
            lambda s: pl.salad_aggregate(s, given[1], None, 1.0),
            fullgraph=True,
            backend="aot_eager",
        )
        torch.testing.assert_close(compiled(given[0]), pl.salad_aggregate(*given[:2], None, 1.0))
