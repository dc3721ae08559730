# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The dual softmax' Triton kernels against float64, differentiated by autograd."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")


def drawn(*size: int, seed: int, scale: float = 1.0, dtype: Any = None) -> tuple[Any, Any]:
    """Scores and a slope of the result."""
    g = torch.Generator().manual_seed(seed)
    scores, slope = (torch.randn(*size, generator=g) for _ in range(2))
    return (scale * scores).to(dtype or torch.float32), slope.to(dtype or torch.float32)


def run(scores: Any, slope: Any, counts: Any, temperature: float, device: Any) -> tuple[Any, Any]:
    from pyloc_core._triton import dual_softmax as kernels

    rows, columns = (None if c is None else torch.tensor(c, device=device) for c in counts)
    s = scores.to(device)
    found = kernels.forward(s, rows, columns, temperature)
    gradient = kernels.backward(s, rows, columns, *found[1:], slope.to(device), temperature)
    return found[0].cpu(), gradient.cpu()


def relative(found: Any, truth: Any) -> float:
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-6))


def check(
    scores: Any, slope: Any, counts: Any, temperature: float, device: Any, tolerance: float
) -> None:
    found, gradient = run(scores, slope, counts, temperature, device)
    assert found.dtype == scores.dtype
    for item in range(len(scores)):
        m = scores.shape[1] if counts[0] is None else counts[0][item]
        n = scores.shape[2] if counts[1] is None else counts[1][item]
        s = scores[item, :m, :n].double().requires_grad_()
        x = s / temperature
        truth = x.log_softmax(0) + x.log_softmax(1)
        (truth * slope[item, :m, :n]).sum().backward()
        assert relative(found[item, :m, :n], truth.detach()) < tolerance
        assert relative(gradient[item, :m, :n], s.grad) < 5 * tolerance
        beyond = torch.ones(scores.shape[1:], dtype=torch.bool)
        beyond[:m, :n] = False
        assert (found[item][beyond] == -torch.inf).all() and not gradient[item][beyond].any()


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ((1, 1, 1), (None, None)),
        ((2, 5, 270), (None, None)),
        ((3, 11, 20), ([11, 4, 1], [3, 20, 1])),
        ((1, 260, 9), (None, [7])),
    ],
)  # fmt: skip
def test_equals_float64(size: Any, counts: Any, device: Any) -> None:
    check(*drawn(*size, seed=101), counts, 0.1, device, 1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e4])
def test_score_ranges(scale: float, device: Any) -> None:
    check(*drawn(1, 7, 9, seed=103, scale=scale), (None, None), 1.0, device, 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_half_precision(dtype: str, tolerance: float, device: Any) -> None:
    arrays = drawn(1, 12, 20, seed=105, dtype=getattr(torch, dtype))
    check(*arrays, (None, None), 0.2, device, tolerance)


def test_minus_infinity_takes_no_part(device: Any) -> None:
    scores, slope = drawn(1, 6, 9, seed=107)
    scores[0, 1], scores[0, :, 2], scores[0, 0, 0] = (-torch.inf,) * 3
    found, gradient = run(scores, slope, (None, None), 0.5, device)
    assert torch.equal(found == -torch.inf, scores == -torch.inf) and not found.isnan().any()
    assert torch.isfinite(gradient).all() and not gradient[scores == -torch.inf].any()
    kept = torch.tensor([0, 2, 3, 4, 5])
    columns = torch.tensor([0, 1, 3, 4, 5, 6, 7, 8])
    x = scores[0][kept][:, columns].double() / 0.5
    truth = x.log_softmax(0) + x.log_softmax(1)
    close = torch.isclose(found[0][kept][:, columns].double(), truth, atol=1e-5)
    assert close.all()


def test_padding_changes_no_bit(device: Any) -> None:
    (small, slope), (large, more) = drawn(1, 9, 30, seed=109), drawn(1, 12, 270, seed=110)
    large[:, :9, :30], more[:, :9, :30] = small, slope
    found = run(large, more, ([9], [30]), 0.1, device)
    truth = run(small, slope, (None, None), 0.1, device)
    for a, b in zip(found, truth):
        assert torch.equal(a[:, :9, :30], b)


def test_not_finite_spoils_only_its_own_item_and_empty_batch(device: Any) -> None:
    scores, slope = drawn(2, 6, 9, seed=111)
    clean = run(scores, slope, (None, None), 1.0, device)[0]
    scores[0, 2, 3] = torch.nan
    found = run(scores, slope, (None, None), 1.0, device)[0]
    assert found[0].isnan().any() and torch.equal(found[1], clean[1])
    found, gradient = run(scores[:0], slope[:0], (None, None), 1.0, device)
    assert found.shape == gradient.shape == (0, 6, 9)


def test_front_door(device: Any) -> None:
    import pyloc_core as pl

    scores, slope = drawn(2, 6, 9, seed=113)
    found = []
    for name, where in (("triton", device), ("reference", "cpu")):
        s = scores.detach().to(where).requires_grad_()
        out = pl.dual_softmax(s, temperature=0.2, num_valid=(None, [9, 4]), implementation=name)
        kept = out > -torch.inf
        (out[kept] * slope.to(where).to(out.dtype)[kept]).sum().backward()
        found.append([out.detach().cpu().double(), s.grad.cpu().double()])
    for one, other in zip(*found):
        assert torch.allclose(one, other, atol=2e-5)
