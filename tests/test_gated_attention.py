# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Gated attention: by hand, against float64, its gradient, and as torch sees it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")

# (leading dimensions), heads, N, M, d, dv: odd sizes, several chunks of keys and blocks of queries, deep heads.
SHAPES = [
    ((), 1, 1, 1, 1, 1),
    ((2,), 3, 5, 7, 3, 2),
    ((), 2, 97, 129, 130, 33),
    ((1, 2), 2, 200, 300, 16, 8),
    ((), 1, 3, 9000, 8, 5),  # more keys than a strip holds
]


def arguments(shape: Any, seed: int, spread: float = 1.0) -> tuple[Any, Any, Any]:
    leading, h, n, m, d, dv = shape
    g = torch.Generator().manual_seed(seed)
    sizes = ((n, d), (m, d), (m, dv))
    q, k, v = (torch.randn(*leading, h, *s, generator=g, dtype=torch.float64) for s in sizes)
    return spread * q, spread * k, v


def plain(q: Any, k: Any, v: Any, scale: float = 1.0) -> Any:
    scores = scale * q @ k.transpose(-1, -2)
    gate = torch.sigmoid(scores.amax(-1, keepdim=True))
    return torch.softmax(gate * scores, -1) @ v


def worst(found: Any, truth: Any) -> float:
    return float((found.detach().double() - truth).abs().max() / truth.abs().max().clamp_min(1e-3))


def test_by_hand() -> None:
    """Scores 0 and ln 3 give the gate 3 / 4 and weights 1 to 3^(3/4)."""
    q, k = np.array([[[1.0]]], np.float32), np.array([[[0.0], [np.log(3.0)]]], np.float32)
    v = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)
    w = 3.0**0.75
    out = pl.gated_attention(q, k, v)
    np.testing.assert_allclose(out, [[[1 / (1 + w), w / (1 + w)]]], rtol=1e-6)
    # Very negative scores close the gate: the mean of the values, whatever the differences.
    np.testing.assert_allclose(pl.gated_attention(q, k - 40, v), [[[0.5, 0.5]]], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_forward_and_gradient_equal_the_plain_form(shape: Any, dtype: str) -> None:
    q, k, v = (t.to(getattr(torch, dtype)).requires_grad_() for t in arguments(shape, 1, 0.6))
    wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
    truth = plain(*wide, scale=0.7)
    found = pl.gated_attention(q, k, v, scale=0.7)
    assert found.dtype == q.dtype and found.shape == truth.shape
    slope = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2)).to(q.dtype)
    truth.backward(slope.double())
    found.backward(slope)
    tolerance = {"float32": 5e-6, "bfloat16": 8e-3, "float16": 1e-3}[dtype]
    assert worst(found, truth.detach()) < tolerance
    for ours, theirs in zip((q, k, v), wide):
        assert ours.grad.dtype == q.dtype
        assert worst(ours.grad, theirs.grad) < 2 * tolerance
    reference = pl.gated_attention(q.detach(), k.detach(), v.detach(), scale=0.7,
                                   implementation="reference")  # fmt: skip
    torch.testing.assert_close(reference, truth.detach(), rtol=1e-12, atol=1e-12)


def test_precision_is_no_worse_than_eager() -> None:
    """Architecture, error rule 7: against float64, on scores large enough to matter."""
    q, k, v = arguments(((2,), 4, 150, 700, 96, 96), 5)
    truth = plain(q, k, v)
    for dtype in (torch.float32, torch.bfloat16):
        low = [t.to(dtype) for t in (q, k, v)]
        truth = plain(*(t.double() for t in low))
        eager, ours = worst(plain(*low), truth), worst(pl.gated_attention(*low), truth)
        assert ours <= 1.2 * eager + 1e-7, (dtype, ours, eager)


def test_num_valid_hides_the_other_keys() -> None:
    q, k, v = (t.float() for t in arguments(((3,), 2, 130, 300, 8, 4), 3))
    counts = [1, 140, 300]
    found = pl.gated_attention(q, k, v, num_valid=np.array(counts))
    for b, n in enumerate(counts):
        alone = pl.gated_attention(q[b], k[b, :, :n], v[b, :, :n])
        torch.testing.assert_close(found[b], alone, rtol=0, atol=2e-6)
    k.requires_grad_(), v.requires_grad_()
    pl.gated_attention(q, k, v, num_valid=torch.tensor(counts)).square().sum().backward()
    assert not k.grad[1, :, 140:].any() and not v.grad[1, :, 140:].any()
    assert k.grad[1, :, :140].any() and torch.isfinite(k.grad).all()
    seven = pl.gated_attention(q, k.detach(), v.detach(), num_valid=7)
    torch.testing.assert_close(
        seven, pl.gated_attention(q, k[..., :7, :].detach(), v[..., :7, :].detach())
    )


@pytest.mark.parametrize("valid", [None, (4, 2)])
def test_gradcheck(valid: Any) -> None:
    """The explicit gradient against finite differences, through the operator, in float64."""
    inputs = [t.requires_grad_() for t in arguments(((2,), 2, 3, 4, 3, 2), 7)]
    counts = None if valid is None else torch.tensor(valid)

    def form(*a: Any) -> Any:
        return pl.gated_attention(*a, scale=0.8, num_valid=counts)

    assert torch.autograd.gradcheck(form, inputs)


