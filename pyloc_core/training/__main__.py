# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Train the project's dense descriptor, GradNet, with the neural reprojection error.

Networks for place recognition: python -m pyloc_core.training places --help
Multi-view depth:               python -m pyloc_core.training depth --help

    python -m pyloc_core.training --out runs/first
    torchrun --nproc-per-node 4 -m pyloc_core.training --out runs/first --batch 16

Without other sources it trains on built-in textures, photos in the public domain and drawn rooms.
Exit codes: 0 done; 2 the input does not fit (one line says why).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from pyloc_core.training.command_options import (
    add_option,
    add_run_options,
    one_line,
    options_of,
    set_threads,
)
from pyloc_core.training.options import TrainingOptions

_HELP = {
    "epochs": "at most", "pairs_per_epoch": "pairs per epoch",
    "batch": "pairs per step, over all processes", "points": "points per pair",
    "learning_rate": "of Adam", "decay": "factor on the rate after every epoch",
    "warmup_steps": "steps over which the rate rises", "clip_norm": "largest gradient norm",
    "precision": "of the network's arithmetic; float16 needs CUDA",
    "patience": "epochs without a better held-out loss until it stops",
    "held_out_pairs": "pairs for early stopping", "max_minutes": "time limit",
    "seed": "of everything random", "workers": "processes that make pairs; 0: in line",
    "log_every": "steps between TensorBoard scalars",
    "checkpoint_every": "steps between checkpoints inside an epoch; 0: one per epoch",
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m pyloc_core.training", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_run_options(made)
    made.add_argument("--start", type=Path, help="weights to start from instead of histograms")
    data = made.add_argument_group("pairs")
    data.add_argument("--no-textures", action="store_true", help="no warped textures and photos")
    data.add_argument("--no-rooms", action="store_true", help="no rendered rooms")
    data.add_argument("--room-count", type=int, default=24, help="rooms drawn (default 24)")
    data.add_argument("--mild", action="store_true",
                      help="small changes of view and light: a second stage, with --start")  # fmt: skip
    data.add_argument("--images", type=Path, action="append", default=[],
                      help="folder of photos to warp; repeatable")  # fmt: skip
    data.add_argument("--model", type=Path, nargs=2, action="append", default=[],
                      metavar=("COLMAP", "IMAGES"), help="posed model; repeatable")  # fmt: skip
    options = made.add_argument_group("training")
    options.add_argument("--options", type=Path, help="JSON file of the options below")
    for option in fields(TrainingOptions):
        choices = TrainingOptions.precisions if option.name == "precision" else None
        add_option(options, option, _HELP, choices=choices)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["places"]:
        from pyloc_core.training.place_command import main as train_places

        return train_places(given[1:])
    if given[:1] == ["depth"]:
        from pyloc_core.training.depth_command import main as train_depth

        return train_depth(given[1:])
    return one_line(_run, parser().parse_args(given))


def _run(given: argparse.Namespace) -> int:
    from pyloc_core.training import recipe
    from pyloc_core.training.pair_training import train

    options = options_of(given, TrainingOptions)
    set_threads(given)
    if given.room_count < 1:
        raise ValueError(f"room-count must be positive, got {given.room_count}")
    material = recipe.Material(
        not given.no_textures, not given.no_rooms, recipe.image_files(given.images),
        tuple((model, images) for model, images in given.model), given.room_count,
        given.mild,
    )  # fmt: skip
    training, held_out = recipe.datasets(material, options)
    outcome = train(
        recipe.network_loss(given.start, options.seed), training, held_out, given.out, options,
        device=given.device, resume=given.resume, save_best=recipe.save_weights,
        progress_bar=not given.quiet, tensorboard=not given.no_tensorboard,
    )  # fmt: skip
    if outcome.first:
        print(
            f"{given.out}: {outcome.steps} steps in {outcome.seconds:.0f} s, "
            f"held-out loss {outcome.best:.4f}; {outcome.reason}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
