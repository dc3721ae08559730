# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of depth maps: against sums written out by hand, their alignments, crops and masks."""

from __future__ import annotations

import numpy as np
import pytest

from pyloc_core.depth import metrics

RNG = np.random.default_rng(5)
TRUTH = np.exp(RNG.normal(1.5, 0.5, (30, 40)))
TRUTH[RNG.uniform(size=TRUTH.shape) < 0.4] = 0
PREDICTION = np.where(TRUTH > 0, TRUTH, 5.0) * np.exp(RNG.normal(0, 0.03, TRUTH.shape))
KNOWN = TRUTH > 0


def test_benchmark_errors_are_the_sums_of_the_definition() -> None:
    found = metrics.benchmark_errors(PREDICTION, TRUTH)
    relative, inliers, count = 0.0, 0, 0
    for d, t in zip(PREDICTION[KNOWN], TRUTH[KNOWN], strict=True):
        relative += abs(d - t) / t
        inliers += max(d / t, t / d) < 1.03
        count += 1
    assert found.abs_rel == pytest.approx(100 * relative / count)
    assert found.inliers == pytest.approx(100 * inliers / count)
    assert (found.pixels, found.density, found.scale) == (count, 100.0, 1.0)


def test_kitti_errors_are_the_sums_of_the_definition() -> None:
    found = metrics.kitti_errors(PREDICTION, TRUTH, alignment=None)
    d, t = PREDICTION[KNOWN], TRUTH[KNOWN]
    assert found.abs_rel == pytest.approx(np.mean(abs(d - t) / t))
    assert found.sq_rel == pytest.approx(np.mean((d - t) ** 2 / t))
    assert found.rmse == pytest.approx(np.sqrt(np.mean((d - t) ** 2)))
    assert found.rmse_log == pytest.approx(np.sqrt(np.mean((np.log(d) - np.log(t)) ** 2)))
    doubled = metrics.kitti_errors(1.3 * TRUTH, TRUTH, alignment=None)
    assert (doubled.a1, doubled.a2, doubled.a3) == (0, 1, 1)
    assert metrics.kitti_errors(1.9 * TRUTH, TRUTH, alignment=None).a3 == pytest.approx(1)
    assert metrics.kitti_errors(2.0 * TRUTH, TRUTH, alignment=None).a3 == pytest.approx(0)


def test_alignments_undo_what_they_are_for() -> None:
    inverse = np.divide(3, TRUTH, where=KNOWN, out=np.ones_like(TRUTH)) + 1
    wrong = {
        "median": 3 * TRUTH,
        "least_squares": 3 * TRUTH,
        "least_squares_shift": 3 * TRUTH + 1,
        "least_squares_inverse": 1 / inverse,
    }
    for name, prediction in wrong.items():
        found = metrics.benchmark_errors(prediction, TRUTH, alignment=name, sparse=True)
        assert found.abs_rel == pytest.approx(0, abs=1e-9) and found.inliers == 100
        assert found.scale == pytest.approx(1 / 3)
        assert metrics.benchmark_errors(prediction, TRUTH, sparse=True).inliers < 1


def test_the_median_is_a_ratio_of_medians_and_not_a_median_of_ratios() -> None:
    truth, depth = np.array([[1.0, 2.0, 9.0]]), np.array([[4.0, 2.0, 3.0]])
    assert metrics.benchmark_errors(depth, truth, alignment="median").scale == pytest.approx(2 / 3)


def test_clipping_comes_after_the_alignment() -> None:
    truth = np.full((2, 2), 50.0)
    depth = np.array([[500.0, 500.0], [5.0, 5000.0]])
    found = metrics.benchmark_errors(
        depth, truth, alignment="median"
    )  # factor 0.1: 50, 50, 0.5, 500
    assert found.abs_rel == pytest.approx(100 * (0 + 0 + 0.99 + 1.0) / 4)
    loose = metrics.benchmark_errors(depth, truth, alignment="median", clip=None)
    assert loose.abs_rel == pytest.approx(100 * (0 + 0 + 0.99 + 9.0) / 4)
    assert metrics.benchmark_errors(np.zeros((2, 2)), truth, clip=None).inliers == 0


def test_what_is_unknown_does_not_count() -> None:
    truth = TRUTH.copy()
    truth[~KNOWN] = np.resize([0, -1, np.nan, np.inf], (~KNOWN).sum())
    prediction = np.where(KNOWN, PREDICTION, np.nan)
    assert metrics.benchmark_errors(prediction, truth) == metrics.benchmark_errors(
        PREDICTION, TRUTH
    )
    assert metrics.kitti_errors(prediction, truth) == metrics.kitti_errors(PREDICTION, TRUTH)
    half = np.zeros(TRUTH.shape, bool)
    half[:, :20] = True
    cut = metrics.kitti_errors(PREDICTION[:, :20], TRUTH[:, :20])
    assert metrics.kitti_errors(PREDICTION, TRUTH, valid=half) == cut


