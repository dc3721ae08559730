# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SuperGlue's assignment layer: golden outputs, its marginals, gradients of scores and alpha, sizes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_parity import load_module

from pyloc_core.integrations.superglue import log_optimal_transport

torch = pytest.importorskip("torch")


def scores_of(shape: Any, seed: int, spread: float = 2.0) -> Any:
    g = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*shape, generator=g, dtype=torch.float64)


def plain(scores: Any, alpha: Any, iterations: int) -> Any:
    """Masses that add up to 1, and the result times m + n, in the log domain."""
    b, m, n = scores.shape
    corner = alpha.expand(b, 1, 1)
    top = torch.cat([scores, alpha.expand(b, m, 1)], 2)
    full = torch.cat([top, torch.cat([alpha.expand(b, 1, n), corner], 2)], 1)
    total = torch.tensor(float(m + n), dtype=scores.dtype).log()
    a = torch.zeros(m + 1, dtype=scores.dtype)
    c = torch.zeros(n + 1, dtype=scores.dtype)
    a[m], c[n] = np.log(n), np.log(m)
    u, v = torch.zeros(b, m + 1, dtype=scores.dtype), torch.zeros(b, n + 1, dtype=scores.dtype)
    for _ in range(iterations):
        u = a - total - torch.logsumexp(full + v[:, None], 2)
        v = c - total - torch.logsumexp(full + u[:, :, None], 1)
    return full + u[:, :, None] + v[:, None] + total


@pytest.mark.parametrize("case_name", ["sinkhorn_a_s1", "sinkhorn_b_s1", "sinkhorn_c_s1"])
def test_golden(shared: Path, case_name: str) -> None:
    golden = load_module(shared / "golden" / "golden.py", "golden_fixtures")
    case = golden.load_case(str(shared / "golden" / "cases" / f"{case_name}.json"))
    given = case["input"]
    call = ast.parse(given["scores"], mode="eval").body
    options = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    values = (ast.literal_eval(x) for x in call.args[1:])
    scores = getattr(golden, call.func.id)(case["seed"], *values, **options)
    for form in (torch.from_numpy, np.asarray):
        found = log_optimal_transport(form(scores), given["dustbin"], given["iterations"])
        golden.check(case, {"superglue": np.asarray(found)})


@pytest.mark.parametrize("iterations", [1, 30])
def test_forward_and_gradients(iterations: int) -> None:
    wide = scores_of((2, 30, 41), 1).requires_grad_()
    alpha = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    low = wide.detach().float().requires_grad_()
    bin_score = alpha.detach().float().requires_grad_()
    truth = plain(wide, alpha, iterations)
    found = log_optimal_transport(low, bin_score, iterations)
    assert found.shape == (2, 31, 42) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)
    slope = torch.randn(
        truth.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    truth.backward(slope)
    found.backward(slope.float())
    torch.testing.assert_close(low.grad.double(), wide.grad, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(bin_score.grad.double(), alpha.grad, rtol=1e-4, atol=1e-4)
    assert bin_score.grad.shape == ()


def test_marginals() -> None:
    found = log_optimal_transport(scores_of((3, 20, 35), 3).float(), 0.3, 200).double().exp()
    rows, columns = found.sum(2), found.sum(1)
    torch.testing.assert_close(columns[:, :-1], torch.ones(3, 35).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows[:, :-1], torch.ones(3, 20).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(rows[:, -1], torch.full((3,), 35.0).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(columns[:, -1], torch.full((3,), 20.0).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["list", "tensor"])
def test_items_of_several_sizes(kind: str) -> None:
    """As many keypoints as an item has: the dustbins stay last, and hold as many."""
    scores, alpha = scores_of((2, 9, 12), 5).float(), torch.tensor([0.5, -0.2])
    counts: Any = ([9, 4], [7, 12])
    if kind == "tensor":
        counts = tuple(torch.tensor(c) for c in counts)
    found = log_optimal_transport(scores, alpha, 20, num_valid=counts)
    for i, (m, n) in enumerate(((9, 7), (4, 12))):
        alone = log_optimal_transport(scores[i, :m, :n], alpha[i], 20)
        kept = torch.cat([torch.arange(m), torch.tensor([9])])
        across = torch.cat([torch.arange(n), torch.tensor([12])])
        assert torch.equal(found[i][kept][:, across], alone)
        assert (found[i, m:9] == -torch.inf).all() and (found[i, :, n:12] == -torch.inf).all()
    one = log_optimal_transport(scores, 0.5, 20, num_valid=(4, None))
    assert torch.equal(one[0, :4], log_optimal_transport(scores[0, :4], 0.5, 20)[:4])


def test_numpy_is_the_same_and_half_precision_runs() -> None:
    scores = scores_of((2, 8, 6), 7).float()
    expected = log_optimal_transport(scores, 1.0, 15)
    found = log_optimal_transport(scores.numpy(), 1.0, 15)
    assert isinstance(found, np.ndarray) and (found == expected.numpy()).all()
    half = log_optimal_transport(scores.half(), torch.tensor(1.0), 15)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, rtol=2e-3, atol=2e-3)
    wide = log_optimal_transport(scores.double(), 1.0, 15)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), expected, rtol=1e-5, atol=1e-5)
    assert log_optimal_transport(scores[:0], 1.0, 3).shape == (0, 9, 7)


def test_gradcheck_and_one_graph() -> None:
    scores = scores_of((2, 3, 4), 9).requires_grad_()
    alpha = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, z: log_optimal_transport(s, z, 3), (scores, alpha))
    low, fill = scores.detach().float(), alpha.detach().float()

    def form(s: Any, z: Any) -> Any:
        return log_optimal_transport(s, z, 3).exp()

    compiled = torch.compile(form, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(low, fill), form(low, fill), rtol=0, atol=1e-6)


def test_refusals() -> None:
    scores = scores_of((2, 5, 6), 11).float()
    for bad in (torch.nan, torch.inf):
        for values in (scores, scores.numpy(), scores.double(), scores.clone().requires_grad_()):
            with pytest.raises(ValueError, match="dustbin"):
                log_optimal_transport(values, bad, 5)
    for shape in ((6,), (2, 0, 6), (2, 5, 0)):
        with pytest.raises(ValueError, match="scores"):
            log_optimal_transport(np.ones(shape, np.float32), 0.0, 5)
    with pytest.raises(ValueError, match="iterations"):
        log_optimal_transport(scores, 0.0, 0)
    with pytest.raises(ValueError, match="num_valid"):
        log_optimal_transport(scores, 0.0, 5, num_valid=(6, None))
    with pytest.raises(ValueError, match="dustbin"):
        log_optimal_transport(scores, torch.zeros(3), 5)
