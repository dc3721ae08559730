# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Any function from posed images to depth on any `DepthSet`, by the Robust Multi-View Depth benchmark's
rules.

Source: Schroeppel et al., "A Benchmark and a Baseline for Robust Multi-view Depth Estimation" (2022).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyloc_core._checks import integer, known_name
from pyloc_core.depth.layouts.depth_set import DepthSample
from pyloc_core.depth.metrics import (
    BENCHMARK_CLIP,
    BenchmarkErrors,
    as_map,
    benchmark_errors,
    mean_errors,
)
from pyloc_core.depth.sparsification import sparsification

Predict = Callable[[DepthSample], Any]

# How the benchmark adds source views one by one; None gives all of them at once.
VIEW_ORDERS = ("nearest", "quasi_optimal")


@dataclass(frozen=True)
class SampleResult:
    """One image: its errors, how many sources they were reached with, seconds of that prediction, and the
    area under its sparsification error, NaN where the predictor tells no confidence."""

    name: str
    errors: BenchmarkErrors
    num_sources: int
    seconds: float
    ause: float = float("nan")


@dataclass(frozen=True)
class DepthEvaluation:
    """Results of one set, image by image."""

    name: str
    samples: tuple[SampleResult, ...]

    @property
    def mean(self) -> BenchmarkErrors:
        """Over the images that had a pixel to compare."""
        return mean_errors([sample.errors for sample in self.samples])

    @property
    def ause(self) -> float:
        """Mean over the images whose predictions came with a confidence; NaN without any."""
        known = [sample.ause for sample in self.samples if np.isfinite(sample.ause)]
        return float(np.mean(known)) if known else float("nan")

    @property
    def seconds(self) -> float:
        """Median per image."""
        return float(np.median([sample.seconds for sample in self.samples]))


def evaluate_depth(
    dataset: Iterable[DepthSample],
    predict: Predict,
    *,
    alignment: str | None = None,
    clip: tuple[float, float] | None = BENCHMARK_CLIP,
    sparse: bool = False,
    view_order: str | None = None,
    max_sources: int | None = None,
    name: str | None = None,
) -> DepthEvaluation:
    """Run a predictor over a set and compare with its depth maps.

    Args:
        dataset: `DepthSet`, or samples.
        predict: takes a `DepthSample`, gives a depth map (h, w), array or tensor, in the unit of the poses,
            or a pair of it and a confidence (h, w). It must not read the sample's true depth.
        alignment, clip, sparse: as in `benchmark_errors`.
        view_order: None: one prediction from all sources. "nearest": predictions from the first source, the
            first two and so on; the best by abs_rel counts. "quasi_optimal", the published tables' rule:
            the same after ordering the sources by the error that each reaches alone. Both look at the
            truth, as the benchmark does, and cost up to 2 V predictions an image.
        max_sources: sources beyond these are not used; None for all.
        name: of the result; the set's own by default.

    Returns:
        DepthEvaluation; `depth_table` prints several.

    Raises:
        ValueError: a set without samples, with `view_order` a sample without sources, options; what predict
            or the readers raise.
    """
    if view_order is not None:
        known_name("view order", view_order, VIEW_ORDERS)
    most = None if max_sources is None else integer("max_sources", max_sources, 1)

    def run(sample: DepthSample, truth: Any, chosen: list[int]) -> SampleResult:
        given = replace(sample, sources=tuple(sample.sources[i] for i in chosen))
        start = time.perf_counter()
        found = predict(given)
        depth, confidence = found if isinstance(found, tuple) else (found, None)
        depth = as_map(depth, "prediction")  # a GPU's answer is waited for
        seconds = time.perf_counter() - start
        rules: dict[str, Any] = {"alignment": alignment, "clip": clip, "sparse": sparse}
        errors, area = benchmark_errors(depth, truth, **rules), float("nan")
        if confidence is not None:
            area = sparsification(depth, truth, confidence, **rules).ause
        return SampleResult(sample.name, errors, len(chosen), seconds, area)

    results = []
    for sample in dataset:
        truth, every = sample.read_depth(), list(range(len(sample.sources)))
        if view_order is None:
            results.append(run(sample, truth, every[:most]))
            continue
        if not every:
            raise ValueError(
                f"{sample.name} has no source view, of which {view_order!r} takes the best"
            )
        if view_order == "quasi_optimal":
            alone = [_rank(run(sample, truth, [i])) for i in every]
            every = sorted(every, key=lambda i: alone[i])
        tried = [run(sample, truth, every[: n + 1]) for n in range(len(every[:most]))]
        results.append(min(tried, key=_rank))
    if not results:
        raise ValueError("dataset holds no sample")
    return DepthEvaluation(str(name or getattr(dataset, "name", "depth")), tuple(results))


def _rank(result: SampleResult) -> float:
    error = result.errors.abs_rel
    return error if np.isfinite(error) else float("inf")


def depth_table(evaluations: Mapping[str, Iterable[DepthEvaluation]]) -> str:
    """A Markdown table: a row per method, rel and tau per set, their average, median seconds per image.

    rel is the mean absolute relative error and tau the share of inliers, both in percent; the density, their
    average over the sets in percent, is shown where a prediction left pixels out.
    """
    rows = {method: {e.name: e for e in found} for method, found in evaluations.items()}
    sets = list(dict.fromkeys(name for row in rows.values() for name in row))
    density = {m: np.mean([e.mean.density for e in row.values()]) for m, row in rows.items() if row}
    thin = any(value < 99.995 for value in density.values())
    head = ["method", *(f"{name} {what}" for name in (*sets, "average") for what in ("rel", "tau"))]
    head += ["density", "s"] if thin else ["s"]
    lines = [head, ["---"] * len(head)]
    for method, row in rows.items():
        means = [row[name].mean if name in row else None for name in sets]
        cells = [cell for mean in means for cell in _cells(mean)]
        some = [mean for mean in means if mean is not None]
        whole = len(some) == len(sets)  # an average over other sets would compare with nothing
        cells += _cells(mean_errors(some)) if whole and some else ["", ""]
        if thin:
            cells.append(f"{density[method]:.1f}" if row else "")
        seconds = [row[name].seconds for name in sets if name in row]
        lines.append([method, *cells, f"{np.mean(seconds):.2f}" if seconds else ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(mean: BenchmarkErrors | None) -> list[str]:
    return ["", ""] if mean is None else [f"{mean.abs_rel:.2f}", f"{mean.inliers:.2f}"]
