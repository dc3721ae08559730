# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The two published checkpoints: which variant they are, and what in them is no weight; and the files that
training starts from."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from pyloc_core.models.checkpoint import Checkpoint, State, fit_state, read_checkpoint
from pyloc_core.models.mvsanywhere.matching import BlurPool

# The network; beside it a training program has losses and augmentation with buffers of their own.
_PARTS = {"encoder", "cost_volume", "cost_volume_net", "depth_decoder", "matching_model"}
# Constants, and buffers that depend on the size of the image.
_NOT_WEIGHTS = re.compile(r"(^|\.)cost_volume\.(linear_ramp_1d11|(backprojector|projector)\..+)$")
_BLUR = re.compile(r"(^|\.)matching_model\.net\.3\.1\.filt$")
_MLP = re.compile(r"(^|\.)cost_volume\.mlp\.")


def weights_alone(checkpoint: Checkpoint, model: str) -> Checkpoint:
    """The checkpoint without what is recomputed here.

    model: "mvsanywhere_dot" or "mvsanywhere_hero". ValueError for weights of the other one, and for a
    blur kernel that is not the binomial one.
    """
    names = {name: _plain(name) for name in checkpoint.state}
    if any("cost_volume_net." in name for name in names):
        found = "hero" if any(_MLP.search(plain) for plain in names.values()) else "dot"
        if model != f"mvsanywhere_{found}":
            kind = "a" if found == "hero" else "no"
            raise ValueError(
                f"{checkpoint.source}: these are weights of mvsanywhere_{found} and not of {model}: they "
                f"have {kind} metadata MLP (cost_volume.mlp)"
            )
    state = {}
    for name, value in checkpoint.state.items():
        if _BLUR.search(names[name]):
            expected = BlurPool(len(value)).filt
            if value.shape != expected.shape or not torch.allclose(
                value.float(), expected, atol=1e-3
            ):
                raise ValueError(f"{checkpoint.source}: {name} is not the binomial kernel of 4 x 4")
        elif _PARTS & set(names[name].split(".")) and not _NOT_WEIGHTS.search(names[name]):
            state[name] = value
    return Checkpoint(state, checkpoint.extra, checkpoint.leftovers, checkpoint.source)


def depth_anything_parts(source: Any, decoder: nn.Module) -> tuple[State, State]:
    """(encoder, decoder) of a Depth Anything V2 checkpoint; the decoder's heads are the given one's own,
    since the published ones predict another quantity.

    ValueError for entries that are missing, unexpected or of another shape.
    """
    found = read_checkpoint(source)
    parts: dict[str, State] = {"pretrained.": {}, "depth_head.": {}}
    for name, value in found.state.items():
        for prefix, part in parts.items():
            if _plain(name).startswith(prefix):
                part[_plain(name).removeprefix(prefix)] = value
    encoder, head = parts.values()
    state = {k: v for k, v in head.items() if not k.startswith("scratch.output_conv")}
    own = decoder.state_dict()
    heads = {k: v for k, v in own.items() if k.startswith(("output_convs.", "sky_convs."))}
    expected = {k: tuple(v.shape) for k, v in own.items() if k not in heads}
    try:
        return encoder, {**heads, **fit_state(state, expected, "Depth Anything V2")}
    except ValueError as error:
        raise ValueError(f"{found.source}: {error}") from None


def _plain(name: str) -> str:
    """A name without the parts that DataParallel puts in."""
    return ".".join(part for part in name.split(".") if part != "module")
