# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The Inception-v3 trunk as NRE and NeurHal changed it: padded, cut early, without classifier.

Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016. The published NRE networks (Germain
et al., CVPR 2021) differ from it: convolutions and poolings that had no padding get 1 cell, so that sizes
halve with ceiling; the last block of the coarse network keeps its stride at 1 and its input in place of
the pooling branch; the fine network has no pooling at all. Modules carry the names of the published state
dicts: `I.conv.weight`, `I.bn.*`, `I.branch5x5_1.conv.weight`, where I counts the modules from 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Layer names of the published `extraction_layer`, in order of evaluation.
STEM = (
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "MaxPool_1",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
)
MIXED = (
    "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a",
)  # fmt: skip
CHANNELS = dict(zip(MIXED, (256, 288, 288, 768, 768, 768, 768, 768, 1280)))

_BLOCK_EPS = 1e-3  # batch norm inside the blocks, as in Inception-v3
_Pair = int | tuple[int, int]


class BasicConv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: _Pair, *, stride: int = 1, padding: _Pair = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=_BLOCK_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    """3 x 3 mean; the padding counts as zeros."""
    return nn.functional.avg_pool2d(x, 3, stride=1, padding=1)


class BlockA(nn.Module):
    """Mixed_5b to 5d: 1 x 1, 5 x 5, two 3 x 3, and pooling branches at one resolution."""

    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv(inputs, 64, 1)
        self.branch5x5_1 = BasicConv(inputs, 48, 1)
        self.branch5x5_2 = BasicConv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv(inputs, 64, 1)
        self.branch3x3dbl_2 = BasicConv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv(96, 96, 3, padding=1)
        self.branch_pool = BasicConv(inputs, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        parts = [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double]
        return torch.cat([*parts, self.branch_pool(_average(x))], 1)


class BlockB(nn.Module):
    """Mixed_6a: halves the resolution."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv(inputs, 384, 3, stride=2, padding=1)
        self.branch3x3dbl_1 = BasicConv(inputs, 64, 1)
        self.branch3x3dbl_2 = BasicConv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv(96, 96, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        return torch.cat([self.branch3x3(x), double, pooled], 1)


class BlockC(nn.Module):
    """Mixed_6b to 6e: 7 x 7 convolutions as rows and columns."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = BasicConv(inputs, 192, 1)
        self.branch7x7_1 = BasicConv(inputs, inner, 1)
        self.branch7x7_2 = BasicConv(inner, inner, row, padding=(0, 3))
        self.branch7x7_3 = BasicConv(inner, 192, column, padding=(3, 0))
        self.branch7x7dbl_1 = BasicConv(inputs, inner, 1)
        self.branch7x7dbl_2 = BasicConv(inner, inner, column, padding=(3, 0))
        self.branch7x7dbl_3 = BasicConv(inner, inner, row, padding=(0, 3))
        self.branch7x7dbl_4 = BasicConv(inner, inner, column, padding=(3, 0))
        self.branch7x7dbl_5 = BasicConv(inner, 192, row, padding=(0, 3))
        self.branch_pool = BasicConv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """Mixed_7a at stride 1: the pooling branch is the input itself."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv(inputs, 192, 1)
        self.branch3x3_2 = BasicConv(192, 320, 3, padding=1)
        self.branch7x7x3_1 = BasicConv(inputs, 192, 1)
        self.branch7x7x3_2 = BasicConv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv(192, 192, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, x], 1)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, padding=1)


def _stem(fine: bool, no_maxpool: bool) -> list[nn.Module]:
    """Up to the 192 channels that enter Mixed_5b."""
    head = [
        BasicConv(3, 32, 3, stride=2, padding=1),
        BasicConv(32, 32, 3, padding=1),
        BasicConv(32, 64, 3, padding=1),
    ]
    if fine:  # "Conv2d_3b_1x1" is 3 x 3 here, whatever its name
        return [*head, BasicConv(64, 80, 3, padding=1), BasicConv(80, 192, 3, padding=1)]
    tail = [BasicConv(64, 80, 1), BasicConv(80, 192, 3, padding=1)]
    return [*head, _pool(), *tail] if no_maxpool else [*head, _pool(), *tail, _pool()]


_MIXED: dict[str, Callable[[], nn.Module]] = {
    "Mixed_5b": lambda: BlockA(192, 32),
    "Mixed_5c": lambda: BlockA(256, 64),
    "Mixed_5d": lambda: BlockA(288, 64),
    "Mixed_6a": lambda: BlockB(288),
    "Mixed_6b": lambda: BlockC(768, 128),
    "Mixed_6c": lambda: BlockC(768, 160),
    "Mixed_6d": lambda: BlockC(768, 160),
    "Mixed_6e": lambda: BlockC(768, 192),
    "Mixed_7a": lambda: BlockD(768),
}


def inception_trunk(
    cut: str, *, no_maxpool: bool = False, fine: bool = False
) -> tuple[nn.Sequential, int]:
    """Modules up to and including layer `cut`, and their number of output channels.

    Args:
        cut: one of `MIXED`. The output has `CHANNELS[cut]` channels at stride 8 up to Mixed_5d and 16
            from Mixed_6a on, sizes rounded up.
        no_maxpool: leave out the second max-pooling: half these strides.
        fine: the network without any pooling, stride 2 up to Mixed_5d.

    Raises ValueError for a layer that is not among these, or that the fine network does not have.
    """
    known = MIXED[:3] if fine else MIXED
    if cut not in known:
        raise ValueError(f"cut must be one of {', '.join(known)}, got {cut!r}")
    blocks = [_MIXED[name]() for name in known[: known.index(cut) + 1]]
    return nn.Sequential(*_stem(fine, no_maxpool), *blocks), CHANNELS[cut]


def trunk_stride(cut: str, *, no_maxpool: bool = False, fine: bool = False) -> int:
    """Image pixels per cell of the trunk's output."""
    if fine:
        return 2
    return (4 if no_maxpool else 8) * (2 if cut in MIXED[3:] else 1)


def projected_trunk(
    cut: str, *, outputs: int | None = None, no_maxpool: bool = False, fine: bool = False
) -> tuple[nn.Sequential, int]:
    """The trunk, then a 1 x 1 convolution without bias and a batch norm without ReLU: raw descriptors.

    `outputs`: channels of the descriptors, those of the trunk by default (NRE).
    """
    trunk, channels = inception_trunk(cut, no_maxpool=no_maxpool, fine=fine)
    outputs = channels if outputs is None else outputs
    ends = [nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*trunk, *ends), outputs
