# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The command `pyloc-core evaluate-retrieval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyloc_core.cli_named_values import named_values

if TYPE_CHECKING:
    from pyloc_core.retrieval import RetrievalSet


def evaluate_retrieval(
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            help="msls, nordland, pittsburgh, sped, sf_xl, utm_names or image_lists.",
        ),
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of the benchmark.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Network that describes images, such as salad.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Official file of the network.")
    ] = None,
    descriptors: Annotated[
        Path | None,
        typer.Option(
            "--descriptors", help=".npz with unit vectors: queries (Q, D), database (N, D)."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", help="NAME=VALUE of the layout's reader, as cities=cph,sf; repeatable."
        ),
    ] = None,
    ks: Annotated[str, typer.Option("--ks", help="Comma separated.")] = "1,5,10",
    without_positives: Annotated[
        str,
        typer.Option("--without-positives", help="Unanswerable queries: miss or leave_out."),
    ] = "miss",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    curve: Annotated[
        Path | None, typer.Option("--curve", help="Picture of recall against the threshold.")
    ] = None,
    sensitivity: Annotated[
        Path | None,
        typer.Option("--sensitivity", help="Picture of descriptor against geographic distance."),
    ] = None,
    save_descriptors: Annotated[
        Path | None, typer.Option("--save-descriptors", help=".npz for a later --descriptors.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")] = 16,
    half: Annotated[bool, typer.Option("--half", help="Half precision in the network.")] = False,
    device: Annotated[str, typer.Option("--device", help="Where the network runs.")] = "cpu",
    seed: Annotated[int, typer.Option("--seed", help="Of samples and random weights.")] = 0,
) -> None:
    """Recall@k of a network, or of descriptors that are there already, on a benchmark of place recognition.

    Without --weights those of the network are random, and the figures say only that the program runs.
    """
    from pyloc_core.retrieval.evaluation import evaluate_retrieval as evaluate
    from pyloc_core.retrieval.evaluation import read_descriptors
    from pyloc_core.retrieval.layouts import read_layout

    if (model is None) == (descriptors is None):
        raise ValueError("give either --model or --descriptors")
    wanted = [_integer("--ks", k) for k in ks.split(",")]
    benchmark = read_layout(layout, data, **_options(layout, option or []))
    if (curve or sensitivity) and benchmark.rule == "listed":
        raise ValueError(f"{benchmark.name} lists its correct images: no --curve, no --sensitivity")
    typer.echo(str(benchmark))
    if descriptors is not None:
        queries, database = read_descriptors(descriptors)
    else:
        assert model is not None
        queries, database = _described(benchmark, model, weights, batch, half, device, seed)
    if save_descriptors is not None:
        import numpy as np

        save_descriptors.parent.mkdir(parents=True, exist_ok=True)
        with save_descriptors.open(
            "wb"
        ) as file:  # a name of one's own choice, not with .npz behind it
            np.savez(file, queries=queries, database=database)
    result = evaluate(
        benchmark, queries, database, wanted, without_positives=without_positives,
        sensitivity=sensitivity is not None, seed=seed,
    )  # fmt: skip
    typer.echo(str(result.recall))
    if without_positives == "miss" and result.recall.without_positives:
        typer.echo(f"{result.recall.without_positives} queries have no correct image: misses")
    if json_out is not None:
        content = {
            "set": str(benchmark), "layout": layout, "model": model,
            "random_weights": model is not None and weights is None,
            "descriptor_size": int(database.shape[1]), **result.to_dict(),
        }  # fmt: skip
        json_out.parent.mkdir(parents=True, exist_ok=True)
        json_out.write_text(json.dumps(content, indent=1) + "\n")
    _draw(benchmark, model or "descriptors", result, curve, sensitivity)
    if model is not None and weights is None:
        typer.echo("the weights are random: these figures say nothing about accuracy")


def _described(
    benchmark: RetrievalSet, model: str, weights: Path | None, batch: int, half: bool, device: str,
    seed: int,
) -> Any:  # fmt: skip
    """Descriptors of queries and database by a network."""
    from pyloc_core import models

    network = models.create(model, seed=seed)
    if not hasattr(network, "global_descriptor"):
        raise ValueError(f"the network {model} makes no global descriptors")
    if weights is not None:
        network.load_official(weights)
    network.to(device)
    sides = [side.images for side in (benchmark.queries, benchmark.database)]
    if hasattr(network, "global_descriptors"):
        return tuple(network.global_descriptors(s, batch_size=batch, half=half) for s in sides)
    import numpy as np

    from pyloc_core.localization.images import read_image

    return tuple(np.stack([network.global_descriptor(read_image(p)) for p in s]) for s in sides)


def _draw(
    benchmark: RetrievalSet, name: str, result: Any, curve: Path | None, sensitivity: Path | None
) -> None:
    from pyloc_core.retrieval import plot_recall_curve, plot_sensitivity

    unit = "frames" if benchmark.rule == "frames" else "m"
    if curve is not None:
        plot_recall_curve({name: result.curve}, curve, rule=benchmark.threshold, unit=unit)
        typer.echo(str(curve))
    if sensitivity is not None:
        sensed = result.sensitivity
        plot_sensitivity({name: sensed}, sensitivity, rule=benchmark.threshold, unit=unit)
        typer.echo(f"{sensitivity}: order kept in {100 * sensed.order:.1f} % of the triplets")


def _options(layout: str, given: list[str]) -> dict[str, Any]:
    """NAME=VALUE for the reader: numbers, true and false, lists for cities, otherwise text."""
    import inspect

    from pyloc_core.retrieval.layouts import LAYOUTS

    known = [*inspect.signature(LAYOUTS[layout]).parameters][1:] if layout in LAYOUTS else []
    found = named_values(given, layout, known)
    return {name: _value(name, value) for name, value in found.items()}


def _value(name: str, text: str) -> Any:
    if name == "cities":
        return text.split(",")
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if name in ("threshold", "tolerance"):
        try:
            return float(text) if name == "threshold" else int(text)
        except ValueError:
            raise ValueError(f"--option {name} must be a number, got {text!r}") from None
    return text


def _integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} must be integers with commas, got {text!r}") from None
