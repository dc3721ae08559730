# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""loss_maps on the GPU (or in Triton's interpreter): the same entries as the native path, and the
float64 reference's gains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from pyloc_core import DeviceLossMaps, loss_maps  # noqa: E402
from pyloc_core._triton import correlation_rank  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def level(
    seed: int, shape: tuple[int, int, int, int], device: Any, dtype: Any = torch.float32
) -> tuple[Any, Any]:
    """Descriptors (N, D) and features (D, H, W) of shape N, D, H, W."""
    n, d, h, w = shape
    rng = np.random.default_rng(seed)
    descriptors = torch.from_numpy(rng.standard_normal((n, d)) / np.sqrt(d))
    return descriptors.to(device, dtype), torch.from_numpy(rng.standard_normal((d, h, w))).to(
        device, dtype
    )


def check(descriptors: Any, features: Any, tolerance: float = 2e-5, **options: Any) -> Any:
    """The native path's entries, and gains as good as float32 correlations allow."""
    device_maps = loss_maps(descriptors, features, implementation="triton", **options)
    assert isinstance(device_maps, DeviceLossMaps)
    ours = device_maps.cpu()
    several = isinstance(descriptors, list)
    arguments = (
        ([x.cpu() for x in descriptors], [x.cpu() for x in features])
        if several
        else (descriptors.cpu(), features.cpu())
    )
    native = loss_maps(*arguments, **options)
    reference = loss_maps(*arguments, implementation="reference", **options)
    np.testing.assert_array_equal(ours.row_ptr, native.row_ptr)
    np.testing.assert_array_equal(ours.xy, native.xy)
    np.testing.assert_allclose(ours.gain, native.gain, atol=tolerance)
    np.testing.assert_allclose(ours.dense(), reference.dense(), atol=tolerance)
    np.testing.assert_array_equal(device_maps.peak_xy.cpu(), native.argmin().xy)
    np.testing.assert_allclose(device_maps.peak_gain.cpu(), native.peak_gain, atol=tolerance)
    assert (device_maps.flat_gain == 0).all() and ours.log_cardinality == native.log_cardinality
    return device_maps


@pytest.fixture
def short_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists so short that small maps are sampled first, as large ones are."""
    monkeypatch.setattr(correlation_rank, "SAMPLES", 48)
    monkeypatch.setattr(correlation_rank, "_LEAST_LISTED", 64)


@pytest.fixture
def made_again(monkeypatch: pytest.MonkeyPatch) -> list[list[bool]]:
    """Of every call, which maps' lists did not do."""
    seen: list[list[bool]] = []
    exact_rank = correlation_rank.exact_rank

    def noted(*args: Any, fill: bool) -> None:
        seen.append((args[-1] == 0).cpu().tolist())
        exact_rank(*args, fill=fill)

    monkeypatch.setattr(correlation_rank, "exact_rank", noted)
    return seen


@pytest.mark.parametrize("shape", [(5, 7, 6, 9), (66, 33, 5, 17), (3, 130, 1, 150), (2, 1, 1, 1)])
def test_equals_the_native_path_off_the_tile_sizes(
    shape: tuple[int, int, int, int], device: Any
) -> None:
    maps = check(*level(1, shape, device), temperature=0.25)
    assert maps.capacity == shape[0] * min(256, shape[2] * shape[3])


@pytest.mark.parametrize("limit", [1, 7, 150, 10000])
@pytest.mark.usefixtures("short_lists")
def test_the_most_informative_entries_are_kept(
    limit: int, device: Any, made_again: list[list[bool]]
) -> None:
    descriptors, features = level(2, (4, 12, 13, 17), device)
    check(descriptors, features, temperature=0.4, max_entries=limit)
    assert not any(made_again[-1])


