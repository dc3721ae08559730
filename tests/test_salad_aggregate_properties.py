# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""SALAD's aggregation: what holds for every input, equal bits, refusals, memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyloc_core as pl

torch = pytest.importorskip("torch")


def problem(
    seed: int, leading: tuple[int, ...] = (2,), m: int = 6, n: int = 40, depth: int = 5, t: int = 3
) -> list[Any]:
    rng = np.random.default_rng(seed)
    sizes = ((m, n), (depth, n), (t,))
    scores, features, token = (rng.normal(size=(*leading, *s)).astype(np.float32) for s in sizes)
    return [2 * scores, features, token, 0.5]


def gradients(arrays: list[Any], slope: Any, **options: Any) -> list[Any]:
    leaves = [torch.from_numpy(x.copy()).requires_grad_() for x in arrays[:3]]
    dustbin = torch.tensor(arrays[3], requires_grad=True)
    out = pl.salad_aggregate(*leaves, dustbin, **options)
    out.backward(torch.as_tensor(slope).expand_as(out))
    return [out.detach().numpy()] + [x.grad.numpy() for x in (*leaves, dustbin)]


sizes = st.tuples(st.integers(1, 9), st.integers(1, 30), st.integers(1, 20), st.integers(1, 5))


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 10**6))
def test_properties(size: tuple[int, int, int, int], seed: int) -> None:
    m, more, depth, iterations = size
    s, f, g, z = problem(seed, (2,), m, m + more, depth, 3)
    rng = np.random.default_rng(seed + 1)
    found = pl.salad_aggregate(s, f, g, z, iterations=iterations)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-6)
    # The order of the patches does not count, that of the clusters is that of the descriptor.
    patches, clusters = rng.permutation(m + more), rng.permutation(m)
    shuffled = pl.salad_aggregate(s[..., patches], f[..., patches], g, z, iterations=iterations)
    np.testing.assert_allclose(shuffled, found, atol=5e-6)
    renamed = pl.salad_aggregate(s[:, clusters], f, g, z, iterations=iterations)
    expected = found[:, 3:].reshape(2, depth, m)[..., clusters].reshape(2, -1)
    np.testing.assert_allclose(renamed[:, 3:], expected, atol=5e-6)
    # Constants on the rows, the dustbin's among them, and the lengths of token and features move nothing.
    shift = rng.normal(size=(2, m, 1)).astype(np.float32)
    moved = pl.salad_aggregate(s + shift, 3 * f, 0.2 * g, z + 7, iterations=iterations)
    np.testing.assert_allclose(moved, found, atol=1e-5)
    slope = rng.normal(size=found.shape).astype(np.float32)
    _, d_scores, d_features, d_token, d_dustbin = gradients(
        [s, f, g, z], slope, iterations=iterations
    )
    scale = np.abs(d_scores).max() + 1e-3
    np.testing.assert_allclose(d_scores.sum(2), 0, atol=3e-5 * scale * np.sqrt(m + more))
    np.testing.assert_allclose((d_features * f).sum((1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose((d_token * g).sum(1), 0, atol=1e-5)
    assert d_dustbin == 0


def test_num_valid_has_the_bits_of_the_shorter_call() -> None:
    arrays = problem(1, (3,), 6, 300, 9)
    counts = [7, 193, 300]
    slope = np.random.default_rng(2).normal(size=(3, 57)).astype(np.float32)
    arrays[0][0, :, 7:], arrays[1][0, :, 7:] = np.nan, np.inf  # nobody looks there
    found = gradients(arrays, slope, num_valid=np.array(counts))
    for b, n in enumerate(counts):
        alone = [x[b : b + 1, ..., :n] for x in arrays[:2]] + [arrays[2][b : b + 1], arrays[3]]
        expected = gradients(alone, slope[b : b + 1])
        for ours, theirs in zip(found[:3], expected[:3]):
            assert np.array_equal(ours[b, ..., : theirs.shape[-1]], theirs[0]), b
            assert not ours[b, ..., theirs.shape[-1] :].any()
    numpy = pl.salad_aggregate(*arrays, num_valid=np.array(counts))
    assert np.array_equal(numpy, found[0])
    same = pl.salad_aggregate(*(x[1:] for x in arrays[:3]), 0.5, num_valid=100)
    short = [x[1:, ..., :100] for x in arrays[:2]]
    assert np.array_equal(same, pl.salad_aggregate(*short, arrays[2][1:], 0.5))


def test_bits_depend_neither_on_threads_nor_on_the_batch() -> None:
    arrays = problem(3, (5,), 16, 300, 33)
    slope = np.random.default_rng(2).normal(size=(5, 3 + 16 * 33)).astype(np.float32)
    found = [gradients(arrays, slope, num_threads=threads) for threads in (1, 2, 5)]
    for other in found[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found[0], other))
    alone = gradients([*(x[3:4] for x in arrays[:3]), 0.5], slope[3:4])
    assert all(np.array_equal(a[0], b[3]) for a, b in zip(alone[:4], found[0][:4]))


def test_masked_scores() -> None:
    """A patch that no cluster may take goes to the dustbin; a cluster without patches stays empty."""
    arrays = problem(4)
    arrays[0][0, :, 5] = -np.inf
    arrays[0][1, 2] = -np.inf
    slope = np.random.default_rng(2).normal(size=(2, 33)).astype(np.float32)
    out, d_scores, d_features, d_token, _ = gradients(arrays, slope)
    assert all(np.isfinite(x).all() for x in (out, d_scores, d_features, d_token))
    assert not d_scores[0, :, 5].any() and not d_features[0, :, 5].any()
    assert not d_scores[1, 2].any() and not out[1, 3:].reshape(5, 6)[:, 2].any()
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)
    wide = pl.salad_aggregate(*arrays, implementation="reference")
    np.testing.assert_allclose(out, wide, atol=1e-6)
    # An image without features has the token's direction alone, and one without either has none.
    arrays[1][0], arrays[1][1], arrays[2][1] = 0, 0, 0
    out, *found = gradients(arrays, slope)
    expected = [*(arrays[2][0] / np.linalg.norm(arrays[2][0])), *np.zeros(30)]
    np.testing.assert_allclose(out, [expected, np.zeros(33)], atol=1e-6)
    assert all(np.isfinite(x).all() for x in found)


def test_kinds_empty_and_strides() -> None:
    arrays = problem(5, (2, 3))
    expected = pl.salad_aggregate(*arrays)
    assert isinstance(expected, np.ndarray) and expected.shape == (2, 3, 33)
    tensors = [torch.from_numpy(x) for x in arrays[:3]]
    for dustbin in (
        0.5,
        np.float32(0.5),
        np.array(0.5),
        torch.tensor(0.5),
        torch.nn.Parameter(torch.tensor(0.5)),
    ):
        found = pl.salad_aggregate(*tensors, dustbin)
        assert np.array_equal(found.detach().numpy(), expected)
    half = pl.salad_aggregate(*(x.astype(np.float16) for x in arrays[:3]), 0.5)
    assert half.dtype == np.float16
    mixed = pl.salad_aggregate(tensors[0], tensors[1].bfloat16(), tensors[2], 0.5)
    assert mixed.dtype == torch.bfloat16
    across = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in tensors]
    assert np.array_equal(pl.salad_aggregate(*across, 0.5).numpy(), expected)
    backwards = [x[..., ::-1] for x in arrays[:2]]
    np.testing.assert_allclose(pl.salad_aggregate(*backwards, *arrays[2:]), expected, atol=2e-6)
    one = pl.salad_aggregate(*(x[0, 0] for x in arrays[:3]), 0.5)
    assert np.array_equal(one, expected[0, 0])
    assert pl.salad_aggregate(*(x[:0] for x in arrays[:3]), 0.5).shape == (0, 3, 33)
    leaves = [x[:0].clone().requires_grad_() for x in tensors]
    pl.salad_aggregate(*leaves, 0.5).sum().backward()
    assert leaves[1].grad.shape == (0, 3, 5, 40)
    without = pl.salad_aggregate(*arrays[:2], None, 0.5)
    np.testing.assert_allclose(without, expected[..., 3:] * np.sqrt(7 / 6), atol=1e-6)


