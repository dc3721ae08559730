# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Random weights to start from, of convolutions that no normalisation holds together."""

from __future__ import annotations

import torch
from torch import nn

# Of the last convolution of a residual branch, and of a head: branches start as small corrections, and
# logits near 0, in the middle of the depth range.
_BRANCH, _HEAD = 0.25, 0.1


def calm(part: nn.Module, seed: int) -> None:
    """Weights that `initialise` drew, scaled so that values stay of one size through patchifier and
    decoder; transposed convolutions, which it leaves to torch's global generator, are drawn here."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in part.named_modules():
            if isinstance(module, nn.ConvTranspose2d):  # an output has one tap per input channel
                module.weight.normal_(0.0, module.in_channels**-0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Conv2d):
                leaf = name.rpartition(".")[2]
                if leaf == "conv2":
                    module.weight.mul_(_BRANCH)
                elif module.out_channels == 1:
                    module.weight.mul_(_HEAD)
                elif leaf != "conv1":  # no ReLU follows, for which they were drawn
                    module.weight.mul_(2**-0.5)
