# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""match on the GPU (or in Triton's interpreter): against the float64 reference and the native path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from pyloc_core import match  # noqa: E402
from pyloc_core._triton import correlation_rank  # noqa: E402

# The interpreter computes what masks discard, and NumPy warns of it.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
ALL: dict[str, Any] = {"quantile": 0.05, "entropy": True, "implementation": "triton"}


def level(
    seed: int, shape: tuple[int, int, int, int], device: Any, dtype: Any = torch.float32
) -> tuple[Any, Any]:
    """Descriptors (N, D) and features (D, H, W) of shape N, D, H, W."""
    n, d, h, w = shape
    rng = np.random.default_rng(seed)
    descriptors = torch.from_numpy(rng.standard_normal((n, d)).astype(np.float32) / np.sqrt(d))
    features = torch.from_numpy(rng.standard_normal((d, h, w)).astype(np.float32))
    return descriptors.float().to(device, dtype), features.to(device, dtype)


def on_cpu(x: Any) -> Any:
    return [each.cpu() for each in x] if isinstance(x, list) else x.cpu()


def check(descriptors: Any, features: Any, tolerance: float = 2e-5, **options: Any) -> Any:
    """Against the reference; the best cells are random numbers that differ by far more than rounding."""
    ours = match(descriptors, features, **{**ALL, **options})
    wanted = {**ALL, **options, "implementation": "reference"}
    reference = match(on_cpu(descriptors), on_cpu(features), **wanted)
    assert ours.xy.dtype == torch.float64 and ours.log_probability.dtype == torch.float32
    for name, expected in reference._asdict().items():
        found = getattr(ours, name)
        if expected is None:
            assert found is None
            continue
        exact = name == "xy" and "subcell" not in options
        rtol = 1e-4 if name == "quantile_ratio" else tolerance
        torch.testing.assert_close(
            found.cpu().double(), expected.double(), atol=0 if exact else tolerance, rtol=rtol,
            equal_nan=True,
        )  # fmt: skip
    return ours


