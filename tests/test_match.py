# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""match: against the float64 reference, ties, threads, levels, dtypes, bad input."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyloc_core as pc
from pyloc_core import match

torch = pytest.importorskip("torch")
Array = np.ndarray[Any, Any]
ODD = st.sampled_from([1, 2, 3, 7, 15, 33])


def random_level(rng: np.random.Generator, n: int, d: int, h: int, w: int) -> tuple[Array, Array]:
    descriptors = rng.standard_normal((n, d)).astype(np.float32) / np.float32(np.sqrt(d))
    return descriptors, rng.standard_normal((d, h, w)).astype(np.float32)


def assert_equals_reference(ours: Any, reference: Any, tolerance: float = 2e-5) -> None:
    """Cells may differ where the reference calls them equal to within rounding; values may not."""
    np.testing.assert_allclose(
        ours.log_probability, reference.log_probability, atol=tolerance, rtol=tolerance
    )
    for name in ("quantile_ratio", "entropy"):
        a, b = getattr(ours, name), getattr(reference, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance, err_msg=name)
    assert np.all(np.asarray(ours.xy) == np.asarray(reference.xy), axis=1).mean() >= 0.99


@settings(max_examples=40, deadline=None)
@given(ODD, ODD, ODD, ODD, st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 7.0]))
def test_equals_the_reference_at_odd_sizes(
    n: int, d: int, h: int, w: int, seed: int, temperature: float
) -> None:
    level = random_level(np.random.default_rng(seed), n, d, h, w)
    options = {"temperature": temperature, "quantile": 0.3, "entropy": True}
    ours = match(*level, **options)
    reference = match(*level, **options, implementation="reference")
    finite = np.abs(reference.quantile_ratio) < 20  # a value near zero below: no digits left
    ours = ours._replace(quantile_ratio=ours.quantile_ratio[finite])
    reference = reference._replace(quantile_ratio=reference.quantile_ratio[finite])
    assert_equals_reference(ours, reference, 1e-4)


@pytest.mark.parametrize("shape", [(70, 128, 60, 81), (9, 300, 20, 55), (130, 64, 1, 2000)])
def test_equals_the_reference_over_many_tiles(
    shape: tuple[int, int, int, int], rng: np.random.Generator
) -> None:
    level = random_level(rng, *shape)
    options = {"temperature": 0.5, "quantile": 0.006, "entropy": True}
    ours = match(*level, **options)
    assert ours.xy.dtype == np.float64 and ours.log_probability.dtype == np.float32
    assert_equals_reference(ours, match(*level, **options, implementation="reference"))


def test_peaked_maps_lose_no_mass_where_tiles_are_skipped(rng: np.random.Generator) -> None:
    descriptors, features = random_level(rng, 20, 32, 50, 70)
    ours = match(descriptors, features, temperature=0.004, entropy=True)
    reference = match(
        descriptors, features, temperature=0.004, entropy=True, implementation="reference"
    )
    np.testing.assert_allclose(ours.log_probability, reference.log_probability, atol=3e-3)
    np.testing.assert_allclose(ours.entropy, reference.entropy, atol=3e-3)


SIZES = st.lists(st.tuples(ODD, ODD, ODD), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 2**32 - 1), st.none() | st.tuples(ODD, ODD))
def test_levels_are_resized_and_summed(
    sizes: list[tuple[int, int, int]], seed: int, size: tuple[int, int] | None
) -> None:
    rng = np.random.default_rng(seed)
    pairs = [random_level(rng, 11, d, h, w) for d, h, w in sizes]
    descriptors, features = [p[0] for p in pairs], [p[1] for p in pairs]
    ours = match(descriptors, features, size=size, entropy=True)
    reference = match(descriptors, features, size=size, entropy=True, implementation="reference")
    np.testing.assert_allclose(ours.log_probability, reference.log_probability, atol=1e-4)
    np.testing.assert_allclose(ours.entropy, reference.entropy, atol=1e-4)


def test_three_levels_of_a_network(rng: np.random.Generator) -> None:
    pairs = [
        random_level(rng, 70, d, h, w) for d, h, w in [(32, 96, 132), (64, 24, 33), (64, 6, 9)]
    ]
    arguments = [p[0] for p in pairs], [p[1] for p in pairs]
    reference = match(*arguments, quantile=0.01, entropy=True, implementation="reference")
    for threads in (1, 2, 5):
        ours = match(*arguments, quantile=0.01, entropy=True, num_threads=threads)
        assert_equals_reference(ours, reference)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("depth", [1, 31, 128, 300])
