# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The command `pyloc-core evaluate-depth`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pyloc_core.cli_named_values import named_values


def evaluate_depth(
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            help="kitti, scannet, eth3d, dtu, blendedmvs, tanks_and_temples or mvsnet.",
        ),
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of the benchmark.")],
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Checkpoint of MVSAnywhere; default: a classical sweep."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", help="HEIGHTxWIDTH that images are resampled to, as 480x640."),
    ] = None,
    range_from: Annotated[
        str, typer.Option("--range", help="Depths to look in: from the cameras, or given.")
    ] = "cameras",
    alignment: Annotated[
        str | None,
        typer.Option("--alignment", help="median, least_squares[_shift|_inverse]; default: none."),
    ] = None,
    view_order: Annotated[
        str | None,
        typer.Option("--view-order", help="nearest or quasi_optimal; default: all views at once."),
    ] = None,
    max_sources: Annotated[
        int | None, typer.Option("--max-sources", min=1, help="Source views, at most.")
    ] = None,
    least_confidence: Annotated[
        float | None,
        typer.Option("--least-confidence", help="Of the sweep: other pixels are left out."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", help="NAME=VALUE of the layout's reader, as scenes=a,b; repeatable."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Images, evenly chosen; default: all.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    device: Annotated[str, typer.Option("--device", help="Where the network runs.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Native threads of the sweep.")
    ] = None,
) -> None:
    """Relative error and inliers (within 3 %) of depth on a data set, by the Robust MVD benchmark's rules."""
    from pyloc_core.depth.evaluate import depth_table
    from pyloc_core.depth.evaluate import evaluate_depth as evaluate
    from pyloc_core.depth.layouts import DepthSet, read_depth_layout

    found = read_depth_layout(layout, data, **_options(layout, option or []))
    if limit is not None and limit < len(found):
        chosen = [found.samples[i * len(found) // limit] for i in range(limit)]
        found = DepthSet(found.name, tuple(chosen))
    predict = _predictor(weights, _size(size), range_from, (least_confidence, threads, device))
    typer.echo(f"{found.name}: {len(found)} images")
    sparse = least_confidence is not None
    result = evaluate(
        found, predict, alignment=alignment, view_order=view_order, max_sources=max_sources,
        sparse=sparse,
    )  # fmt: skip
    method = "sweep without weights" if weights is None else weights.name
    typer.echo(depth_table({method: [result]}))
    if not math.isnan(result.ause):
        typer.echo(f"area under the sparsification error of its confidence: {result.ause:.3f}")
    if json_out is not None:
        content = {
            "set": found.name, "layout": layout, "method": method, "range": range_from,
            "alignment": alignment, "view_order": view_order, "mean": asdict(result.mean),
            "ause": result.ause,
            "seconds": result.seconds, "images": [asdict(sample) for sample in result.samples],
        }  # fmt: skip
        json_out.parent.mkdir(parents=True, exist_ok=True)
        json_out.write_text(json.dumps(_without_nan(content), indent=1) + "\n")


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: what is not known is null there."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _predictor(
    weights: Path | None,
    size: tuple[int, int] | None,
    range_from: str,
    rest: tuple[float | None, int | None, str],
) -> Callable[..., Any]:
    from pyloc_core.depth.predictors import NetworkPredictor, SweepPredictor
    from pyloc_core.depth.sweep_stereo import SweepStereo

    least_confidence, threads, device = rest
    if weights is None:
        return SweepPredictor(
            SweepStereo(num_threads=threads), size=size, range_from=range_from,
            least_confidence=least_confidence, confidence=True,
        )  # fmt: skip
    if least_confidence is not None:
        raise ValueError("--least-confidence is of the sweep: the network tells no confidence")
    from pyloc_core.cli_depth import network_of

    return NetworkPredictor(
        network_of(weights, device), size=size or (480, 640), range_from=range_from
    )


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, x, width = text.partition("x")
    if not (x and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError(f"--size must be HEIGHTxWIDTH, as 480x640, got {text!r}")
    return int(height), int(width)


def _options(layout: str, given: list[str]) -> dict[str, Any]:
    """NAME=VALUE for the reader, as the default of the option asks."""
    import inspect

    from pyloc_core.depth.layouts import LAYOUTS, read_mvsnet

    if layout not in LAYOUTS:  # the reader says so
        return {}
    known = dict(inspect.signature(LAYOUTS[layout]).parameters)
    if "options" in known:  # handed on
        known = dict(inspect.signature(read_mvsnet).parameters)
    names = [each for each in known if each not in ("folder", "raw", "frames")]
    found = named_values(given, layout, names)
    return {name: _value(name, value, known[name].default) for name, value in found.items()}


def _value(name: str, text: str, default: Any) -> Any:
    try:
        if name == "scenes":
            return text.split(",")
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(int(each) for each in text.split(","))
        if isinstance(default, float):
            return float(text)
        return int(text) if isinstance(default, int) or name == "count" else text
    except (ValueError, KeyError):
        raise ValueError(f"--option {name} cannot be {text!r}") from None
