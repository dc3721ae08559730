# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Dense correlation and correspondence maps: against the reference and against match."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyloc_core import correlation_maps, correspondence_maps, match

torch = pytest.importorskip("torch")
ODD = st.sampled_from([1, 2, 7, 33])


@settings(max_examples=30, deadline=None)
@given(ODD, st.lists(st.tuples(ODD, ODD, ODD), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_equal_the_reference(n: int, sizes: list[tuple[int, int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    descriptors = [rng.standard_normal((n, d)).astype(np.float32) for d, _, _ in sizes]
    features = [rng.standard_normal(s).astype(np.float32) for s in sizes]
    for form in (correlation_maps, correspondence_maps):
        ours = form(descriptors, features, temperature=2.5)
        reference = form(descriptors, features, temperature=2.5, implementation="reference")
        assert ours.dtype == np.float32 and ours.shape == reference.shape
        np.testing.assert_allclose(ours, reference, atol=3e-5, rtol=3e-5)


def test_equal_the_plain_form_and_match(rng: np.random.Generator) -> None:
    descriptors = rng.standard_normal((70, 48)).astype(np.float32) / 7
    features = rng.standard_normal((48, 50, 63)).astype(np.float32)
    maps = correlation_maps(descriptors, features)
    np.testing.assert_allclose(maps, np.einsum("nd,dhw->nhw", descriptors, features), atol=1e-5)
    probabilities = correspondence_maps(descriptors, features)
    np.testing.assert_allclose(probabilities.sum((1, 2), dtype=np.float64), 1, atol=1e-5)
    found = match(descriptors, features)
    x, y = found.xy.astype(int).T
    peak = probabilities[np.arange(70), y, x]
    np.testing.assert_array_equal(peak, probabilities.max((1, 2)))
    np.testing.assert_allclose(np.log(peak), found.log_probability, atol=1e-5)


def test_threads_kinds_and_empty(rng: np.random.Generator) -> None:
    descriptors = torch.from_numpy(rng.standard_normal((150, 20))).bfloat16()
    features = torch.from_numpy(rng.standard_normal((20, 40, 31))).bfloat16()
    one = correspondence_maps(descriptors, features, num_threads=1)
    assert isinstance(one, torch.Tensor) and one.dtype == torch.float32
    for threads in (2, 8):
        assert torch.equal(one, correspondence_maps(descriptors, features, num_threads=threads))
    assert correlation_maps(descriptors[:0], features).shape == (0, 40, 31)


def test_reference_is_differentiable(rng: np.random.Generator) -> None:
    descriptors = torch.from_numpy(rng.standard_normal((2, 3))).requires_grad_()
    features = torch.from_numpy(rng.standard_normal((3, 2, 3))).requires_grad_()

    def form(d: Any, f: Any) -> Any:
        return correspondence_maps([d, d], [f, f[:, :1]], implementation="reference")

    assert torch.autograd.gradcheck(form, (descriptors, features))


@pytest.mark.parametrize("form", [correlation_maps, correspondence_maps])
def test_refusals(form: Any) -> None:
    ones = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="same number of channels"):
        form(ones, np.ones((4, 2, 2)))
    with pytest.raises(ValueError, match="features holds NaN"):
        form(ones, np.full((3, 2, 2), np.nan))
    with pytest.raises(ValueError, match="temperature"):
        form(ones, np.ones((3, 2, 2)), temperature=-1)
