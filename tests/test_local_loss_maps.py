# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Loss maps in windows of a fine map, against the float64 oracle and the published program."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyloc_core
from pyloc_core import LossMaps, local_loss_maps


def problem(
    seed: int, n: int = 30, d: int = 24, h: int = 50, w: int = 70, sharp: float = 0.6
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "descriptors": rng.standard_normal((n, d)).astype(np.float32),
        "features": (sharp * rng.standard_normal((d, h, w))).astype(np.float32),
        "centers": rng.uniform([-30, -30], [w + 30, h + 30], (n, 2)),
    }


def check_equal(got: LossMaps, expected: LossMaps, atol: float = 2e-5) -> None:
    """Same live cells, up to those that rounding moves across the truncation or the limit."""
    cells = [set(zip(np.repeat(np.arange(len(m)), m.entries_per_map).tolist(), *m.xy.T.tolist()))
             for m in (got, expected)]  # fmt: skip
    assert len(cells[0] ^ cells[1]) <= 2 + len(cells[1]) // 500
    np.testing.assert_allclose(got.dense(), expected.dense(), atol=1e-3)
    np.testing.assert_allclose(got.peak_gain, expected.peak_gain, atol=atol)
    np.testing.assert_array_equal(got.flat_gain, expected.flat_gain)
    np.testing.assert_array_equal(got.origins, expected.origins)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("window", [1, 7, 16, 64, (5, 33), 200])
def test_against_the_reference(isa: str, window: int | tuple[int, int]) -> None:
    pytest.importorskip("torch")
    before = pyloc_core.build_info()["isa"]
    try:
        pyloc_core.set_isa(isa)
    except ValueError:
        pytest.skip(f"this processor has no {isa}")
    try:
        for options in ({}, {"scale": 1.0}, {"max_entries": 40, "scale": 0.5}, {"temperature": 3.0},
                        {"compat": "published"}, {"compat": "published_placed", "scale": 1.0}):  # fmt: skip
            args = {**problem(1, n=12), "window": window, "max_entries": "all", **options}
            check_equal(
                local_loss_maps(**args), local_loss_maps(**args, implementation="reference")
            )
    finally:
        pyloc_core.set_isa(before)


def test_one_window_by_hand() -> None:
    args = problem(2, n=1, d=3, h=9, w=11)
    args["centers"] = np.array([[1.7, 4.2]])  # cells -1 .. 2 by 2 .. 5; column -1 is outside
    maps = local_loss_maps(**args, window=4, scale=0.7, coarse_mass=0.5)
    logits = np.einsum("d,dhw->hw", args["descriptors"][0].astype(float), args["features"])[2:6, :3]
    p = np.exp(logits) / np.exp(logits).sum() * 0.7 * 0.5
    assert maps.origins.tolist() == [[-1, 2]]
    expected = np.minimum(math.log(100), -np.log(p))
    np.testing.assert_allclose(maps.dense()[0, :, 1:], expected, atol=1e-5)
    assert maps.log_cardinality == pytest.approx(math.log(100))
    assert maps.flat_gain[0] == pytest.approx(math.log(100 * 0.35 / 12), rel=1e-6)


def test_default_scale_is_the_ratio_of_the_strides_squared() -> None:
    args = problem(3)
    default = local_loss_maps(**args)
    assert np.array_equal(default.gain, local_loss_maps(**args, scale=1 / 64).gain)
    assert np.array_equal(
        local_loss_maps(**args, strides=(2, 8)).gain, local_loss_maps(**args, scale=1 / 16).gain
    )


def test_a_limit_keeps_the_largest_gains() -> None:
    args = problem(4, sharp=0.2)
    everything = local_loss_maps(**args, scale=1.0, max_entries="all")
    few = local_loss_maps(**args, scale=1.0, max_entries=20)
    assert local_loss_maps(**args, scale=1.0).entries_per_map.max() == 256
    for n in range(len(few)):
        all_gain = everything.gain[everything.row_ptr[n] : everything.row_ptr[n + 1]]
        gain = few.gain[few.row_ptr[n] : few.row_ptr[n + 1]]
        assert np.array_equal(np.sort(gain), np.sort(all_gain)[-20:])


def test_equal_descriptors_and_equal_cells() -> None:
    features = np.ones((4, 20, 20), np.float32)
    maps = local_loss_maps(
        np.ones((2, 4)), features, [[10, 10], [10, 10]], window=8, scale=1.0, max_entries=5
    )
    # All cells are equal: the first five of the window stay, each with the flat map's gain.
    assert maps.xy[:5].tolist() == [[6, 6], [7, 6], [8, 6], [9, 6], [10, 6]]
    np.testing.assert_allclose(maps.gain, maps.flat_gain[0], atol=1e-5)
    assert maps.gain[:5].tobytes() == maps.gain[5:].tobytes()


