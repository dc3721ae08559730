# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The command `pyloc-core evaluate-neurhal`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate_neurhal(
    folder: Annotated[
        Path, typer.Argument(help="Posed RGB-D images: color, depth, pose, intrinsic.")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for results.json and pictures.")
    ] = Path("neurhal_results"),
    weights: Annotated[
        Path | None, typer.Option("--weights", help="State dict of models.create('neurhal').")
    ] = None,
    pairs: Annotated[
        int,
        typer.Option("--pairs", min=1, help="Pairs to sample where the folder has no pairs.txt."),
    ] = 100,
    stride: Annotated[int, typer.Option("--stride", help="Pixels per cell: 8 or 16.")] = 8,
    gamma: Annotated[float, typer.Option("--gamma", help="Padding as a share of the map.")] = 0.5,
    map_edge: Annotated[
        int | None, typer.Option("--map-edge", min=1, help="Cells along the longer side.")
    ] = None,
    spacing: Annotated[
        int, typer.Option("--spacing", min=1, help="Pixels between keypoints.")
    ] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Of pairs, poses, random weights.")] = 0,
    device: Annotated[str, typer.Option("--device", help="Where the network runs.")] = "cpu",
) -> None:
    """Evaluate NeurHal on posed RGB-D images: costs and errors per kind of correspondent, and poses.

    There are no official weights: without --weights they are random, and the figures say only that the
    program runs.
    """
    from pyloc_core import models
    from pyloc_core.localization.hallucination import evaluate_hallucination, samples
    from pyloc_core.localization.hallucination_plot import save_plots
    from pyloc_core.localization.rgbd_folder import read_rgbd_folder

    if stride not in (8, 16):
        raise ValueError(f"--stride must be 8 or 16, got {stride}")
    scene = read_rgbd_folder(folder)
    network = models.create(
        "neurhal", seed=seed, no_maxpool=stride == 8, gamma=gamma, map_edge=map_edge
    )
    if weights is not None:
        network.load_official(weights)
    network.to(device)
    chosen = scene.pairs or scene.sample_pairs(pairs, seed=seed)
    if not chosen:
        raise ValueError(f"{folder} has no pairs of frames with an overlap between 2 % and 80 %")
    results = evaluate_hallucination(network, samples(scene, chosen), spacing=spacing, seed=seed)
    results["network"] = {**network.to_dict(), "random": weights is None}
    results["frames_without_pose"] = scene.without_pose
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    pictures = save_plots(results, out)
    for name, summary in results["keypoints"].items():
        nre, error = summary["nre"]["mean"], summary["argmax_error"]["median"]
        figures = "" if nre is None else f", mean NRE {nre:.2f} (uniform {results['uniform']:.2f})"
        figures += "" if error is None else f", median argmax error {error:.1f} px"
        typer.echo(f"{name}: {summary['count']} keypoints{figures}")
    for curve in results["pose"]:
        typer.echo(
            f"poses within {curve['metres']:g} m and {curve['degrees']:g} degrees: "
            f"{100 * curve['estimated'][-1]:.1f} % (identity {100 * curve['identity'][-1]:.1f} %)"
        )
    typer.echo(f"{out / 'results.json'}, {', '.join(p.name for p in pictures)}")
    if weights is None:
        typer.echo("the weights are random: these figures say nothing about accuracy")
