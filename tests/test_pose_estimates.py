# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""PoseEstimates: a batch of results, one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import pyloc_core as pl


def make_estimates() -> pl.PoseEstimates:
    rng = np.random.default_rng(1)
    return pl.PoseEstimates(
        cam_from_world=np.stack([np.eye(3, 4), np.hstack([np.eye(3), np.ones((3, 1))])]),
        success=np.array([True, False]),
        status=np.array([0, 1], np.int32),
        cost=rng.uniform(1, 9, 2),
        gain=rng.uniform(1, 9, 2),
        energy=np.zeros(2),
        covariance=np.stack([np.eye(6), np.full((6, 6), np.inf)]),
        iterations=np.array([128, 0], np.int32),
        num_usable=np.array([3, 0], np.int32),
        num_consistent=np.array([2, 0], np.int32),
        inlier_probability=rng.random(5),
        problem_ptr=np.array([0, 4, 5]),
        messages=(
            "{num_consistent} of {num_usable}, {iterations} steps",
            "no: {num_points} points",
        ),
    )


def check(estimates: pl.PoseEstimates, batch: Any) -> None:
    assert len(estimates) == 2 and len(list(estimates)) == 2
    assert estimates.reasons == ["2 of 3, 128 steps", "no: 1 points"]
    for b, one in enumerate(estimates):
        again = estimates[b - 2]
        assert one.reason == again.reason == estimates.reasons[b]
        assert one.success is (b == 0)
        assert (one.cost, one.gain) == (batch.cost[b], batch.gain[b])
        assert one.iterations == batch.iterations[b] and one.num_usable == batch.num_usable[b]
        np.testing.assert_array_equal(np.asarray(one.cam_from_world), batch.cam_from_world[b])
        np.testing.assert_array_equal(np.asarray(one.covariance), batch.covariance[b])
        begin, end = batch.problem_ptr[b : b + 2]
        expected = batch.inlier_probability[begin:end]
        np.testing.assert_array_equal(np.asarray(one.inlier_probability), expected)
    with pytest.raises(IndexError):
        estimates[2]


def test_arrays() -> None:
    batch = make_estimates()
    check(batch, batch)
    check(batch.cpu(), batch)


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    batch = make_estimates()
    arrays = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    messages = arrays.pop("messages")
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    estimates = pl.PoseEstimates(**tensors, messages=messages)
    check(estimates, batch)
    assert isinstance(estimates[0].cam_from_world, torch.Tensor)
    assert isinstance(estimates.cpu().cost, torch.Tensor)