def test_the_first_of_equal_maxima_takes_the_gradient() -> None:
    q, k, v = (t.float() for t in arguments(((), 1, 1, 3, 2, 2), 9))
    k[0, 2] = k[0, 1] = 2 * q[0, 0]  # keys 1 and 2 tie for the maximum
    k.requires_grad_()
    pl.gated_attention(q, k, v).sum().backward()
    wide = [t.detach().double() for t in (q, k, v)]
    wide[1].requires_grad_()
    wide[1].data[0, 2] -= 1e-9 * wide[0][0, 0]  # so that key 1 alone is the maximum
    plain(*wide).sum().backward()
    torch.testing.assert_close(k.grad.double(), wide[1].grad, rtol=1e-5, atol=1e-6)


def test_opcheck() -> None:
    q, k, v = (t.float() for t in arguments(((), 2, 5, 6, 4, 3), 11))
    q, k, v = q[None], k[None], v[None]
    pl.gated_attention(q.clone().requires_grad_(), k, v)  # registers
    valid, options = torch.tensor([4]), (1.0, 1, "")
    forward = torch.ops.pyloc_core.gated_attention(q, k, v, valid, *options)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.pyloc_core.gated_attention, (q, k, v, valid, *options),
                          test_utils=tests)  # fmt: skip
    slope = torch.randn(forward[0].shape, generator=torch.Generator().manual_seed(1))
    arguments_ = (q, k, v, None, *forward, slope, *options)
    torch.library.opcheck(
        torch.ops.pyloc_core.gated_attention_backward, arguments_, test_utils=tests
    )


def test_compiles_in_one_graph() -> None:
    q, k, v = (t.float().requires_grad_() for t in arguments(((2,), 2, 9, 12, 6, 4), 13))

    def form(q: Any, k: Any, v: Any) -> Any:
        return pl.gated_attention(2 * q, k, v, scale=0.5).tanh()

    eager = form(q, k, v)
    eager.sum().backward()
    expected = [t.grad.clone() for t in (q, k, v)]
    q.grad = k.grad = v.grad = None
    compiled = torch.compile(form, fullgraph=True, backend="aot_eager")
    found = compiled(q, k, v)
    found.sum().backward()
    torch.testing.assert_close(found, eager, rtol=0, atol=1e-6)
    for t, g in zip((q, k, v), expected):
        torch.testing.assert_close(t.grad, g, rtol=0, atol=1e-6)


def test_gradient_bits_do_not_depend_on_threads() -> None:
    grads = []
    for threads in (1, 2, 5):
        q, k, v = (t.float().requires_grad_() for t in arguments(((), 2, 900, 300, 20, 12), 15))
        pl.gated_attention(q, k, v, num_threads=threads).square().sum().backward()
        grads.append([t.grad.numpy().tobytes() for t in (q, k, v)])
    assert grads[0] == grads[1] == grads[2]


def test_kinds_empty_and_strides() -> None:
    q, k, v = (t.float() for t in arguments(((2,), 2, 6, 5, 4, 3), 17))
    expected = pl.gated_attention(q, k, v)
    assert isinstance(pl.gated_attention(q.numpy(), k.numpy(), v.numpy()), np.ndarray)
    half = pl.gated_attention(*(t.numpy().astype(np.float16) for t in (q, k, v)))
    assert half.dtype == np.float16
    across = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    assert torch.equal(pl.gated_attention(*across), expected)
    mixed = pl.gated_attention(q.bfloat16(), k, v)
    assert mixed.dtype == torch.float32
    assert pl.gated_attention(q[:, :, :0], k, v).shape == (2, 2, 0, 3)
    assert pl.gated_attention(q[:0], k[:0], v[:0]).shape == (0, 2, 6, 3)
    k.requires_grad_()
    pl.gated_attention(q[:, :, :0], k, v).sum().backward()
    assert not k.grad.any()


def test_refusals() -> None:
    q, k, v = (t.float() for t in arguments(((2,), 2, 6, 5, 4, 3), 19))
    for bad, text in (
        ({"scale": 0.0}, "scale"),
        ({"num_valid": 0}, "num_valid"),
        ({"num_valid": 6}, "num_valid"),
        ({"num_valid": np.array([1, 2, 3])}, "num_valid"),
        ({"num_valid": np.array([1.5, 2])}, "num_valid"),
        ({"num_valid": torch.tensor([0, 2])}, "num_valid"),
        ({"implementation": "cuda"}, "implementation"),
    ):
        for tensors in ((q, k, v), (q.clone().requires_grad_(), k, v)):
            with pytest.raises(ValueError, match=text):
                pl.gated_attention(*tensors, **bad)
    for bad, text in (((q, k[:1], v), "keys"), ((q, k, v[..., :-1, :]), "values"),
                      ((q[0, 0], k, v), "queries"), ((q, k[..., :0, :], v[..., :0, :]), "keys"),
                      ((q, k, v[..., :0]), "values")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            pl.gated_attention(*bad)
        with pytest.raises(ValueError, match=text):
            pl.gated_attention(*(t.clone().requires_grad_() for t in bad))
    with pytest.raises(ValueError, match="keys holds NaN"):
        pl.gated_attention(q, k * torch.nan, v)
    with pytest.raises(ValueError, match="float32"):
        pl.gated_attention(1e30 * q, 1e30 * k, v)


MEMORY = """
import re
from pathlib import Path
import numpy as np
import pyloc_core as pl

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((1, 2, 12000, 32), dtype=np.float32) for _ in range(3))
pl.gated_attention(q[:, :, :9], k[:, :, :9], v[:, :, :9], num_threads=1)
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
before = resident("VmRSS")
assert np.isfinite(pl.gated_attention(q, k, v, num_threads=1)).all()
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_map_is_not_stored() -> None:
    """12000 queries and keys, 2 heads: the map would take 1.2 GB; packed keys and values take 6 MB."""
    command = [sys.executable, "-c", MEMORY]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 0 < int(output) < 24e6
