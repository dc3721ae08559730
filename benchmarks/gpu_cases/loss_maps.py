# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""loss_maps: sparse loss maps of full maps."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting, absolute_error
from gpu_cases.match import level

OPERATOR = "loss_maps"


def sparse_checks(name: str, found: pl.LossMaps, truth: pl.LossMaps) -> Iterator[Check]:
    """The same maps, but for cells at the edge of being live or kept."""
    difference = (torch.as_tensor(found.dense()) - torch.as_tensor(truth.dense())).abs()
    edge = difference > 2e-3  # nats: a cell kept by one and not by the other
    yield Check(f"{name}: share of cells that only one keeps", float(edge.double().mean()), 1e-4)
    yield Check(f"{name}: gains, nats", float(difference[~edge].max()), 5e-4)
    peaks = absolute_error(torch.as_tensor(found.peak_gain), torch.as_tensor(truth.peak_gain))
    yield Check(f"{name}: peak gains, nats", peaks, 5e-4)


def check(setting: Setting) -> Iterator[Check]:
    shape = (9, 20, 11, 13) if setting.tiny else (300, 128, 60, 80)
    for dtype in (torch.float32, torch.bfloat16):
        h, f = level(setting, *shape, dtype)
        found = pl.loss_maps(h, f, implementation=setting.forced).cpu()
        truth = pl.loss_maps(h.cpu(), f.cpu(), implementation="reference")
        yield from sparse_checks(str(dtype).removeprefix("torch."), found, truth)


def eager(h, f):
    """The 256 most informative cells of every map; the dense maps are stored."""
    log_p = (h @ f.flatten(1)).float().log_softmax(1)
    gain = (log_p + math.log(1 + log_p.shape[1])).clamp_min(0)
    return gain.topk(256, dim=1)


def cases(setting: Setting) -> Iterator[Case]:
    h, f = level(setting, 1000, 128, 150, 200)
    yield Case(
        "loss_maps 1000 x 128 x 200 x 150, bf16", lambda: pl.loss_maps(h, f), lambda: eager(h, f),
        19e-6, 35e-6,
    )  # fmt: skip
