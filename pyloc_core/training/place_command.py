# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Train a network for place recognition by the recipe of DINOv2 SALAD.

    python -m pyloc_core.training places --out runs/salad --places gsv.csv --held-out val.csv \\
        --backbone-weights dinov2_vitb14_pretrain.pth
    python -m pyloc_core.training places --out runs/mixed ... --mined msls.csv

Places are a CSV file (image, place, and as far as known easting, northing, city, sequence, role), a folder
with a subfolder per place, or the folder of GSV-Cities.
Exit codes: 0 done; 2 the input does not fit (one line says why).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.training.command_options import (
    add_option,
    add_run_options,
    one_line,
    options_of,
    set_threads,
)
from pyloc_core.training.pictures import PictureTable, read_folder, read_gsv_cities, read_table
from pyloc_core.training.place_options import PlaceOptions
from pyloc_core.training.place_recall import RADIUS

_HELP = {
    "epochs": "at most", "learning_rate": "of AdamW at the start",
    "clip_norm": "largest gradient norm", "places": "places per batch, of both sources together",
    "images": "pictures of each place", "image_size": "side of the pictures in pixels",
    "weight_decay": "of AdamW", "decay_steps": "steps over which the rate falls",
    "final_share": "share of the rate at which it stays", "operations": "random changes per picture",
    "strength": "of the random changes, 0 to 1", "alpha": "of the loss, for positives",
    "beta": "of the loss, for negatives", "base": "of the loss", "margin": "of the online selection",
    "judged_size": "side of the held-out pictures; 0: image-size",
    "judged_batch": "held-out pictures at a time",
    "precision": "of the network's arithmetic; auto: float16 on CUDA, else float32",
    "patience": "epochs without better recall until it stops", "max_minutes": "time limit",
    "seed": "of everything random", "workers": "processes that read pictures; 0: in line",
    "log_every": "steps between TensorBoard scalars",
    "checkpoint_every": "steps between checkpoints inside an epoch; 0: one per epoch",
}  # fmt: skip
MINED = "mined_batches.npz"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m pyloc_core.training places", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_run_options(made)
    data = made.add_argument_group("pictures")
    data.add_argument("--places", type=Path, required=True, dest="table",
                      help="CSV file, folder with a subfolder per place, or GSV-Cities")  # fmt: skip
    data.add_argument("--held-out", type=Path, required=True, help="the same, of other places")
    data.add_argument(
        "--held-out-layout",
        help="--held-out is a benchmark's folder: pittsburgh, msls, nordland, sped, sf_xl, ...",
    )
    data.add_argument(
        "--images-root", type=Path, help="folder of the pictures (default: the table's)"
    )
    data.add_argument("--by-position", action="store_true",
                      help=f"right answers are those within {RADIUS:g} m, not those of one place")  # fmt: skip
    data.add_argument("--one-city", action="store_true", help="batches of one city each")
    mined = made.add_argument_group("mined batches, half of each batch")
    mined.add_argument("--mined", type=Path, help="CSV file with positions and sequences, or MSLS")
    mined.add_argument("--mined-places", type=int, help="of a batch (default: half)")
    mined.add_argument("--mined-count", type=int, default=4000, help="batches mined (default 4000)")
    mined.add_argument("--mined-length", type=int, help="of them per epoch (default: all, in turn)")
    mined.add_argument("--threshold", type=float, default=25.0, help="metres (default 25)")
    mined.add_argument("--similar-sequences", type=int, default=15, help="beside the first (15)")
    mined.add_argument("--mine-only", action="store_true", help="mine into --out and stop")
    network = made.add_argument_group("network")
    network.add_argument(
        "--network", default="salad", help="salad, mixer, small-salad, small-mixer"
    )
    network.add_argument("--backbone", default="vitb14", help="vits14, vitb14 or vitl14")
    network.add_argument("--head", default="8192+256", help="8192+256, 2048+64 or 512+32")
    network.add_argument("--trainable-blocks", type=int, default=4, help="last ones (default 4)")
    network.add_argument("--backbone-weights", type=Path, help="DINOv2's, where training starts")
    network.add_argument("--start", type=Path, help="weights of the whole network")
    options = made.add_argument_group("training")
    options.add_argument("--options", type=Path, help="JSON file of the options below")
    for option in fields(PlaceOptions):
        # --places is the table.
        flag = "--places-per-batch" if option.name == "places" else None
        choices = PlaceOptions.precisions if option.name == "precision" else None
        add_option(options, option, _HELP, flag, choices)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    return one_line(_run, parser().parse_args(arguments))


def _run(given: argparse.Namespace) -> int:
    from pyloc_core.training.place_batches import MinedPlaces
    from pyloc_core.training.place_layouts import held_out_layout, msls_frames
    from pyloc_core.training.place_networks import build, load_start
    from pyloc_core.training.place_training import train_places

    options = options_of(given, PlaceOptions)
    set_threads(given)

    def read(path: Path) -> PictureTable:
        if (path / "Images").is_dir():
            return read_gsv_cities(path)
        return read_folder(path) if path.is_dir() else read_table(path, given.images_root)

    network = build(
        given.network, options.image_size, backbone=given.backbone, head=given.head,
        trainable_blocks=given.trainable_blocks, seed=options.seed,
    )  # fmt: skip
    load_start(network, given.start, given.backbone_weights)
    table, mined = read(given.table), None
    if given.held_out_layout is None:
        held_out = read(given.held_out)
    else:
        held_out = held_out_layout(given.held_out_layout, given.held_out)
    if given.mined is not None:
        is_msls = given.mined.is_dir()
        frames = msls_frames(given.mined) if is_msls else read(given.mined)
        batches = _mined(given, network, frames, options)
        if given.mine_only:
            print(f"{given.out / MINED}: {len(batches)} batches")
            return 0
        mined = MinedPlaces(frames, batches, length=given.mined_length, seed=options.seed)
    elif given.mine_only:
        raise ValueError("mine-only needs --mined")
    outcome = train_places(
        network, table, held_out, given.out, options, mined=mined, one_city=given.one_city,
        radius=RADIUS if given.by_position else None, device=given.device, resume=given.resume,
        progress_bar=not given.quiet, tensorboard=not given.no_tensorboard,
    )  # fmt: skip
    if outcome.first:
        print(
            f"{given.out}: {outcome.steps} steps in {outcome.seconds:.0f} s, "
            f"recall@1 {100 * (1 - outcome.best):.1f} %; {outcome.reason}"
        )
    return 0


def _mined(
    given: argparse.Namespace, network: Any, frames: PictureTable, options: PlaceOptions
) -> npt.NDArray[np.int64]:
    """Batches mined before into the folder, or mined now."""
    import torch

    from pyloc_core.mining import MiningError
    from pyloc_core.training.place_mining import load_batches, mine_batches, save_batches, stamp

    places = given.mined_places or options.places // 2
    sampling = {"threshold": given.threshold, "similar_sequences": given.similar_sequences}
    made_with = stamp(
        frames, places=places, images=options.images, count=given.mined_count, seed=options.seed,
        **sampling,
    )  # fmt: skip
    path = given.out / MINED
    if path.is_file():
        return load_batches(path, made_with)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("mine with one process first: --mine-only, with the same --out")
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        batches = mine_batches(
            network, frames, options, places=places, count=given.mined_count, device=device,
            **sampling,
        )  # fmt: skip
    except MiningError as error:
        raise ValueError(f"cannot mine {given.mined}: {error}") from None
    save_batches(path, batches, made_with)
    return batches
