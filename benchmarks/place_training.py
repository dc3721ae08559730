# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Is place recognition learned? Recall on a city that was not seen, before and after a short training.

    python benchmarks/place_training.py --out benchmarks/results/place_training

Two heads (SALAD, and the MixVPR-like one) on a small backbone with random weights are trained on sparse
places of a drawn city. Each then goes on, once on places alone and once on these mixed half and half with
mined batches of dense drives through another city: as published, batches are mined with a network that was
trained without them. Batch size and steps are the same, and the weights of the last step are judged, on
places and drives of a third city.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import machine
from torch import nn

from pyloc_core.models.mixer_head import MixerHead
from pyloc_core.models.place_network import PlaceNetwork, SmallBackbone
from pyloc_core.models.salad.head import SALADHead
from pyloc_core.training import (
    MinedPlaces,
    PictureTable,
    PlaceLoss,
    PlaceOptions,
    RecallJudge,
    StreetScenes,
    train_places,
)
from pyloc_core.training.distributed import Processes
from pyloc_core.training.place_mining import mine_batches

SIDE, BATCH, STEPS = 40, 20, 140
HEADS = ("SALAD", "MixVPR-like")
STAGES = {
    "before": "nothing",
    "places": "places",
    "places, places": "places, then places",
    "places, mixed": "places, then mixed with mined batches",
}
Recalls = dict[str, dict[str, float]]


def network(head: str, seed: int) -> nn.Module:
    """A head on the small backbone: 288 values with SALAD, 256 with the other."""
    backbone = SmallBackbone((16, 32), seed=seed)
    cells = SIDE // backbone.stride
    if head == "SALAD":
        top: nn.Module = SALADHead(
            32, num_clusters=16, cluster_dim=16, token_dim=32, hidden=64, dropout=0.1, seed=seed + 1
        )
    else:
        top = MixerHead(32, (cells, cells), channels_out=64, rows_out=4, depth=2, seed=seed + 1)
    return PlaceNetwork(backbone, top)


def cities(streets: int, pixels_per_metre: float = 0.5) -> dict[str, PictureTable]:
    """Sparse places, drives to mine, and both of a city to be judged by."""
    seen, dense, other = (
        StreetScenes(count, seed=seed, size=SIDE, pixels_per_metre=pixels_per_metre, kinds=3)
        for count, seed in ((streets, 1), (streets // 2, 3), (streets // 4, 2))
    )
    return {
        "places": seen.places(6),
        "drives": dense.drives(5.0, passes=3),
        "held-out places": other.places(6),
        "held-out drives": other.drives(5.0, roles=True),
    }


class Judges:
    """Recall on both held-out sets."""

    def __init__(self, tables: dict[str, PictureTable]) -> None:
        self.judges = {
            "places": RecallJudge(tables["held-out places"], size=SIDE, batch=128),
            "drives": RecallJudge(tables["held-out drives"], size=SIDE, batch=128, radius=25.0),
        }

    def __call__(self, model: nn.Module, options: PlaceOptions) -> Recalls:
        wrapped = PlaceLoss(model, options).eval()
        one = Processes(0, 1, torch.device("cpu"))
        return {n: j(wrapped, lambda f, x: f(x), one)[1] for n, j in self.judges.items()}


def trained(
    model: nn.Module,
    tables: dict[str, PictureTable],
    options: PlaceOptions,
    mined: MinedPlaces | None = None,
) -> tuple[nn.Module, float]:
    """A trained copy, and the seconds it took with its judgements."""
    model = copy.deepcopy(model)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcome = train_places(
            model, tables["places"], tables["held-out places"], folder, options, mined=mined,
            device="cpu", progress_bar=False, tensorboard=False,
        )  # fmt: skip
    assert outcome.steps == STEPS, outcome
    return model, time.perf_counter() - start


def run(head: str, seed: int, tables: dict[str, PictureTable], judges: Judges) -> dict[str, Any]:
    """Recall before, after places, and after twice as many steps, without and with mined batches."""

    def options(places: int, rate: float, more: int) -> PlaceOptions:
        epochs = STEPS // (len(tables["places"].members()) // places)
        return PlaceOptions(
            epochs=epochs, places=BATCH, images=4, image_size=SIDE, learning_rate=rate,
            decay_steps=STEPS, operations=1, patience=epochs, judged_batch=128, seed=seed + more,
        )  # fmt: skip

    first, whole, half = (
        options(BATCH, 3e-3, 0), options(BATCH, 1e-3, 100), options(BATCH // 2, 1e-3, 100)
    )  # fmt: skip
    found: dict[str, Any] = {"head": head, "seed": seed}
    start = network(head, seed)
    found["before"] = judges(start, first)
    model, found["seconds"] = trained(start, tables, first)
    found["places"] = judges(model, first)
    clock = time.perf_counter()
    batches = mine_batches(model, tables["drives"], half, count=STEPS)
    found["mining seconds"] = time.perf_counter() - clock
    found["places, places"] = judges(trained(model, tables, whole)[0], whole)
    mined = MinedPlaces(tables["drives"], batches, seed=seed)
    found["places, mixed"] = judges(trained(model, tables, half, mined)[0], half)
    return found


def markdown(rows: list[dict[str, Any]], tables: dict[str, PictureTable], data: Any) -> str:
    """Means and spreads over seeds."""
    seeds = len({row["seed"] for row in rows})
    pairs = [f"{len(table)} pictures ({name})" for name, table in tables.items()]
    lines = [
        "# Training for place recognition, on a drawn city", "",
        f"Made by `benchmarks/place_training.py` on {data['date']}, {data['cpu']}, one thread, PyTorch "
        f"{torch.__version__}; {seeds} seeds, mean and sample standard deviation. {SIDE} x {SIDE} pixels; "
        f"{', '.join(pairs)}; {STEPS} steps of {BATCH} places x 4 pictures per stage.", "",
        "Recall@1, per cent: held-out places (one of the other pictures of the place is nearest) and "
        "held-out drives (the nearest picture of the other pass is within 25 m). No city was seen before.", "",
        "| head | trained on | places | drives |", "|---|---|---|---|",
    ]  # fmt: skip
    for head in HEADS:
        own = [row for row in rows if row["head"] == head]
        for stage, text in STAGES.items():
            cells = []
            for name in ("places", "drives"):
                values = 100 * np.array([row[stage][name]["recall_at_1"] for row in own])
                spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
                cells.append(f"{values.mean():.1f}{spread}")
            lines.append(f"| {head} | {text} | {' | '.join(cells)} |")
    taken = {name: np.median([row[name] for row in rows]) for name in ("seconds", "mining seconds")}
    lines += [
        "", f"{STEPS} steps with a judgement after every epoch take {taken['seconds']:.0f} s, mining {STEPS} "
        f"batches of {BATCH // 2} places {taken['mining seconds']:.2f} s, descriptors with it (medians; the "
        "machine was shared).",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="results, without ending: .json and .md")
    parser.add_argument("--streets", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pixels-per-metre", type=float, default=0.5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tables = cities(given.streets, given.pixels_per_metre)
    judges, rows = Judges(tables), []
    for head in HEADS:
        for seed in range(given.seeds):
            rows.append(run(head, seed, tables, judges))
            print(json.dumps(rows[-1]), flush=True)
    text = markdown(rows, tables, machine())
    print(text)
    if given.out is not None:
        given.out.with_suffix(".md").write_text(text)
        content = {"machine": machine(), "torch": torch.__version__, "rows": rows}
        given.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
