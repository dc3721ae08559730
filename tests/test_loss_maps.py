# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse loss maps of descriptors in dense features, against the float64 oracle."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyloc_core
from pyloc_core import LossMaps, local_loss_maps, loss_maps, match


def problem(
    seed: int, n: int = 20, d: int = 32, h: int = 30, w: int = 41, sharp: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    descriptors = rng.standard_normal((n, d), dtype=np.float32)
    return descriptors, rng.standard_normal((d, h, w), dtype=np.float32) * np.float32(sharp)


def check_equal(got: LossMaps, expected: LossMaps) -> None:
    """Same live cells, up to those that rounding moves across the truncation or the limit."""
    cells = [set(zip(np.repeat(np.arange(len(m)), m.entries_per_map).tolist(), *m.xy.T.tolist()))
             for m in (got, expected)]  # fmt: skip
    assert len(cells[0] ^ cells[1]) <= 2 + len(cells[1]) // 500
    np.testing.assert_allclose(got.dense(), expected.dense(), atol=2e-3)
    np.testing.assert_allclose(got.peak_gain, expected.peak_gain, atol=2e-5)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("sharp", [0.05, 0.5, 2.0])
def test_against_the_reference(isa: str, sharp: float) -> None:
    pytest.importorskip("torch")
    before = pyloc_core.build_info()["isa"]
    try:
        pyloc_core.set_isa(isa)
    except ValueError:
        pytest.skip(f"this processor has no {isa}")
    try:
        for shape in ({}, {"h": 1, "w": 1}, {"h": 1, "w": 900}, {"n": 1, "d": 1}, {"n": 70}):
            args = problem(1, sharp=sharp, **shape)
            for options in ({}, {"max_entries": "all"}, {"max_entries": 7, "temperature": 2.0}):
                got = loss_maps(*args, **options)
                check_equal(got, loss_maps(*args, **options, implementation="reference"))
                assert got.origins is None and got.size == args[1].shape[1:]
    finally:
        pyloc_core.set_isa(before)


def test_by_hand() -> None:
    h, f = problem(2, n=3, d=5, h=4, w=6)
    logits = np.einsum("nd,dhw->nhw", h.astype(float), f).reshape(3, -1) / 0.7
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    maps = loss_maps(h, f, temperature=0.7)
    assert maps.log_cardinality == pytest.approx(math.log(25))
    expected = np.minimum(math.log(25), -np.log(p)).reshape(3, 4, 6)
    np.testing.assert_allclose(maps.dense(), expected, atol=1e-5)


def test_the_limit_keeps_the_largest_gains() -> None:
    args = problem(3, n=9, h=60, w=70, sharp=0.02)
    everything = loss_maps(*args, max_entries="all")
    assert everything.entries_per_map.min() > 1000
    for limit, asked in ((256, None), (256, 256), (1, 1), (1500, 1500)):
        few = loss_maps(*args, max_entries=asked)
        for n in range(len(few)):
            gain = everything.gain[everything.row_ptr[n] : everything.row_ptr[n + 1]]
            row = slice(few.row_ptr[n], few.row_ptr[n + 1])
            kept = min(limit, len(gain))
            np.testing.assert_array_equal(np.sort(few.gain[row]), np.sort(gain)[-kept:])


@pytest.mark.parametrize("limit", [None, 5])
def test_maps_that_rise_to_the_end_and_maps_that_fall(limit: int | None) -> None:
    """The orders in which a running selection works hardest."""
    ramp = np.linspace(-3, 3, 5000, dtype=np.float32).reshape(1, 50, 100)
    maps = loss_maps(np.array([[1.0], [-1.0]]), ramp, max_entries=limit)
    count = 256 if limit is None else limit
    cells = maps.xy[:, 1].astype(int) * 100 + maps.xy[:, 0]
    assert np.array_equal(cells[:count], np.arange(5000 - count, 5000))
    assert np.array_equal(cells[count:], np.arange(count))


def test_exactly_flat_maps_have_next_to_no_gain() -> None:
    maps = loss_maps(np.zeros((2, 3)), np.ones((3, 20, 30)), max_entries=10)
    cells = maps.xy[:, 1].astype(int) * 30 + maps.xy[:, 0]
    assert np.array_equal(cells[:10], np.arange(10))  # all equal: the earlier stay
    np.testing.assert_allclose(maps.gain, math.log(601 / 600), atol=1e-5)


def test_agrees_with_match_and_with_a_window_over_the_whole_map() -> None:
    h, f = problem(4, n=40, sharp=1.0)
    maps, found = loss_maps(h, f), match(h, f)
    np.testing.assert_array_equal(maps.argmin().xy, found.xy)
    np.testing.assert_allclose(maps.argmin().loss, -found.log_probability, atol=1e-5)
    windows = local_loss_maps(h, f, np.full((40, 2), 20.0), window=100, scale=1.0)
    check_equal(windows[:], LossMaps(maps.row_ptr, maps.xy, maps.gain, size=maps.size,
                                     window=(100, 100), origins=windows.origins))  # fmt: skip


def test_levels_and_layouts() -> None:
    pytest.importorskip("torch")
    h, f = problem(5)
    coarse = problem(6, d=16, h=10, w=13)
    levels = ([h, coarse[0]], [f, coarse[1]])
    check_equal(loss_maps(*levels), loss_maps(*levels, implementation="reference"))
    check_equal(
        loss_maps(h, f, size=(20, 50)),
        loss_maps(h, f, size=(20, 50), implementation="reference"),
    )
    last = np.ascontiguousarray(f.transpose(1, 2, 0)).transpose(2, 0, 1)
    strided = np.zeros((64, 30, 41), np.float32)[::-2]
    strided[:] = f
    for variant in (last, strided):
        assert loss_maps(h, variant).gain.tobytes() == loss_maps(h, f).gain.tobytes()


def test_torch_and_16_bit_inputs() -> None:
    torch = pytest.importorskip("torch")
    h, f = (torch.from_numpy(a) for a in problem(7))
    maps = loss_maps(h, f)
    assert isinstance(maps.dense(), torch.Tensor)
    for dtype, atol in ((torch.float16, 1e-4), (torch.bfloat16, 2e-2)):
        low = loss_maps(h.to(dtype), f.to(dtype), max_entries="all")
        wide = loss_maps(h.to(dtype).float(), f.to(dtype).float(), max_entries="all")
        np.testing.assert_allclose(low.dense(), wide.dense(), atol=atol)


def test_threads_give_the_same_bits() -> None:
    h, f = problem(8, n=300, h=60, w=70)
    one = loss_maps(h, f, num_threads=1)
    for threads in (2, 8):
        many = loss_maps(h, f, num_threads=threads)
        assert many.gain.tobytes() == one.gain.tobytes() and many.xy.tobytes() == one.xy.tobytes()
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: loss_maps(h, f), range(8)):
            assert result.gain.tobytes() == one.gain.tobytes()


