# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sinkhorn: by hand, against float64, its gradients, masks and sizes, and as torch sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyloc_core as pl

torch = pytest.importorskip("torch")
from pyloc_core.reference import sinkhorn as reference  # noqa: E402

SHAPES = [((), 1, 1), ((2,), 3, 5), ((2, 1), 65, 41), ((), 150, 129), ((3,), 20, 300)]
SPREADS = [1e-3, 1.0, 1e2, 1e4]


def problem(
    shape: Any, seed: int, spread: float = 1.0, masses: float = 1.0
) -> tuple[Any, Any, Any]:
    """Normal scores and normal log masses that add up to 1, float64."""
    leading, m, n = shape
    g = torch.Generator().manual_seed(seed)
    s = spread * torch.randn(*leading, m, n, generator=g, dtype=torch.float64)
    a, b = (masses * torch.randn(*leading, k, generator=g, dtype=torch.float64) for k in (m, n))
    return s, a - a.logsumexp(-1, True), b - b.logsumexp(-1, True)


def plain(s: Any, a: Any, b: Any, iterations: int) -> Any:
    """The textbook's lines, without masks."""
    u, v = torch.zeros_like(s[..., 0]), torch.zeros_like(s[..., 0, :])
    for _ in range(iterations):
        u = a - torch.logsumexp(s + v[..., None, :], -1)
        v = b - torch.logsumexp(s + u[..., None], -2)
    return s + u[..., None] + v[..., None, :]


def worst(found: Any, truth: Any) -> float:
    return float((found.detach().double() - truth).abs().max())


def single(*tensors: Any) -> list[Any]:
    return [t.float() for t in tensors]


def test_by_hand() -> None:
    """Uniform masses and exp(S) = [[1, 3], [3, 1]] are balanced by symmetry: rows (1, 3) / 8."""
    scores = np.log(np.array([[1, 3], [3, 1]], np.float32))
    half = np.log(np.full(2, 0.5, np.float32))
    found = pl.sinkhorn(scores, half, half, iterations=1)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), np.array([[1, 3], [3, 1]]) / 8, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", SPREADS)
def test_forward_and_gradient_are_no_worse_than_eager(shape: Any, spread: float) -> None:
    """Architecture, error rule 7: float32 kernels and float32 torch against float64."""
    low = single(*problem(shape, 1, spread))
    leaves = [
        [t.clone().to(d).requires_grad_() for t in low] for d in (torch.float64, torch.float32)
    ]
    ours_in = [t.clone().requires_grad_() for t in low]
    truth, eager = plain(*leaves[0], 6), plain(*leaves[1], 6)
    ours = pl.sinkhorn(*ours_in, iterations=6)
    assert ours.dtype == torch.float32 and ours.shape == truth.shape
    slope = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    truth.backward(slope.double())
    eager.backward(slope)
    ours.backward(slope)
    assert worst(ours, truth.detach()) <= 1.5 * worst(eager, truth.detach()) + 3e-6
    for o, e, t in zip(ours_in, leaves[1], leaves[0]):
        tolerance = 2e-6 * float(t.grad.abs().max()) + 2e-5
        assert worst(o.grad, t.grad) <= 3 * worst(e.grad, t.grad) + tolerance


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str) -> None:
    s, a, b = problem(((2,), 65, 200), 3, 2.0)
    low = s.to(getattr(torch, dtype)).requires_grad_()
    wide = low.detach().double().requires_grad_()
    found, truth = pl.sinkhorn(low, a, b, iterations=3), plain(wide, a, b, 3)
    assert found.dtype == low.dtype
    unit = {"float16": 2**-11, "bfloat16": 2**-8}[dtype]
    assert worst(found, truth.detach()) <= unit * float(truth.detach().abs().max()) + 1e-5
    slope = torch.randn(truth.shape, generator=torch.Generator().manual_seed(4))
    found.backward(slope.to(low.dtype))
    truth.backward(slope.to(low.dtype).double())
    assert worst(low.grad, wide.grad) <= unit * float(wide.grad.abs().max()) + 1e-4


