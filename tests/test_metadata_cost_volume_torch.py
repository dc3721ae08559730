# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The metadata cost volume against its plain form in float64, its gradient, equal bits, as torch sees it."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_problems import metadata_problem

import pyloc_core as pl

torch = pytest.importorskip("torch")

# Odd widths, more than one group of cells, layers beyond one pack, one view and sixteen, one cell.
SHAPES = [
    {},
    {"batch": 1, "views": 1, "channels": 5, "hidden": (7, 50), "size": (3, 37)},
    {"batch": 1, "views": 16, "channels": 20, "planes": 2, "size": (4, 33), "hidden": (33, 9)},
    {
        "views": 2,
        "channels": 1,
        "planes": 1,
        "size": (1, 1),
        "source_size": (1, 1),
        "hidden": (1, 1),
    },
]
DIFFERENTIABLE = 8  # of `leaves`: reference, sources and six weights


def leaves(problem: dict[str, Any], dtype: Any) -> list[Any]:
    given = (problem["reference"], problem["sources"], *problem["mlp_weights"])
    return [torch.as_tensor(x).to(dtype if i < 2 else torch.float64) for i, x in enumerate(given)]


def volume(problem: dict[str, Any], given: list[Any], **options: Any) -> Any:
    """Weights take the dtype of the features, but stay float32 beside half precision."""
    wide = given[0].dtype == torch.float64
    weights = [x if wide else x.float() for x in given[2:]]
    names = {"reference": given[0], "sources": given[1], "mlp_weights": weights}
    return pl.metadata_cost_volume(**{**problem, **names, **options})


def with_gradient(
    problem: dict[str, Any], given: list[Any], slope: Any = None, dtype: Any = None, **options: Any
) -> tuple[Any, list[Any]]:
    """With a random slope, rounded to `dtype`, unless one is given."""
    own = [x.detach().clone().requires_grad_() for x in given]
    out = volume(problem, own, **options)
    if slope is None:
        slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(dtype or out)
    out.backward(slope.to(out))
    return out.detach(), [x.grad for x in own]