@pytest.mark.parametrize("compat", [None, "published"])
@pytest.mark.usefixtures("short_lists")
def test_flat_maps_keep_their_first_cells(
    compat: Any, device: Any, made_again: list[list[bool]]
) -> None:
    descriptors, features = level(3, (4, 8, 10, 14), device)
    descriptors[0] = 0  # exactly flat: every cell is live, and equal
    descriptors[1] *= 1e-3
    maps = check(descriptors, features, max_entries=10, compat=compat)
    cells = maps.cpu()[0].xy
    assert not any(made_again[-1])
    np.testing.assert_array_equal(cells, [(x, 0) for x in range(10)])


@pytest.mark.usefixtures("short_lists")
def test_lists_that_overflow_or_miss_are_made_again(
    device: Any, made_again: list[list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors, features = level(4, (3, 8, 10, 14), device)
    features[:, 3:] = features[:, 3:4, 3:4]  # 98 of 140 cells are one
    descriptors[0] = 5 * features[:, 3, 3]  # and the best of this map
    options = {"temperature": 3.0, "max_entries": 2}
    check(descriptors, features, **options)
    assert made_again[-1][0]
    monkeypatch.setattr(correlation_rank, "bracket_ranks", lambda *_: (1, 1))
    check(descriptors, features, **options)
    assert all(made_again[-1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_operands(dtype: Any, device: Any) -> None:
    check(*level(5, (6, 40, 8, 11), device, dtype), temperature=0.3)


def test_levels_are_resized_and_summed(device: Any) -> None:
    pairs = [level(6, (5, 10, 9, 11), device), level(7, (5, 6, 4, 5), device)]
    descriptors, features = [p[0] for p in pairs], [p[1] for p in pairs]
    check(descriptors, features, temperature=0.3, max_entries=12)


def test_nan_spoils_only_its_own_map(device: Any) -> None:
    descriptors, features = level(8, (4, 8, 7, 9), device)
    expected = loss_maps(descriptors, features, temperature=0.3, implementation="triton").cpu()
    descriptors[1, 3] = torch.nan
    found = loss_maps(descriptors, features, temperature=0.3, implementation="triton")
    host = found.cpu()
    assert host.entries_per_map[1] == 0 and float(found.peak_gain[1]) == 0
    for n in (0, 2, 3):
        np.testing.assert_array_equal(host[n].gain, expected[n].gain)
    with pytest.raises(ValueError, match="descriptors holds NaN"):
        loss_maps(descriptors, features, implementation="triton", check_finite=True)


def test_no_descriptors_and_no_bound(device: Any) -> None:
    descriptors, features = level(9, (0, 8, 7, 9), device)
    maps = loss_maps(descriptors, features, implementation="triton")
    assert len(maps) == 0 and maps.capacity == 0 and int(maps.row_ptr[0]) == 0
    with pytest.raises(ValueError, match="at most 63"):
        loss_maps(descriptors, features, max_entries="all", implementation="triton")


def test_compiles_whole_and_passes_opcheck() -> None:
    torch.manual_seed(0)
    descriptors, features = torch.randn(9, 12), torch.randn(12, 8, 9)
    compiled = torch.compile(
        lambda d, f: loss_maps(d, f, max_entries=7), fullgraph=True, backend="aot_eager"
    )
    found = compiled(descriptors, features)
    expected = loss_maps(descriptors, features, max_entries=7)
    assert found.capacity == 63
    np.testing.assert_array_equal(found.cpu().gain, expected.gain)
    np.testing.assert_array_equal(found.peak_xy, expected.argmin().xy)
    arguments = ([descriptors], [features[:, ::2]], 8, 9, 1.0, 3, "", 1, "")
    torch.library.opcheck(torch.ops.pyloc_core.loss_maps.default, arguments)


def test_launcher_passes_opcheck(device: Any) -> None:
    descriptors, features = level(10, (9, 12, 8, 9), device)
    arguments = ([descriptors], [features[:, ::2]], 8, 9, 1.0, 3, "", 1, "triton")
    # What lies behind the last entry is undefined: no comparison of two runs.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.pyloc_core.loss_maps.default, arguments, test_utils=checks)