def test_low_precision_is_no_worse_than_the_naive_form(
    dtype: str, depth: int, rng: np.random.Generator
) -> None:
    level = [
        torch.from_numpy(a).to(getattr(torch, dtype)) for a in random_level(rng, 40, depth, 23, 37)
    ]
    ours = match(*level, entropy=True)
    reference = match(*level, entropy=True, implementation="reference")
    naive = torch.einsum("nd,dhw->nhw", *level).flatten(1)
    naive_error = (naive.logsumexp(1).double() - naive.max(1).values.double()) + (
        reference.log_probability
    )
    error = (ours.log_probability.double() - reference.log_probability).abs()
    assert error.max() <= naive_error.abs().max() + 1e-5
    assert error.max() < 2e-5  # operands are exact in float32, so only accumulation rounds
    assert (ours.xy == reference.xy).all(1).double().mean() >= 0.97
    assert ours.xy.dtype == torch.float64 and ours.log_probability.dtype == torch.float32


def test_mixed_dtypes(rng: np.random.Generator) -> None:
    descriptors, features = random_level(rng, 10, 40, 9, 11)
    half = features.astype(np.float16)
    expected = match(descriptors, half.astype(np.float32))
    np.testing.assert_array_equal(
        match(descriptors, half).log_probability, expected.log_probability
    )
    bits = torch.from_numpy(features).bfloat16()
    expected = match(descriptors, bits.float().numpy())
    np.testing.assert_array_equal(
        match(torch.from_numpy(descriptors), bits).log_probability, expected.log_probability
    )


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_of_equal_cells_the_first_wins(threads: int) -> None:
    features = np.ones((4, 37, 61), np.float32)
    ours = match(np.ones((200, 4), np.float32), features, num_threads=threads, entropy=True)
    assert (ours.xy == 0).all()
    np.testing.assert_allclose(ours.log_probability, -np.log(37 * 61), rtol=1e-6)
    np.testing.assert_allclose(ours.entropy, np.log(37 * 61), rtol=1e-6)
    features[:, 20, 5] = features[:, 30, 1] = features[:, 36, 60] = 2.0
    ours = match(np.ones((200, 4), np.float32), features, num_threads=threads)
    assert (ours.xy == (5, 20)).all()


@pytest.mark.parametrize("bfloat16", [False, True])
def test_bits_do_not_depend_on_the_thread_count(bfloat16: bool, rng: np.random.Generator) -> None:
    for shape in ((333, 96, 64, 77), (5, 40, 90, 90)):
        level: Any = random_level(rng, *shape)
        if bfloat16:
            level = [torch.from_numpy(a).bfloat16() for a in level]
        options: Any = {"quantile": 0.05, "entropy": True, "subcell": "quadratic"}
        one = match(*level, **options, num_threads=1)
        for threads in (2, 8):
            other = match(*level, **options, num_threads=threads)
            for a, b in zip(one, other):
                assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_many_python_threads_agree(rng: np.random.Generator) -> None:
    level = random_level(rng, 100, 32, 50, 60)
    expected = match(*level, entropy=True)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(match, *level, entropy=True, num_threads=i % 3 + 1) for i in range(32)]
    for call in calls:
        np.testing.assert_array_equal(call.result().entropy, expected.entropy)
        np.testing.assert_array_equal(call.result().xy, expected.xy)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa: str, rng: np.random.Generator) -> None:
    before = pc.build_info()["isa"]
    try:
        pc.set_isa(isa)
    except ValueError:
        pytest.skip(f"this processor cannot run {isa}")
    try:
        options: Any = {"quantile": 0.02, "entropy": True}
        for bfloat16 in (False, True):
            level: Any = [torch.from_numpy(a) for a in random_level(rng, 29, 131, 31, 43)]
            if bfloat16:
                level = [a.bfloat16() for a in level]
            ours = match(*level, **options)
            assert_equals_reference(ours, match(*level, **options, implementation="reference"))
    finally:
        pc.set_isa(before)


def test_ratio_test_on_correlations_of_every_sign() -> None:
    # One channel and one descriptor: the map is the feature plane itself.
    def ratio(values: list[float], quantile: float) -> float:
        found = match(
            np.ones((1, 1), np.float32), np.array([[values]], np.float32), quantile=quantile
        )
        return float(found.quantile_ratio[0])

    assert ratio([1.0, 4.0, 2.0, 3.0], 0.25) == 1.0
    assert ratio([1.0, 4.0, 2.0, 3.0], 0.5) == pytest.approx(4 / 3)
    assert ratio([1.0, 4.0, 2.0, 3.0], 1.0) == 4.0
    assert ratio([1.0, 4.0, 2.0, 3.0], 0.01) == 1.0
    assert ratio([1.0, -4.0], 1.0) == np.inf
    assert ratio([1.0, 0.0], 1.0) == np.inf
    assert ratio([0.0, 0.0], 1.0) == 1.0
    assert ratio([-2.0, -4.0], 1.0) == 0.5


