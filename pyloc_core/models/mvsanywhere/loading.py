# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The two published checkpoints: which variant they are, and what in them is no weight."""

from __future__ import annotations

import re

import torch

from pyloc_core.models.checkpoint import Checkpoint
from pyloc_core.models.mvsanywhere.matching import BlurPool

# Constants, buffers that depend on the size of the image, and parts that only training has.
_NOT_WEIGHTS = re.compile(
    r"(^|\.)(cost_volume\.(linear_ramp_1d11|(backprojector|projector)\..+)"
    r"|(compute_normals|mv_depth_loss|color_aug)\..+)$"
)
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
        elif not _NOT_WEIGHTS.search(names[name]):
            state[name] = value
    return Checkpoint(state, checkpoint.extra, checkpoint.leftovers, checkpoint.source)


def _plain(name: str) -> str:
    """A name without the parts that DataParallel puts in."""
    return ".".join(part for part in name.split(".") if part != "module")