@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
@pytest.mark.parametrize("valid", [None, (2, None), ([3, 1], [2, 4])])
def test_reference_backward_is_autograd(gradient: str, valid: Any) -> None:
    """Unrolled: the gradient written out equals autograd's. Implicit: at convergence they are the same."""
    tensors = problem(((2,), 3, 4), 5)
    if valid is not None:
        r, c = (torch.tensor(3 if x is None else x).expand(2) for x in valid)
        c = c if valid[1] is not None else torch.tensor([4, 4])
        for mass, count in ((tensors[1], r), (tensors[2], c)):
            for i, k in enumerate(count.tolist()):
                mass[i, :k] -= mass[i, :k].logsumexp(0).clone()
        valid = (r, c)
    leaves = [t.clone().requires_grad_() for t in tensors]
    twins = [t.clone().requires_grad_() for t in tensors]
    rows, columns = (None, None) if valid is None else valid
    iterations = 3 if gradient == "unrolled" else 400
    truth = reference.sinkhorn(*leaves, None, 0, rows, columns, iterations).log_assignment
    found = pl.sinkhorn(*twins, iterations=iterations, num_valid=valid, gradient=gradient)
    slope = torch.randn(
        truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)
    truth.backward(slope)
    found.backward(slope)
    for ours, theirs in zip(twins, leaves):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-9)


def test_gradcheck() -> None:
    """Finite differences in float64, for scores and masses, through the operator."""
    s, a, b = problem(((2,), 3, 4), 7)
    s[0, 1, 2] = -torch.inf  # a forbidden pair: no gradient, and none expected
    allowed = s > -torch.inf
    values = s.masked_fill(~allowed, 0.0).requires_grad_()

    def form(x: Any, a: Any, b: Any) -> Any:
        log_p = pl.sinkhorn(torch.where(allowed, x, -torch.inf), a, b, iterations=4)
        return log_p.masked_fill(~allowed, 0.0)

    assert torch.autograd.gradcheck(
        form, (values, a.requires_grad_(), b.requires_grad_()), atol=1e-6
    )


@pytest.mark.parametrize("connected", [True, False])
def test_implicit_equals_unrolled_at_convergence(connected: bool) -> None:
    """The kernel against the unrolled gradient in float64; also where a mask cuts the problem in two."""
    s, a, b = single(*problem(((2,), 12, 17), 9))
    if not connected:
        s[:, :5, 6:] = s[:, 5:, :6] = -torch.inf
        for mass, k in ((a, 5), (b, 6)):
            for part in (slice(None, k), slice(k, None)):
                mass[:, part] -= mass[:, part].logsumexp(1, True).clone()
    slope = torch.randn(2, 12, 17, generator=torch.Generator().manual_seed(3))
    grads = []
    for kind, gradient in ((torch.float64, "unrolled"), (torch.float32, "implicit")):
        leaves = [t.to(kind, copy=True).requires_grad_() for t in (s, a, b)]
        pl.sinkhorn(*leaves, iterations=200, gradient=gradient).backward(slope.to(kind))
        grads.append([t.grad.double() for t in leaves])
    for unrolled, implicit in zip(*grads):
        torch.testing.assert_close(implicit, unrolled, rtol=1e-5, atol=2e-5)


def test_nothing_is_carried_without_mass_or_scores() -> None:
    s, a, b = single(*problem(((), 5, 6), 11))
    a[1], b[4] = -torch.inf, -torch.inf
    s[3], s[:, 2], s[0, 0] = -torch.inf, -torch.inf, -torch.inf
    a, b = a - a.logsumexp(0), b - b.logsumexp(0)
    leaves = [t.requires_grad_() for t in (s, a, b)]
    found = pl.sinkhorn(*leaves, iterations=5)
    dead = torch.zeros(5, 6, dtype=torch.bool)
    dead[1] = dead[3] = dead[:, 2] = dead[:, 4] = dead[0, 0] = True
    assert torch.equal(found == -torch.inf, dead) and not found.isnan().any()
    rows, columns = [0, 2, 4], [0, 1, 3, 5]
    alone = plain(s[rows][:, columns].double(), a[rows].double(), b[columns].double(), 5)
    alive = found[rows][:, columns]
    torch.testing.assert_close(alive.double()[1:], alone[1:], rtol=1e-5, atol=1e-5)
    torch.nan_to_num(found, neginf=0.0).square().sum().backward()
    for t, gone in ((s, dead), (a, dead.all(1)), (b, dead.all(0))):
        assert torch.isfinite(t.grad).all() and not t.grad[gone].any() and t.grad[~gone].all()


