# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The scale between SfM and network depths: against the formula tried point by point, and on bad input."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyloc_core.depth import align_scale
from pyloc_core.depth.scale_alignment import agreement_counts, agrees


def drawn(count: int, seed: int, bad: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """SfM depths of 2 to 60, network depths 1.7 times that with 8 per cent of noise and some outliers."""
    rng = np.random.default_rng(seed)
    t = np.exp(rng.uniform(np.log(2), np.log(60), count))
    y = 1.7 * t * np.exp(rng.normal(0, 0.08, count))
    return t, np.where(rng.random(count) < bad, y * np.exp(rng.normal(0, 0.9, count)), y)


def test_a_case_by_hand():
    """Samples 2, 2, 2, 4: the first three agree with scale 2, for 4 the errors are (4t-2t)^2/4t = t."""
    t = np.array([1.0, 2.0, 3.0, 1.0])
    found = align_scale(t, [2.0, 4.0, 6.0, 4.0])
    assert found.success and found.scale == 2.0 and found.best_sample == 0
    np.testing.assert_array_equal(found.counts, [3, 3, 3, 1])
    np.testing.assert_array_equal(found.consensus, [True, True, True, False])
    # |2 * 1 - 4| / 2 = 1
    np.testing.assert_array_equal(found.inliers, [True, True, True, False])


def test_the_threshold_is_strict():
    """(2 t - y)^2 / (2 t) with t = 1, y = 3 is one half exactly; so is |2 t - y| / (2 t)."""
    t, y = np.array([1.0, 2.0, 4.0, 1.0]), np.array([2.0, 4.0, 8.0, 3.0])
    found = align_scale(t, y, threshold=0.5)
    assert found.counts[0] == 3 and not found.consensus[3] and not found.inliers[3]
    more = align_scale(t, y, threshold=np.nextafter(0.5, 1))
    assert more.counts[0] == 4 and more.consensus[3]


@pytest.mark.parametrize("seed", range(4))
def test_weighted_least_squares_is_that_of_numpy(seed):
    t, y = drawn(300, seed)
    found = align_scale(t, y)
    a, b = t[found.consensus], y[found.consensus]
    by_numpy = np.linalg.lstsq((a / b)[:, None], b / b, rcond=None)[0][0]
    assert found.scale == pytest.approx(by_numpy, rel=1e-12)
    assert found.scale == pytest.approx(1.7, rel=0.03)
    plain = align_scale(t, y, estimator="least_squares")
    assert plain.scale == pytest.approx(np.linalg.lstsq(a[:, None], b, rcond=None)[0][0], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2]),
    st.floats(1e-3, 50.0),
)  # fmt: skip
def test_counts_are_those_of_every_sample_alone(count, seed, digits, tau):
    """Rounded depths make equal samples and errors that meet the threshold exactly."""
    t, y = drawn(count, seed)
    t, y = np.round(t, digits) + 0.5, np.round(y, digits) + 0.5
    scales = y / t
    expected = [agrees(t, y, s, tau).sum() for s in scales]
    np.testing.assert_array_equal(agreement_counts(t, y, scales, tau), expected)
    few = scales[np.random.default_rng(seed).integers(0, count, 5)]
    expected = [agrees(t, y, s, tau).sum() for s in few]
    np.testing.assert_array_equal(agreement_counts(t, y, few, tau), expected)