def test_maps_without_a_window_are_dropped() -> None:
    args = problem(5, n=8)
    args["centers"][:7] = [[np.nan, 3], [np.inf, 3], [3, -np.inf], [1e300, -1e300], [5e5, 3],
                           [-200, 10], [10, 200]]  # fmt: skip
    args["centers"][7] = [20, 20]
    maps = local_loss_maps(**args, scale=1.0)
    assert maps.entries_per_map[:7].tolist() == [0] * 7 and maps.entries_per_map[7] > 0
    assert not maps.flat_gain[:7].any()
    masses = np.ones(8)
    masses[7] = 0
    assert len(local_loss_maps(**args, coarse_mass=masses).gain) == 0


def test_a_window_does_not_depend_on_the_others() -> None:
    args = problem(6, n=200)
    together = local_loss_maps(**args, scale=1.0, max_entries=30)
    for n in (0, 17, 199):
        alone = local_loss_maps(
            args["descriptors"][n : n + 1], args["features"], args["centers"][n : n + 1],
            scale=1.0, max_entries=30,
        )  # fmt: skip
        assert alone.gain.tobytes() == together[n].gain.tobytes()
        assert np.array_equal(alone.xy, together[n].xy)


def test_threads_give_the_same_bits() -> None:
    args = problem(7, n=300)
    one = local_loss_maps(**args, num_threads=1)
    for threads in (2, 8):
        many = local_loss_maps(**args, num_threads=threads)
        assert many.gain.tobytes() == one.gain.tobytes() and np.array_equal(many.xy, one.xy)
        assert np.array_equal(many.row_ptr, one.row_ptr)


