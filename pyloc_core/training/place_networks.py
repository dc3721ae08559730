# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Networks for place recognition that the command trains, by name, and the weights they start from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pyloc_core._extras import require
from pyloc_core.models.dinov2 import PATCH, DINOv2
from pyloc_core.models.mixer_head import MixerHead
from pyloc_core.models.place_network import PlaceNetwork, SmallBackbone
from pyloc_core.models.salad.head import HEADS, SALADHead
from pyloc_core.models.salad.network import SALAD

NETWORKS = ("salad", "mixer", "small-salad", "small-mixer")


def build(
    name: str,
    size: int,
    *,
    backbone: str = "vitb14",
    head: str = "8192+256",
    trainable_blocks: int = 4,
    seed: int = 0,
) -> nn.Module:
    """A network with random weights.

    Args:
        name: "salad" (DINOv2 with the SALAD head) or "mixer" (DINOv2 with `MixerHead`, which is bound to
            the size); "small-salad" and "small-mixer" on `SmallBackbone`, for trials.
        size: side of the pictures in pixels.
        backbone, trainable_blocks: of DINOv2: "vits14", "vitb14", "vitl14", and the last blocks to train.
        head: of "salad", one of `HEADS`.

    Raises:
        ValueError: an unknown name or a size that the network cannot take.
    """
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {name!r}")
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}")
    stride = SmallBackbone.stride if name.startswith("small") else PATCH
    if size % stride:
        raise ValueError(f"the size for {name} must be a multiple of {stride}, got {size}")
    grid = (size // stride, size // stride)
    if name == "salad":
        return SALAD(
            backbone=backbone,
            size=size,
            trainable_blocks=trainable_blocks,
            seed=seed,
            **HEADS[head],
        )
    if name == "mixer":
        trunk = DINOv2(backbone, trainable_blocks=trainable_blocks, seed=seed)
        return PlaceNetwork(trunk, MixerHead(trunk.channels, grid, seed=seed + 2))
    small = SmallBackbone(seed=seed)
    if name == "small-mixer":
        mixer = MixerHead(small.channels, grid, channels_out=64, depth=2, seed=seed + 1)
        return PlaceNetwork(small, mixer)
    salad = SALADHead(
        small.channels, num_clusters=16, cluster_dim=16, token_dim=32, hidden=128, seed=seed + 1
    )
    return PlaceNetwork(small, salad)


def load_start(network: nn.Module, start: Path | None, backbone_weights: Path | None) -> None:
    """Load what a run starts from: weights of a whole network, or of DINOv2 alone.

    Raises ValueError naming the file that does not fit.
    """
    if backbone_weights is not None:
        trunk = network.vit if isinstance(network, SALAD) else getattr(network, "backbone", None)
        if not isinstance(trunk, DINOv2):
            raise ValueError("backbone-weights are DINOv2's: the network has no such backbone")
        trunk.load_pretrained(backbone_weights)
    if start is None:
        return
    if isinstance(network, SALAD):
        network.load_official(start)
        return
    safetensors = require("safetensors.torch", "loading weights")
    try:
        network.load_state_dict(safetensors.load_file(str(start)))
    except Exception as error:  # safetensors and torch each raise their own
        raise ValueError(f"cannot start from {start}: {error}") from None