@pytest.mark.parametrize("spread", [1.0, 1e4])
@pytest.mark.parametrize("threads", [1, 3])
def test_padding_changes_no_bit(spread: float, threads: int) -> None:
    s, a, b = single(*problem(((3,), 140, 150), 13, spread))
    rows, columns = [140, 3, 131], [7, 150, 129]
    for mass, counts in ((a, rows), (b, columns)):
        for i, k in enumerate(counts):
            mass[i, :k] -= mass[i, :k].logsumexp(0).clone()
    leaves = [t.clone().requires_grad_() for t in (s, a, b)]
    slope = torch.randn(s.shape, generator=torch.Generator().manual_seed(5))
    options = {"iterations": 4, "num_threads": threads}
    found = pl.sinkhorn(*leaves, num_valid=(rows, columns), **options)
    found.backward(slope)
    for i, (r, c) in enumerate(zip(rows, columns)):
        parts = [x.clone().requires_grad_() for x in (s[i, :r, :c], a[i, :r], b[i, :c])]
        alone = pl.sinkhorn(*parts, **options)
        alone.backward(slope[i, :r, :c])
        assert torch.equal(found[i, :r, :c], alone)
        assert (found[i, r:] == -torch.inf).all() and (found[i, :, c:] == -torch.inf).all()
        assert torch.equal(leaves[0].grad[i, :r, :c], parts[0].grad)
        assert torch.equal(leaves[1].grad[i, :r], parts[1].grad)
        assert not leaves[0].grad[i, r:].any() and not leaves[2].grad[i, c:].any()


def test_bits_do_not_depend_on_threads() -> None:
    for shape in (((), 1100, 1000), ((4,), 40, 50)):  # one item shared by threads, and items
        results = []
        for threads in (1, 2, 5):
            leaves = [t.requires_grad_() for t in single(*problem(shape, 15))]
            found = pl.sinkhorn(*leaves, iterations=5, num_threads=threads)
            found.square().sum().backward()
            results.append(
                [t.detach().numpy().tobytes() for t in (found, *(x.grad for x in leaves))]
            )
        assert results[0] == results[1] == results[2]