def test_counts_where_rounding_decides():
    """Samples at the ends of the intervals and within a few units in the last place of them."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        t, y = drawn(30, int(rng.integers(1000)))
        tau = float(rng.choice([0.1, 0.5, 3.0]))
        upper = 0.5 * ((2 * y + tau) + np.sqrt(tau * (4 * y + tau)))
        ends = np.concatenate([upper / t, y * y / upper / t])
        scales = np.concatenate([ends * (1 + k * 2.3e-16) for k in range(-4, 5)])
        expected = [agrees(t, y, s, tau).sum() for s in scales]
        np.testing.assert_array_equal(agreement_counts(t, y, scales, tau), expected)


def test_random_trials():
    t, y = drawn(500, 1)
    exact, few = align_scale(t, y), align_scale(t, y, trials=20, seed=5)
    assert len(few.samples) == 20 and few.best_sample in few.samples
    np.testing.assert_array_equal(few.counts, exact.counts[few.samples])
    assert few.counts.max() <= exact.counts.max()
    again = align_scale(t, y, trials=20, seed=5)
    np.testing.assert_array_equal(few.samples, again.samples)
    assert few.scale == again.scale
    assert (align_scale(t, y, trials=20, seed=6).samples != few.samples).any()
    np.testing.assert_array_equal(align_scale(t, y, trials=7, seed=5).samples, few.samples[:7])


def test_the_first_of_equal_samples_wins():
    found = align_scale([1.0, 1, 1, 10, 10, 10], [1.0, 1, 1, 200, 200, 200])
    assert found.best_sample == 0 and found.scale == 1.0


def test_mean_of_medians():
    t, y = drawn(90, 3)
    image = np.repeat([4, 0, 9], [20, 40, 30])
    order = np.random.default_rng(0).permutation(90)
    found = align_scale(
        t[order], y[order], estimator="mean_of_medians", image_index=image[order], threshold=0.8
    )
    expected = np.mean([np.median((y / t)[image == k]) for k in (0, 4, 9)])
    assert found.scale == pytest.approx(expected, rel=1e-14) and found.best_sample == -1
    assert len(found.samples) == len(found.counts) == 0
    np.testing.assert_array_equal(found.consensus, agrees(t, y, found.scale, 0.8)[order])
    one = align_scale(t, y, estimator="mean_of_medians")
    assert one.scale == pytest.approx(np.median(y / t), rel=1e-14)


def test_what_supervises():
    t, y = drawn(400, 2)
    relaxed, strict = align_scale(t, y), align_scale(t, y, supervision="consensus")
    np.testing.assert_array_equal(strict.inliers, strict.consensus)
    assert relaxed.scale == strict.scale and relaxed.inliers.sum() > strict.inliers.sum()
    error = np.abs(relaxed.scale * t - y) / (relaxed.scale * t)
    np.testing.assert_array_equal(relaxed.inliers, error < 0.5)
    assert align_scale(t, y, supervision="all").inliers.all()


def test_scale_of_the_model_does_not_matter():
    t, y = drawn(400, 4)
    found, other = align_scale(t, y), align_scale(1024 * t, y)
    np.testing.assert_array_equal(found.inliers, other.inliers)
    assert found.scale == 1024 * other.scale


def test_heteroscedastic_noise_and_outliers():
    """What the method is for: wrong points far away pull plain least squares away, and not the method."""
    rng = np.random.default_rng(0)
    t, y = drawn(4000, 7, bad=0.0)
    y[(t > 20) & (rng.random(4000) < 0.5)] *= 0.7
    assert abs(align_scale(t, y).scale / 1.7 - 1) < 0.03
    pooled = (t * y).sum() / (t * t).sum()
    assert abs(pooled / 1.7 - 1) > 0.1


def test_a_million_points_take_a_moment():
    t, y = drawn(1_000_000, 0)
    start = time.process_time()
    found = align_scale(t, y)
    assert time.process_time() - start < 20  # seconds; trying them one by one would take hours
    assert found.scale == pytest.approx(1.7, rel=0.02)
    for i in (0, 999_999, found.best_sample):
        assert found.counts[i] == agrees(t, y, y[i] / t[i], 0.5).sum()


def test_without_an_answer():
    nobody = align_scale([], [])
    assert not nobody.success and nobody.scale == 1.0 and nobody.inliers.shape == (0,)
    assert "0 of 0" in nobody.reason
    apart = align_scale([1.0, 2.0, 3.0, 4.0], [1e2, 4e4, 9e6, 1e9])
    assert not apart.success and apart.scale == 1.0 and not apart.inliers.any()
    assert "3 are needed" in apart.reason
    assert align_scale([2.0], [3.0], min_consensus=1).scale == 1.5
    huge = align_scale([1e-310, 2.0, 3.0], [1e300, 1e-300, 1e308])
    assert not huge.success and np.isfinite(huge.scale)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"sfm_depths": [1.0, np.nan, 2.0]}, ValueError, "sfm_depths"),
        ({"network_depths": [1.0, np.inf, 2.0]}, ValueError, "network_depths"),
        ({"network_depths": [1.0, 0.0, 2.0]}, ValueError, "network_depths must be positive"),
        ({"sfm_depths": [1.0, -1.0, 2.0]}, ValueError, "sfm_depths must be positive"),
        ({"sfm_depths": [1.0, 2.0]}, ValueError, "same length"),
        ({"sfm_depths": [[1.0, 2.0, 3.0]]}, ValueError, "sfm_depths"),
        ({"sfm_depths": ["a", "b", "c"]}, TypeError, "sfm_depths"),
        ({"threshold": 0.0}, ValueError, "threshold"),
        ({"trials": 0}, ValueError, "trials"),
        ({"trials": 2.5}, TypeError, "trials"),
        ({"seed": -1, "trials": 3}, ValueError, "seed"),
        ({"estimator": "least_square"}, ValueError, "did you mean 'least_squares'"),
        ({"supervision": "strict"}, ValueError, "supervision"),
        ({"min_consensus": 0}, ValueError, "min_consensus"),
        ({"image_index": [0, 0, 1]}, ValueError, "mean_of_medians"),
        ({"image_index": [0, 0], "estimator": "mean_of_medians"}, ValueError, "image_index"),
        ({"image_index": [0, 0, 0.5], "estimator": "mean_of_medians"}, ValueError, "image_index"),
    ],
)
def test_bad_input(change, error, words):
    good = {"sfm_depths": [1.0, 2.0, 3.0], "network_depths": [2.0, 4.0, 6.0]}
    with pytest.raises(error, match=words):
        align_scale(**{**good, **change})


def test_tensors_in_tensors_out():
    torch = pytest.importorskip("torch")
    t, y = drawn(50, 0)
    found, plain = align_scale(torch.from_numpy(t), torch.from_numpy(y)), align_scale(t, y)
    for name in ("consensus", "inliers", "counts", "samples"):
        assert isinstance(getattr(found, name), torch.Tensor)
        np.testing.assert_array_equal(getattr(found, name).numpy(), getattr(plain, name))
    assert found.scale == plain.scale
    half = align_scale(torch.from_numpy(t).half(), y)
    assert half.scale == pytest.approx(plain.scale, rel=0.01)


def test_numpy_users_need_no_torch():
    import subprocess

    code = (
        "import sys; from pyloc_core.depth import align_scale;"
        "print(align_scale([1., 2, 3], [2., 4, 6]).scale); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "2.0", done.stderr
