# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sinkhorn's Triton kernels against the iterations in float64, differentiated by autograd."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

NONE, ROW, BOTH = 0, 1, 3


def problem(
    size: tuple[int, int, int], sides: int, seed: int, scale: float = 1.0, dtype: Any = None
) -> list[Any]:
    """Scores, masses that balance, dustbin."""
    b, m, n = size
    g = torch.Generator().manual_seed(seed)
    scores = (scale * torch.randn(b, m, n, generator=g)).to(dtype or torch.float32)
    masses = [
        0.3 * torch.randn(b, count, generator=g) for count in (m + (sides & 1), n + (sides >> 1))
    ]
    masses = [x - x.logsumexp(1, keepdim=True) for x in masses]
    return [scores, *masses, torch.randn(b, generator=g) if sides else None]


def plain(s: Any, a: Any, b: Any, z: Any, sides: int, iterations: int) -> Any:
    """log P of one item with all its rows, columns and masses at work."""
    if sides:
        s = torch.cat([s, z.expand(1, s.shape[1])], 0)
    if sides == BOTH:
        s = torch.cat([s, z.expand(s.shape[0], 1)], 1)
    v = torch.zeros_like(b)
    for _ in range(iterations):
        u = a - (s + v).logsumexp(1)
        v = b - (s + u[:, None]).logsumexp(0)
    return s + u[:, None] + v


def run(
    given: list[Any], sides: int, counts: Any, device: Any, iterations: int, tolerance: float = 0.0,
    implicit: bool = False, slope: Any = None,
) -> Any:  # fmt: skip
    from pyloc_core._triton import sinkhorn as kernels

    s, a, b, z = (None if x is None else x.to(device) for x in given)
    rows, columns = (None if c is None else torch.tensor(c, device=device) for c in counts)
    call = (s, a, b, z, sides, rows, columns)
    found = kernels.forward(*call, iterations, tolerance, not implicit)
    if slope is None:
        return found
    gradients = kernels.backward(*call, *found, slope.to(device), implicit)
    return found, [g.double().cpu() for g in gradients]


def index_of(size: int, valid: int, extra: bool) -> Any:
    return torch.tensor([*range(valid), *([size] if extra else [])])


def worst(found: Any, truth: Any) -> float:
    found, truth = found.double().cpu(), truth.double()
    assert torch.equal(found == -torch.inf, truth == -torch.inf)
    kept = truth > -torch.inf
    return float((found - truth)[kept].abs().max() / truth[kept].abs().max().clamp_min(1.0))


CASES = [
    ((1, 1, 1), BOTH, (None, None)),
    ((3, 11, 7), NONE, ([11, 4, 1], [3, 7, 1])),
    ((2, 9, 6), BOTH, ([9, 3], [5, 6])),
    ((2, 17, 70), ROW, (None, [70, 21])),
    pytest.param((1, 130, 6), ROW, (None, None), marks=pytest.mark.slow),
    ((2, 6, 9), ROW, ([2, 6], None)),
]


@pytest.mark.parametrize(("size", "sides", "counts"), CASES)
def test_equals_float64(size: Any, sides: int, counts: Any, device: Any) -> None:
    b, m, n = size
    given = problem(size, sides, 41)
    full = given[0].new_zeros(b, given[1].shape[1], given[2].shape[1])
    slope = torch.randn(full.shape, generator=torch.Generator().manual_seed(42))
    found, gradients = run(given, sides, counts, device, 3, slope=slope)
    for item in range(b):
        rows = index_of(m, m if counts[0] is None else counts[0][item], sides > 0)
        columns = index_of(n, n if counts[1] is None else counts[1][item], sides == BOTH)
        inputs = [None if x is None else x[item].double().requires_grad_() for x in given]
        s, a, c, z = inputs
        inner_rows, inner_columns = rows[rows < m], columns[columns < n]
        log_p = plain(s[inner_rows][:, inner_columns], a[rows], c[columns], z, sides, 3)
        (log_p * slope[item][rows][:, columns]).sum().backward()
        truth = torch.full(full.shape[1:], -torch.inf, dtype=torch.float64)
        truth[rows[:, None], columns] = log_p.detach()
        assert worst(found[0][item], truth) < 3e-6
        for gradient, x in zip(gradients, inputs):
            assert x is None or worst(gradient[item], x.grad) < 2e-5


