# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""LossMaps: sparse form, lookup, mass, peaks, container, files."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyloc_core import LossMaps


def random_maps(seed: int, n: int, h: int, w: int, share: float = 0.3) -> np.ndarray:
    """Dense maps truncated at ln(1 + h w), about `share` of the cells live, with ties."""
    rng = np.random.default_rng(seed)
    top = np.float32(math.log(1 + h * w))
    gain = np.round(rng.gamma(2.0, 1.0, (n, h, w)), 2) * (rng.random((n, h, w)) < share)
    return np.maximum(top - gain.astype(np.float32), np.float32(0.0))


def bilinear(dense: np.ndarray, log_cardinality: float, x: float, y: float) -> float:
    """One map, by hand: cells outside count as ln|O|."""
    h, w = dense.shape
    x0, y0 = math.floor(x), math.floor(y)
    total = 0.0
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (1 - abs(x - x0 - dx)) * (1 - abs(y - y0 - dy))
            inside = 0 <= x0 + dx < w and 0 <= y0 + dy < h
            total += weight * (dense[y0 + dy, x0 + dx] if inside else log_cardinality)
    return total


@pytest.mark.parametrize("shape", [(5, 7, 9), (1, 1, 1), (3, 1, 40), (3, 40, 1), (40, 17, 33)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dense_and_back(shape: tuple[int, int, int], dtype: type) -> None:
    dense = random_maps(1, *shape).astype(dtype)
    maps = LossMaps.from_dense(dense)
    cut = dtype(math.log(1 + shape[1] * shape[2]))
    assert np.array_equal(maps.entries_per_map, (dense < cut).sum((1, 2)))
    np.testing.assert_allclose(maps.dense(), dense, atol=1e-6)
    n, y, x = np.nonzero(dense < cut)
    assert np.array_equal(maps.xy, np.stack([x, y], 1))
    assert maps.row_ptr[-1] == len(n)


def test_values_at_the_truncation_are_dead_in_either_precision() -> None:
    cut = math.log(1 + 12)
    for dtype in (np.float32, np.float64):
        dense = np.full((2, 3, 4), dtype(cut))
        dense[1, 2, 3] = np.nextafter(dtype(cut), dtype(0))
        assert LossMaps.from_dense(dense).entries_per_map.tolist() == [0, 1]


@pytest.mark.parametrize("limit", [1, 5, 100, 3000])
def test_the_least_informative_entries_go_first(limit: int) -> None:
    dense = random_maps(2, 6, 70, 90, 0.8)
    maps, everything = (LossMaps.from_dense(dense, max_entries=m) for m in (limit, "all"))
    for n in range(len(maps)):
        gain = everything.gain[everything.row_ptr[n] : everything.row_ptr[n + 1]]
        xy = everything.xy[everything.row_ptr[n] : everything.row_ptr[n + 1]]
        # Largest gains; among equal ones the earlier cell, as a stable sort gives.
        kept = np.sort(np.argsort(-gain, kind="stable")[:limit])
        row = slice(maps.row_ptr[n], maps.row_ptr[n + 1])
        assert np.array_equal(maps.gain[row], gain[kept])
        assert np.array_equal(maps.xy[row], xy[kept])
    assert LossMaps.from_dense(dense, max_entries=None).entries_per_map.max() == 256


@pytest.mark.parametrize("order", ["rising", "falling", "equal"])
def test_selection_of_adversarial_orders(order: str) -> None:
    dense = np.full((1, 100, 100), 3.0, np.float32)
    if order != "equal":
        ramp = np.linspace(0.0, 9.0, 10000, dtype=np.float32).reshape(1, 100, 100)
        dense = ramp if order == "falling" else 9.0 - ramp
    maps = LossMaps.from_dense(dense, max_entries=300)
    cells = maps.xy[:, 1].astype(int) * 100 + maps.xy[:, 0]
    expected = np.arange(9700, 10000) if order == "rising" else np.arange(300)
    assert np.array_equal(cells, expected)


def test_windows_with_origins_leave_out_what_lies_outside_the_map() -> None:
    dense = random_maps(3, 4, 8, 8, 0.9)
    origins = [[-3, -2], [5, 6], [100, 100], [2**31 - 10, 0]]
    maps = LossMaps.from_dense(dense, origins=origins, size=(10, 12))
    assert maps.entries_per_map[2:].tolist() == [0, 0]
    x, y = np.meshgrid(np.arange(8), np.arange(8))
    for n in range(2):
        inside = (x + origins[n][0] >= 0) & (x + origins[n][0] < 12)
        inside &= (y + origins[n][1] >= 0) & (y + origins[n][1] < 10)
        expected = np.where(inside, dense[n], np.float32(math.log(121)))
        live = expected < np.float32(math.log(121))
        assert maps.entries_per_map[n] == live.sum()
        np.testing.assert_allclose(maps.dense()[n], np.minimum(expected, math.log(121)), atol=1e-6)
    np.testing.assert_array_equal(maps.dense(fill=0.0)[2], np.zeros((8, 8)))


def test_peaks_take_the_first_of_equal_cells() -> None:
    dense = random_maps(4, 30, 11, 13)
    dense[7] = math.log(1 + 11 * 13)
    peaks = LossMaps.from_dense(dense).argmin()
    flat = dense.reshape(30, -1)
    first = flat.argmin(1)
    keep = np.arange(30) != 7
    assert np.array_equal(peaks.xy[keep], np.stack([first % 13, first // 13], 1)[keep])
    np.testing.assert_allclose(peaks.loss, flat.min(1), atol=1e-6)
    assert peaks.xy[7].tolist() == [-1, -1] and peaks.gain[7] == 0


def test_lookup_against_the_formula() -> None:
    dense = random_maps(5, 12, 9, 14, 0.6)
    maps = LossMaps.from_dense(dense)
    points = np.random.default_rng(6).uniform([-2, -2], [15, 10], (40, 12, 2))
    points[:5] = np.round(points[:5])
    got = maps.evaluate(points)
    cut = math.log(1 + 9 * 14)
    for m in range(40):
        for n in range(12):
            expected = bilinear(dense[n], cut, *points[m, n])
            assert got[m, n] == pytest.approx(expected, abs=2e-6)
    np.testing.assert_array_equal(maps.evaluate(points[3]), got[3])


def test_points_without_a_place_count_as_the_truncation() -> None:
    maps = LossMaps.from_dense(random_maps(7, 6, 5, 5, 0.9))
    far = [[np.nan, 1], [np.inf, 1], [1, -np.inf], [1e300, 1e300], [-1, 2], [2, 5.0]]
    np.testing.assert_array_equal(maps.evaluate(far), maps.log_cardinality)


def test_the_published_lookup_clamps_to_the_border() -> None:
    dense = random_maps(8, 3, 6, 7, 0.9)
    maps = LossMaps.from_dense(dense)
    got = maps.evaluate([[-40.0, 2.0], [3.0, 77.0], [1e9, -1e9]], compat="published")
    np.testing.assert_allclose(got, [dense[0, 2, 0], dense[1, 5, 3], dense[2, 0, 6]], atol=2e-6)


def test_mass_is_the_area_weighted_probability() -> None:
    dense = random_maps(9, 20, 12, 15, 0.5)
    maps = LossMaps.from_dense(dense)
    centers = np.random.default_rng(10).uniform(-3, 18, (20, 2))
    got = maps.mass(centers, (3.3, 5.0))
    x, y = np.arange(15), np.arange(12)
    for n in range(20):
        cx, cy = centers[n]
        wide = np.clip(np.minimum(x + 0.5, cx + 2.5) - np.maximum(x - 0.5, cx - 2.5), 0, None)
        high = np.clip(np.minimum(y + 0.5, cy + 1.65) - np.maximum(y - 0.5, cy - 1.65), 0, None)
        live = dense[n] < np.float32(maps.log_cardinality)
        expected = (np.exp(-dense[n].astype(float)) * live * high[:, None] * wide).sum()
        assert got[n] == pytest.approx(expected, rel=1e-5)
    live = dense < np.float32(maps.log_cardinality)
    everything = (np.exp(-dense.astype(float)) * live).sum((1, 2))
    np.testing.assert_allclose(maps.mass(np.full((20, 2), 6.0), 1000), everything, rtol=1e-5)
    lost = maps.mass(np.array([[np.nan, 0], [np.inf, 3], [1e300, 0], [-500, 2]] * 5), 4)
    np.testing.assert_array_equal(lost, 0.0)


def test_picking_and_joining() -> None:
    dense = random_maps(11, 9, 6, 8)
    maps = LossMaps.from_dense(dense)
    mask = np.arange(9) % 2 == 0
    for index in (slice(2, 7), slice(None, None, -1), [3, 3, -1], mask, np.array([8, 0], np.uint8)):
        np.testing.assert_allclose(maps[index].dense(), dense[index], atol=1e-6)
    np.testing.assert_allclose(maps[4].dense(), dense[[4]], atol=1e-6)
    assert len(maps[[]]) == 0
    joined = LossMaps.concatenate([maps[:4], maps[4:4], maps[4:]])
    assert np.array_equal(joined.row_ptr, maps.row_ptr)
    assert np.array_equal(joined.xy, maps.xy) and np.array_equal(joined.gain, maps.gain)
    for index, error in (([9], IndexError), ([True] * 3, IndexError), ([0.5], TypeError)):
        with pytest.raises(error):
            maps[index]
    with pytest.raises(ValueError, match="differ"):
        LossMaps.concatenate([maps, LossMaps.from_dense(random_maps(1, 2, 6, 9))])
    with pytest.raises(TypeError):
        LossMaps.concatenate([])


def test_fields_are_read_only_and_described() -> None:
    maps = LossMaps.from_dense(random_maps(12, 3, 4, 5))
    with pytest.raises(ValueError):
        maps.gain[0] = 1.0
    assert "3 maps of 4 x 5" in repr(maps)
    assert maps.nbytes == maps.row_ptr.nbytes + maps.xy.nbytes + maps.gain.nbytes + 12


def test_building_from_raw_arrays_checks_everything() -> None:
    good = {"row_ptr": [0, 2, 3], "xy": [[1, 0], [0, 1], [2, 2]], "gain": [1.0, 2.0, 3.0]}
    maps = LossMaps(**good, size=(3, 4))
    assert maps.log_cardinality == pytest.approx(math.log(13))
    bad = [
        ({"row_ptr": [0, 2, 2]}, "row_ptr"),
        ({"row_ptr": [1, 2, 3]}, "row_ptr"),
        ({"row_ptr": [0, 4, 3]}, "row_ptr"),
        ({"row_ptr": []}, "row_ptr"),
        ({"xy": [[0, 1], [1, 0], [2, 2]]}, "sorted"),
        ({"xy": [[1, 0], [1, 0], [2, 2]]}, "sorted"),
        ({"xy": [[1, 0], [0, 1], [4, 2]]}, "inside the map"),
        ({"xy": [[1, 0], [0, 1], [-1, 2]]}, "inside the map"),
        ({"xy": [[1, 0], [0, 1], [70000, 2]]}, "xy"),
        ({"gain": [1.0, 0.0, 1.0]}, "gain"),
        ({"gain": [1.0, np.nan, 1.0]}, "gain"),
        ({"gain": [1.0, 2.0]}, "gain"),
        ({"origins": [[0, 0], [3, 0]]}, "window"),
        ({"flat_gain": [-1.0, 0.0]}, "flat_gain"),
        ({"log_cardinality": 0.0}, "log_cardinality"),
        ({"size": (0, 4)}, "size"),
        ({"size": (3, 40000)}, "size"),
        ({"window": (2, 2)}, "origins"),
    ]
    for change, match in bad:
        with pytest.raises((ValueError, TypeError), match=match):
            LossMaps(**{**good, "size": (3, 4), **change})


@pytest.mark.parametrize("case", ["npz", "safetensors"])
def test_files(case: str, tmp_path: Path) -> None:
    if case == "safetensors":
        pytest.importorskip("safetensors")
    maps = LossMaps.from_dense(random_maps(13, 5, 8, 8), origins=np.ones((5, 2)), size=(20, 30))
    path = tmp_path / f"maps.{case}"
    maps.save(path)
    back = LossMaps.load(path)
    for name in ("row_ptr", "xy", "gain", "origins", "flat_gain", "size", "window"):
        assert np.array_equal(getattr(maps, name), getattr(back, name)), name
    assert back.log_cardinality == maps.log_cardinality
    whole = path.read_bytes()
    for damage in (whole[:50], whole[: len(whole) // 2], b"", b"\0" * 200, whole[::-1]):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"maps\."):
            LossMaps.load(path)
    with pytest.raises(FileNotFoundError):
        LossMaps.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="npz"):
        maps.save(tmp_path / "maps.txt")


def test_a_file_with_wrong_values_is_refused(tmp_path: Path) -> None:
    maps = LossMaps.from_dense(random_maps(14, 5, 8, 8))
    path = tmp_path / "maps.npz"
    maps.save(path)
    stored = dict(np.load(path))
    changes = (("gain", stored["gain"] * -1), ("xy", stored["xy"] + 7), ("shape", np.zeros(2)),
               ("row_ptr", stored["row_ptr"][:-1]), ("gain", stored["gain"].astype("U8")))  # fmt: skip
    for name, value in changes:
        np.savez(path, **{**stored, name: value})
        with pytest.raises(ValueError, match="does not hold loss maps"):
            LossMaps.load(path)
    np.savez(path, **{k: v for k, v in stored.items() if k != "gain"})
    with pytest.raises(ValueError, match="gain"):
        LossMaps.load(path)


def test_bad_input() -> None:
    maps = random_maps(15, 2, 4, 4)
    cases = [
        ((maps[0],), {}, "shape"),
        ((np.zeros((2, 0, 4)),), {}, "size of maps"),
        ((np.where(maps > 1, np.nan, maps),), {}, "NaN"),
        ((-np.inf * np.ones((1, 2, 2)),), {}, "NaN, -inf"),
        ((maps,), {"size": (9, 9)}, "origins"),
        ((maps,), {"origins": [[0, 0]]}, "origins"),
        ((maps,), {"origins": [[0.5, 0], [0, 0]]}, "origins"),
        ((maps,), {"max_entries": 0}, "max_entries"),
        ((maps,), {"log_cardinality": np.nan}, "log_cardinality"),
        ((maps,), {"num_threads": 0}, "num_threads"),
    ]
    for args, kwargs, match in cases:
        with pytest.raises((ValueError, TypeError), match=match):
            LossMaps.from_dense(*args, **kwargs)
    with pytest.raises(TypeError, match="max_entries"):
        LossMaps.from_dense(maps, max_entries="most")
    good = LossMaps.from_dense(maps)
    for call in (
        lambda: good.evaluate(np.zeros((3, 2))),
        lambda: good.evaluate(np.zeros((2, 2)), compat="other"),
        lambda: good.mass(np.zeros((3, 2)), 2),
        lambda: good.mass(np.zeros((2, 2)), 0),
        lambda: good.mass(np.zeros((2, 2)), np.inf),
    ):
        with pytest.raises(ValueError):
            call()


def test_no_maps() -> None:
    maps = LossMaps.from_dense(np.zeros((0, 4, 5), np.float32))
    assert len(maps) == 0 and maps.dense().shape == (0, 4, 5)
    assert maps.evaluate(np.zeros((0, 2))).shape == (0,)
    assert maps.evaluate(np.zeros((3, 0, 2))).shape == (3, 0)
    assert maps.mass(np.zeros((0, 2)), 3).shape == (0,)
    assert maps.argmin().xy.shape == (0, 2)
    assert len(maps[:]) == 0


def test_layouts_and_infinite_losses() -> None:
    dense = random_maps(16, 6, 8, 10)
    expected = LossMaps.from_dense(dense)
    read_only = dense.copy()
    read_only.flags.writeable = False
    strided = np.zeros((12, 8, 20), np.float32)[::2, :, ::2]
    strided[:] = dense
    for variant in (read_only, strided, dense[::-1].copy()[::-1], dense.astype(">f4")):
        assert np.array_equal(LossMaps.from_dense(variant).gain, expected.gain)
    infinite = np.where(dense >= np.float32(math.log(81)), np.inf, dense)
    assert np.array_equal(LossMaps.from_dense(infinite.astype(np.float32)).xy, expected.xy)


def test_torch_in_torch_out() -> None:
    torch = pytest.importorskip("torch")
    dense = random_maps(17, 4, 6, 7)
    maps = LossMaps.from_dense(torch.from_numpy(dense))
    assert isinstance(maps.dense(), torch.Tensor) and isinstance(maps.argmin().xy, torch.Tensor)
    points = np.random.default_rng(1).uniform(0, 6, (4, 2))
    got = maps.evaluate(torch.from_numpy(points))
    assert isinstance(got, torch.Tensor)
    np.testing.assert_array_equal(got.numpy(), maps.evaluate(points))
    assert isinstance(maps.mass(torch.from_numpy(points), 3), torch.Tensor)
    half = LossMaps.from_dense(torch.from_numpy(dense).bfloat16(), log_cardinality=4.0)
    assert half.gain.dtype == np.float32


def test_threads_give_the_same_bits() -> None:
    dense = random_maps(18, 150, 20, 30, 0.9)
    points = np.random.default_rng(2).uniform(0, 20, (7, 150, 2))
    one = LossMaps.from_dense(dense, max_entries=50, num_threads=1)
    for threads in (2, 8):
        many = LossMaps.from_dense(dense, max_entries=50, num_threads=threads)
        assert many.gain.tobytes() == one.gain.tobytes() and many.xy.tobytes() == one.xy.tobytes()
        assert (
            many.evaluate(points, num_threads=threads).tobytes()
            == one.evaluate(points, num_threads=1).tobytes()
        )
        assert (
            many.mass(points[0], 4, num_threads=threads).tobytes()
            == one.mass(points[0], 4, num_threads=1).tobytes()
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 40), st.integers(1, 40),
       st.integers(1, 60))  # fmt: skip
def test_any_shape(seed: int, n: int, h: int, w: int, limit: int) -> None:
    dense = random_maps(seed, n, h, w, 0.5)
    rng = np.random.default_rng(seed)
    origins = rng.integers(-50, 50, (n, 2))
    maps = LossMaps.from_dense(dense, origins=origins, size=(30, 25), max_entries=limit)
    # What was built must satisfy what is demanded of raw arrays.
    again = LossMaps(maps.row_ptr, maps.xy, maps.gain, size=maps.size, window=maps.window,
                     origins=maps.origins, log_cardinality=maps.log_cardinality)  # fmt: skip
    assert again.entries_per_map.max(initial=0) <= limit
    loss = maps.evaluate(rng.normal(0, 1e3, (n, 2)) ** 3)
    assert np.isfinite(loss).all() and (loss <= maps.log_cardinality + 1e-9).all()


@pytest.mark.parametrize("local", [False, True])
def test_synthetic_problems(shared: Path, local: bool) -> None:
    path = shared / "problems"
    if not (path / "nre_problem.py").is_file():
        pytest.skip("needs the synthetic problems")
    sys.path.insert(0, str(path))
    try:
        problems = importlib.import_module("nre_problem")
    finally:
        sys.path.remove(str(path))
    make = problems.make_local_problem if local else problems.make_problem
    problem = make(3, M=60)
    maps = LossMaps.from_dense(
        problem.maps, log_cardinality=math.log(problem.cardinality), origins=problem.origins,
        size=problem.map_size,
    )  # fmt: skip
    assert np.array_equal(maps.entries_per_map, problems.live_entries(problem))
    assert np.array_equal(maps.argmin().xy, problems.argmin_xy(problem))
    np.testing.assert_allclose(maps.dense(), problem.maps, atol=1e-6)
