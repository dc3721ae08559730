# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Confidences against errors: curves written out, the best and the worst order."""

from __future__ import annotations

import numpy as np
import pytest

from pyloc_core.depth.sparsification import sparsification

RNG = np.random.default_rng(7)
TRUTH = np.exp(RNG.normal(1, 0.3, (40, 50)))
TRUTH[RNG.uniform(size=TRUTH.shape) < 0.3] = 0
PREDICTION = np.where(TRUTH > 0, TRUTH, 3) * (1 + RNG.exponential(0.1, TRUTH.shape))
ERROR = np.where(TRUTH > 0, abs(PREDICTION - TRUTH) / np.where(TRUTH > 0, TRUTH, 1), 0)


def test_curves_are_the_means_of_what_is_left() -> None:
    confidence = RNG.uniform(size=TRUTH.shape)
    found = sparsification(PREDICTION, TRUTH, confidence)
    known = TRUTH > 0
    error, sure = ERROR[known], confidence[known]
    for i in (0, 1, 37, 99):
        count = int(len(error) * i / 100)
        left = np.argsort(sure)[count:]
        assert found.error[i] == pytest.approx(error[left].mean() / error.mean())
        assert found.oracle[i] == pytest.approx(
            np.sort(error)[: len(error) - count].mean() / error.mean()
        )
    assert found.ause == pytest.approx((found.error - found.oracle).mean())
    np.testing.assert_allclose(found.removed, np.arange(100) / 100)


def test_the_better_the_order_the_smaller_the_area() -> None:
    noisy = -ERROR + RNG.normal(0, 0.05, ERROR.shape)
    keys = (-ERROR, noisy, RNG.uniform(size=ERROR.shape), ERROR)
    areas = [sparsification(PREDICTION, TRUTH, key).ause for key in keys]
    assert areas[0] == 0 and areas == sorted(areas) and areas[3] > areas[2] + 0.5
    monotone = sparsification(PREDICTION, TRUTH, 1 / (1 + ERROR))
    assert monotone.ause == pytest.approx(0, abs=1e-12)


def test_sizes_masks_and_bad_input() -> None:
    confidence = RNG.uniform(size=(20, 25))
    whole = sparsification(PREDICTION, TRUTH, confidence)
    assert (
        whole.ause == sparsification(PREDICTION, TRUTH, confidence.repeat(2, 0).repeat(2, 1)).ause
    )
    spoiled = np.where(TRUTH > 0, confidence.repeat(2, 0).repeat(2, 1), np.nan)
    assert sparsification(PREDICTION, TRUTH, spoiled).ause == whole.ause
    with pytest.raises(ValueError, match="confidence"):
        sparsification(PREDICTION, TRUTH, np.full(TRUTH.shape, np.nan))
    assert np.isnan(sparsification(PREDICTION, np.zeros_like(TRUTH), confidence).ause)
    assert (
        sparsification(TRUTH, TRUTH, confidence, sparse=True).ause == 0
    )  # nothing is wrong anywhere
