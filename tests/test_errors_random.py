# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Hypothesis against the public functions: any shape, any value. A clear error or a result that keeps
its promises, and the caller's arrays unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from public_calls import all_calls, check_result

import pyloc_core as pl

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as hnp  # noqa: E402

CALLS = {call.name: call for call in all_calls()}
FLOATS = st.one_of(
    st.floats(-10, 10),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1.0, 1e-320, 1e300, -1e300, 3.4e38, 1e154, 0.5, 39.0, 40.0]),
)
DTYPES = st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_])
profile = settings(max_examples=60, deadline=None, derandomize=True)


def survives(call: Any, **arrays: Any) -> None:
    before = {k: v.copy() for k, v in arrays.items() if isinstance(v, np.ndarray)}
    try:
        with np.errstate(all="ignore"):
            check_result(call(**arrays))
    except (ValueError, TypeError) as error:
        assert str(error)
    for key, value in before.items():
        np.testing.assert_array_equal(arrays[key], value)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name,argument", [(n, a) for n, c in CALLS.items() for a in c.arrays])
@given(data=st.data())
@profile
def test_one_argument_replaced_by_any_array(name, argument, data) -> None:
    call = CALLS[name]
    good = call.arrays[argument]
    shape = data.draw(
        st.one_of(
            st.just(good.shape), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
        )
    )
    dtype = data.draw(DTYPES)
    bad = good.astype(dtype) if shape == good.shape else np.zeros(shape, dtype)
    for _ in range(data.draw(st.integers(0, 6))):
        if bad.size:
            with np.errstate(all="ignore"):
                value = np.asarray(data.draw(FLOATS))
                if np.dtype(dtype).kind in "iub":
                    value = np.nan_to_num(np.clip(value, 0, 200))
                bad.reshape(-1)[data.draw(st.integers(0, bad.size - 1))] = value.astype(dtype)
    survives(call, **{argument: bad})


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "name", [n for n, c in CALLS.items() if "features" in c.arrays and "points3d" not in c.arrays]
)
@given(data=st.data())
@profile
def test_matching_any_shape(name, data) -> None:
    """Consistent shapes from 0 to 20, values from a wide range: nothing but size decides."""
    count, channels = data.draw(st.integers(0, 20)), data.draw(st.integers(1, 20))
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 70))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    scale = 10.0 ** data.draw(st.integers(-20, 3))
    dtype = data.draw(st.sampled_from([np.float32, np.float16]))
    with np.errstate(all="ignore"):
        arrays = {
            "descriptors": (rng.normal(size=(count, channels)) * scale).astype(dtype),
            "features": rng.normal(size=(channels, height, width)).astype(dtype),
        }
    if "centers" in CALLS[name].arrays:
        arrays["centers"] = rng.normal(size=(count, 2)) * 10.0 ** data.draw(st.integers(0, 12))
    survives(CALLS[name], **arrays)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", [n for n, c in CALLS.items() if "camera" in c.options])
@given(data=st.data())
@profile
def test_poses_of_any_points(name, data) -> None:
    """A handful of points at coordinates of any magnitude, coinciding, on lines, anywhere."""
    call = CALLS[name]
    count = data.draw(st.integers(0, 8))
    points = data.draw(
        hnp.arrays(
            np.float64,
            (count, 3),
            elements=st.sampled_from([0.0, 1.0, -1.0, 2.5, 1e-9, 1e9, 1e155]),
        )
    )
    arrays = {k: call.arrays[k][:count] for k in call.per_point}
    survives(call, **{**arrays, "points3d": points})


@given(
    model=st.sampled_from(sorted(pl.CAMERA_MODELS)),
    values=st.lists(FLOATS, min_size=12, max_size=12),
    points=hnp.arrays(np.float64, (7, 3), elements=FLOATS),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_camera_projects_without_crashing(model, values, points) -> None:
    """Projection and its inverse terminate for every parameter a Camera accepts."""
    params = values[: len(pl.CAMERA_MODELS[model])]
    with np.errstate(all="ignore"):
        try:
            camera = pl.Camera(model, 64, 48, tuple(params))
            xy, valid = camera.project(points)
            rays = camera.unproject(np.nan_to_num(xy, posinf=1e9, neginf=-1e9))
        except (ValueError, TypeError) as error:
            assert str(error)
            return
    assert xy.shape == (7, 2) and rays.shape == (7, 3)
    assert np.isfinite(xy[valid]).all() and np.isnan(xy[~valid]).all()
