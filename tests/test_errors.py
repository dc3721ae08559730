# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The net under every public function: bad input gives a clear error or a result without success,
never a crash, NaN in a pose, or a changed argument."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from public_calls import COUNT, Call, all_calls, arrays_in, check_result

import pyloc_core as pl

CALLS = {call.name: call for call in all_calls()}
ARGUMENTS = [(name, array) for name, call in CALLS.items() for array in call.arrays]
# Public functions that take no arrays.
WITHOUT_ARRAYS = {
    "build_info", "get_num_threads", "set_num_threads", "set_isa", "implementations", "pose_error",
    "camera_rows",
}  # fmt: skip


def refused(call: Call, argument: str, **changes: Any) -> None:
    """The call raises an error that names the argument."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call(**changes)
    text = str(caught.value)
    names = {argument, *call.per_point, *call.arrays} if argument in call.per_point else {argument}
    assert any(name in text for name in names), f"{text!r} does not name {argument}"


def survives(call: Call, **changes: Any) -> Any:
    """A clear error, or a result that keeps its promises."""
    try:
        result = call(**changes)
    except (ValueError, TypeError) as error:
        assert str(error)
        return None
    check_result(result)
    return result


def same(a: Any, b: Any) -> None:
    for x, y in zip(arrays_in(a), arrays_in(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_net_covers_every_public_function() -> None:
    functions = {
        name
        for name in pl.__all__
        if inspect.isfunction(getattr(pl, name)) and name != "MissingExtra"
    }
    missing = functions - set(CALLS) - WITHOUT_ARRAYS
    assert not missing, f"add {sorted(missing)} to tests/public_calls.py"


@pytest.mark.parametrize("name", CALLS)
def test_valid_calls_are_valid_and_change_nothing(name) -> None:
    call = CALLS[name]
    before = {k: v.copy() for k, v in call.arrays.items()}
    result = call()
    check_result(result)
    if isinstance(result, pl.PoseEstimate):
        assert result.success, result.reason
    for key, value in before.items():
        np.testing.assert_array_equal(call.arrays[key], value)
    same(result, call())


@pytest.mark.parametrize("name,argument", ARGUMENTS)
@pytest.mark.parametrize("what", ["none", "string", "ragged", "complex", "object", "dict"])
def test_things_that_are_no_real_arrays(name, argument, what) -> None:
    call = CALLS[name]
    good = call.arrays[argument]
    bad = {
        "none": None,
        "string": "points",
        "ragged": [[1.0, 2.0], [3.0]],
        "complex": good.astype(complex),
        "object": np.full(good.shape, None, dtype=object),
        "dict": {},
    }[what]
    if bad is None and argument == "weights":
        pytest.skip("None is the default")
    with pytest.raises((ValueError, TypeError)):
        call(**{argument: bad})


@pytest.mark.parametrize("name,argument", ARGUMENTS)
def test_wrong_number_of_dimensions(name, argument) -> None:
    call = CALLS[name]
    good = call.arrays[argument]
    refused(call, argument, **{argument: np.zeros(())})
    if argument not in call.flexible:
        refused(call, argument, **{argument: good.ravel() if good.ndim > 1 else good[None]})
        refused(call, argument, **{argument: good[None, None]})


@pytest.mark.parametrize("name,argument", ARGUMENTS)
def test_wrong_last_dimension(name, argument) -> None:
    call = CALLS[name]
    good = call.arrays[argument]
    wide = (
        "features", "maps", "weights", "values", "volume", "depth", "reference", "sources", "depths",
    )  # fmt: skip
    if argument in wide or name in ("dual_softmax", "salad_assign"):
        pytest.skip("any width is right")
    for bad in (good[..., :-1], np.concatenate([good, good], axis=-1), good[..., :0]):
        refused(call, argument, **{argument: bad})


@pytest.mark.parametrize(
    "name,argument",
    [(c.name, a) for c in CALLS.values() for a in c.per_point if len(c.per_point) > 1],
)
def test_lengths_must_agree(name, argument) -> None:
    call = CALLS[name]
    good = call.arrays[argument]
    for bad in (good[:-1], np.concatenate([good, good[:1]]), good[:0]):
        refused(call, argument, **{argument: bad})


@pytest.mark.parametrize("name,argument", ARGUMENTS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_values_that_are_not_finite(name, argument, value) -> None:
    call = CALLS[name]
    bad = call.arrays[argument].astype(np.float64)
    bad.reshape(-1)[bad.size // 2] = value
    if argument in call.not_finite_allowed:
        survives(call, **{argument: bad})
    elif argument == "features":  # checked where they are read
        bad[:] = value
        refused(call, argument, **{argument: bad})
    elif argument == "maps" and value == np.inf:  # an infinite loss is a dead cell
        survives(call, **{argument: bad})
    else:
        refused(call, argument, **{argument: bad})


@pytest.mark.parametrize("name,argument", ARGUMENTS)
def test_layouts_do_not_change_the_result(name, argument) -> None:
    call = CALLS[name]
    good = call.arrays[argument]
    expected = call()
    twice = np.repeat(good, 2, axis=0)[::2]
    backwards = good[::-1].copy()[::-1]
    last_backwards = good[..., ::-1].copy()[..., ::-1]
    wide = np.repeat(good, 3, axis=-1)[..., ::3]
    locked = good.copy()
    locked.setflags(write=False)
    swapped = good.astype(good.dtype.newbyteorder(">"))
    offset = (
        np.frombuffer(b"x" + good.tobytes(), dtype=np.uint8)[1:]
        .view(good.dtype)
        .reshape(good.shape)
    )
    for form in (twice, backwards, last_backwards, wide, locked, swapped, offset):
        np.testing.assert_array_equal(form, good)
        same(call(**{argument: form}), expected)
    # Column-major memory may be read by another path (channels last), which sums in another order.
    for x, y in zip(arrays_in(call(**{argument: np.asfortranarray(good)})), arrays_in(expected)):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", [c.name for c in CALLS.values() if c.per_point])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_empty_and_small(name, count) -> None:
    call = CALLS[name]
    result = call(**{k: call.arrays[k][:count] for k in call.per_point})
    check_result(result)
    if isinstance(result, pl.PoseEstimate):
        assert len(result.inlier_probability) == count
        if count < 3:
            assert not result.success
            assert np.isinf(result.covariance).all()
    elif isinstance(result, (pl.LossMaps, np.ndarray)) and call.result_per_point:
        assert len(result) == count


# Operators between descriptors and a map of features (D, H, W).
WITH_MAPS = [n for n in CALLS if {"features", "descriptors"} <= set(CALLS[n].arrays)]


@pytest.mark.parametrize("name", WITH_MAPS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_channels_or_no_cells(name, axis) -> None:
    call = CALLS[name]
    features = call.arrays["features"]
    empty = np.take(features, [], axis=axis)
    descriptors = call.arrays["descriptors"]
    if axis == 0:
        descriptors = descriptors[:, :0]
    with pytest.raises(ValueError):
        call(features=empty, descriptors=descriptors)
    none = {k: call.arrays[k][:0] for k in call.per_point or ("descriptors",)}
    with pytest.raises(ValueError):
        call(**{**none, "features": empty, "descriptors": descriptors[:0]})


@pytest.mark.parametrize("name", WITH_MAPS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (1, 1, 5), (3, 2, 2), (12, 1, 1)])
def test_smallest_feature_maps(name, shape) -> None:
    call = CALLS[name]
    rng = np.random.default_rng(0)
    features = rng.normal(size=shape).astype(np.float32)
    descriptors = rng.normal(size=(COUNT, shape[0])).astype(np.float32)
    survives(call, features=features, descriptors=descriptors)


@pytest.mark.parametrize("name", WITH_MAPS)
def test_equal_descriptors_and_flat_features(name) -> None:
    call = CALLS[name]
    descriptors, features = call.arrays["descriptors"], call.arrays["features"]
    survives(call, descriptors=np.repeat(descriptors[:1], COUNT, axis=0))
    survives(call, descriptors=np.zeros_like(descriptors))
    for flat in (np.ones_like(features), np.zeros_like(features)):
        result = survives(call, features=flat)
        if isinstance(result, pl.PoseEstimate):
            assert not result.success


@pytest.mark.parametrize("name,argument", ARGUMENTS)
@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e8, 1e19, 1e30, 1e38, 1e150, 1e300])
def test_gigantic_and_tiny_values(name, argument, factor) -> None:
    call = CALLS[name]
    with np.errstate(over="ignore", under="ignore"):
        scaled = call.arrays[argument].astype(np.float64) * factor
    survives(call, **{argument: scaled})
    one = call.arrays[argument].astype(np.float64)
    one.reshape(-1)[0] = factor
    survives(call, **{argument: one})
    one.reshape(-1)[0] = -factor
    survives(call, **{argument: one})


@pytest.mark.parametrize("name", CALLS)
def test_unknown_options_and_bad_switches(name) -> None:
    call = CALLS[name]
    with pytest.raises(TypeError):
        call(no_such_option=1)
    if call.threaded:
        for bad, error in ((0, ValueError), (-3, ValueError), (1.5, TypeError), ("2", TypeError)):
            with pytest.raises(error, match="num_threads"):
                call(num_threads=bad)
    if call.reference:
        with pytest.raises(ValueError, match="implementation"):
            call(implementation="no_such")


CAMERA_CALLS = [n for n in CALLS if "camera" in CALLS[n].options]
POSE_CALLS = [n for n in CAMERA_CALLS if CALLS[n].result_per_point]  # score_poses finds no pose


@pytest.mark.parametrize("name", POSE_CALLS)
@pytest.mark.parametrize("kind", ["line", "point", "plane", "two", "behind", "at_camera"])
def test_degenerate_points(name, kind) -> None:
    """Whatever the points are, the pose is finite, and without success where it is not determined."""
    call = CALLS[name]
    points = call.arrays["points3d"]
    steps = np.linspace(0, 1, COUNT)[:, None]
    a, b, c = points[:3]
    # The camera's centre under the true pose, up to the start's perturbation.
    start = call.arrays.get("cam_from_world", np.eye(3, 4))
    degenerate = {
        "line": a + steps * (b - a),
        "point": np.repeat(points[:1], COUNT, axis=0),
        "plane": a + steps * (b - a) + steps[::-1] ** 2 * (c - a),
        "two": np.where(np.arange(COUNT)[:, None] % 2, a, b),
        "behind": (points @ start[:, :3].T * [1, 1, -1] - start[:, 3]) @ start[:, :3]
        - 20 * start[2, :3],
        "at_camera": np.repeat(pl.camera_center(start)[None], COUNT, axis=0),
    }[kind]
    result = survives(call, points3d=np.ascontiguousarray(degenerate))
    assert result is not None
    if kind in ("point", "two", "at_camera"):
        assert not result.success, result.reason


@pytest.mark.parametrize("name", [n for n in POSE_CALLS if "maps" in CALLS[n].arrays])
def test_flat_maps_carry_no_pose(name) -> None:
    call = CALLS[name]
    maps = call.arrays["maps"]
    ceiling = np.log(1 + maps[0].size)
    rng = np.random.default_rng(1)
    for flat in (
        np.full_like(maps, ceiling),
        np.full_like(maps, np.log(maps[0].size)),
        np.full_like(maps, np.inf),
        (ceiling + 0.05 * rng.normal(size=maps.shape)).astype(np.float32),
    ):
        result = call(maps=flat)
        check_result(result)
        assert not result.success and result.reason


@pytest.mark.parametrize("name", CAMERA_CALLS)
def test_cameras_that_are_none(name) -> None:
    call = CALLS[name]
    for bad in (
        None,
        3,
        "PINHOLE",
        np.eye(4),
        np.zeros((3, 3)),
        np.full((3, 3), np.nan),
        {"model": "X"},
    ):
        with pytest.raises((ValueError, TypeError)):
            call(camera=bad)


@pytest.mark.parametrize("name", [n for n in CALLS if "cam_from_world" in CALLS[n].options or
                                  ("cam_from_world" in CALLS[n].arrays and n in POSE_CALLS)])  # fmt: skip
def test_poses_that_are_none(name) -> None:
    call = CALLS[name]
    reflection = np.diag([1.0, 1.0, -1.0])
    for bad in (np.zeros((3, 4)), np.c_[reflection, np.zeros(3)], 2 * np.eye(3, 4), np.eye(3)):
        refused(call, "cam_from_world", cam_from_world=bad)


@pytest.mark.parametrize("name", ["build_info", "get_num_threads", "implementations"])
def test_functions_without_arrays_refuse_extra_arguments(name) -> None:
    with pytest.raises(TypeError):
        getattr(pl, name)(1, 2, 3)


def test_set_num_threads_and_set_isa_refuse_nonsense() -> None:
    threads, isa = pl.get_num_threads(), pl.build_info()["isa"]
    for bad in (0, -1, "two", 1.5):
        with pytest.raises((ValueError, TypeError)):
            pl.set_num_threads(bad)  # type: ignore[arg-type]
    for bad in ("sse9", "", None, 3):
        with pytest.raises((ValueError, TypeError)):
            pl.set_isa(bad)  # type: ignore[arg-type]
    assert (pl.get_num_threads(), pl.build_info()["isa"]) == (threads, isa)


def test_pose_error_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="cam_from_world"):
        pl.pose_error(np.eye(3), np.eye(3, 4))
