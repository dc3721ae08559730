# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Training of multi-view depth, by the recipe of MVSAnywhere, on any posed images with depth."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pyloc_core._extras import require
from pyloc_core.models.mvsanywhere.network import MVSAnywhere
from pyloc_core.training.depth_batches import DepthBatches, Scenes
from pyloc_core.training.depth_loss import DepthLosses
from pyloc_core.training.depth_options import DepthOptions
from pyloc_core.training.depth_task import DepthJudge, DepthTask
from pyloc_core.training.loop import Outcome, run_training


def train_depth(
    network: MVSAnywhere,
    scenes: Scenes,
    held_out: Scenes,
    folder: str | Path,
    options: DepthOptions,
    *,
    losses: DepthLosses | None = None,
    device: str | None = None,
    resume: bool = False,
    progress_bar: bool = True,
    tensorboard: bool = True,
) -> Outcome:
    """Train MVSAnywhere on tuples of a reference image with depth and posed source images.

    Losses of `DepthLosses` in the known range with noise, AdamW with a rate for each of three parts; the mean
    relative error on held-out scenes after every epoch, in the range of the cameras with one refinement,
    decides which weights lie in best.safetensors.

    Args:
        network: with random weights or loaded ones.
        scenes: anything with `len` and `[i]` that gives `DepthScene`s of one image size and number of views.
        held_out: other scenes.
        folder: checkpoints and TensorBoard files.
        losses: with their weights; None: the recipe's, the sky's as `options.published_sky` says.
        resume: go on from the folder's checkpoint, with the same bits as without the interruption (on
            the CPU).

    Returns:
        The outcome; `best` is the mean relative error in percent.

    Raises:
        ValueError: a batch larger than the scenes, and what `run_training` raises.
    """
    task = DepthTask(network, losses or DepthLosses(published=options.published_sky))
    judge = DepthJudge(held_out, sources=options.sources, batch=options.judged_batch)
    return run_training(
        task, DepthBatches(scenes, options), judge, folder, options, device=device, resume=resume,
        save_best=save_network, progress_bar=progress_bar, tensorboard=tensorboard,
    )  # fmt: skip


def save_network(model: nn.Module, path: Path) -> None:
    """The network alone, as safetensors."""
    assert isinstance(model, DepthTask)
    safetensors = require("safetensors.torch", "saving weights")
    state = {k: v.detach().cpu().contiguous() for k, v in model.network.state_dict().items()}
    safetensors.save_file(state, str(path))
