# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: weights as safetensors, the optimiser's state in a file that runs no code when read."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyloc_core._extras import require


@dataclass
class Progress:
    """Where a run stands: the next step to do, and the best held-out loss so far."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best: float = float("inf")
    epochs_without_gain: int = 0
    seconds: float = 0.0


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    options: dict[str, Any],
) -> None:
    """Write weights and state so that an interruption leaves the older or the newer pair.

    The state names the weights it belongs to; they are written first.
    """
    safetensors = require("safetensors.torch", "saving checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    name = f"weights_{progress.step:08d}.safetensors"
    safetensors.save_file(weights, str(folder / f"{name}.part"))
    os.replace(folder / f"{name}.part", folder / name)
    state = {
        "weights": name,
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "progress": asdict(progress),
        "options": options,
    }
    torch.save(state, folder / "state.pt.part")
    os.replace(folder / "state.pt.part", folder / "state.pt")
    for old in folder.glob("weights_*.safetensors"):
        if old.name != name:
            old.unlink()


def load_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> tuple[Progress, dict[str, Any]]:
    """Restore a run; returns its progress and the options it had.

    Raises ValueError naming the file that is missing, damaged or does not fit the network.
    """
    safetensors = require("safetensors.torch", "loading checkpoints")
    path = folder / "state.pt"
    if not path.is_file():
        raise ValueError(f"no checkpoint in {folder}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights_path = folder / Path(state["weights"]).name
        weights = safetensors.load_file(str(weights_path))
        progress = Progress(**state["progress"])
    except Exception as error:  # torch, pickle, zip, safetensors: each raises its own
        raise ValueError(f"cannot read the checkpoint in {folder}: {error}") from None
    try:
        network.load_state_dict(weights)
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"the checkpoint in {folder} is of another network: {error}") from None
    return progress, dict(state["options"])
