# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""nre_loss: exact cases, the dense form in float64, gradients, masks, padding, threads, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyloc_core as pc

torch = pytest.importorskip("torch")
SIZES = st.sampled_from([1, 2, 3, 5, 9, 17, 40])
NAMES = ("loss", "descriptors", "features", "targets")


def problem(
    shape: tuple[int, int, int, int, int], seed: int, dtype: Any = torch.float64
) -> list[Any]:
    """Descriptors, features, targets of B, N, D, H, W; leaves that take gradients."""
    batch, count, depth, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(batch, count, depth, generator=generator, dtype=torch.float64)
    f = torch.randn(batch, depth, height, width, generator=generator, dtype=torch.float64)
    size = torch.tensor([width - 1, height - 1])
    t = torch.rand(batch, count, 2, generator=generator, dtype=torch.float64) * size
    return [x.requires_grad_() for x in ((2 * h / depth**0.5).to(dtype), f.to(dtype), t)]


def dense(h: Any, f: Any, t: Any, temperature: float = 1.0) -> Any:
    """A second derivation: log_softmax over the map, read by torch's own grid_sample."""
    batch, count = h.shape[:2]
    height, width = f.shape[2:]
    c = torch.einsum("bnd,bdhw->bnhw", h, f) / temperature
    log_p = c.flatten(2).log_softmax(2).reshape(batch * count, 1, height, width)
    scale = 2 / torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=torch.float64)
    grid = (t * scale - 1).reshape(batch * count, 1, 1, 2)
    read = torch.nn.functional.grid_sample(
        log_p, grid.to(log_p), align_corners=True, padding_mode="border"
    )
    return -read.reshape(batch, count)


def with_gradients(loss: Any, arrays: list[Any], seed: int = 5) -> list[Any]:
    """The loss, and the gradients of a random weighting of it."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(loss.shape, generator=generator, dtype=torch.float64)
    return [loss.detach(), *torch.autograd.grad((loss * weights).sum(), arrays)]


def assert_close(found: list[Any], expected: list[Any], tolerance: float) -> None:
    for name, a, b in zip(NAMES, found, expected, strict=True):
        torch.testing.assert_close(
            a.double(),
            b.double(),
            atol=tolerance,
            rtol=tolerance,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_equal_correlations_give_ln_of_the_cells() -> None:
    loss = pc.nre_loss(np.zeros((3, 4)), np.ones((4, 5, 7)), np.ones((3, 2)))
    np.testing.assert_allclose(loss, np.full(3, math.log(35)), rtol=1e-12)


def test_two_cells_by_hand() -> None:
    """Logits 0 and 2 side by side; at x the loss is ln(1 + e^2) - 2 x, its derivative -2."""
    h, f = np.ones((3, 1)), np.array([[[0.0, 2.0]]])
    xy = np.array([[0.0, 0.0], [0.25, 0.0], [1.0, 0.0]])
    expected = math.log(1 + math.exp(2)) - 2 * xy[:, 0]
    np.testing.assert_allclose(pc.nre_loss(h, f, xy), expected, rtol=1e-14)
    t = torch.tensor(xy, requires_grad=True)
    pc.nre_loss(torch.tensor(h), torch.tensor(f), t).sum().backward()
    np.testing.assert_allclose(t.grad, [[-2, 0]] * 3, rtol=1e-14)


def test_whole_targets_read_one_cell(rng: np.random.Generator) -> None:
    """At a cell's centre the loss is -ln C there, the border included: what `match` gives at its peak."""
    h, f = rng.standard_normal((30, 16)), rng.standard_normal((16, 9, 13))
    found = pc.match(h, f)
    loss = pc.nre_loss(h.astype(np.float32), f.astype(np.float32), found.xy)
    np.testing.assert_allclose(loss, -found.log_probability, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), SIZES, SIZES, SIZES, SIZES, st.integers(0, 2**31))
