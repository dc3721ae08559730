# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""local_loss_maps on the GPU (or in Triton's interpreter): the same entries as the native path, and the
float64 reference's gains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from pyloc_core import DeviceLossMaps, local_loss_maps  # noqa: E402
from pyloc_core._triton import local_loss_maps as kernels  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def problem(
    seed: int, shape: tuple[int, int, int, int], device: Any, dtype: Any = torch.float32
) -> dict[str, Any]:
    """N, D, H, W; centres on both sides of every border."""
    n, d, h, w = shape
    rng = np.random.default_rng(seed)
    arrays = {
        "descriptors": torch.from_numpy(3 * rng.standard_normal((n, d)) / np.sqrt(d)).to(dtype),
        "features": torch.from_numpy(rng.standard_normal((d, h, w))).to(dtype),
        "centers": torch.from_numpy(rng.uniform(-5, [w + 5, h + 5], (n, 2))),
        "coarse_mass": torch.from_numpy(rng.uniform(0.2, 1, n)),
    }
    return {name: array.to(device) for name, array in arrays.items()}


def check(arrays: dict[str, Any], tolerance: float = 2e-5, **options: Any) -> Any:
    found = local_loss_maps(**arrays, implementation="triton", **options)
    assert isinstance(found, DeviceLossMaps)
    host = {n: a.cpu() if isinstance(a, torch.Tensor) else a for n, a in arrays.items()}
    native = local_loss_maps(**host, **options)
    reference = local_loss_maps(**host, implementation="reference", **options)
    ours = found.cpu()
    np.testing.assert_array_equal(ours.row_ptr, native.row_ptr)
    np.testing.assert_array_equal(ours.xy, native.xy)
    np.testing.assert_allclose(ours.gain, native.gain, atol=tolerance)
    np.testing.assert_allclose(ours.dense(), reference.dense(), atol=tolerance)
    np.testing.assert_array_equal(ours.origins, native.origins)
    np.testing.assert_allclose(ours.flat_gain, native.flat_gain, atol=1e-5)
    np.testing.assert_array_equal(found.peak_xy.cpu(), native.argmin().xy)
    np.testing.assert_allclose(found.peak_gain.cpu(), native.peak_gain, atol=tolerance)
    assert (ours.size, ours.window) == (native.size, native.window)
    return found


@pytest.mark.parametrize("window", [1, 6, (7, 16), (40, 3)])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_equals_the_native_path(window: Any, scale: Any, device: Any) -> None:
    check(problem(1, (9, 21, 14, 19), device), window=window, scale=scale)


@pytest.mark.parametrize("compat", ["published", "published_placed"])
def test_published_windows(compat: Any, device: Any) -> None:
    check(problem(2, (9, 12, 14, 19), device), window=8, compat=compat)
    check(problem(3, (9, 12, 14, 19), device), window=(5, 8), scale=1.0, compat=compat)


@pytest.mark.parametrize("limit", [1, 9])
def test_the_most_informative_entries_are_kept(limit: int, device: Any) -> None:
    arrays = problem(4, (6, 12, 14, 19), device)
    arrays["descriptors"][0] = 0  # flat: the first cells of the window
    check(arrays, window=10, scale=1.0, max_entries=limit, temperature=2.0)


def test_dropped_windows(device: Any) -> None:
    arrays = problem(5, (6, 12, 14, 19), device)
    arrays["centers"][0, 1], arrays["centers"][1, 0] = torch.nan, torch.inf
    arrays["centers"][2] = 1e7
    arrays["coarse_mass"][3] = 0
    found = check(arrays, window=8, scale=1.0)
    assert (found.cpu().entries_per_map[:4] == 0).all()


def test_nan_spoils_only_the_windows_that_read_it(device: Any) -> None:
    arrays = problem(6, (3, 5, 20, 30), device)
    arrays["centers"] = torch.tensor([[4.0, 5.0], [15.0, 10.0], [25.0, 15.0]]).double().to(device)
    options: dict[str, Any] = {"window": 6, "scale": 1.0, "implementation": "triton"}
    expected = local_loss_maps(**arrays, **options).cpu()
    arrays["features"][2, 10, 15] = torch.nan
    found = local_loss_maps(**arrays, **options).cpu()
    assert found.entries_per_map[1] == 0 < expected.entries_per_map[1]
    for n in (0, 2):
        np.testing.assert_array_equal(found[n].gain, expected[n].gain)
    with pytest.raises(ValueError, match="features holds NaN"):
        local_loss_maps(**arrays, **options, check_finite=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_layouts(dtype: Any, device: Any) -> None:
    arrays = problem(7, (5, 70, 9, 13), device, dtype)
    features = arrays["features"]
    arrays["features"] = features.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    check(arrays, window=6, scale=1.0)


def test_one_mass_for_all_and_none(device: Any) -> None:
    arrays = problem(8, (4, 6, 9, 13), device)
    check({**arrays, "coarse_mass": 0.5}, window=6)
    check({**arrays, "coarse_mass": None}, window=6, strides=(4.0, 8.0))
    empty = {n: a[:0] if n != "features" else a for n, a in arrays.items()}
    assert len(local_loss_maps(**empty, window=6, implementation="triton")) == 0


def test_many_windows_go_in_groups(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LOGIT_BYTES", 4 * 36 * 3)  # three windows at a time
    check(problem(9, (8, 6, 9, 13), device), window=6, scale=1.0)


def test_compiles_whole_and_passes_opcheck() -> None:
    arrays = problem(10, (9, 12, 18, 19), torch.device("cpu"))

    def run(d: Any, f: Any, c: Any, m: Any) -> Any:
        return local_loss_maps(d, f, c, coarse_mass=m, window=6, scale=0.5, max_entries=7)

    expected = run(*arrays.values())
    found = torch.compile(run, fullgraph=True, backend="aot_eager")(*arrays.values())
    np.testing.assert_array_equal(found.cpu().gain, expected.gain)
    np.testing.assert_array_equal(found.origins, expected.origins)
    d, f, c, _ = arrays.values()
    arguments = (d, f[:, ::2], c, None, 5, 6, 1.0, 1.0, 3, "", 1, "")
    torch.library.opcheck(torch.ops.pyloc_core.local_loss_maps.default, arguments)


def test_launcher_passes_opcheck(device: Any) -> None:
    d, f, c, _ = problem(11, (9, 12, 18, 19), device).values()
    arguments = (d, f[:, ::2], c, None, 5, 6, 1.0, 1.0, 3, "", 1, "triton")
    # What lies behind the last entry is undefined: no comparison of two runs.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.pyloc_core.local_loss_maps.default, arguments, test_utils=checks
    )
