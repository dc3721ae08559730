# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The plane sweep under torch: gradients, equal bits of the backward, the operators as torch sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sweep_scenes import grid_sample_sweep, scene

import pyloc_core as pl

torch = pytest.importorskip("torch")

REDUCTIONS = ("mean", "valid_mean", "none")


def worst(found: Any, truth: Any) -> float:
    found, truth = found.detach().double(), truth.detach().double()
    return float((found - truth).abs().max() / truth.abs().max())


def with_gradient(form: Any, given: list[Any], slope_seed: int = 1, **options: Any) -> list[Any]:
    """The volume and the gradients of reference and sources, for a slope drawn from a seed."""
    leaves = [x.detach().clone().requires_grad_() for x in given[:2]]
    out = form(*leaves, *given[2:], **options)
    g = torch.Generator().manual_seed(slope_seed)
    out.backward(torch.randn(out.shape, generator=g).to(out))
    return [out.detach(), *(x.grad for x in leaves)]


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("form", ["shared", "item", "cell"])
@pytest.mark.parametrize("channels", [1, 3, 16, 17, 64, 70])
def test_gradients_equal_the_float64_form(channels: int, form: str, reduce: str) -> None:
    given = scene((2, 3, channels, 19, 1), (5, 21), (11, 14), form=form)
    options = {"reduce": reduce, "num_valid": torch.tensor([2, 3])}
    truth = with_gradient(pl.plane_sweep, given.tensors(), **options)  # float64: the plain formula
    found = with_gradient(pl.plane_sweep, given.tensors("float32"), **options)
    for ours, true in zip(found, truth):
        assert ours.dtype == torch.float32 and worst(ours, true) < 1e-5
    assert not found[2][0, 2].any()  # the view that does not count


def test_gradients_equal_those_of_grid_sample() -> None:
    given = scene((2, 3, 16, 12, 5), (12, 16), (10, 18)).tensors()
    expected = with_gradient(grid_sample_sweep, given)
    for ours, true in zip(with_gradient(pl.plane_sweep, [x.float() for x in given]), expected):
        assert worst(ours, true) < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_gradients_are_as_good_as_the_plain_form(dtype: str) -> None:
    """Error rule 7, with the plain form's arithmetic in float32 and its results rounded once."""
    given = scene((1, 4, 32, 16, 6), (12, 16), (12, 16)).tensors(dtype)
    low = given[0].dtype
    g = torch.randn(1, 16, 12, 16, generator=torch.Generator().manual_seed(3)).to(low)
    found = []
    for form, kind in ((pl.plane_sweep, low), (grid_sample_sweep, torch.float32)):
        leaves = [x.detach().to(kind).requires_grad_() for x in given[:2]]
        form(*leaves, *given[2:]).backward(g.to(kind))
        found.append([x.grad.to(low) for x in leaves])
    leaves = [x.detach().double().requires_grad_() for x in given[:2]]
    pl.plane_sweep(*leaves, *given[2:]).backward(g.double())
    for ours, theirs, leaf in zip(*found, leaves):
        assert ours.dtype == low
        assert worst(ours, leaf.grad) <= 1.02 * worst(theirs, leaf.grad) + 1e-6


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("valid", [None, (1,)])
def test_gradcheck(reduce: str, valid: Any) -> None:
    given = scene((1, 2, 2, 3, 3), (2, 3), (3, 2)).tensors()
    counts = None if valid is None else torch.tensor(valid)
    leaves = [x.requires_grad_() for x in given[:2]]
    assert torch.autograd.gradcheck(
        lambda *a: pl.plane_sweep(*a, *given[2:], reduce=reduce, num_valid=counts), leaves
    )


@pytest.mark.parametrize("views", [1, 3, 9])
def test_backward_has_equal_bits(views: int) -> None:
    """Every time, for any number of threads, for few views (several chunks each) and many."""
    given = scene((2, views, 16, 20, 4), (19, 33), (17, 35)).tensors("float32")
    for reduce in REDUCTIONS:
        expected = with_gradient(pl.plane_sweep, given, reduce=reduce, num_threads=1)
        for threads in (1, 2, 8):
            again = with_gradient(pl.plane_sweep, given, reduce=reduce, num_threads=threads)
            assert all(torch.equal(a, b) for a, b in zip(again, expected))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_num_valid_has_the_bits_of_fewer_views(reduce: str) -> None:
    given = scene((2, 6, 16, 20, 4), (9, 33), (17, 15)).tensors("float32")
    slope = torch.randn(2, 6, 20, 9, 33, generator=torch.Generator().manual_seed(5))
    slope = slope if reduce == "none" else slope[:, 0]
    found = []
    for n, last in ((6, 3), (3, None)):
        fewer = [given[0], given[1][:, :n], given[2], given[3][:, :n], given[4][:, :n], given[5]]
        leaves = [x.clone().requires_grad_() for x in fewer[:2]]
        out = pl.plane_sweep(*leaves, *fewer[2:], reduce=reduce, num_valid=last)
        out.backward(slope[:, :n] if reduce == "none" else slope)
        found.append([leaves[0].grad, leaves[1].grad])
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1][:, :3], found[1][1])
    assert not found[0][1][:, 3:].any()