def test_equals_the_dense_form_in_float64(
    batch: int, n: int, d: int, h: int, w: int, seed: int
) -> None:
    arrays = problem((batch, n, d, h, w), seed)
    expected = with_gradients(dense(*arrays, 0.7), arrays)
    found = with_gradients(pc.nre_loss(*arrays, temperature=0.7), arrays)
    assert_close(found, expected, 1e-10)
    reference = pc.nre_loss(*arrays, temperature=0.7, implementation="reference")
    assert_close(with_gradients(reference, arrays), expected, 1e-10)


@pytest.mark.parametrize("shape", [(2, 70, 130, 33, 41), (1, 200, 64, 1, 2000), (1, 65, 3, 900, 2)])
def test_equals_the_dense_form_over_many_tiles(shape: tuple[int, int, int, int, int]) -> None:
    arrays = problem(shape, 3)
    found = with_gradients(pc.nre_loss(*arrays), arrays)
    assert_close(found, with_gradients(dense(*arrays), arrays), 1e-10)
    single = [*(x.detach().float().requires_grad_() for x in arrays[:2]), arrays[2]]
    assert_close(with_gradients(pc.nre_loss(*single), single), found, 2e-5)


@pytest.mark.parametrize("temperature", [0.02, 3.0])
def test_gradcheck(temperature: float) -> None:
    arrays = problem((2, 5, 4, 6, 7), 11)
    assert torch.autograd.gradcheck(
        lambda h, f, t: pc.nre_loss(h, f, t, temperature=temperature), arrays
    )


def test_the_derivative_on_the_last_cell_is_the_one_from_inside() -> None:
    h, f, _ = problem((1, 3, 4, 5, 6), 12)
    xy = torch.tensor([[[5.0, 4.0], [5.0, 1.5], [0.0, 0.0]]], dtype=torch.float64)
    t = xy.clone().requires_grad_()
    pc.nre_loss(h, f, t).sum().backward()
    step = 1e-6 * torch.tensor([[-1.0, -1.0], [-1.0, -1.0], [1.0, 1.0]])
    for axis in (0, 1):
        moved = xy.clone()
        moved[0, :, axis] += step[:, axis]
        slope = (pc.nre_loss(h, f, moved) - pc.nre_loss(h, f, xy)) / step[:, axis]
        torch.testing.assert_close(slope[0], t.grad[0, :, axis], atol=1e-5, rtol=1e-5)


def test_large_logits_keep_their_digits() -> None:
    """Correlations of a thousand: the log-sum-exp is taken from its peak."""
    arrays = problem((1, 20, 16, 9, 11), 13)
    hard = [(700 * arrays[0]).detach().requires_grad_(), *arrays[1:]]
    found = with_gradients(pc.nre_loss(*hard), hard)
    assert all(bool(torch.isfinite(x).all()) for x in found)
    assert_close(found, with_gradients(dense(*hard), hard), 1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_is_no_worse_than_the_dense_form(dtype: str) -> None:
    kind = getattr(torch, dtype)
    arrays = problem((1, 90, 96, 30, 44), 14, kind)
    exact = [x.detach().double().requires_grad_() for x in arrays]
    expected = with_gradients(dense(*exact), exact)
    found = with_gradients(pc.nre_loss(*arrays), arrays)
    naive = with_gradients(dense(*arrays), arrays)
    assert found[0].dtype == torch.float32 and found[1].dtype == found[2].dtype == kind
    for name, ours, plain, truth in zip(NAMES, found, naive, expected):
        scale = truth.abs().max()
        error = (ours.double() - truth).abs().max() / scale
        assert error <= (plain.double() - truth).abs().max() / scale + 1e-6, name
        assert error < 0.01, name
    torch.testing.assert_close(found[0].double(), expected[0], atol=2e-5, rtol=2e-5)


def test_mixed_dtypes_meet_in_the_wider_one() -> None:
    h, f, t = problem((1, 9, 5, 6, 7), 15)
    low, single = f.detach().bfloat16(), h.detach().float()
    assert torch.equal(pc.nre_loss(single, low, t), pc.nre_loss(single, low.float(), t))
    assert pc.nre_loss(h, f.float(), t).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layouts_give_the_same_bits(dtype: Any) -> None:
    h, f, t = (x.detach() for x in problem((2, 66, 9, 31, 30), 16, dtype))
    last = f.contiguous(memory_format=torch.channels_last)
    wide = torch.stack([f, -f], -1)[..., 0]
    turned = f.transpose(2, 3).contiguous().transpose(2, 3)
    results = []
    for g in (f, last, wide, turned):
        arrays = [h.clone().requires_grad_(), g.requires_grad_(), t.clone().requires_grad_()]
        results.append(with_gradients(pc.nre_loss(*arrays), arrays))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))
    with torch.no_grad():
        strided = pc.nre_loss(
            h.transpose(1, 2).contiguous().transpose(1, 2), f, t.flip(-1).flip(-1)
        )
    assert torch.equal(strided, results[0][0])


