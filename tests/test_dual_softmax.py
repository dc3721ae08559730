# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dual softmax: by hand, against float64, its gradient, masks and sizes, and as torch sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
SHAPES = [((), 1, 1), ((2,), 3, 5), ((2, 1), 65, 41), ((), 150, 129), ((3,), 20, 300)]


def scores_of(shape: Any, seed: int, spread: float = 1.0) -> Any:
    leading, m, n = shape
    g = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*leading, m, n, generator=g, dtype=torch.float64)


def plain(s: Any, temperature: float = 1.0) -> Any:
    x = s / temperature
    return torch.log_softmax(x, -1) + torch.log_softmax(x, -2)


def worst(found: Any, truth: Any) -> float:
    return float((found.detach().double() - truth.detach()).abs().max())


def test_by_hand() -> None:
    """exp(S) = [[1, 3], [3, 1]]: every softmax is (1, 3) / 4, and P its square."""
    scores = np.log(np.array([[1, 3], [3, 1]], np.float32))
    found = pl.dual_softmax(scores)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), np.array([[1, 9], [9, 1]]) / 16, rtol=1e-6)
    np.testing.assert_allclose(np.exp(pl.dual_softmax(scores / 2, temperature=0.5)), np.exp(found))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e2, 1e4])
def test_forward_and_gradient_are_no_worse_than_eager(shape: Any, spread: float) -> None:
    low = scores_of(shape, 1, spread).float()
    wide, eager_in, ours_in = (low.to(d, copy=True).requires_grad_()
                               for d in (torch.float64, torch.float32, torch.float32))  # fmt: skip
    truth, eager = plain(wide, 0.3), plain(eager_in, 0.3)
    ours = pl.dual_softmax(ours_in, temperature=0.3)
    slope = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    truth.backward(slope.double())
    eager.backward(slope)
    ours.backward(slope)
    size = float(truth.detach().abs().max())
    assert worst(ours, truth) <= 1.5 * worst(eager, truth) + 1e-6 + 2e-7 * size
    assert worst(ours_in.grad, wide.grad) <= 2 * worst(eager_in.grad, wide.grad) + 2e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str) -> None:
    low = scores_of(((2,), 65, 200), 3, 2.0).to(getattr(torch, dtype)).requires_grad_()
    wide = low.detach().double().requires_grad_()
    found, truth = pl.dual_softmax(low), plain(wide)
    assert found.dtype == low.dtype
    unit = {"float16": 2**-11, "bfloat16": 2**-8}[dtype]
    assert worst(found, truth) <= unit * float(truth.detach().abs().max()) + 1e-5
    slope = torch.randn(truth.shape, generator=torch.Generator().manual_seed(4)).to(low.dtype)
    found.backward(slope)
    truth.backward(slope.double())
    assert worst(low.grad, wide.grad) <= unit * float(wide.grad.abs().max()) + 1e-4


def test_gradcheck() -> None:
    """The gradient written out against finite differences, with a mask and a forbidden pair."""
    allowed = torch.ones(2, 3, 4, dtype=torch.bool)
    allowed[0, 1, 2], allowed[1, 2], allowed[1, :, 3] = False, False, False
    counts = torch.tensor([3, 2]), torch.tensor([4, 3])

    def form(x: Any) -> Any:
        hidden = torch.where(allowed, x, torch.tensor(-torch.inf).double())
        log_p = pl.dual_softmax(hidden, temperature=0.7, num_valid=counts)
        return log_p.masked_fill(~allowed, 0.0)

    assert torch.autograd.gradcheck(form, scores_of(((2,), 3, 4), 7).requires_grad_())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 3])
