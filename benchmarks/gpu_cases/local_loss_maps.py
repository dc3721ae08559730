# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""local_loss_maps: windows of a fine map around prior positions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting
from gpu_cases.loss_maps import sparse_checks
from gpu_cases.match import level

OPERATOR = "local_loss_maps"


def centers(setting: Setting, count: int, height: int, width: int):
    g = torch.Generator().manual_seed(setting.seed + 1)
    xy = torch.rand(count, 2, generator=g, dtype=torch.float64) * torch.tensor([width, height])
    return xy.to(setting.device)


def check(setting: Setting) -> Iterator[Check]:
    shape, window = ((5, 12, 14, 19), 8) if setting.tiny else ((200, 288, 120, 160), 64)
    for dtype in (torch.float32, torch.bfloat16):
        h, f = level(setting, *shape, dtype)
        xy = centers(setting, shape[0], *shape[2:])
        options = {"window": window, "coarse_mass": 0.7}
        found = pl.local_loss_maps(h, f, xy, **options, implementation=setting.forced).cpu()
        truth = pl.local_loss_maps(
            h.cpu(), f.cpu(), xy.cpu(), **options, implementation="reference"
        )
        yield from sparse_checks(str(dtype).removeprefix("torch."), found, truth)


def eager(h, f, xy):
    """Windows gathered (inside the map), a product, a softmax, the 256 best cells."""
    height, width = f.shape[1:]
    limit = xy.new_tensor([width - 64, height - 64])
    corner = torch.minimum((xy.floor() - 32).clamp_min(0), limit).long()
    step = torch.arange(64, device=xy.device)
    rows, columns = corner[:, 1, None] + step, corner[:, 0, None] + step
    cells = (rows[:, :, None] * width + columns[:, None]).flatten(1)  # (N, 4096)
    windows = f.flatten(1).t()[cells]  # (N, 4096, D)
    log_p = (windows @ h[:, :, None])[..., 0].float().log_softmax(1)
    gain = (log_p + math.log((1 + height * width) / 64)).clamp_min(0)
    return gain.topk(256, dim=1)


def cases(setting: Setting) -> Iterator[Case]:
    h, f = level(setting, 1000, 288, 480, 640)
    xy = centers(setting, 1000, 480, 640)
    yield Case(
        "local_loss_maps 1000 x 288, windows 64 x 64, bf16",
        lambda: pl.local_loss_maps(h, f, xy), lambda: eager(h, f, xy), 260e-6, 400e-6,
    )  # fmt: skip