def test_numpy_and_single_items_agree_with_the_batch() -> None:
    h, f, t = (x.detach() for x in problem((2, 8, 5, 6, 7), 17))
    batch = pc.nre_loss(h, f, t)
    arrays = pc.nre_loss(h.numpy(), f.numpy(), t.numpy())
    assert isinstance(arrays, np.ndarray) and arrays.dtype == np.float64
    np.testing.assert_array_equal(arrays, batch)
    for b in range(2):
        assert torch.equal(pc.nre_loss(h[b], f[b], t[b]), batch[b])
        found = pc.nre_loss(h[b].numpy(), f[b].numpy(), t[b].numpy(), implementation="reference")
        np.testing.assert_allclose(found, batch[b], rtol=1e-12)
    single = pc.nre_loss(h[0].float().numpy(), f[0].float().numpy(), t[0].numpy())
    assert single.dtype == np.float32


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_reductions(library: str) -> None:
    h, f, t = (x.detach() for x in problem((2, 8, 5, 6, 7), 18))
    if library == "numpy":
        h, f, t = h.numpy(), f.numpy(), t.numpy()
    loss = pc.nre_loss(h, f, t)
    assert float(pc.nre_loss(h, f, t, reduction="sum")) == pytest.approx(float(loss.sum()))
    assert float(pc.nre_loss(h, f, t, reduction="mean")) == pytest.approx(float(loss.mean()))
    mean = pc.nre_loss(h, f, t, reduction="mean", num_valid=[3, 8])
    assert float(mean) == pytest.approx(float((loss[0, :3].sum() + loss[1].sum()) / 11))
    assert float(pc.nre_loss(h, f, t, reduction="mean", num_valid=[0, 0])) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_padding_changes_no_bit(dtype: Any) -> None:
    arrays = problem((2, 70, 12, 29, 31), 19, dtype)
    counts = [65, 3]
    found = with_gradients(pc.nre_loss(*arrays, num_valid=counts), arrays)
    spoiled = [x.detach().clone() for x in arrays]
    for b, n in enumerate(counts):
        spoiled[0][b, n:] = float("nan")
        spoiled[2][b, n:] = float("inf")
    spoiled = [x.requires_grad_() for x in spoiled]
    again = with_gradients(pc.nre_loss(*spoiled, num_valid=torch.tensor(counts)), spoiled)
    assert all(torch.equal(a, b) for a, b in zip(found, again))
    weights = torch.randn(2, 70, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for b, n in enumerate(counts):
        item = [x.detach()[b, :n] if i != 1 else x.detach()[b] for i, x in enumerate(arrays)]
        item = [x.clone().requires_grad_() for x in item]
        loss = pc.nre_loss(*item)
        assert torch.equal(loss, found[0][b, :n]) and not found[0][b, n:].any()
        gradients = torch.autograd.grad((loss * weights[b, :n]).sum(), item)
        assert torch.equal(gradients[1], found[2][b])
        for a, whole in zip(gradients[::2], found[1::2]):
            assert torch.equal(a, whole[b, :n]) and not whole[b, n:].any()


@pytest.mark.parametrize("implementation", [None, "reference"])
@pytest.mark.parametrize("bad", [math.nan, -0.01, 6.01, math.inf])
def test_targets_outside_are_refused_or_masked(bad: float, implementation: str | None) -> None:
    h, f, t = problem((2, 6, 5, 4, 7), 20)
    clean = with_gradients(pc.nre_loss(h, f, t, num_valid=[6, 4]), [h, f, t])
    xy = t.detach().clone()
    xy[1, 4, 0] = bad
    spoiled = [h, f, xy.requires_grad_()]
    options = {"implementation": implementation}
    with pytest.raises(ValueError, match=r"1 of 12 .* targets\[1, 4\] = .*\[0, 6\]") as error:
        pc.nre_loss(*spoiled, **options)
    assert "outside='mask'" in str(error.value)
    with pytest.raises(ValueError, match=r"1 of 6 .* targets\[4\]"):
        pc.nre_loss(*(x[1].detach().numpy() for x in spoiled), **options)
    masked = pc.nre_loss(*spoiled, outside="mask", num_valid=[6, 5], **options)
    assert_close(with_gradients(masked, spoiled), clean, 1e-12)
    mean = pc.nre_loss(*spoiled, outside="mask", num_valid=[6, 5], reduction="mean", **options)
    assert mean.item() == pytest.approx(clean[0].sum().item() / 10)
    ignored = pc.nre_loss(*spoiled, num_valid=[6, 4], **options)  # beyond num_valid: not looked at
    assert_close(with_gradients(ignored, spoiled), clean, 1e-12)


def test_all_points_masked_give_zero() -> None:
    h, f, t = problem((1, 4, 5, 4, 7), 21)
    far = (t.detach() - 50).requires_grad_()
    loss = pc.nre_loss(h, f, far, outside="mask", reduction="mean")
    assert loss.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(loss, (h, f, far)))