def test_padding_and_forbidden_pairs(dtype: str, threads: int) -> None:
    s = scores_of(((3,), 140, 300), 13).to(getattr(torch, dtype))
    s[0, 4], s[0, :, 6], s[1, 0, 0] = -torch.inf, -torch.inf, -torch.inf
    rows, columns = [140, 3, 131], [7, 300, 129]
    leaf = s.clone().requires_grad_()
    slope = torch.randn(s.shape, generator=torch.Generator().manual_seed(5)).to(s.dtype)
    found = pl.dual_softmax(leaf, num_valid=(rows, columns), num_threads=threads)
    found.backward(slope)
    assert not found.isnan().any() and torch.isfinite(leaf.grad).all()
    for i, (r, c) in enumerate(zip(rows, columns)):
        part = s[i, :r, :c].clone().requires_grad_()
        alone = pl.dual_softmax(part, num_threads=1)
        alone.backward(slope[i, :r, :c])
        assert torch.equal(found[i, :r, :c], alone)
        assert torch.equal((alone == -torch.inf), part == -torch.inf)
        assert (found[i, r:] == -torch.inf).all() and (found[i, :, c:] == -torch.inf).all()
        assert torch.equal(leaf.grad[i, :r, :c], part.grad)
        assert not leaf.grad[i, r:].any() and not leaf.grad[i, :, c:].any()
        assert not part.grad[part == -torch.inf].any()


def test_opcheck_and_one_graph() -> None:
    s = scores_of(((2,), 6, 8), 19).float().requires_grad_()

    def form(x: Any) -> Any:
        return pl.dual_softmax(2 * x, temperature=0.5).exp().square()

    eager = form(s)
    eager.sum().backward()
    expected, s.grad = s.grad.clone(), None
    found = torch.compile(form, fullgraph=True, backend="aot_eager")(s)
    found.sum().backward()
    torch.testing.assert_close(found, eager, rtol=0, atol=1e-6)
    torch.testing.assert_close(s.grad, expected, rtol=0, atol=1e-6)
    operators, tests = torch.ops.pyloc_core, ("test_schema", "test_faketensor")
    call = (s.detach(), None, torch.tensor([8, 3]))
    torch.library.opcheck(operators.dual_softmax, (*call, 0.5, 1, ""), test_utils=tests)
    _, *sums = operators.dual_softmax(*call, 0.5, 1, "")
    slope = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    arguments = (*call, *sums, slope, 0.5, 1, "")
    torch.library.opcheck(operators.dual_softmax_backward, arguments, test_utils=tests)


def test_kinds_sizes_and_strides() -> None:
    s = scores_of(((2,), 6, 5), 23).float()
    expected = pl.dual_softmax(s)
    assert (pl.dual_softmax(s.numpy()) == expected.numpy()).all()
    assert torch.equal(pl.dual_softmax(s.mT.contiguous().mT), expected)
    assert pl.dual_softmax(s.numpy().astype(np.float16)).dtype == np.float16
    wide = pl.dual_softmax(s, implementation="reference")
    assert wide.dtype == torch.float64 and worst(expected, wide) < 1e-5
    assert pl.dual_softmax(s[:0]).shape == (0, 6, 5)
    leaf = s[:0].clone().requires_grad_()
    pl.dual_softmax(leaf).sum().backward()
    assert leaf.grad.shape == (0, 6, 5)


def test_refusals() -> None:
    s = scores_of(((2,), 6, 5), 25).float()
    for bad, text, kind in (
        ({"temperature": 0.0}, "temperature", ValueError),
        ({"temperature": "x"}, "temperature", TypeError),
        ({"num_valid": 3}, "num_valid", TypeError),
        ({"num_valid": (7, None)}, "num_valid", ValueError),
        ({"num_valid": (None, [1, 2, 3])}, "num_valid", ValueError),
        ({"implementation": "cuda"}, "implementation", ValueError),
    ):
        for scores in (s, s.clone().requires_grad_()):
            with pytest.raises(kind, match=text):
                pl.dual_softmax(scores, **bad)
    for value in (torch.nan, torch.inf):
        for form in (lambda t: t, torch.Tensor.double, lambda t: t.clone().requires_grad_()):
            call = form(s.clone())
            call.data[0, 3, 2] = value
            with pytest.raises(ValueError, match="scores"):
                pl.dual_softmax(call)
    for scores in (s[0, 0], s[:, :0], s[:, :, :0]):
        with pytest.raises(ValueError, match="scores"):
            pl.dual_softmax(scores)
    with pytest.raises(ValueError, match="float32"):
        pl.dual_softmax(1e38 * s.abs(), temperature=1e-3)