def test_many_tiles_along_rows_and_columns(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for large items, whose tiles an interpreter would take minutes to fill."""
    from pyloc_core._triton import sinkhorn as kernels

    for name in ("_ROWS", "_COLUMNS", "_TILE"):
        monkeypatch.setattr(kernels, name, {"BLOCK_M": 8, "BLOCK_N": 8, "num_warps": 1})
    test_equals_float64((1, 17, 16), BOTH, ([15], [10]), device)


@pytest.mark.parametrize("sides", [ROW, BOTH])
@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e4])
def test_score_ranges(sides: int, scale: float, device: Any) -> None:
    given = problem((1, 6, 9), sides, 43, scale)
    found = run(given, sides, (None, None), device, 3)[0]
    truth = plain(*(None if x is None else x[0].double() for x in given), sides, 3)
    assert worst(found[0], truth) < 3e-6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str, device: Any) -> None:
    """Sums are float32: only the result is rounded."""
    for sides in (ROW, BOTH):
        given = problem((1, 12, 20), sides, 45, 3.0, getattr(torch, dtype))
        found = run(given, sides, (None, None), device, 5)[0]
        truth = plain(*(None if x is None else x[0].double() for x in given), sides, 5)
        assert found.dtype == given[0].dtype
        assert torch.allclose(found[0].cpu().double(), truth.to(found.dtype).double(), rtol=1e-2)
        assert worst(found[0], truth) < {"float16": 1e-3, "bfloat16": 8e-3}[dtype]


@pytest.mark.parametrize("sides", [NONE, ROW, BOTH])
def test_what_carries_nothing(sides: int, device: Any) -> None:
    """Masses of -inf, rows and columns of -inf and single scores: -inf, no gradient and no NaN."""
    given = problem((1, 6, 9), sides, 47)
    s, a, b, _ = given
    s[0, 1], s[0, :, 2], s[0, 0, 0], a[0, 3], b[0, 4] = (-torch.inf,) * 5
    slope = torch.randn(1, a.shape[1], b.shape[1], generator=torch.Generator().manual_seed(48))
    found, gradients = run(given, sides, (None, None), device, 4, slope=slope)
    log_p = found[0][0].cpu()
    assert not log_p.isnan().any() and (log_p < torch.inf).all()
    dead_column = [4] if sides else [2, 4]
    assert (log_p[3] == -torch.inf).all() and (log_p[:, dead_column] == -torch.inf).all()
    assert log_p[0, 0] == -torch.inf and torch.isfinite(log_p[5, 5])
    assert all(torch.isfinite(g).all() for g in gradients)
    d_scores = gradients[0][0]
    assert not d_scores[1].any() and not d_scores[3].any() and not d_scores[:, [2, 4]].any()
    assert not d_scores[0, 0].any() and d_scores[5, 5] != 0
    assert gradients[1][0, 3] == 0 and gradients[2][0, 4] == 0


@pytest.mark.parametrize("sides", [NONE, ROW])
def test_masses_far_apart(sides: int, device: Any) -> None:
    given = problem((1, 6, 9), sides, 49)
    given[1], given[2] = 60 * given[1], 60 * given[2]
    found = run(given, sides, (None, None), device, 3)[0]
    truth = plain(*(None if x is None else x[0].double() for x in given), sides, 3)
    assert worst(found[0], truth) < 1e-5


@pytest.mark.parametrize("sides", [NONE, BOTH])
def test_padding_changes_no_bit(sides: int, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyloc_core._triton import sinkhorn as kernels

    monkeypatch.setattr(kernels, "_ROWS", {"BLOCK_M": 8, "BLOCK_N": 16, "num_warps": 1})
    monkeypatch.setattr(kernels, "_COLUMNS", {"BLOCK_M": 16, "BLOCK_N": 8, "num_warps": 1})
    small = problem((1, 9, 14), sides, 51)
    large = problem((1, 20, 37), sides, 52)
    large[0][:, :9, :14] = small[0]
    for big, little, count in zip(large[1:3], small[1:3], (9, 14)):
        big[:, :count] = little[:, :count]
        if sides == BOTH:
            big[:, -1] = little[:, -1]
    large[3] = small[3]
    plain_result = run(small, sides, (None, None), device, 3)
    padded = run(large, sides, ([9], [14]), device, 3)
    rows, columns = index_of(20, 9, sides > 0), index_of(37, 14, sides == BOTH)
    assert torch.equal(padded[0][:, rows.to(device)][:, :, columns.to(device)], plain_result[0])


def test_padding_changes_no_bit_in_one_program(device: Any) -> None:
    small, large = problem((2, 9, 30), ROW, 53), problem((2, 9, 200), ROW, 54)
    large[0][:, :, :30], large[1], large[3] = small[0], small[1], small[3]
    large[2][:, :30] = small[2]
    plain_result = run(small, ROW, (None, None), device, 6)[0]
    padded = run(large, ROW, (None, [30, 30]), device, 6)[0]
    assert torch.equal(padded[:, :, :30], plain_result)
    assert (padded[:, :, 30:] == -torch.inf).all()


@pytest.mark.parametrize("sides", [NONE, pytest.param(BOTH, marks=pytest.mark.slow)])
def test_items_stop_at_the_tolerance(sides: int, device: Any) -> None:
    """Every item at its own iteration, with that iteration's result and gradient; potentials repeat."""
    given = problem((2, 7, 8), sides, 55)
    given[0][0] *= 0.3
    slope = torch.randn(
        2, given[1].shape[1], given[2].shape[1], generator=torch.Generator().manual_seed(56)
    )
    tolerance = 1e-2
    found, gradients = run(given, sides, (None, None), device, 7, tolerance, slope=slope)
    last = run(given, sides, (None, None), device, 7, tolerance, implicit=True)
    counts = found[3].tolist()
    assert 1 < counts[0] < counts[1] < 7 and last[3].tolist() == counts
    for item, count in enumerate(counts):
        alone = [None if x is None else x[item : item + 1] for x in given]
        reached, exact = run(
            alone, sides, (None, None), device, count, slope=slope[item : item + 1]
        )
        assert torch.allclose(found[0][item], reached[0][0], atol=1e-5)
        assert torch.equal(last[0][item], found[0][item])
        assert torch.equal(last[1][0, item], found[1][count - 1, item])
        assert torch.equal(found[1][-1, item], found[1][count - 1, item])
        for a, b in zip(gradients, exact):
            assert torch.allclose(a[item], b[0], atol=1e-5)
        mass = alone[1][0].exp()
        before = run(alone, sides, (None, None), device, count - 1)[0]
        for log_p, enough in ((reached[0], True), (before, False)):
            error = (log_p[0].cpu().exp().sum(1) - mass).abs().max() / mass.max()
            assert (error <= tolerance) == enough


@pytest.mark.parametrize("sides", [NONE, BOTH])
def test_implicit_gradient_is_the_limit_of_the_unrolled(sides: int, device: Any) -> None:
    given = problem((1, 6, 8), sides, 57, 0.2)
    slope = torch.randn(
        1, given[1].shape[1], given[2].shape[1], generator=torch.Generator().manual_seed(58)
    )
    unrolled = run(given, sides, (None, None), device, 9, slope=slope)[1]
    implicit = run(given, sides, (None, None), device, 9, implicit=True, slope=slope)[1]
    assert torch.allclose(implicit[0], unrolled[0], atol=1e-5)
    assert torch.allclose(implicit[3], unrolled[3], atol=2e-5)
    # Masses: up to a constant from one side to the other, which balance takes out.
    for side in (1, 2):
        difference = implicit[side] - unrolled[side]
        mass = given[side].double().exp()
        assert (difference / mass).std(1).max() < 1e-3 * (unrolled[side] / mass).std(1).max()


def test_not_finite_spoils_only_its_own_item(device: Any) -> None:
    for sides in (NONE, ROW):
        given = problem((2, 6, 9), sides, 59)
        clean = run(given, sides, (None, None), device, 3)[0]
        given[0][0, 2, 3] = torch.nan
        found = run(given, sides, (None, None), device, 3)[0]
        assert found[0].isnan().any() and torch.equal(found[1], clean[1])


def test_empty_batch_and_what_is_refused(device: Any) -> None:
    given = problem((0, 4, 5), BOTH, 61)
    slope = torch.zeros(0, 5, 6)
    found, gradients = run(given, BOTH, (None, None), device, 3, slope=slope)
    assert found[0].shape == (0, 5, 6) and found[1].shape == (3, 0, 5)
    assert [g.shape[0] for g in gradients] == [0, 0, 0, 0]
    s, a, b, _ = problem((1, 2, 2), NONE, 63)
    with pytest.raises(ValueError, match="float32, float16 and bfloat16"):
        run([s.double(), a, b, None], NONE, (None, None), device, 3)
    with pytest.raises(ValueError, match="too large"):
        run([s[:, :1, :1].expand(1, 2**16, 2**16), a, b, None], NONE, (None, None), device, 3)


@pytest.mark.parametrize(
    "options",
    [{"tolerance": 1e-2}, {"gradient": "implicit"}, {"num_valid": ([5, 6], [9, 7])}],
)
def test_front_door(options: dict[str, Any], device: Any) -> None:
    import pyloc_core as pl

    scores, a, b, _ = problem((2, 6, 9), NONE, 65)
    if "num_valid" in options:
        for mass, counts in zip((a, b), options["num_valid"]):
            for item, count in enumerate(counts):
                mass[item] -= mass[item, :count].logsumexp(0)
    slope = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(66))
    found = []
    for name, where in (("triton", device), ("reference", "cpu")):
        inputs = [x.detach().to(where).requires_grad_() for x in (scores, a, b)]
        out = pl.sinkhorn(*inputs, iterations=4, implementation=name, **options)
        kept = out > -torch.inf
        (out[kept] * slope.to(where).to(out.dtype)[kept]).sum().backward()
        found.append([out.detach(), *(x.grad for x in inputs)])
    assert found[0][0].dtype == torch.float32
    assert worst(found[0][0], found[1][0].cpu()) < 3e-6
    for one, other in zip(found[0][1:], found[1][1:]):
        assert torch.allclose(one.cpu(), other, atol=1e-4)