def test_a_sparse_prediction_is_compared_where_it_is_and_its_density_told() -> None:
    holes = RNG.uniform(size=TRUTH.shape) < 0.5
    sparse = np.where(holes, np.resize([0.0, np.nan], TRUTH.shape), PREDICTION)
    found = metrics.benchmark_errors(sparse, TRUTH, sparse=True)
    expected = metrics.benchmark_errors(PREDICTION, np.where(holes, 0, TRUTH))
    assert (found.abs_rel, found.inliers, found.pixels) == (
        expected.abs_rel,
        expected.inliers,
        expected.pixels,
    )
    assert found.density == pytest.approx(100 * (KNOWN & ~holes).sum() / KNOWN.sum())
    with pytest.raises(ValueError, match="prediction"):
        metrics.benchmark_errors(sparse, TRUTH)
    dense = metrics.benchmark_errors(np.where(holes, 0, PREDICTION), TRUTH)
    assert dense.abs_rel > 30 and dense.density == 100  # zeros are clipped to 0.1: wrong depths


def test_crops_and_the_range_of_truths() -> None:
    garg = metrics.crop_mask((375, 1242), "garg")
    rows, columns = np.nonzero(garg)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (153, 371, 44, 1197)
    eigen = metrics.crop_mask((375, 1242), "eigen")
    rows, columns = np.nonzero(eigen)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (124, 342, 44, 1197)
    inside = metrics.crop_mask(TRUTH.shape, "garg")
    expected = metrics.kitti_errors(PREDICTION, np.where(inside, TRUTH, 0))
    assert metrics.kitti_errors(PREDICTION, TRUTH, crop="garg") == expected
    near = metrics.kitti_errors(PREDICTION, TRUTH, depth_range=(2.0, 5.0), alignment=None)
    assert near.pixels == ((TRUTH > 2) & (TRUTH < 5)).sum()


def test_another_size_is_read_nearest_or_bilinearly() -> None:
    x, y = np.meshgrid(np.arange(8) + 0.5, np.arange(6) + 0.5)
    ramp = (
        2 + 0.5 * x + 0.25 * y
    )  # linear in the image: bilinear reading away from the border is exact
    small = 2 + 0.5 * (x[::2, ::2] + 0.5) + 0.25 * (y[::2, ::2] + 0.5)
    read = metrics.resize_depth(small, (6, 8), "bilinear")
    np.testing.assert_allclose(read[1:-1, 1:-1], ramp[1:-1, 1:-1])
    twice = metrics.resize_depth(small, (6, 8), "nearest")
    np.testing.assert_array_equal(twice, small.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(metrics.resize_depth(twice, (3, 4), "nearest"), small)


def test_bilinear_resizing_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    given = torch.from_numpy(PREDICTION)[None, None]
    for size in ((45, 90), (17, 11), (30, 41)):
        expected = torch.nn.functional.interpolate(given, size, mode="bilinear")[0, 0]
        np.testing.assert_allclose(
            metrics.resize_depth(PREDICTION, size, "bilinear"), expected, rtol=1e-12
        )
    tensor = metrics.kitti_errors(given, torch.from_numpy(TRUTH)[None], crop="garg")
    assert tensor == metrics.kitti_errors(PREDICTION, TRUTH, crop="garg")


def test_means_are_over_images_and_leave_out_those_without_pixels() -> None:
    one = metrics.benchmark_errors(PREDICTION, TRUTH)
    two = metrics.benchmark_errors(1.02 * TRUTH[:5] + (TRUTH[:5] == 0), TRUTH[:5])
    none = metrics.benchmark_errors(PREDICTION, np.zeros_like(TRUTH))
    assert none.pixels == 0 and np.isnan(none.abs_rel)
    mean = metrics.mean_errors([one, none, two])
    assert mean.abs_rel == pytest.approx((one.abs_rel + two.abs_rel) / 2)
    assert mean.pixels == one.pixels + two.pixels
    assert np.isnan(metrics.mean_errors([none]).inliers)
    assert metrics.kitti_errors(PREDICTION, np.zeros_like(TRUTH)).pixels == 0
    with pytest.raises(ValueError, match="errors"):
        metrics.mean_errors([])


def test_an_image_without_any_prediction_lowers_the_density() -> None:
    whole = metrics.benchmark_errors(PREDICTION, TRUTH, sparse=True)
    missing = metrics.benchmark_errors(np.zeros_like(TRUTH), TRUTH, sparse=True)
    unknown = metrics.benchmark_errors(PREDICTION, np.zeros_like(TRUTH), sparse=True)
    assert missing.density == 0 and np.isnan(unknown.density)
    mean = metrics.mean_errors([whole, missing, unknown])
    assert mean.density == pytest.approx(50) and mean.abs_rel == whole.abs_rel
    assert np.isnan(metrics.mean_errors([unknown]).density)


@pytest.mark.parametrize(
    "changes,name",
    [({"alignment": "medain"}, "did you mean 'median'"), ({"threshold": 1.0}, "threshold"),
     ({"clip": (3, 2)}, "clip"),
     ({"truth": np.ones(3)}, "truth"), ({"prediction": np.ones((2, 3, 4))}, "prediction"),
     ({"valid": np.ones((2, 2))}, "valid"), ({"prediction": np.full((30, 40), np.nan)}, "prediction")],
)  # fmt: skip
def test_bad_input(changes, name) -> None:
    with pytest.raises(ValueError, match=name):
        metrics.benchmark_errors(**{"prediction": PREDICTION, "truth": TRUTH, **changes})
    with pytest.raises(ValueError, match="did you mean 'garg'"):
        metrics.kitti_errors(PREDICTION, TRUTH, crop="grag")
