# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Predictors on depth sets by the benchmark's rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")

from depth_folders import plane_view, write_mvsnet

from pyloc_core.depth.evaluate import depth_table, evaluate_depth
from pyloc_core.depth.layouts import DepthSample, DepthSet, read_mvsnet
from pyloc_core.depth.predictors import SweepPredictor


@pytest.fixture
def planes(tmp_path) -> DepthSet:
    write_mvsnet(tmp_path / "room")
    return read_mvsnet(tmp_path, name="planes")


def index(sample: DepthSample) -> int:
    return int(sample.name[-1])


def test_a_predictor_gets_its_errors(planes) -> None:
    factors = [1.0, 1.02, 1.1, 0.9, 1.5]
    found = evaluate_depth(
        planes, lambda sample: factors[index(sample)] * plane_view(index(sample)).depth
    )
    errors = [sample.errors.abs_rel for sample in found.samples]
    np.testing.assert_allclose(errors, [0, 2, 10, 10, 50], atol=1e-4)
    assert found.mean.abs_rel == pytest.approx(14.4, abs=1e-3)
    assert found.mean.inliers == pytest.approx(40) and found.name == "planes"
    assert [sample.num_sources for sample in found.samples] == [4] * 5
    aligned = evaluate_depth(planes, lambda s: 7 * plane_view(index(s)).depth, alignment="median")
    assert aligned.mean.inliers == pytest.approx(100)
    assert aligned.mean.scale == pytest.approx(1 / 7)


def test_the_best_set_of_views_counts(planes) -> None:
    """Source 3 is poison, each other one halves the error: the best set has the other three."""
    calls: list[tuple[str, ...]] = []

    def predict(sample: DepthSample) -> Any:
        names = tuple(source.name[-1] for source in sample.sources)
        calls.append(names)
        error = 0.5 ** len([n for n in names if n != "3"]) + ("3" in names)
        return (1 + error) * plane_view(index(sample)).depth

    first = planes.samples[:1]  # sources 1, 2, 3, 4
    best = evaluate_depth(first, predict, view_order="quasi_optimal").samples[0]
    assert best.num_sources == 3 and best.errors.abs_rel == pytest.approx(12.5, abs=1e-3)
    assert calls[4:] == [("1",), ("1", "2"), ("1", "2", "4"), ("1", "2", "4", "3")]
    near = evaluate_depth(first, predict, view_order="nearest").samples[0]
    assert near.num_sources == 2 and near.errors.abs_rel == pytest.approx(25, abs=1e-3)
    calls.clear()
    evaluate_depth(first, predict, max_sources=2)
    assert calls == [("1", "2")]


def test_the_table_has_a_row_per_method_and_averages_whole_rows_alone(planes) -> None:
    good = evaluate_depth(planes, lambda s: 1.01 * plane_view(index(s)).depth)
    bad = evaluate_depth(planes, lambda s: 1.2 * plane_view(index(s)).depth, name="others")
    lines = depth_table({"one": [good, bad], "two": [good]}).splitlines()
    head, _, one, two = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert head == ["method", "planes rel", "planes tau", "others rel", "others tau", "average rel",
                    "average tau", "s"]  # fmt: skip
    assert one[:7] == ["one", "1.00", "100.00", "20.00", "0.00", "10.50", "50.00"]
    assert two[:7] == ["two", "1.00", "100.00", "", "", "", ""]
    half = np.arange(32) < 16
    thin = evaluate_depth(planes, lambda s: half * plane_view(index(s)).depth, sparse=True)
    head, _, row = depth_table({"half": [thin]}).splitlines()
    assert head.split(" | ")[-2] == "density" and row.split(" | ")[-2] == "50.0"


def test_a_confidence_is_judged_too(planes) -> None:
    truth = {s.name: s.read_depth() for s in planes}
    error = np.random.default_rng(0).uniform(0, 0.2, (24, 32))

    def predict(sample: DepthSample) -> Any:
        return (1 + error) * truth[sample.name], -error

    found = evaluate_depth(planes, predict)
    assert found.ause == pytest.approx(0, abs=1e-6) and found.mean.abs_rel > 5
    blind = evaluate_depth(planes, lambda s: (predict(s)[0], error))
    assert blind.ause > 0.5
    assert np.isnan(evaluate_depth(planes, lambda s: predict(s)[0]).ause)


def test_bad_input(planes) -> None:
    with pytest.raises(ValueError, match="no sample"):
        evaluate_depth([], lambda s: None)
    with pytest.raises(ValueError, match="did you mean 'nearest'"):
        evaluate_depth(planes, lambda s: None, view_order="nearst")
    with pytest.raises(ValueError, match="max_sources"):
        evaluate_depth(planes, lambda s: None, max_sources=0)
    with pytest.raises(ValueError, match="prediction"):
        evaluate_depth(planes, lambda s: np.full((24, 32), np.nan))
    alone = [replace(planes.samples[0], sources=())]
    truth = planes.samples[0].read_depth()
    assert evaluate_depth(alone, lambda s: truth + (truth == 0)).mean.abs_rel == 0  # of one image
    with pytest.raises(ValueError, match="no source view"):
        evaluate_depth(alone, lambda s: truth, view_order="nearest")
    with pytest.raises(ValueError, match="no source view"):
        evaluate_depth(alone, SweepPredictor())
