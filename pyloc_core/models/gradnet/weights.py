# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""GradNet to and from safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pyloc_core._extras import require
from pyloc_core.models.gradnet.network import GradNet

SHIPPED = Path(__file__).with_name("weights.safetensors")


def save_network(network: GradNet, path: str | Path, **facts: Any) -> None:
    """Write weights and sizes; `facts` are kept as text in the file's header."""
    safetensors = require("safetensors.torch", "saving weights")
    header = {"model": "gradnet", "config": json.dumps(network.config())}
    header |= {name: json.dumps(value) for name, value in facts.items()}
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    safetensors.save_file(state, str(path), header)


def load_network(path: str | Path | None = None) -> GradNet:
    """A GradNet of a file that `save_network` wrote; None for the weights of the package.

    Raises ValueError naming the file and what is wrong: missing, damaged, of another network, or with
    entries that are missing, unexpected or of another shape.
    """
    path = SHIPPED if path is None else Path(path)
    header, state = _read(path)
    if header.get("model") != "gradnet":
        raise ValueError(f"{path} holds no GradNet (model: {header.get('model', 'not named')})")
    try:
        network = GradNet(**json.loads(header["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: sizes of the network cannot be read: {error}") from None
    wanted = network.state_dict()
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or extra:
        raise ValueError(f"{path}: missing entries {missing}, unexpected entries {extra}")
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise ValueError(
                f"{path}: {name} is {tuple(value.shape)}, expected {tuple(wanted[name].shape)}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds values that are not finite")
    network.load_state_dict(state)
    return network


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Header and tensors of a safetensors file."""
    safetensors = require("safetensors", "loading weights")
    if not path.is_file():
        raise ValueError(f"no such weights: {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {}), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors has its own exception type, in C
        raise ValueError(f"cannot read {path}: {error}") from None