@pytest.fixture
def short_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists so short that small maps are sampled first, as large ones are."""
    monkeypatch.setattr(correlation_rank, "SAMPLES", 48)
    monkeypatch.setattr(correlation_rank, "_LEAST_LISTED", 64)


@pytest.mark.parametrize("shape", [(5, 7, 6, 9), (70, 33, 9, 17), (17, 130, 1, 200), (1, 1, 1, 1)])
def test_equals_the_reference_off_the_tile_sizes(
    shape: tuple[int, int, int, int], device: Any
) -> None:
    check(*level(1, shape, device), temperature=0.5)


def test_equals_the_native_path(device: Any) -> None:
    descriptors, features = level(2, (9, 20, 13, 21), device)
    ours = match(descriptors, features, subcell="quadratic", **ALL)
    options = {**ALL, "implementation": "native"}
    native = match(descriptors.cpu(), features.cpu(), subcell="quadratic", **options)
    for name in ("xy", "log_probability", "quantile_ratio", "entropy"):
        found, expected = getattr(ours, name).cpu(), getattr(native, name)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_no_worse_than_the_naive_form(dtype: Any, device: Any) -> None:
    descriptors, features = level(3, (20, 100, 9, 13), device, dtype)
    ours = check(descriptors, features)
    expected = match(descriptors.cpu(), features.cpu(), implementation="reference")
    naive = torch.einsum("nd,dhw->nhw", descriptors, features).flatten(1).cpu()
    naive_peak = naive.double().max(1).values - naive.logsumexp(1).double()
    naive_error = (naive_peak - expected.log_probability).abs().max()
    error = (ours.log_probability.cpu().double() - expected.log_probability).abs().max()
    assert error <= naive_error + 1e-5


def test_mixed_dtypes_multiply_in_float32(device: Any) -> None:
    descriptors, features = level(4, (6, 24, 7, 11), device)
    check(descriptors, features.half())
    check(descriptors.bfloat16(), features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_levels_are_resized_and_summed(dtype: Any, device: Any) -> None:
    pairs = [
        level(5 + i, shape, device, dtype)
        for i, shape in enumerate([(7, 20, 10, 13), (7, 16, 5, 7), (7, 3, 23, 26)])
    ]
    descriptors, features = [p[0] for p in pairs], [p[1] for p in pairs]
    check(descriptors, features, size=(10, 13), subcell="quadratic")
    check(descriptors[1:2], features[1:2], size=(1, 9))


@pytest.mark.parametrize("temperature", [1e-3, 0.05, 40.0])
def test_peaked_and_flat_maps(temperature: float, device: Any) -> None:
    descriptors, features = level(8, (6, 12, 9, 15), device)
    tolerance = 2e-5 + 4e-6 / temperature  # the correlations' own rounding, over T
    ours = check(descriptors, features, tolerance, temperature=temperature)
    assert (ours.log_probability <= 0).all() and (ours.entropy >= 0).all()


def test_of_equal_cells_the_first_wins(device: Any) -> None:
    features = torch.ones(4, 17, 23, device=device)
    descriptors = torch.ones(3, 4, device=device)
    ours = match(descriptors, features, **ALL)
    assert (ours.xy == 0).all() and (ours.quantile_ratio == 1).all()
    torch.testing.assert_close(ours.entropy.cpu(), torch.full((3,), float(np.log(17 * 23))))
    features[:, 4, 5] = features[:, 9, 1] = features[:, 16, 22] = 2.0
    wanted = torch.tensor([5.0, 4.0], dtype=torch.float64, device=device)
    assert (match(descriptors, features, implementation="triton").xy == wanted).all()


@pytest.mark.parametrize("quantile", [0.004, 0.12, 0.5, 1.0])
@pytest.mark.usefixtures("short_lists")
def test_selection_is_exact(quantile: float, device: Any) -> None:
    rng = np.random.default_rng(9)
    plane = rng.standard_normal((1, 30, 41)).astype(np.float32) + 5
    plane[0, 10:12] = plane[0, 20:22]  # duplicates
    ones = torch.ones(3, 1, device=device)
    ours = match(
        ones, torch.from_numpy(plane).to(device), quantile=quantile, implementation="triton"
    )
    rank = max(1, int(quantile * plane.size))
    expected = np.float32(plane.max() / np.sort(plane.ravel())[-rank])
    np.testing.assert_array_equal(ours.quantile_ratio.cpu(), expected)


@pytest.mark.parametrize("bracket", [(1, 2), (30, 31)])
@pytest.mark.usefixtures("short_lists")
def test_a_wrong_bracket_costs_no_exactness(
    bracket: tuple[int, int], device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correlation_rank, "bracket_ranks", lambda *_: bracket)
    check(*level(10, (3, 6, 10, 14), device), quantile=0.2)


def test_ratio_test_on_correlations_of_every_sign(device: Any) -> None:
    def ratio(values: list[float], quantile: float) -> float:
        plane = torch.tensor([[values]], device=device)
        found = match(
            torch.ones(1, 1, device=device), plane, quantile=quantile, implementation="triton"
        )
        return float(found.quantile_ratio[0])

    assert ratio([1.0, 4.0, 2.0, 3.0], 0.25) == 1.0
    assert ratio([1.0, 4.0, 2.0, 3.0], 1.0) == 4.0
    assert ratio([1.0, -4.0], 1.0) == np.inf
    assert ratio([1.0, 0.0], 1.0) == np.inf
    assert ratio([0.0, -0.0], 1.0) == 1.0
    assert ratio([-2.0, -4.0], 1.0) == 0.5


def test_layouts_are_read_as_they_lie(device: Any) -> None:
    descriptors, features = level(11, (3, 8, 6, 11), device)
    expected = match(descriptors, features, **ALL)
    channels_last = features.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    wide = torch.zeros(8, 6, 20, device=device)
    wide[:, :, 3:14] = features
    doubled = features.repeat_interleave(2, dim=2)[:, :, ::2]
    column_major = descriptors.t().contiguous().t()
    for other in (channels_last, wide[:, :, 3:14], doubled):
        found = match(column_major, other, **ALL)
        assert (found.xy == expected.xy).all()
        torch.testing.assert_close(found.entropy, expected.entropy, atol=1e-6, rtol=1e-6)


def test_nan_spoils_only_its_own_items(device: Any) -> None:
    descriptors, features = level(12, (6, 9, 8, 8), device)
    expected = match(descriptors, features, subcell="quadratic", **ALL)
    spoilt = descriptors.clone()
    spoilt[2, 4], spoilt[4] = torch.nan, torch.inf
    found = match(spoilt, features, subcell="quadratic", **ALL)
    good = torch.tensor([0, 1, 3, 5])
    for a, b in zip(found, expected):
        assert torch.equal(a[good], b[good])
        assert not torch.isfinite(a[[2, 4]]).any()
    for name, value in (("descriptors", spoilt), ("features", features * torch.nan)):
        arguments = {"descriptors": descriptors, "features": features, name: value}
        with pytest.raises(ValueError, match=name):
            match(**arguments, implementation="triton", check_finite=True)


def test_no_descriptors(device: Any) -> None:
    descriptors, features = level(13, (0, 9, 8, 8), device)
    assert [tuple(x.shape) for x in match(descriptors, features, **ALL)] == [(0, 2), *[(0,)] * 3]


def test_many_descriptors_go_in_groups(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptors, features = level(14, (11, 5, 5, 6), device)
    whole = match(descriptors, features, **ALL)
    monkeypatch.setattr(correlation_rank, "LIST_BYTES", 4 * 32 * 4)  # four lists at a time
    for a, b in zip(match(descriptors, features, **ALL), whole):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"quantile": 0.1, "entropy": True, "subcell": "quadratic"}]
)
def test_compiles_whole_and_passes_opcheck(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    descriptors, features = torch.randn(9, 12), torch.randn(12, 8, 9)

    def run(d: Any, f: Any) -> Any:
        return tuple(x for x in match(d, f, **options) if x is not None)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(descriptors, features), run(descriptors, features)):
        assert torch.equal(a, b)
    arguments = ([descriptors], [features[:, ::2]], 8, 9, 1.0, 3 * len(options), True, True, 1, "")
    torch.library.opcheck(torch.ops.pyloc_core.match.default, arguments)


def test_launcher_passes_opcheck(device: Any) -> None:
    descriptors, features = level(15, (9, 12, 8, 9), device)
    arguments = ([descriptors], [features[:, ::2]], 8, 9, 1.0, 3, True, True, 1, "triton")
    torch.library.opcheck(torch.ops.pyloc_core.match.default, arguments)