def test_the_origin_moves_the_map() -> None:
    h, f, t = (x.detach() for x in problem((1, 6, 5, 4, 7), 22))
    shift = torch.tensor([-40.0, 30.0])
    found = pc.nre_loss(h, f, t + shift, origin=(-40, 30))
    torch.testing.assert_close(found, pc.nre_loss(h, f, t), atol=1e-12, rtol=1e-12)
    reference = pc.nre_loss(h, f, t + shift, origin=(-40, 30), implementation="reference")
    torch.testing.assert_close(found, reference, atol=1e-12, rtol=1e-12)
    with pytest.raises(ValueError, match=r"x must lie in \[-40, -34\] and y in \[30, 33\]"):
        pc.nre_loss(h, f, t, origin=(-40, 30))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_threads_change_no_bit(dtype: Any) -> None:
    arrays = problem((2, 150, 33, 40, 61), 23, dtype)
    one = with_gradients(pc.nre_loss(*arrays, num_threads=1), arrays)
    for threads in (2, 3, 8):
        other = with_gradients(pc.nre_loss(*arrays, num_threads=threads), arrays)
        assert all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_agrees(isa: str) -> None:
    before = pc.build_info()["isa"]
    try:
        pc.set_isa(isa)
    except ValueError:
        pytest.skip(f"this processor has no {isa}")
    try:
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            arrays = problem((1, 130, 47, 9, 100), 27, dtype)
            exact = [x.detach().double().requires_grad_() for x in arrays]
            found = with_gradients(pc.nre_loss(*arrays), arrays)
            assert_close(found, with_gradients(dense(*exact), exact), tolerance)
    finally:
        pc.set_isa(before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1e-7, 1e-5, 1.0, 3e4])
def test_gradients_are_rounded_to_nearest(dtype: str, scale: float) -> None:
    """The accumulators are float32: 16-bit gradients are theirs, rounded once; subnormals and all."""
    kind = getattr(torch, dtype)
    h, f, t = (x.detach() for x in problem((1, 40, 24, 17, 31), 28, torch.float32))
    f = f.to(kind)
    pc.nre_loss(h, f, t)
    rest = (None, 1.0, [0.0, 0.0], False)
    statistics = torch.ops.pyloc_core.nre_loss_forward(h, f, t, *rest, False, "", 1)[1]
    weights = scale * torch.randn(1, 40, generator=torch.Generator().manual_seed(1))
    low, single = (
        torch.ops.pyloc_core.nre_loss_backward(weights, statistics, h, g, t, *rest, "", 1)
        for g in (f, f.float())
    )
    assert single.any() and torch.equal(low, single.to(kind))