@pytest.mark.parametrize("quantile", [0.0004, 0.006, 0.12, 0.5, 1.0])
def test_selection_is_exact(quantile: float, rng: np.random.Generator) -> None:
    plane = rng.standard_normal((1, 80, 90)).astype(np.float32) + 5
    plane[0, 10:20] = plane[0, 30:40]  # duplicates
    ours = match(np.ones((3, 1), np.float32), plane, quantile=quantile)
    rank = max(1, int(quantile * plane.size))
    expected = plane.max() / np.sort(plane.ravel())[-rank]
    np.testing.assert_array_equal(ours.quantile_ratio, np.float32(expected))


def test_many_candidates_take_several_passes(rng: np.random.Generator) -> None:
    """More candidates than the bound on memory: the descriptors go in groups."""
    level = random_level(rng, 300, 4, 300, 400)
    level[0][:, 0] = level[1][0] = 4.0  # all positive
    ours = match(*level, quantile=0.9, num_threads=2)
    plain = np.einsum("nd,dhw->nhw", *level).reshape(300, -1)
    rank = int(0.9 * 120000)
    other = -np.partition(-plain[::50], rank - 1, axis=1)[:, rank - 1]
    np.testing.assert_allclose(ours.quantile_ratio[::50], plain[::50].max(1) / other, rtol=1e-4)


@pytest.mark.parametrize("levels", [1, 2])
def test_subcell_finds_the_centre_of_a_gaussian(levels: int, rng: np.random.Generator) -> None:
    y, x = np.mgrid[0:24, 0:32].astype(np.float64)
    centres = rng.uniform(4, 18, (50, 2))
    shape = [[0.5, 0.2], [0.2, 0.3]]
    features = np.stack(
        [
            -0.5 * np.einsum("ihw,ij,jhw->hw", r, shape, r)
            for r in (np.stack([x - cx, y - cy]) for cx, cy in centres)
        ]
    ).astype(np.float32)
    descriptors = np.eye(50, dtype=np.float32)
    arguments: Any = (descriptors, features)
    if levels == 2:  # the second is constant: it moves no peak
        arguments = ([descriptors, descriptors], [features, np.ones((50, 5, 7), np.float32)])
    found = match(*arguments, subcell="quadratic")
    np.testing.assert_allclose(found.xy, centres, atol=1e-4 if levels == 1 else 1e-3)
    whole = match(*arguments)
    assert np.abs(whole.xy - np.round(centres)).max() <= 1
    assert (whole.xy == np.round(whole.xy)).all()


def test_subcell_equals_the_reference_and_stays_near(rng: np.random.Generator) -> None:
    pairs = [random_level(rng, 60, 16, 12, 15), random_level(rng, 60, 16, 5, 4)]
    arguments = [p[0] for p in pairs], [p[1] for p in pairs]
    ours = match(*arguments, subcell="quadratic")
    reference = match(*arguments, subcell="quadratic", implementation="reference")
    np.testing.assert_allclose(ours.xy, reference.xy, atol=1e-4)
    assert np.abs(ours.xy - match(*arguments).xy).max() <= 1
    assert (match(np.ones((2, 3)), np.ones((3, 4, 5)), subcell="quadratic").xy == 0).all()


@pytest.mark.parametrize("case", ["a", "b"])
def test_published_ratio_test(case: str, shared: Any) -> None:
    """S2DHM's decisions on its fixture: 0.9**2 * best >= value at the rank."""
    sys.path.insert(0, str(shared / "golden"))
    try:
        import golden
    finally:
        sys.path.pop(0)
    fixture = golden.load_case(str(shared / "golden" / "cases" / f"s2dhm_ratio_{case}_s1.json"))
    maps = golden.normal(1, f"corr_{case}", (40, 24, 32), std=0.1, mean=0.5)
    rows = golden.integers(1, f"py_{case}", (40,), 0, 24)
    columns = golden.integers(1, f"px_{case}", (40,), 0, 32)
    maps[np.arange(40), rows, columns] = golden.uniform(1, f"pk_{case}", (40,), 0.6, 1.3)
    found = match(np.eye(40, dtype=np.float32), maps, quantile=fixture["input"]["factor"])
    keep = found.quantile_ratio >= 1 / fixture["input"]["ratio"] ** 2
    xy = found.xy.astype(np.int64)
    results = golden.check(fixture, {"correlation": maps, "match_xy": xy, "match_valid": keep})
    assert all(ok for ok, _ in results.values()), results