def test_error_is_not_above_the_plain_float32_form() -> None:
    torch = pytest.importorskip("torch")
    h, f = problem(9, d=256, h=80, w=90, sharp=0.3)
    exact = loss_maps(h, f, max_entries="all", implementation="reference").dense()
    c = torch.from_numpy(h) @ torch.from_numpy(f).flatten(1)
    plain = torch.clamp(-torch.log_softmax(c, 1), max=math.log(7201)).numpy().reshape(exact.shape)
    got = loss_maps(h, f, max_entries="all").dense()
    # Logits reach 25: a tolerance of 1.8e-5 is nine units in the last place of those.
    assert np.abs(got - exact).max() <= np.abs(plain - exact).max() + 1.8e-5


def test_published_maps(shared: Path) -> None:
    torch = pytest.importorskip("torch")
    if not (shared / "golden" / "golden.py").is_file():
        pytest.skip("needs the golden outputs")
    sys.path.insert(0, str(shared / "golden"))
    try:
        import golden
    finally:
        sys.path.remove(str(shared / "golden"))
    case = golden.load_case(str(shared / "golden" / "cases" / "nre_maps_s1.json"))
    source, target = (
        golden.normal(1, k, (1, 32, 23, 31), std=0.7)
        for k in ("source_features", "target_features")
    )
    # Published: keypoints scale without a half-pixel term, corners aligned.
    keypoints = [golden.uniform(1, k, (40,), 0, top) for k, top in (("kx", 495), ("ky", 367))]
    at = np.stack(keypoints, 1) * [31 / 496, 23 / 368]
    grid = torch.from_numpy((at / [30, 22] * 2 - 1).astype(np.float32))[None, :, None]
    h = torch.nn.functional.grid_sample(
        torch.from_numpy(source), grid, padding_mode="zeros", align_corners=True
    )[0, :, :, 0].T.numpy()
    maps = loss_maps(h, target[0], compat="published", max_entries="all")
    n = np.repeat(np.arange(40), maps.entries_per_map)
    outputs = {
        "sparse_indices": np.stack([n, maps.xy[:, 1], maps.xy[:, 0]], 1),
        "sparse_values": np.float32(maps.log_cardinality) - maps.gain,
        "num_non_zero": maps.entries_per_map,
        "nre_maps": maps.dense(),
        "argmax": maps.argmin().xy,
    }
    for key, (ok, message) in golden.check(case, outputs).items():
        assert ok, f"{key}: {message}"


