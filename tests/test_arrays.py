# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The border between the caller's arrays and native code."""

from __future__ import annotations

import numpy as np
import pytest

from pyloc_core import _arrays


def test_nothing_is_copied_when_everything_fits(rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 3)).astype(np.float32)
    taken = _arrays.as_array(x, "x", shape=("N", 3), dtype="float32")
    assert taken.data is x or np.shares_memory(taken.data, x)
    x.setflags(write=False)
    assert np.shares_memory(_arrays.as_array(x, "x", dtype="float32").data, x)


@pytest.mark.parametrize("view", ["[::-1]", "[:, ::2]", ".T", "[::2, ::-1]"])
def test_strided_views_keep_their_values(view: str, rng: np.random.Generator) -> None:
    x = eval("x" + view, {"x": rng.standard_normal((6, 8))})
    taken = _arrays.as_array(x, "x").data
    assert taken.flags.c_contiguous
    np.testing.assert_array_equal(taken, x)


def test_big_endian_and_integer_inputs_are_converted() -> None:
    np.testing.assert_array_equal(_arrays.as_array(np.arange(3), "x").data, [0.0, 1.0, 2.0])
    big = np.array([1.5, -2.0], dtype=">f4")
    taken = _arrays.as_array(big, "x", dtype="float32")
    assert taken.data.dtype.isnative and taken.data.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("value", "options", "error", "message"),
    [
        (np.zeros((2, 2)), {"shape": ("N", 3)}, ValueError, r"x must have shape \(N, 3\)"),
        (np.array([1j]), {}, TypeError, "real numbers"),
        (np.array(["a"]), {}, TypeError, "real numbers"),
        ([[1, 2], [3]], {}, (ValueError, TypeError), "x"),
        (np.array([1.0, np.nan]), {}, ValueError, "NaN or infinite"),
        (np.array([1.0, -np.inf], np.float32), {"dtype": "float32"}, ValueError, "NaN or infinite"),
        (np.array([1.0, np.inf], np.float16), {"dtype": "float16"}, ValueError, "NaN or infinite"),
        (None, {}, TypeError, "real numbers"),
    ],
)
def test_refusals_name_the_argument(value, options, error, message) -> None:
    with pytest.raises(error, match=message):
        _arrays.as_array(value, "x", **options)


def test_writable_arguments_must_fit_as_they_are() -> None:
    frozen = np.ones(3)
    frozen.setflags(write=False)
    for bad in (np.ones(3, np.float32), np.ones(6)[::2], frozen):
        with pytest.raises(ValueError, match="writable"):
            _arrays.as_array(bad, "out", dtype="float64", writable=True)


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 10_000])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_all_finite_finds_one_bad_value_anywhere(count: int, dtype: str) -> None:
    x = np.random.default_rng(count).standard_normal(count).astype(dtype)
    assert _arrays.all_finite(_arrays.ArrayIn(x, dtype, False))
    for where in {0, count // 2, count - 1} if count else ():
        for bad in (np.nan, np.inf, -np.inf):
            y = x.copy()
            y[where] = bad
            assert not _arrays.all_finite(_arrays.ArrayIn(y, dtype, False))


def test_torch_tensors_go_in_and_come_back() -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(6.0).reshape(2, 3)
    taken = _arrays.as_array(x, "x", dtype="float32")
    assert np.shares_memory(taken.data, x.numpy())
    assert isinstance(_arrays.like(taken.data, taken), torch.Tensor)
    half = _arrays.as_array(x.to(torch.bfloat16), "x", dtype=_arrays.FEATURE_DTYPES)
    assert half.dtype == "bfloat16"
    np.testing.assert_array_equal(_arrays.bfloat16_to_float32(half.data), x.numpy())
    with pytest.raises(ValueError, match="NaN"):
        _arrays.as_array(torch.tensor([float("nan")]).bfloat16(), "x", dtype=_arrays.FEATURE_DTYPES)
    assert _arrays.as_array(x.requires_grad_(), "x").data.shape == (2, 3)
    with pytest.raises(ValueError, match="on meta"):
        _arrays.as_array(torch.empty(2, device="meta"), "x")


def test_dlpack_objects_are_taken(rng: np.random.Generator) -> None:
    class OnlyDlpack:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    x = rng.standard_normal(4)
    taken = _arrays.as_array(OnlyDlpack(x), "x")
    np.testing.assert_array_equal(taken.data, x)
    assert not taken.is_torch


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_num_threads_is_checked(value, error) -> None:
    with pytest.raises(error, match="num_threads"):
        _arrays.thread_count(value)