def test_dustbins_of_superglue(device: Any) -> None:
    from pyloc_core.integrations.superglue import log_optimal_transport

    scores = problem((2, 6, 9), NONE, 67)[0]
    slope = torch.randn(2, 7, 10, generator=torch.Generator().manual_seed(68))
    found = []
    for name, where in (("triton", device), ("reference", "cpu")):
        s = scores.detach().to(where).requires_grad_()
        alpha = torch.tensor(0.6, device=where, requires_grad=True)
        out = log_optimal_transport(s, alpha, 4, num_valid=([5, 6], [9, 7]), implementation=name)
        kept = out > -torch.inf
        (out[kept] * slope.to(where).to(out.dtype)[kept]).sum().backward()
        found.append([out.detach(), s.grad.cpu(), alpha.grad.cpu()])
    assert worst(found[0][0], found[1][0].cpu()) < 3e-6
    for one, other in zip(found[0][1:], found[1][1:]):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("sides", [NONE, ROW])
@pytest.mark.parametrize("scale", [1e4, 1e12, 1e32])
def test_no_nan_leaves_whatever_the_size(sides: int, scale: float, device: Any) -> None:
    """Scores that float32 does not tell apart, and P in parts that do not touch."""
    given = problem((2, 9, 11), sides, 69, scale)
    given[0][0, :, 3:6] = -torch.inf
    slope = torch.randn(2, given[1].shape[1], 11, generator=torch.Generator().manual_seed(70))
    for implicit in (False, True):
        found, gradients = run(
            given, sides, (None, None), device, 3, implicit=implicit, slope=slope
        )
        assert not found[0].isnan().any() and (found[0] < torch.inf).all()
        assert all(torch.isfinite(x).all() for x in gradients)


def test_a_factor_of_the_masses_changes_no_gradient(device: Any) -> None:
    given = problem((1, 9, 11), NONE, 71)
    slope = torch.randn(1, 9, 11, generator=torch.Generator().manual_seed(72))
    for implicit in (False, True):
        found = [
            run([given[0], given[1] + shift, given[2] + shift, None], NONE, (None, None), device, 5,
                implicit=implicit, slope=slope)[1]
            for shift in (0.0, -512.0)
        ]  # fmt: skip
        for plain_gradient, moved in zip(*found):
            assert torch.allclose(moved, plain_gradient, atol=2e-3)
