# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD's Triton kernels against the aggregation in float64, differentiated by autograd."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")


def arguments(
    b: int, m: int, n: int, depth: int, t: int, seed: int, dtype: Any = None, scale: float = 1.0
) -> list[Any]:
    """Scores, features, token, dustbin, and a slope of the descriptor."""
    g = torch.Generator().manual_seed(seed)
    dtype = dtype or torch.float32
    scores = scale * torch.randn(b, m, n, generator=g)
    features, token = torch.randn(b, depth, n, generator=g), torch.randn(b, t, generator=g)
    slope = torch.randn(b, t + depth * m, generator=g)
    arrays = [x.to(dtype) for x in (scores, features, token)]
    return [*arrays[:2], arrays[2] if t else None, torch.tensor(0.7), slope.to(dtype)]


def plain(s: Any, f: Any, token: Any, z: Any, iterations: int) -> Any:
    """One item: the optimal transport with a dustbin row, sums of features, unit lengths."""
    m, n = s.shape
    full = torch.cat([s, z.expand(1, n)])
    log_a = torch.log(torch.tensor([*[1.0] * m, float(n - m)], dtype=s.dtype))
    v = torch.zeros(n, dtype=s.dtype)
    for _ in range(iterations):
        u = log_a - (full + v).logsumexp(1)
        v = -(full + u[:, None]).logsumexp(0)
    p = (full + u[:, None] + v)[:m].exp()
    parts = torch.nn.functional.normalize(f @ p.T, dim=0).flatten()
    if token is not None:
        parts = torch.cat([torch.nn.functional.normalize(token, dim=0), parts])
    return torch.nn.functional.normalize(parts, dim=0)


def run(arrays: list[Any], valid: Any, device: Any, iterations: int = 3) -> tuple[Any, list[Any]]:
    from pyloc_core._triton import salad_aggregate as kernels

    *given, slope = (None if x is None else x.to(device) for x in arrays)
    counts = None if valid is None else torch.tensor(valid, device=device)
    found = kernels.forward(*given, counts, iterations)
    gradients = kernels.backward(*given, counts, *found[1:], slope, iterations)
    return found, [g.double().cpu() for g in gradients]


def relative(found: Any, truth: Any) -> float:
    return float((found.double().cpu() - truth).abs().max() / truth.abs().max().clamp_min(1e-6))


def errors(arrays: list[Any], valid: Any, device: Any, iterations: int = 3) -> dict[str, float]:
    """Worst relative errors of the descriptor and of every gradient; padding must have none."""
    found, gradients = run(arrays, valid, device, iterations)
    worst = dict.fromkeys(("descriptor", "scores", "features", "token"), 0.0)
    for item in range(len(arrays[0])):
        n = arrays[0].shape[2] if valid is None else valid[item]
        s, f, token = (None if x is None else x[item].double() for x in arrays[:3])
        inputs = [x if x is None else x.requires_grad_() for x in (s[:, :n], f[:, :n], token)]
        truth = plain(*inputs, arrays[3].double(), iterations)
        (truth * arrays[4][item]).sum().backward()
        worst["descriptor"] = max(worst["descriptor"], relative(found[0][item], truth.detach()))
        for name, x, gradient in zip(("scores", "features", "token"), inputs, gradients):
            if x is not None:
                kept = gradient[item][..., :n] if x.dim() == 2 else gradient[item]
                worst[name] = max(worst[name], relative(kept, x.grad))
        assert not gradients[0][item][:, n:].any() and not gradients[1][item][:, n:].any()
    assert gradients[3].shape == () and gradients[3] == 0
    return worst


@pytest.mark.parametrize(
    ("shape", "valid"),
    [
        ((1, 1, 2, 1, 1), None),
        ((2, 5, 9, 6, 4), None),
        ((1, 5, 9, 6, 0), None),
        ((2, 20, 150, 70, 9), [150, 60]),
        ((1, 128, 140, 17, 3), None),
    ],
)  # fmt: skip
def test_equals_float64(shape: Any, valid: Any, device: Any) -> None:
    worst = errors(arguments(*shape, 61), valid, device)
    assert max(worst.values()) < 5e-6, worst


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_half_precision(dtype: str, tolerance: float, device: Any) -> None:
    arrays = arguments(2, 16, 40, 32, 16, 63, getattr(torch, dtype))
    assert max(errors(arrays, None, device).values()) < tolerance