def test_refusals() -> None:
    arrays = problem(6)
    s, f, g, z = arrays
    nan, big = s.copy(), f.copy()
    nan[1, 2, 3], big[0, 1, 2] = np.nan, np.inf
    plus = np.where(np.isnan(nan), np.inf, nan)
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((s[..., :6], f[..., :6], g, z), {}, "more patches than clusters"),
        ((s[:1], f, g, z), {}, "scores and features"),
        ((s, f[..., :-1], g, z), {}, "scores and features"),
        ((s, f[:, :0], g, z), {}, "features must have at least one row"),
        ((s[:, :0], f, g, z), {}, "scores must have at least one row"),
        ((s, f, g[:1], z), {}, "token must have shape"),
        ((s, f, g[:, :0], z), {}, "token must have shape"),
        ((s[0, 0], f, g, z), {}, "scores must have"),
        ((nan, f, g, z), {}, "scores holds NaN"),
        ((plus, f, g, z), {}, "scores holds NaN"),
        ((s, big, g, z), {}, "features holds NaN"),
        ((s, np.float32(3e38) * np.sign(f), g, z), {}, "leave float32"),
        ((s, f, g * np.nan, z), {}, "token holds NaN"),
        ((s, f, g, np.nan), {}, "dustbin holds NaN"),
        ((s, f, g, np.ones(2)), {}, "dustbin must"),
        (tuple(arrays), {"num_valid": 6}, "num_valid"),
        (tuple(arrays), {"num_valid": 41}, "num_valid"),
        (tuple(arrays), {"num_valid": np.array([7, 8, 9])}, "num_valid"),
        (tuple(arrays), {"num_valid": np.array([7.5, 8])}, "num_valid"),
        (tuple(arrays), {"iterations": 0}, "iterations"),
        (tuple(arrays), {"num_threads": 0}, "num_threads"),
        (tuple(arrays), {"implementation": "cuda"}, "implementation"),
    ]
    for given_, options, text in cases:
        with pytest.raises(ValueError, match=text):
            pl.salad_aggregate(*given_, **options)
        leaves = [torch.from_numpy(np.array(x)).requires_grad_() for x in given_[:3]]
        dustbin = torch.as_tensor(np.array(given_[3], np.float32))
        with pytest.raises(
            ValueError, match=text.replace("dustbin must", "dustbin must have shape")
        ):
            pl.salad_aggregate(*leaves, dustbin, **options)
    with pytest.raises(TypeError, match="iterations"):
        pl.salad_aggregate(*arrays, iterations=2.5)
    with pytest.raises(TypeError, match="features"):
        pl.salad_aggregate(s, f.astype(str), g, z)


MEMORY = """
import re
from pathlib import Path
import numpy as np
import torch
import pyloc_core as pl

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

rng = np.random.default_rng(0)
sizes = ((4, 64, 2116), (4, 128, 2116), (4, 256))
given = [torch.from_numpy(rng.standard_normal(s, dtype=np.float32)).requires_grad_() for s in sizes]

def both(items):
    out = pl.salad_aggregate(*(x[:items] for x in given), 1.0, num_threads=1)
    out.square().sum().backward()

both(1)
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
before = resident("VmRSS")
both(4)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_of_size_n_m_l_is_stored() -> None:
    """4 images of 46 x 46 patches: the published form stores 69 MB per image, several times over. Here the
    results and gradients take 13 MB, a thread's working memory 3 MB."""
    command = [sys.executable, "-c", MEMORY]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 0 < int(output) < 40e6