def test_bad_input() -> None:
    h, f = problem(10, n=4, d=3, h=6, w=7)
    broken = f.copy()
    broken[1, 3, 3] = np.inf
    cases = [
        ((h[0], f), {}, "descriptors"),
        ((h, f[0]), {}, "features"),
        ((h[:, :2], f), {}, "channels"),
        ((h[:, :0], f[:0]), {}, "channel"),
        ((h, f[:, :0]), {}, "cell"),
        ((h * np.nan, f), {}, "descriptors"),
        ((h, broken), {}, "features"),
        ((h * 1e30, f * 1e30), {}, "too large"),
        ((h.astype(complex), f), {}, "real"),
        ((h, f), {"temperature": 0.0}, "temperature"),
        ((h, f), {"temperature": np.nan}, "temperature"),
        ((h, f), {"size": (40000, 3)}, "32000"),
        ((h, f), {"max_entries": 0}, "max_entries"),
        ((h, f), {"max_entries": 2.5}, "max_entries"),
        ((h, f), {"compat": "old"}, "compat"),
        ((h, f), {"num_threads": 0}, "num_threads"),
        ((h, f), {"implementation": "cuda"}, "implementation"),
    ]
    for args, options, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            loss_maps(*args, **options)
    assert len(loss_maps(np.zeros((0, 3)), f)) == 0


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 40), st.integers(1, 50),
    st.integers(1, 50), st.floats(0.0, 5.0), st.integers(1, 400),
)  # fmt: skip
def test_any_shape(seed: int, n: int, d: int, h: int, w: int, sharp: float, limit: int) -> None:
    args = problem(seed, n, d, h, w, sharp)
    maps = loss_maps(*args, max_entries=limit)
    # What was built must satisfy what is demanded of raw arrays.
    LossMaps(maps.row_ptr, maps.xy, maps.gain, size=maps.size)
    assert maps.entries_per_map.max() <= limit
    c = np.einsum("nd,dhw->nhw", args[0].astype(float), args[1]).reshape(n, -1)
    best = c.max(1) - np.log(np.exp(c - c.max(1, keepdims=True)).sum(1)) - c.max(1)
    np.testing.assert_allclose(
        maps.peak_gain, np.maximum(best + maps.log_cardinality, 0), rtol=1e-4, atol=1e-4
    )