@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e4])
def test_score_ranges(scale: float, device: Any) -> None:
    """At 1e4 scores are known to 1e-3, and so are the weights."""
    arrays = arguments(1, 6, 11, 5, 3, 65, scale=scale)
    worst = errors(arrays, None, device)
    tolerance = 5e-6 if scale < 1e4 else 5e-3
    assert max(worst["descriptor"], worst["features"], worst["token"]) < tolerance, worst


@pytest.mark.parametrize("iterations", [1, 5])
def test_iterations(iterations: int, device: Any) -> None:
    arrays = arguments(1, 4, 9, 5, 3, 67)
    assert max(errors(arrays, None, device, iterations).values()) < 5e-6


def test_potentials_and_sums_are_kept(device: Any) -> None:
    arrays = arguments(2, 4, 9, 5, 3, 69)
    _, sums, u, v = run(arrays, None, device)[0]
    assert sums.shape == (2, 5, 4) and u.shape == (3, 2, 5) and v.shape == (3, 2, 9)
    p = (arrays[0] + u[-1, :, :4, None].cpu() + v[-1, :, None].cpu()).exp()
    assert torch.allclose(sums.cpu(), arrays[1] @ p.transpose(1, 2), atol=1e-5)


def test_clusters_and_scores_that_take_nothing(device: Any) -> None:
    """A cluster without a finite score has no length, and no gradient; nothing is NaN."""
    arrays = arguments(2, 4, 9, 5, 3, 71)
    arrays[0][0, 1], arrays[0][0, 0, 0], arrays[0][1, :, 2] = (-torch.inf,) * 3
    found, gradients = run(arrays, None, device)
    assert all(torch.isfinite(x).all() for x in (found[0], *gradients))
    parts = found[0][:, 3:].reshape(2, 5, 4).cpu()
    assert not parts[0, :, 1].any() and parts[0, :, 0].any() and parts[1, :, 1].any()
    assert not gradients[0][0, 1].any() and not gradients[0][1, :, 2].any()


def test_padding_changes_no_bit(device: Any) -> None:
    small, large = arguments(1, 6, 30, 7, 4, 73), arguments(1, 6, 150, 7, 4, 74)
    for a, b in zip(small[:2], large[:2]):
        b[:, :, :30] = a
        b[:, :, 30:] = torch.nan  # is not read
    found = run([*large[:2], *small[2:]], [30], device)[0]
    assert torch.equal(found[0], run(small, None, device)[0][0])


def test_not_finite_and_too_few_patches_spoil_only_their_item(device: Any) -> None:
    arrays = arguments(3, 6, 9, 5, 4, 75)
    clean = run(arrays, None, device)[0][0]
    arrays[0][0, 2, 3] = torch.nan
    found = run(arrays, [9, 9, 4], device)[0][0]
    assert found[0].isnan().any() and not torch.isfinite(found[2]).all()
    assert torch.equal(found[1], clean[1])


def test_empty_batch_and_what_is_refused(device: Any) -> None:
    found, gradients = run(arguments(0, 4, 9, 5, 3, 77), None, device)
    assert found[0].shape == (0, 23) and [len(g) for g in gradients[:3]] == [0, 0, 0]
    with pytest.raises(ValueError, match="up to 128 clusters"):
        run(arguments(1, 129, 140, 5, 3, 79), None, device)


def test_front_door(device: Any) -> None:
    import pyloc_core as pl

    *given, slope = arguments(2, 6, 15, 5, 4, 81)
    found = []
    for name, where in (("triton", device), ("reference", "cpu")):
        inputs = [x.detach().to(where).requires_grad_() for x in given]
        out = pl.salad_aggregate(*inputs, num_valid=[15, 9], implementation=name)
        (out * slope.to(where)).sum().backward()
        found.append([out.detach(), *(x.grad for x in inputs)])
    for one, other in zip(*found):
        assert torch.allclose(one.cpu().double(), other.double(), atol=2e-6)
    scores = given[0].to(device)
    log_p = pl.salad_assign(scores, 0.3, num_valid=[15, 9], implementation="triton")
    truth = pl.salad_assign(given[0], 0.3, num_valid=[15, 9], implementation="reference")
    assert torch.allclose(log_p.cpu().double(), truth, atol=1e-5)