def worst(found: Any, truth: Any) -> float:
    found, truth = found.double(), truth.double()
    return float((found - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_forward_and_gradient_equal_the_plain_form(shape: Any, dtype: str) -> None:
    p = metadata_problem(**shape)
    given = leaves(p, getattr(torch, dtype))
    truth, expected = with_gradient(p, [x.double() for x in given], dtype=given[0].dtype)
    found, gradients = with_gradient(p, given)
    assert found.dtype == given[0].dtype and found.shape == truth.shape
    limit = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-3}[dtype]
    assert worst(found, truth) < limit
    for ours, true, leaf in zip(gradients, expected, given):
        assert ours.dtype == leaf.dtype
        assert worst(ours, true) < (1e-5 if dtype == "float32" else limit)
    reference = volume(p, given, implementation="reference")
    torch.testing.assert_close(reference, truth, rtol=1e-5, atol=1e-5)  # of float32 depths


def test_no_more_error_than_plain_torch_in_the_same_precision() -> None:
    """Error rule 7: against the plain form with its operands and results rounded."""
    from pyloc_core.reference import metadata_cost_volume as plain

    p = metadata_problem(views=4)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        given = leaves(p, dtype)
        truth = volume(p, [x.double() for x in given])
        found = volume(p, given)
        sweep = rounded_sweep(p)
        single = plain.metadata_cost_volume(
            *(x.float() for x in given[:2]), tuple(x.float() for x in given[2:]), sweep, None
        )[0]
        eager = single.to(dtype)
        assert worst(found, truth) <= 1.2 * worst(eager, truth) + torch.finfo(dtype).eps


def rounded_sweep(p: dict[str, Any]) -> Any:
    """The geometry in float32, from the front door's own float64."""
    from pyloc_core import _metadata, _sweep
    from pyloc_core.reference import metadata_cost_volume as plain

    names = ("reference", "sources", "K_reference", "K_sources", "source_from_reference", "depths")
    sweep = _sweep.check_arrays(*(p[n] for n in names), None)
    cameras = sweep.cameras
    parts = (
        cameras.projection(), cameras.rays(), cameras.centres(),
        _metadata.pose_values(cameras.poses, None, False), sweep.depths,
        _metadata.limits(None, sweep.depths, sweep.leading, sweep.shape.batch),
    )  # fmt: skip
    return plain.Sweep(*(torch.from_numpy(sweep.rounded(x)) for x in parts))


@pytest.mark.parametrize("valid", [None, (1, 2)])
def test_gradcheck(valid: Any) -> None:
    p = metadata_problem(
        views=2, channels=2, planes=2, size=(2, 3), source_size=(3, 2), hidden=(3, 2)
    )
    given = [x.requires_grad_() for x in leaves(p, torch.float64)]
    counts = None if valid is None else torch.tensor(valid)
    assert torch.autograd.gradcheck(lambda *a: volume(p, list(a), num_valid=counts), given)


def test_threads_and_runs_have_equal_bits() -> None:
    p = metadata_problem(views=5, size=(21, 50), hidden=(20, 12))
    given = leaves(p, torch.float32)
    first = with_gradient(p, given, num_threads=1)
    for threads in (1, 2, 7):
        out, gradients = with_gradient(p, given, num_threads=threads)
        assert torch.equal(out, first[0])
        assert all(torch.equal(a, b) for a, b in zip(gradients, first[1]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_num_valid_has_the_bits_of_fewer_views(dtype: str) -> None:
    p = metadata_problem(batch=3, views=4)
    given = leaves(p, getattr(torch, dtype))
    slope = torch.randn(3, 4, 9, 20, generator=torch.Generator().manual_seed(3))
    counts = [1, 3, 4]
    found, gradients = with_gradient(p, given, slope, num_valid=torch.tensor(counts))
    total = [torch.zeros_like(x) for x in gradients[2:]]
    for b, n in enumerate(counts):
        one = {**p, **{k: p[k][b] for k in ("K_reference",)}}
        one |= {k: p[k][b, :n] for k in ("K_sources", "source_from_reference")}
        alone = [given[0][b], given[1][b, :n], *given[2:]]
        out, grads = with_gradient(one, alone, slope[b])
        assert torch.equal(found[b], out)
        assert torch.equal(gradients[0][b], grads[0])
        assert torch.equal(gradients[1][b, :n], grads[1]) and not gradients[1][b, n:].any()
        total = [a + g for a, g in zip(total, grads[2:])]
    for ours, theirs in zip(gradients[2:], total):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_opcheck_and_compile() -> None:
    p = metadata_problem(channels=3, hidden=(4, 5))
    given = [x.float() for x in leaves(p, torch.float32)]
    volume(p, [given[0].clone().requires_grad_(), *given[1:]])  # registers
    inputs = (*given, *rounded_sweep(p), torch.tensor([3, 2]))
    kept = torch.ops.pyloc_core.metadata_cost_volume(*inputs, 1, "")
    slope = torch.randn(kept[0].shape, generator=torch.Generator().manual_seed(1))
    refused = (
        (14, torch.tensor([3, 9]), "num_valid"),
        (14, torch.tensor([0, 3]), "num_valid"),
        (12, -inputs[12], "depths"),
        (8, inputs[8] / 0, "source_from_reference"),
        (2, inputs[2] / 0, r"mlp_weights\[0\]"),
    )
    for index, value, name in refused:  # what compiled calls bring along unseen
        bad = (*inputs[:index], value, *inputs[index + 1 :])
        with pytest.raises(ValueError, match=name):
            torch.ops.pyloc_core.metadata_cost_volume(*bad, 1, "")
        with pytest.raises(ValueError, match=name):
            torch.ops.pyloc_core.metadata_cost_volume_backward(*bad, *kept, slope, 1, "")
    narrow = (*inputs[:14], inputs[14].int(), 1, "")
    assert torch.equal(torch.ops.pyloc_core.metadata_cost_volume(*narrow)[0], kept[0])
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.pyloc_core.metadata_cost_volume, (*inputs, 1, ""), test_utils=tests
    )
    torch.library.opcheck(
        torch.ops.pyloc_core.metadata_cost_volume_backward,
        (*inputs, *kept, slope, 1, ""),
        test_utils=tests,
    )
    cameras = ("K_reference", "K_sources", "source_from_reference", "depths")
    tensors = {**p, **{name: torch.tensor(p[name]) for name in cameras}}

    def traced(*own: Any) -> Any:
        return volume(tensors, list(own))

    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    expected = with_gradient(p, given)
    own = [x.detach().clone().requires_grad_() for x in given]
    out = compiled(*own)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out))
    torch.testing.assert_close(out.detach(), expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close([x.grad for x in own], expected[1], rtol=1e-4, atol=1e-4)


def test_kinds_and_refused_gradients() -> None:
    p = metadata_problem(batch=1)
    given = leaves(p, torch.float32)
    found = volume(p, given)
    assert found.dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float16):
        assert volume(p, leaves(p, dtype)).dtype == dtype
    without = {**p, **{n: p[n][0] for n in ("K_reference", "K_sources", "source_from_reference")}}
    assert torch.equal(volume(without, [given[0][0], given[1][0], *given[2:]]), found[0])
    empty = {
        **p, **{n: p[n][:0] for n in ("K_reference", "K_sources", "source_from_reference")}
    }  # fmt: skip
    out, gradients = with_gradient(empty, [given[0][:0], given[1][:0], *given[2:]])
    assert out.shape == (0, 4, 9, 20) and not any(g.any() for g in gradients[2:])
    for name in ("K_reference", "K_sources", "source_from_reference", "depths"):
        wanted = torch.tensor(p[name]).requires_grad_()
        with pytest.raises(ValueError, match=name):
            volume({**p, name: wanted}, given)
    limits = torch.tensor([[0.5, 9.0]]).requires_grad_()
    for own in (given, [given[0].clone().requires_grad_(), *given[1:]]):
        with pytest.raises(ValueError, match="depth_limits requires a gradient"):
            volume(p, own, depth_limits=limits)
    nan = given[1].clone()
    nan[0, 1, 2, 3, 4] = torch.nan
    for own in ([given[0], nan, *given[2:]], [given[0].clone().requires_grad_(), nan, *given[2:]]):
        with pytest.raises(ValueError, match="sources holds NaN"):
            volume(p, own)