def test_empty_batches() -> None:
    for shape in ((0, 4, 5, 3, 3), (2, 0, 5, 3, 3)):
        arrays = problem(shape, 24)
        loss = pc.nre_loss(*arrays)
        assert loss.shape == shape[:2]
        gradients = torch.autograd.grad(loss.sum(), arrays)
        assert [g.shape for g in gradients] == [x.shape for x in arrays]
        assert not gradients[1].any()
    assert pc.nre_loss(np.empty((0, 5)), np.ones((5, 3, 4)), np.empty((0, 2))).shape == (0,)


def test_gradients_only_where_they_are_asked_for() -> None:
    h, f, t = problem((1, 6, 5, 4, 7), 25)
    whole = with_gradients(pc.nre_loss(h, f, t), [h, f, t])
    for i in range(3):
        arrays = [x.detach().clone() for x in (h, f, t)]
        arrays[i].requires_grad_()
        found = with_gradients(pc.nre_loss(*arrays), [arrays[i]])
        torch.testing.assert_close(found[1], whole[1 + i], atol=1e-13, rtol=1e-13)
    assert not pc.nre_loss(*(x.detach() for x in (h, f, t))).requires_grad


def test_double_backward_is_refused() -> None:
    arrays = problem((1, 3, 4, 5, 6), 26)
    with pytest.raises(RuntimeError, match="once"):
        torch.autograd.grad(pc.nre_loss(*arrays).sum(), arrays[0], create_graph=True)
    loss = pc.nre_loss(*arrays, implementation="reference").sum()
    (first,) = torch.autograd.grad(loss, arrays[0], create_graph=True)
    assert torch.autograd.grad(first.square().sum(), arrays[0])[0].any()


H, F, T = np.ones((3, 4)), np.ones((4, 5, 6)), np.ones((3, 2))


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ((H[0], F, T), {}, ValueError, "descriptors must have shape"),
        ((H, F[0], T), {}, ValueError, "features must have shape"),
        ((H, F, T[0]), {}, ValueError, "targets must have shape"),
        ((H, F, np.ones((3, 3))), {}, ValueError, "targets must have shape"),
        ((H[None], F, T[None]), {}, ValueError, r"features must have shape \(B, D, H, W\)"),
        ((H[None], F[None][[0, 0]], T[None]), {}, ValueError, "same batch size"),
        ((H, F, T[:2]), {}, ValueError, "descriptors and targets must have the same length"),
        ((H, F[:3], T), {}, ValueError, "same number of channels"),
        ((H[:, :0], F[:0], T), {}, ValueError, "at least one channel"),
        ((H, F[:, :0], T), {}, ValueError, "at least one cell"),
        ((H, F.astype(complex), T), {}, TypeError, "features must hold real"),
        ((H * np.nan, F, T), {}, ValueError, "descriptors holds NaN"),
        ((H, F * np.inf, T), {}, ValueError, "features holds NaN"),
        ((H.astype("f4") * 1e30, F.astype("f4") * 1e30, T), {}, ValueError, "too large"),
        ((H, F, T), {"temperature": 0}, ValueError, "temperature"),
        ((H, F, T), {"outside": "clamp"}, ValueError, "outside must be"),
        ((H, F, T), {"reduction": "max"}, ValueError, "reduction must be"),
        ((H, F, T), {"origin": 3}, TypeError, "origin"),
        ((H, F, T), {"origin": (0, np.nan)}, ValueError, "origin"),
        ((H, F, T), {"num_valid": 4}, ValueError, "num_valid must lie between 0 and N = 3"),
        ((H, F, T), {"num_valid": [1, 2]}, ValueError, "num_valid must have shape"),
        ((H, F, T), {"num_valid": 1.5}, TypeError, "num_valid must hold integers"),
        ((H, F, T), {"num_threads": 0}, ValueError, "num_threads"),
        ((H, F, T), {"implementation": "magic"}, ValueError, "implementation"),
    ],
)
def test_refusals(
    library: str, arrays: Any, options: dict[str, Any], error: Any, message: str
) -> None:
    if library == "torch":
        arrays = tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in arrays)
    with pytest.raises(error, match=message):
        pc.nre_loss(*arrays, **options)