@pytest.mark.parametrize(
    "layout", ["channels last", "reversed", "strided", "read-only", "big-endian"]
)
def test_layouts(layout: str, rng: np.random.Generator) -> None:
    descriptors, features = random_level(rng, 9, 33, 21, 17)
    expected = match(descriptors, features)
    d, f = descriptors, features
    if layout == "channels last":
        f = np.ascontiguousarray(f.transpose(1, 2, 0)).transpose(2, 0, 1)
    elif layout == "reversed":
        d, f = d[::-1].copy()[::-1], f[:, ::-1, ::-1].copy()[:, ::-1, ::-1]
    elif layout == "strided":
        f = np.repeat(f, 2, axis=2)[:, :, ::2]
        d = np.asfortranarray(d)
    elif layout == "read-only":
        d, f = d.copy(), f.copy()
        d.flags.writeable = f.flags.writeable = False
    else:
        d, f = d.astype(">f4"), f.astype(">f4")
    kept = d.copy(), f.copy()
    for a, b in zip(match(d, f), expected):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(d, kept[0])
    np.testing.assert_array_equal(f, kept[1])
    tensor = torch.from_numpy(features).to(memory_format=torch.contiguous_format)
    last = tensor.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    ours = match(torch.from_numpy(descriptors), last)
    assert isinstance(ours.xy, torch.Tensor)
    np.testing.assert_array_equal(ours.xy.numpy(), expected.xy)


def test_no_descriptors_give_an_empty_result() -> None:
    found = match(np.empty((0, 5), np.float32), np.ones((5, 3, 4), np.float32), quantile=0.5)
    assert found.xy.shape == (0, 2) and found.log_probability.shape == (0,)
    assert found.quantile_ratio.shape == (0,) and found.entropy is None


ONES = np.ones((2, 3), np.float32)
MAP = np.ones((3, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("descriptors", "features", "options", "error", "message"),
    [
        (ONES[0], MAP, {}, ValueError, "descriptors must have shape"),
        (ONES, MAP[0], {}, ValueError, "features must have shape"),
        (ONES, np.ones((4, 4, 5)), {}, ValueError, "same number of channels"),
        (np.ones((2, 0)), np.ones((0, 4, 5)), {}, ValueError, "at least one channel"),
        (ONES, np.ones((3, 0, 5)), {}, ValueError, "at least one cell"),
        (ONES, np.ones((3, 4, 0)), {}, ValueError, "at least one cell"),
        ([ONES], MAP, {}, TypeError, "both lists"),
        ([ONES], [MAP, MAP], {}, ValueError, "as many levels"),
        ([], [], {}, ValueError, "1 to 16 levels"),
        ([ONES, ONES[:1]], [MAP, MAP], {}, ValueError, r"descriptors\[1\]"),
        (ONES, MAP.astype(complex), {}, TypeError, "features must hold real"),
        (ONES, MAP, {"temperature": 0.0}, ValueError, "temperature"),
        (ONES, MAP, {"temperature": float("nan")}, ValueError, "temperature"),
        (ONES, MAP, {"temperature": "warm"}, TypeError, "temperature"),
        (ONES, MAP, {"quantile": 0.0}, ValueError, "quantile"),
        (ONES, MAP, {"quantile": 1.5}, ValueError, "quantile"),
        (ONES, MAP, {"size": (0, 5)}, ValueError, "size"),
        (ONES, MAP, {"size": 5}, TypeError, "size"),
        (ONES, MAP, {"subcell": "cubic"}, ValueError, "subcell"),
        (ONES, MAP, {"num_threads": 0}, ValueError, "num_threads"),
        (ONES, MAP, {"implementation": "cuda"}, ValueError, "implementation"),
        (ONES * 1e30, MAP * 1e30, {}, ValueError, "too large"),
        (ONES, MAP, {"temperature": 1e-38}, ValueError, "too large"),
    ],
)
def test_refusals(
    descriptors: Any, features: Any, options: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        match(descriptors, features, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("implementation", [None, "reference"])
def test_non_finite_values_are_refused(bad: float, dtype: Any, implementation: str | None) -> None:
    descriptors, features = torch.ones(20, 33, dtype=dtype), torch.ones(33, 40, 50, dtype=dtype)
    features[32, 39, 49] = bad
    with pytest.raises(ValueError, match="features holds NaN or infinite"):
        match(descriptors, features, implementation=implementation)
    with pytest.raises(ValueError, match=r"features\[1\] holds NaN or infinite"):
        match([descriptors] * 2, [torch.ones(33, 80, 90, dtype=dtype), features], size=(3, 3))
    features[32, 39, 49] = 1
    descriptors[19, 32] = bad
    with pytest.raises(ValueError, match="descriptors holds NaN or infinite"):
        match(descriptors, features, implementation=implementation)