def test_the_reference_is_differentiable_and_agrees() -> None:
    given = scene((1, 2, 4, 5, 7)).tensors()
    truth = with_gradient(pl.plane_sweep, given, implementation="reference")
    for ours, true in zip(with_gradient(pl.plane_sweep, given), truth):
        assert worst(ours, true) < 1e-5  # depths are float32 there


def test_opcheck_and_compile() -> None:
    given = scene((2, 3, 5, 6, 7)).tensors("float32")
    with_gradient(pl.plane_sweep, given)  # registers
    geometry = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(2))
    depths, counts = given[5].float().expand(2, -1).contiguous(), torch.tensor([3, 1])
    tests = ("test_schema", "test_faketensor")
    ops = torch.ops.pyloc_core
    for reduce in ("mean", "none"):
        inputs = (given[0], given[1], geometry, depths, counts)
        volume = ops.plane_sweep(*inputs, reduce, 1, "")
        torch.library.opcheck(ops.plane_sweep, (*inputs, reduce, 1, ""), test_utils=tests)
        slope = (*inputs, torch.randn_like(volume), reduce, 1, "")
        torch.library.opcheck(ops.plane_sweep_backward, slope, test_utils=tests)
    sizes = (6, 9, 7, 8)
    for per_view in (False, True):
        arguments = (geometry, depths, counts, *sizes, per_view, 1, "")
        torch.library.opcheck(ops.plane_sweep_mask, arguments, test_utils=tests)
    compiled = torch.compile(pl.plane_sweep, fullgraph=True, backend="aot_eager")
    expected = with_gradient(pl.plane_sweep, given)
    for a, b in zip(with_gradient(compiled, given), expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    found, mask = compiled(*given, return_mask=True, num_valid=counts)
    volume, seen = pl.plane_sweep(*given, return_mask=True, num_valid=counts)
    torch.testing.assert_close(found, volume, rtol=1e-5, atol=1e-5)
    assert torch.equal(mask, seen)
    for same in (counts.tolist(), counts.numpy()):
        torch.testing.assert_close(compiled(*given, num_valid=same), volume, rtol=1e-5, atol=1e-5)


def test_compiled_calls_refuse_bad_values_as_well() -> None:
    given = scene((1, 2, 3, 4, 8)).tensors("float32")
    compiled = torch.compile(pl.plane_sweep, fullgraph=True, backend="aot_eager")
    for index, value, text in (
        (0, np.nan, "reference holds NaN"),
        (2, 0.0, "K_reference"),
        (5, -1.0, "depths must be positive"),
    ):
        bad = list(given)
        bad[index] = torch.full_like(given[index], value)
        with pytest.raises(ValueError, match=text):
            compiled(*bad)


@pytest.mark.parametrize("name", ["K_reference", "K_sources", "source_from_reference", "depths"])
def test_gradients_that_do_not_exist_are_refused(name: str) -> None:
    given = vars(scene())
    tensors = {n: torch.tensor(x) for n, x in given.items()}
    tensors[name].requires_grad_()
    with pytest.raises(ValueError, match=f"{name} requires a gradient"):
        pl.plane_sweep(**tensors)
    tensors["reference"].requires_grad_()
    with pytest.raises(ValueError, match=f"{name} requires a gradient"):
        pl.plane_sweep(**tensors)
    with torch.no_grad():
        assert torch.isfinite(pl.plane_sweep(**tensors)).all()


@pytest.mark.parametrize("number", [True, np.bool_(True), np.int32(1), 1.0])
def test_numbers_that_equal_one_count_one_view(number: Any) -> None:
    given = scene().tensors("float32")
    expected = pl.plane_sweep(given[0], given[1], *given[2:], num_valid=1)
    leaf = given[0].clone().requires_grad_()
    assert torch.equal(pl.plane_sweep(leaf, *given[1:], num_valid=number).detach(), expected)


def arrays_of(given: list[Any]) -> list[np.ndarray]:
    return [x.numpy() for x in given]


def test_empty_batches_and_arrays_beside_tensors() -> None:
    given = scene().tensors("float32")
    none = [x[:0].clone().requires_grad_(i < 2) for i, x in enumerate(given[:5])]
    volume = pl.plane_sweep(*none, given[5])
    volume.sum().backward()
    assert volume.shape == (0, 7, 6, 9) and none[1].grad.shape == none[1].shape
    leaf = given[0].clone().requires_grad_()
    arrays = [x.numpy() for x in given[2:]]
    found = pl.plane_sweep(leaf, given[1], *arrays)
    assert torch.equal(found.detach(), pl.plane_sweep(*given))
    for leaves in ((leaf, arrays_of(given)[1]), (arrays_of(given)[0], given[1].clone())):
        wanted = next(x for x in leaves if isinstance(x, torch.Tensor)).requires_grad_()
        (slope,) = torch.autograd.grad(pl.plane_sweep(*leaves, *arrays).sum(), wanted)
        assert slope.any()  # an array beside a tensor takes no gradient away
    mixed = pl.plane_sweep(given[0].half(), *given[1:])
    assert mixed.dtype == torch.float32  # of two dtypes, the wider
