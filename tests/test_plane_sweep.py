# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The plane sweep: by hand, against the float64 form and grid_sample, invariances, equal bits, bad input."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sweep_scenes import Scene, grid_sample_sweep, intrinsics, scene

import pyloc_core as pl
from pyloc_core import _sweep

torch = pytest.importorskip("torch")

REDUCTIONS = ("mean", "valid_mean", "none")


def sweep(given: Scene, **options: Any) -> Any:
    return pl.plane_sweep(*given.arguments(), **options)


def features32(given: Scene) -> Scene:
    return given.but(
        reference=given.reference.astype(np.float32), sources=given.sources.astype(np.float32)
    )


def worst(found: Any, truth: Any) -> float:
    return float(np.abs(np.asarray(found, np.float64) - truth).max() / np.abs(truth).max())


def test_by_hand() -> None:
    """Two cells a cell apart in x, a source moved by one unit: disparity f t / d = 4 / d cells."""
    K = np.array([[4.0, 0, 2], [0, 4, 0], [0, 0, 1]])
    pose = np.eye(4)[None]
    pose[0, 0, 3] = -1.0
    reference = np.array([[[0.0, 0, 0, 0, 3.0]]])
    source = np.array([[[[10.0, 20, 40, 80, 160]]]])
    found, mask = pl.plane_sweep(
        reference, source, K, K[None], pose, [1.0, 2.0, 8.0, 1.6], return_mask=True
    )
    np.testing.assert_allclose(found[:, 0, 4], [30, 120, 3 * 120, 3 * 30], rtol=1e-6)
    assert mask[:, 0, 4].all() and not mask[0, 0, 3] and mask[1, 0, 2] and not mask[1, 0, 1]


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("form", ["shared", "item", "cell"])
@pytest.mark.parametrize("channels", [1, 3, 16, 17, 64, 70])
def test_equals_the_float64_form(channels: int, form: str, reduce: str) -> None:
    given = scene((2, 3, channels, 19, channels), (5, 21), (11, 14), form=form)
    options = {"reduce": reduce, "return_mask": True}
    found, mask = sweep(features32(given), **options)
    truth, seen = sweep(given, **options, implementation="reference")
    assert found.dtype == np.float32 and mask.dtype == bool and found.shape == mask.shape
    assert worst(found, truth) < 1e-5
    assert (mask != seen).sum() <= 2  # a sample may lie on the very edge
    assert seen.mean() > 0.1  # views see, and do not see


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("planes", [1, 4, 16, 33])
def test_every_instruction_set(isa: str, planes: int) -> None:
    given = scene((1, 2, 18, planes, 3), (4, 37), (9, 30), baseline=0.1)
    truth = sweep(given, implementation="reference")
    best = pl.build_info()["isa_best"]
    try:
        pl.set_isa(isa)
    except (ValueError, RuntimeError):
        pytest.skip(f"{isa} does not run here")
    try:
        assert worst(sweep(features32(given)), truth) < 1e-5
    finally:
        pl.set_isa(best)


@pytest.mark.parametrize("per_plane", [False, True])
def test_equals_grid_sample(per_plane: bool) -> None:
    given = scene((2, 3, 16, 12, 5), (12, 16), (10, 18), form="cell")
    expected = grid_sample_sweep(*given.tensors(), per_plane=per_plane)
    assert worst(sweep(features32(given)), expected.numpy()) < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_is_as_good_as_the_plain_form(dtype: str) -> None:
    """Error rule 7, with the plain form's coordinates in float32, as careful programs have them."""
    given = scene((1, 4, 32, 16, 6), (12, 16), (12, 16)).tensors(dtype)
    wide = [x.double() for x in given]
    truth = pl.plane_sweep(*wide, implementation="reference")
    found = pl.plane_sweep(*given)
    naive = grid_sample_sweep(*(x.float() for x in given)).to(given[0].dtype)
    assert found.dtype == given[0].dtype
    error, theirs = (float((x.double() - truth).abs().max()) for x in (found, naive))
    assert error <= 1.02 * theirs + 1e-6
    if dtype == "float16":
        arrays = [x.numpy() for x in given]
        np.testing.assert_array_equal(pl.plane_sweep(*arrays), found.numpy())


def test_threads_repeats_and_num_valid_have_equal_bits() -> None:
    given = features32(scene((3, 4, 16, 20, 7), (13, 22), (9, 31)))
    for reduce in REDUCTIONS:
        options: dict[str, Any] = {"reduce": reduce, "return_mask": True, "num_valid": [1, 4, 2]}
        expected = sweep(given, **options)
        for threads in (1, 2, 8):
            for a, b in zip(sweep(given, **options, num_threads=threads), expected):
                np.testing.assert_array_equal(a, b)
        for i, n in enumerate(options["num_valid"]):
            x = given.arguments()[:5]
            alone = [x[0][i], x[1][i, :n], x[2][i], x[3][i, :n], x[4][i, :n], given.depths]
            for a, b in zip(pl.plane_sweep(*alone, reduce=reduce, return_mask=True), expected):
                b = b[i, :n] if reduce == "none" else b[i]
                np.testing.assert_array_equal(a, b)
            if reduce == "none":
                assert not expected[0][i, n:].any() and not expected[1][i, n:].any()