def test_more_windows_than_one_batch_holds() -> None:
    args = problem(8, n=40, d=2, h=600, w=620)
    maps = local_loss_maps(**args, window=600, scale=1.0, max_entries=10)
    alone = local_loss_maps(
        args["descriptors"][39:], args["features"], args["centers"][39:], window=600, scale=1.0,
        max_entries=10,
    )  # fmt: skip
    assert maps[39].gain.tobytes() == alone.gain.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_inputs_are_widened_exactly(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    args = problem(9)
    low = {k: torch.from_numpy(args[k]).to(getattr(torch, dtype))
           for k in ("descriptors", "features")}  # fmt: skip
    got = local_loss_maps(low["descriptors"], low["features"], args["centers"])
    wide = local_loss_maps(low["descriptors"].float(), low["features"].float(), args["centers"])
    assert got.gain.tobytes() == wide.gain.tobytes() and np.array_equal(got.xy, wide.xy)
    assert isinstance(got.dense(), torch.Tensor)
    if dtype == "float16":
        plain = local_loss_maps(
            low["descriptors"].numpy(), low["features"].numpy(), args["centers"]
        )
        assert plain.gain.tobytes() == wide.gain.tobytes()


def test_error_is_not_above_the_plain_float32_form() -> None:
    torch = pytest.importorskip("torch")
    args = problem(10, n=20, d=300, sharp=0.3)
    args["centers"] = np.random.default_rng(0).uniform([25, 20], [40, 30], (20, 2))
    options = {"window": 16, "scale": 1.0, "max_entries": "all"}
    exact = local_loss_maps(**args, **options, implementation="reference").dense()
    got = local_loss_maps(**args, **options).dense()
    h, f = torch.from_numpy(args["descriptors"]), torch.from_numpy(args["features"])
    plain = np.empty_like(exact)
    for n, (x, y) in enumerate(np.floor(args["centers"]).astype(int) - 8):
        log_c = torch.log_softmax((h[n] @ f[:, y : y + 16, x : x + 16].reshape(300, -1)), 0)
        plain[n] = np.minimum(-log_c.numpy().reshape(16, 16), math.log(1 + 50 * 70))
    assert np.abs(got - exact).max() <= np.abs(plain - exact).max() + 1e-5


@pytest.mark.parametrize(
    ("name", "compat"), [("published", "published"), ("fixed", "published_placed")]
)
def test_published_windows(shared: Path, name: str, compat: Any) -> None:
    if not (shared / "golden" / "golden.py").is_file():
        pytest.skip("needs the golden outputs")
    sys.path.insert(0, str(shared / "golden"))
    try:
        import golden
    finally:
        sys.path.remove(str(shared / "golden"))
    case = golden.load_case(str(shared / "golden" / "cases" / "nre_local_s1.json"))
    x, y = (golden.uniform(1, k, (48,), 4, size - 5) for k, size in (("px", 80), ("py", 60)))
    maps = local_loss_maps(
        golden.normal(1, "fine_source", (48, 16), std=0.8),
        golden.normal(1, "fine_target", (1, 16, 60, 80), std=0.6)[0],
        np.stack([x, y], 1),
        window=16,
        coarse_mass=golden.uniform(1, "norm_coarse", (48,), 0.2, 1),
        compat=compat,
        max_entries="all",
    )
    n = np.repeat(np.arange(48), maps.entries_per_map)
    outputs = {
        f"{name}_indices": np.stack([n, maps.xy[:, 1], maps.xy[:, 0]], 1),
        f"{name}_values": np.float32(maps.log_cardinality) - maps.gain,
        f"{name}_nnz": maps.entries_per_map,
    }
    for key, (ok, message) in golden.check(case, outputs).items():
        assert ok, f"{key}: {message}"


def test_published_windows_that_are_displaced_out_of_the_map() -> None:
    args = problem(13, n=3, h=60, w=65)
    args["centers"] = np.array([[64.0, 30], [30, 59], [64, 59]])
    maps = local_loss_maps(**args, window=16, scale=1.0, compat="published")
    assert len(maps) == 3 and (maps.xy < [65, 60]).all()
    tiny = local_loss_maps(**args, window=(16, 2), scale=1.0, compat="published")
    assert tiny.entries_per_map.shape == (3,)


def test_bad_input() -> None:
    good = problem(11, n=4, d=3, h=6, w=7)
    h, f, c = (good[k] for k in ("descriptors", "features", "centers"))
    inside = np.full((4, 2), 3.0)
    broken = f.copy()
    broken[1, 3, 3] = np.nan
    overflowing = np.full_like(f, 1e30)
    cases = [
        ((h[0], f, c), {}, "descriptors"),
        ((h, f[0], c), {}, "features"),
        ((h[:3], f, c), {}, "same length"),
        ((h[:, :2], f, c), {}, "channels"),
        ((h, f, c[:, :1]), {}, "centers"),
        ((h, f[:, :0], c), {}, "empty"),
        ((h[:, :0], f[:0], c), {}, "empty"),
        ((h * np.nan, f, c), {}, "descriptors"),
        ((h, broken, inside), {}, "features"),
        ((h * 1e30, overflowing, inside), {}, "features"),
        ((h.astype(complex), f, c), {}, "real"),
        ((h, f, c), {"window": 0}, "window"),
        ((h, f, c), {"window": 2.5}, "window"),
        ((h, f, c), {"scale": 0.0}, "scale"),
        ((h, f, c), {"scale": np.nan}, "scale"),
        ((h, f, c), {"temperature": -1.0}, "temperature"),
        ((h, f, c), {"strides": (0, 1)}, "strides"),
        ((h, f, c), {"coarse_mass": [0.5]}, "coarse_mass"),
        ((h, f, c), {"coarse_mass": [0.5, 0.5, -1, 0]}, "coarse_mass"),
        ((h, f, c), {"coarse_mass": [0.5, 0.5, np.nan, 0]}, "coarse_mass"),
        ((h, f, c), {"max_entries": -3}, "max_entries"),
        ((h, f, c), {"compat": "old"}, "compat"),
        ((h, f, c), {"num_threads": -1}, "num_threads"),
        ((h, f, c), {"implementation": "cuda"}, "implementation"),
    ]
    for args, options, match in cases:
        with pytest.raises((ValueError, TypeError), match=match):
            local_loss_maps(*args, **options)
    # A value that no window reads spoils nothing.
    assert np.isfinite(local_loss_maps(h, broken, inside + 100).dense()).all()


def test_no_points() -> None:
    f = problem(12)["features"]
    maps = local_loss_maps(np.zeros((0, 24)), f, np.zeros((0, 2)))
    assert len(maps) == 0 and maps.dense().shape == (0, 64, 64)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 9), st.integers(1, 40),
    st.integers(1, 40), st.integers(1, 50), st.floats(1e-3, 1.0), st.integers(1, 300),
    st.sampled_from([None, "published", "published_placed"]),
)  # fmt: skip
def test_any_shape(
    seed: int, n: int, d: int, h: int, w: int, window: int, scale: float, limit: int, compat: Any
) -> None:
    args = problem(seed, n, d, h, w)
    rng = np.random.default_rng(seed)
    args["centers"] = args["centers"] * 10.0 ** rng.integers(0, 12, (n, 1))
    maps = local_loss_maps(**args, window=window, scale=scale, max_entries=limit, compat=compat)
    # What was built must satisfy what is demanded of raw arrays.
    LossMaps(maps.row_ptr, maps.xy, maps.gain, size=maps.size, window=maps.window,
             origins=maps.origins, log_cardinality=maps.log_cardinality)  # fmt: skip
    assert maps.entries_per_map.max(initial=0) <= limit