def test_tolerance_stops_each_item_on_its_own() -> None:
    s, a, b = single(*problem(((3,), 30, 40), 17))
    s = s * torch.tensor([0.01, 1.0, 6.0])[:, None, None]
    pl.sinkhorn(s.clone().requires_grad_(), a, b)  # registers
    call = (s, a, b, None, 0, None, None, 150, 1e-4, True, 1, "")
    log_p, u, _, count = torch.ops.pyloc_core.sinkhorn(*call)
    assert count[0] < count[1] < count[2] < 150
    error = (log_p.exp().sum(2) - a.exp()).abs().amax(1) / a.exp().amax(1)
    assert (error <= 1.1e-4).all()
    for i, k in enumerate(count.tolist()):
        exact = pl.sinkhorn(s[i], a[i], b[i], iterations=k)
        assert torch.equal(exact, log_p[i]) and (u[k - 1 :, i] == u[-1, i]).all()
        early = pl.sinkhorn(s[i], a[i], b[i], iterations=k - 1)
        assert (early.exp().sum(1) - a[i].exp()).abs().max() > 0.9e-4 * a[i].exp().max()
    wide = reference.sinkhorn(s.double(), a.double(), b.double(), None, 0, None, None, 150, 1e-4)
    assert (wide.num_iterations - count).abs().max() <= 1


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 40), n=st.integers(1, 40), seed=st.integers(0, 10**6),
    spread=st.sampled_from([1e-3, 1.0, 30.0, 300.0, 1e4]), masses=st.sampled_from([0.0, 1.0, 8.0]),
    shift=st.sampled_from([-500.0, 0.0, 30.0]),
)  # fmt: skip
def test_properties(m: int, n: int, seed: int, spread: float, masses: float, shift: float) -> None:
    """Column sums are exact; a permutation permutes; a constant in the scores and a common factor of the
    masses change what they should; any block-diagonal mask stays free of NaN."""
    s, a, b = single(*problem(((), m, n), seed, spread, masses))
    found = pl.sinkhorn(s, a, b, iterations=8)
    size = 1e-6 * (10 + spread * 8)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.logsumexp(0), b, rtol=0, atol=20 * size)
    g = torch.Generator().manual_seed(seed)
    r, c = torch.randperm(m, generator=g), torch.randperm(n, generator=g)
    permuted = pl.sinkhorn(s[r][:, c], a[r], b[c], iterations=8)
    torch.testing.assert_close(permuted, found[r][:, c], rtol=0, atol=60 * size)
    moved = pl.sinkhorn(s + 4.0, a + shift, b + shift, iterations=8)
    torch.testing.assert_close(moved - shift, found, rtol=0, atol=60 * size + 1e-4)
    blocks = (torch.arange(m)[:, None] * 2 // m) == (torch.arange(n)[None] * 2 // n)
    masked = s.masked_fill(~blocks, -torch.inf).requires_grad_()
    partial = pl.sinkhorn(masked, a, b, iterations=3)
    assert not partial.isnan().any() and (partial[~blocks] == -torch.inf).all()
    partial[partial > -torch.inf].square().sum().backward()
    assert torch.isfinite(masked.grad).all() and not masked.grad[~blocks].any()


@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
def test_no_nan_leaves_whatever_the_size(gradient: str) -> None:
    """Scores up to 1e38, where float32 tells nothing apart, masses over a hundred orders."""
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        s, a, b = problem(((), 7 + seed, 19 - seed), seed, 10.0 ** (4 * (seed % 9)), 12.0 * seed)
        s = s.clamp(-3e38, 3e38)
        s[torch.rand(s.shape, generator=g) < 0.1 * (seed % 4)] = -torch.inf
        leaves = [t.requires_grad_() for t in single(s, a, b)]
        found = pl.sinkhorn(*leaves, iterations=6, gradient=gradient)
        assert not found.isnan().any() and (found < torch.inf).all()
        found.masked_fill(found == -torch.inf, 0.0).sum().backward()
        assert not any(t.grad.isnan().any() for t in leaves)


@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
def test_a_factor_of_the_masses_changes_no_gradient(gradient: str) -> None:
    slope = torch.randn(9, 11, generator=torch.Generator().manual_seed(4))
    found = []
    for shift in (0.0, -512.0):  # exact in float32 for what follows from it
        s, a, b = (t.requires_grad_() for t in single(*problem(((), 9, 11), 27)))
        pl.sinkhorn(s, a + shift, b + shift, iterations=60, gradient=gradient).backward(slope)
        found.append((s.grad, a.grad, b.grad))
    for plain_gradient, moved in zip(*found):
        torch.testing.assert_close(moved, plain_gradient, rtol=1e-3, atol=2e-3)


def test_opcheck() -> None:
    s, a, b = single(*problem(((2,), 4, 5), 19))
    pl.sinkhorn(s.clone().requires_grad_(), a, b)  # registers
    a, b = torch.randn(2, 5).log_softmax(1), torch.randn(2, 6).log_softmax(1)
    call = (s, a, b, torch.tensor([0.3, 0.1]), 3, None, None)
    operators, tests = torch.ops.pyloc_core, ("test_schema", "test_faketensor")
    for history in (False, True):
        torch.library.opcheck(operators.sinkhorn, (*call, 3, 0.0, history, 1, ""), test_utils=tests)
    forward = operators.sinkhorn(*call, 3, 0.0, True, 1, "")
    slope = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    for implicit in (False, True):
        arguments = (*call, *forward, slope, implicit, 1, "")
        torch.library.opcheck(operators.sinkhorn_backward, arguments, test_utils=tests)


def test_compiles_in_one_graph() -> None:
    leaves = [t.requires_grad_() for t in single(*problem(((2,), 6, 8), 21))]

    def form(s: Any, a: Any, b: Any) -> Any:
        return pl.sinkhorn(2 * s, a, b, iterations=5, num_valid=(None, None)).exp().square()

    eager = form(*leaves)
    eager.sum().backward()
    expected = [t.grad.clone() for t in leaves]
    for t in leaves:
        t.grad = None
    found = torch.compile(form, fullgraph=True, backend="aot_eager")(*leaves)
    found.sum().backward()
    torch.testing.assert_close(found, eager, rtol=0, atol=1e-6)
    for t, g in zip(leaves, expected):
        torch.testing.assert_close(t.grad, g, rtol=0, atol=1e-6)


def test_kinds_sizes_and_strides() -> None:
    s, a, b = single(*problem(((2,), 6, 5), 23))
    expected = pl.sinkhorn(s, a, b, iterations=3)
    arrays = pl.sinkhorn(s.numpy(), a.numpy(), b.numpy(), iterations=3)
    assert isinstance(arrays, np.ndarray) and (arrays == expected.numpy()).all()
    across = s.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(pl.sinkhorn(across, a, b, iterations=3), expected)
    shared = pl.sinkhorn(s, a[0], b[0], iterations=3)
    assert torch.equal(shared, pl.sinkhorn(s, a[[0, 0]], b[[0, 0]], iterations=3))
    half = pl.sinkhorn(s.numpy().astype(np.float16), a.numpy(), b.numpy(), iterations=3)
    assert half.dtype == np.float16
    wide = pl.sinkhorn(s, a, b, iterations=3, implementation="reference")
    assert wide.dtype == torch.float64 and worst(expected, wide) < 1e-5
    assert pl.sinkhorn(s[:0], a[:0], b[:0]).shape == (0, 6, 5)
    leaf = s[:0].clone().requires_grad_()
    pl.sinkhorn(leaf, a[:0], b[:0]).sum().backward()
    assert leaf.grad.shape == (0, 6, 5)


def test_refusals() -> None:
    s, a, b = single(*problem(((2,), 6, 5), 25))
    grad = s.clone().requires_grad_()
    for bad, text, kind in (
        ({"iterations": 0}, "iterations", ValueError),
        ({"iterations": 2.5}, "iterations", TypeError),
        ({"tolerance": -1.0}, "tolerance", ValueError),
        ({"tolerance": "x"}, "tolerance", TypeError),
        ({"gradient": "implict"}, "did you mean 'implicit'", ValueError),
        ({"num_valid": 3}, "num_valid", TypeError),
        ({"num_valid": (7, None)}, "num_valid", ValueError),
        ({"num_valid": (None, [1, 2, 3])}, "num_valid", ValueError),
        ({"num_valid": (None, torch.tensor([1.5, 2]))}, "num_valid", ValueError),
        ({"implementation": "cuda"}, "implementation", ValueError),
    ):
        for scores in (s, grad):
            with pytest.raises(kind, match=text):
                pl.sinkhorn(scores, a, b, **bad)
    for position, name in enumerate(("scores", "log_row_mass", "log_column_mass")):
        for value in (torch.nan, torch.inf):
            for form in (lambda t: t, torch.Tensor.double, lambda t: t.clone().requires_grad_()):
                call = [form(t.clone()) for t in (s, a, b)]
                call[position].data[(0,) * call[position].ndim] = value
                with pytest.raises(ValueError, match=name):
                    pl.sinkhorn(*call)
    assert pl.sinkhorn(s.bfloat16().requires_grad_(), a, b, check_finite=True).requires_grad
    for scores in (s, grad, s.double()):
        with pytest.raises(ValueError, match="balance"):
            pl.sinkhorn(scores, a + 0.01, b)
        with pytest.raises(ValueError, match="balance"):
            pl.sinkhorn(scores, a, b, num_valid=(2, None))
        for call in ((scores[0, 0], a, b), (scores, a[:, :5], b), (scores, a, b[:1]),
                     (scores[:, :0], a[:, :0], b)):  # fmt: skip
            with pytest.raises(ValueError, match=r"scores|log_row_mass"):
                pl.sinkhorn(*call)
