# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""NetVLAD's Triton kernels against the aggregation in float64, differentiated by autograd."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")


def arguments(b: int, d: int, k: int, n: int, seed: int, dtype: Any = None) -> list[Any]:
    """Features, logits, centroids, and a slope of the descriptor."""
    g = torch.Generator().manual_seed(seed)
    sizes = ((b, d, n), (b, k, n), (k, d), (b, k * d))
    return [torch.randn(*size, generator=g).to(dtype or torch.float32) for size in sizes]


def plain(features: Any, logits: Any, centroids: Any) -> Any:
    """One item (D, n), (K, n), (K, D)."""
    weights = logits.softmax(0)
    residuals = torch.stack(
        [(w * (features - c[:, None])).sum(1) for w, c in zip(weights, centroids)]
    )
    units = torch.nn.functional.normalize(residuals, dim=1)
    return torch.nn.functional.normalize(units.flatten(), dim=0)


def run(arrays: list[Any], valid: Any, device: Any) -> tuple[Any, list[Any]]:
    from pyloc_core._triton import netvlad_aggregate as kernels

    *given, slope = (x.to(device) for x in arrays)
    counts = None if valid is None else torch.tensor(valid, device=device)
    found = kernels.forward(*given, counts)
    gradients = kernels.backward(*given, counts, *found[1:], slope)
    return found, [g.double().cpu() for g in gradients]


def relative(found: Any, truth: Any) -> float:
    return float((found.double().cpu() - truth).abs().max() / truth.abs().max().clamp_min(1e-6))


def errors(arrays: list[Any], valid: Any, device: Any) -> list[float]:
    found, gradients = run(arrays, valid, device)
    exact = [x.double().requires_grad_() for x in arrays[:3]]
    counts = [arrays[0].shape[2]] * len(arrays[0]) if valid is None else valid
    truth = torch.stack(
        [plain(exact[0][i, :, :n], exact[1][i, :, :n], exact[2]) for i, n in enumerate(counts)]
    )
    (truth * arrays[3]).sum().backward()
    pairs = [(found[0], truth.detach()), *zip(gradients, (x.grad for x in exact))]
    return [relative(a, b) for a, b in pairs]


@pytest.mark.parametrize(
    ("shape", "valid"),
    [
        ((1, 1, 1, 2), None),
        ((2, 7, 5, 9), None),
        ((3, 70, 20, 70), [70, 40, 1]),
        ((1, 20, 100, 40), None),
    ],
)  # fmt: skip
def test_equals_float64(shape: Any, valid: Any, device: Any) -> None:
    worst = errors(arguments(*shape, 81), valid, device)
    assert worst[0] < 5e-6
    if shape[1] > 1:  # a part of one entry has no direction that could change
        assert max(worst) < 1e-5, worst


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 3e-3), ("bfloat16", 2e-2)])
def test_half_precision(dtype: str, tolerance: float, device: Any) -> None:
    arrays = arguments(2, 24, 16, 40, 83, getattr(torch, dtype))
    assert max(errors(arrays, None, device)) < tolerance


def test_sums_are_kept(device: Any) -> None:
    arrays = arguments(2, 6, 5, 9, 85)
    _, residual, log_sum = run(arrays, [9, 4], device)[0]
    assert residual.shape == (2, 5, 6) and residual.dtype == torch.float32
    assert torch.allclose(log_sum[0].cpu(), arrays[1][0].logsumexp(0), atol=1e-5)
    assert (log_sum[1, 4:] == torch.inf).all()


def test_logits_of_minus_infinity_weigh_nothing(device: Any) -> None:
    """A patch without a finite logit, and a cluster that nothing goes to."""
    arrays = arguments(1, 6, 5, 9, 87)
    arrays[1][0, :, 3], arrays[1][0, 2] = -torch.inf, -torch.inf
    found, gradients = run(arrays, None, device)
    assert all(torch.isfinite(x).all() for x in (found[0], *gradients))
    assert not found[0].reshape(5, 6)[2].any() and found[0].reshape(5, 6)[1].any()
    assert not gradients[1][0, :, 3].any() and not gradients[1][0, 2].any()


def test_padding_changes_no_bit(device: Any) -> None:
    small, large = arguments(1, 6, 5, 30, 89), arguments(1, 6, 5, 150, 90)
    for a, b in zip(small[:2], large[:2]):
        b[:, :, :30] = a
        b[:, :, 30:] = torch.nan  # is not read
    found, gradients = run([*large[:2], *small[2:]], [30], device)
    exact, truth = run(small, None, device)
    assert torch.equal(found[0], exact[0]) and torch.equal(gradients[2], truth[2])
    assert torch.equal(gradients[0][:, :, :30], truth[0]) and not gradients[0][:, :, 30:].any()


def test_not_finite_spoils_only_its_own_item(device: Any) -> None:
    arrays = arguments(2, 6, 5, 9, 91)
    clean = run(arrays, None, device)[0][0]
    arrays[0][0, 2, 3] = torch.nan
    found = run(arrays, None, device)[0][0]
    assert found[0].isnan().any() and torch.equal(found[1], clean[1])


def test_empty_batch_and_what_is_refused(device: Any) -> None:
    found, gradients = run(arguments(0, 4, 5, 6, 93), None, device)
    assert found[0].shape == (0, 20) and not gradients[2].any()
    with pytest.raises(ValueError, match="up to 128 clusters"):
        run(arguments(1, 4, 129, 6, 95), None, device)


def test_front_door(device: Any) -> None:
    import pyloc_core as pl

    *given, slope = arguments(2, 6, 5, 9, 97)
    found = []
    for name, where in (("triton", device), ("reference", "cpu")):
        inputs = [x.detach().to(where).requires_grad_() for x in given]
        out = pl.netvlad_aggregate(*inputs, num_valid=[9, 4], implementation=name)
        (out * slope.to(where)).sum().backward()
        found.append([out.detach(), *(x.grad for x in inputs)])
    for one, other in zip(*found):
        assert torch.allclose(one.cpu().double(), other.double(), atol=2e-6)