def test_scale_and_order_do_not_matter() -> None:
    given = features32(scene((1, 5, 8, 16, 8), (10, 14), (10, 14)))
    expected, mask = sweep(given, return_mask=True)
    for factor in (0.25, 2.0, 1024.0):  # powers of two: the same bits
        poses = given.source_from_reference.copy()
        poses[..., 3] *= factor
        scaled = given.but(source_from_reference=poses, depths=given.depths * factor)
        np.testing.assert_array_equal(sweep(scaled), expected)
    poses = given.source_from_reference.copy()
    poses[..., 3] *= 100
    far = given.but(source_from_reference=poses, depths=100 * given.depths)
    assert worst(sweep(far), expected) < 2e-5
    order = [3, 0, 4, 2, 1]
    other = given.but(
        sources=given.sources[:, order], source_from_reference=given.source_from_reference[:, order]
    )
    assert worst(sweep(other), expected) < 1e-6
    np.testing.assert_array_equal(sweep(other, return_mask=True)[1], mask)


def test_zero_baseline_is_flat_and_the_reference_itself_is_its_square() -> None:
    given = features32(scene((1, 1, 8, 6, 9), (7, 9), (7, 9)))
    still = given.but(sources=given.reference[:, None], source_from_reference=np.eye(4)[None, None])
    found = sweep(still)
    square = (given.reference.astype(np.float64) ** 2).sum(1, keepdims=True)
    np.testing.assert_allclose(found, np.broadcast_to(square, found.shape), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_views_that_see_nothing(reduce: str) -> None:
    """Behind the reference's planes, and looking away: zero, and seen by nobody."""
    given = features32(scene((1, 2, 8, 5, 10)))
    poses = given.source_from_reference.copy()
    poses[:, 0, 2, 3] = -40.0
    poses[:, 1, 0, 3] = 1e6
    found, mask = sweep(given.but(source_from_reference=poses), reduce=reduce, return_mask=True)
    assert not found.any() and not mask.any()
    poses[:, 1] = given.source_from_reference[:, 1]
    found, mask = sweep(given.but(source_from_reference=poses), reduce=reduce, return_mask=True)
    alone = [x[:, 1:] for x in (given.sources, given.K_sources, poses)]
    one = given.but(sources=alone[0], K_sources=alone[1], source_from_reference=alone[2])
    expected, seen = sweep(one, reduce=reduce, return_mask=True)
    if reduce == "none":
        found, mask, expected, seen = found[:, 1], mask[:, 1], expected[:, 0], seen[:, 0]
    np.testing.assert_array_equal(mask, seen)
    np.testing.assert_array_equal(found, expected / 2 if reduce == "mean" else expected)


def test_a_cell_on_the_border_keeps_its_inner_taps() -> None:
    """Half a cell outside the map, two of the four taps count, and the view still sees the cell."""
    K = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    pose = np.eye(3, 4)[None]
    pose[0, 0, 3] = -0.5
    one = np.ones((1, 1, 1))
    found, mask = pl.plane_sweep(
        one, 8 * one[None], K, K[None], pose, [1.0, 0.625, 0.5, 0.4], return_mask=True
    )
    np.testing.assert_allclose(found[:, 0, 0], [4, 8 * 0.2, 0, 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(mask[:, 0, 0], [True, False, False, False])


def test_kinds_and_shapes() -> None:
    given = features32(scene())
    expected = sweep(given)
    assert sweep(given.but(reference=given.reference.astype(np.float64))).dtype == np.float32
    found = pl.plane_sweep(*given.tensors("float32"))
    assert isinstance(found, torch.Tensor) and np.array_equal(found, expected)
    first = [x[0] for x in given.arguments()[:5]]
    np.testing.assert_array_equal(pl.plane_sweep(*first, given.depths), expected[0])
    many = [x[None] for x in given.arguments()[:5]]
    for depths in (given.depths, np.broadcast_to(given.depths, (1, 2, 7))):
        np.testing.assert_array_equal(pl.plane_sweep(*many, depths)[0], expected)
    none = [x[:0] for x in given.arguments()[:5]]
    for reduce, shape in (("mean", (0, 7, 6, 9)), ("none", (0, 3, 7, 6, 9))):
        found, mask = pl.plane_sweep(*none, given.depths, reduce=reduce, return_mask=True)
        assert found.shape == mask.shape == shape
    strided = given.but(
        reference=np.ascontiguousarray(given.reference.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    )
    np.testing.assert_array_equal(sweep(strided), expected)


def wrong(given: Scene) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    nan = np.full((2, 3, 3, 4), np.nan)
    row = np.ones((2, 3, 4, 4))
    K = np.broadcast_to(intrinsics((6, 9)), (2, 3, 3))
    flat = K * np.array([1.0, 0.0, 1.0])[:, None]
    spoiled = given.reference.copy()
    spoiled[1, 2, 3, 4] = np.inf
    return [
        ({"reference": given.reference[0]}, {}, "sources must have shape"),
        ({"reference": given.reference[:, :4]}, {}, "sources must have shape"),
        ({"reference": np.ones((3, 3))}, {}, "reference must have shape"),
        ({"reference": spoiled}, {}, "reference holds NaN"),
        ({"sources": np.full_like(given.sources, np.nan)}, {}, "sources holds NaN"),
        ({"sources": given.sources[:, :0]}, {}, "sources must have no size of 0"),
        ({"K_reference": K[0]}, {}, "K_reference must have shape"),
        ({"K_reference": flat}, {}, "K_reference must be invertible"),
        ({"K_reference": K * np.nan}, {}, "K_reference holds NaN"),
        ({"K_sources": given.K_sources * [0.0, 1, 1]}, {}, "K_sources must be invertible"),
        ({"K_sources": given.K_sources[:, :2]}, {}, "K_sources must have shape"),
        ({"source_from_reference": nan}, {}, "source_from_reference holds NaN"),
        ({"source_from_reference": row}, {}, "source_from_reference must end in a row"),
        ({"source_from_reference": row[..., :3]}, {}, "source_from_reference must have shape"),
        ({"depths": given.depths[:0]}, {}, "depths must have at least one plane"),
        ({"depths": -given.depths}, {}, "depths must be positive"),
        ({"depths": 0 * given.depths}, {}, "depths must be positive"),
        ({"depths": np.nan * given.depths}, {}, "depths"),
        ({"depths": np.ones((2, 7, 6, 8))}, {}, "depths must have shape"),
        ({"depths": np.ones((3, 7))}, {}, "depths must have shape"),
        ({}, {"num_valid": 0}, "num_valid must lie"),
        ({}, {"num_valid": [2, 4]}, "num_valid must lie"),
        ({}, {"num_valid": [2, 2, 2]}, "num_valid must be"),
        ({}, {"reduce": "maen"}, "did you mean 'mean'"),
        ({}, {"implementation": "cuda"}, "implementation"),
    ]


@pytest.mark.parametrize("case", range(25))
def test_refusals(case: int) -> None:
    given = scene()
    changes, options, text = wrong(given)[case]
    bad = given.but(**changes)
    with pytest.raises(ValueError, match=text):
        sweep(bad, **options)
    tensors = [torch.tensor(np.asarray(x)) for x in bad.arguments()]
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype).requires_grad_() for x in tensors[:2]]
        with pytest.raises(ValueError, match=text):
            pl.plane_sweep(*leaves, *tensors[2:], **options)


def test_maps_whose_cells_have_no_int32_are_refused() -> None:
    shapes = {name: np.shape(x) for name, x in vars(scene()).items()}
    shapes["sources"] = (2, 3, 5, 50_000, 50_000)
    with pytest.raises(ValueError, match="sources must have maps of fewer"):
        _sweep.check_shapes(shapes)


def test_cameras_that_leave_float32_are_refused() -> None:
    far = np.array(scene().source_from_reference)
    far[..., 0, 3] = 1e39
    bad = scene().but(source_from_reference=far)
    with pytest.raises(ValueError, match="source_from_reference holds NaN or infinite"):
        sweep(bad)


def test_arrays_need_no_torch():
    program = (
        "import sys, numpy as np, pyloc_core\n"
        "map_ = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)\n"
        "K, pose = np.array([[8.0, 0, 4], [0, 8, 3], [0, 0, 1]]), np.eye(4)[:3]\n"
        "weights = [np.ones(s, 'f') for s in ((5, 22), 5, (6, 5), 6, (2, 6), 2)]\n"
        "for kind in (np.float32, np.float64):\n"
        "    x, given = map_.astype(kind), (K, K[None], pose[None], np.array([1.0, 2.0]))\n"
        "    w = [weight.astype(kind) for weight in weights]\n"
        "    assert pyloc_core.plane_sweep(x, x[None], *given).shape == (2, 6, 8)\n"
        "    assert pyloc_core.metadata_cost_volume(x, x[None], *given, w).shape == (2, 6, 8)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
