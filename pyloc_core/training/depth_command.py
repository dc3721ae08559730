# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Train MVSAnywhere on posed images with depth: drawn scenes, or folders of RGB-D frames.

    python -m pyloc_core.training depth --out runs/trial --network small-dot --size 64 96
    python -m pyloc_core.training depth --out runs/hero --network hero --start mvsanywhere_hero.ckpt \\
        --frames train_* --held-out-frames val_*

Without --frames it trains on drawn scenes with exact depth: streets, open ground and rooms.
Exit codes: 0 done; 2 the input does not fit (one line says why).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pyloc_core.training.command_options import (
    add_option,
    add_run_options,
    one_line,
    options_of,
    set_threads,
)
from pyloc_core.training.depth_options import DepthOptions

_HELP = {
    "epochs": "at most", "learning_rate": "of the matching encoder and the volume",
    "clip_norm": "largest gradient norm", "mono_rate": "of the encoder of the reference image",
    "decoder_rate": "of the volume's transformer and the decoder",
    "first_drop": "step at which learning-rate falls to a tenth", "second_drop": "and again",
    "fade_steps": "steps over which the other rates fall", "final_share": "to this share",
    "weight_decay": "of AdamW", "batch": "tuples per step, over all processes and parts",
    "accumulation": "parts of a batch, one after another", "sources": "source images of a tuple",
    "jitter": "of the colours", "flip": "probability of mirrored tuples",
    "network_flip": "probability that only the network's image parts are mirrored",
    "near_noise": "near end of the known range times U(1 - this, 1)",
    "far_noise": "far end times U(1, 1 + this)",
    "judged_batch": "held-out tuples at a time",
    "precision": "of the network's arithmetic; float16, as published, needs CUDA",
    "patience": "epochs without a smaller error until it stops", "max_minutes": "time limit",
    "seed": "of everything random", "workers": "processes that make tuples; 0: in line",
    "log_every": "steps between TensorBoard scalars",
    "checkpoint_every": "steps between checkpoints inside an epoch; 0: one per epoch",
}  # fmt: skip
NETWORKS = ("dot", "hero", "small-dot", "small-hero")
# For trials on a CPU: about a hundredth of the published network's parameters. As there, the patchifier is
# twice as wide as there are planes; half as wide as planes, it learned slower in trials.
SMALL: dict[str, Any] = {
    "backbone": (96, 4, 4), "width": 32, "matching_channels": 8, "matching_width": 16,
    "num_depths": 16,
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m pyloc_core.training depth", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_run_options(made)
    network = made.add_argument_group("network")
    network.add_argument("--network", default="dot", help=f"{', '.join(NETWORKS)} (default dot)")
    network.add_argument("--start", type=Path, help="weights of the whole network, official or own")
    network.add_argument("--mono-weights", type=Path, help="DINOv2's, for the two transformers")
    data = made.add_argument_group("scenes")
    data.add_argument("--frames", type=Path, nargs="+", help="folders of posed RGB-D frames")
    data.add_argument("--held-out-frames", type=Path, nargs="+", help="other folders")
    data.add_argument("--scenes", type=int, default=500, help="drawn ones (default 500)")
    data.add_argument("--held-out-scenes", type=int, default=50, help="drawn ones (default 50)")
    data.add_argument("--views", type=int, default=8, help="of a drawn scene (default 8)")
    data.add_argument("--sky", type=float, default=0.3, help="share of drawn scenes with sky (0.3)")
    data.add_argument("--size", type=int, nargs=2, default=(96, 128), metavar=("H", "W"),
                      help="of the images, multiples of 16 (default 96 128)")  # fmt: skip
    options = made.add_argument_group("training")
    options.add_argument("--options", type=Path, help="JSON file of the options below")
    options.add_argument("--published-sky", action="store_true", default=None,
                         help="the published program's sky loss, with two sigmoids")  # fmt: skip
    for option in fields(DepthOptions):
        if option.name != "published_sky":
            choices = DepthOptions.precisions if option.name == "precision" else None
            add_option(options, option, _HELP, choices=choices)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    return one_line(_run, parser().parse_args(arguments))


def build(name: str, seed: int) -> Any:
    """A network with random weights: "dot", "hero", or "small-" one of them. ValueError otherwise."""
    from pyloc_core.models.mvsanywhere.variants import MVSAnywhereDot, MVSAnywhereHero

    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {name!r}")
    kind = MVSAnywhereHero if name.endswith("hero") else MVSAnywhereDot
    return kind(**(SMALL if name.startswith("small") else {}), seed=seed)


def _run(given: argparse.Namespace) -> int:
    from pyloc_core.training.depth_training import train_depth

    options = options_of(given, DepthOptions)
    set_threads(given)
    if any(side % 16 for side in given.size):
        raise ValueError(f"size must be of multiples of 16, got {tuple(given.size)}")
    network = build(given.network, options.seed)
    if given.mono_weights is not None:
        for part in (network.encoder["model"], network.cost_volume_net.model):
            part.load_pretrained(given.mono_weights)
    if given.start is not None:
        network.load_official(given.start)
    scenes, held_out = _scenes(given, options)
    outcome = train_depth(
        network, scenes, held_out, given.out, options, device=given.device, resume=given.resume,
        progress_bar=not given.quiet, tensorboard=not given.no_tensorboard,
    )  # fmt: skip
    if outcome.first:
        print(
            f"{given.out}: {outcome.steps} steps in {outcome.seconds:.0f} s, held-out relative error "
            f"{outcome.best:.1f} %; {outcome.reason}"
        )
    return 0


def _scenes(given: argparse.Namespace, options: DepthOptions) -> tuple[Any, Any]:
    """Scenes to learn from and held-out ones, with other textures and seeds."""
    from pyloc_core.training.rendered_scenes import RenderedScenes

    if (given.frames is None) != (given.held_out_frames is None):
        raise ValueError("frames and held-out-frames go together")
    if given.frames is not None:
        from pyloc_core.training.frame_scenes import FrameScenes

        size = (given.size[0], given.size[1])
        return (
            FrameScenes(given.frames, size=size, sources=options.sources),
            FrameScenes(given.held_out_frames, size=size, sources=options.sources),
        )
    common: dict[str, Any] = {"views": given.views, "size": tuple(given.size), "sky": given.sky}
    return (
        RenderedScenes(count=given.scenes, seed=options.seed + 1, **common),
        RenderedScenes(count=given.held_out_scenes, seed=options.seed + 1_000_001, **common),
    )
