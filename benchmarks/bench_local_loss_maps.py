# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Local loss maps: 1000 windows of 64 x 64 cells in a fine map, one thread against one thread.

Two plain forms: windows gathered by one index and multiplied in one batch (what the published
program does on the GPU), and a loop over points that slices the map, which copies less.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pyloc_core import local_loss_maps

N, D, H, W, WINDOW = 1000, 288, 600, 800, 64


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    features = rng.standard_normal((D, H, W), dtype=np.float32) * np.float32(0.3)
    centers = rng.uniform([32, 32], [W - 32, H - 32], (N, 2))
    # Descriptors that resemble a cell near the centre: peaked maps, as after training.
    x, y = np.floor(centers).astype(int).T
    noise = rng.standard_normal((N, D), dtype=np.float32) * np.float32(0.3)
    return {
        "descriptors": 0.6 * features[:, y, x].T + noise,
        "features": features,
        "centers": centers,
        "torch": torch.from_numpy(features),
    }


def truncate(logits: torch.Tensor) -> torch.Tensor:
    loss = math.log(64.0) - torch.log_softmax(logits.flatten(1), 1)
    return loss.clamp_(max=math.log(1 + H * W)).reshape(logits.shape)


def gathered(data: dict[str, Any], chunk: int = 50) -> torch.Tensor:
    """Chunks of points, so that the gathered windows (4.7 MB each) fit in memory."""
    h = torch.from_numpy(data["descriptors"])
    first = torch.from_numpy(np.floor(data["centers"]).astype(np.int64) - WINDOW // 2)
    offset = (torch.arange(WINDOW)[:, None] * W + torch.arange(WINDOW)).flatten()
    flat = data["torch"].reshape(D, H * W)
    out = []
    for i in range(0, len(h), chunk):
        cells = first[i : i + chunk, 1] * W + first[i : i + chunk, 0]
        index = (cells[:, None] + offset).flatten()
        windows = flat.index_select(1, index).reshape(D, -1, WINDOW * WINDOW)
        out.append(torch.bmm(h[i : i + chunk, None], windows.transpose(0, 1))[:, 0])
    return truncate(torch.cat(out).reshape(-1, WINDOW, WINDOW))


def sliced(data: dict[str, Any]) -> torch.Tensor:
    h = torch.from_numpy(data["descriptors"])
    out = torch.empty(len(h), WINDOW, WINDOW)
    for n, (x, y) in enumerate(np.floor(data["centers"]).astype(int) - WINDOW // 2):
        window = data["torch"][:, y : y + WINDOW, x : x + WINDOW]
        out[n] = (h[n] @ window.reshape(D, -1)).reshape(WINDOW, WINDOW)
    return truncate(out)


def part(data: dict[str, Any], count: int) -> dict[str, Any]:
    return {**data, "descriptors": data["descriptors"][:count], "centers": data["centers"][:count]}


def run(data: dict[str, Any], features: Any = None) -> Any:
    return local_loss_maps(
        data["descriptors"],
        data["features"] if features is None else features,
        data["centers"],
        window=WINDOW,
        num_threads=1,
    )


def test_same_result(data: dict[str, Any]) -> None:
    few = part(data, 20)
    got = local_loss_maps(
        few["descriptors"], few["features"], few["centers"], window=WINDOW, max_entries="all"
    ).dense()
    for plain in (gathered, sliced):
        np.testing.assert_allclose(got, plain(few).numpy(), atol=1e-3)


@pytest.mark.benchmark(
    group="local_loss_maps N1000 D288 64x64 of 600x800", min_rounds=3, warmup=False
)
def test_pyloc(benchmark: Any, data: dict[str, Any]) -> None:
    maps = benchmark(run, data)
    assert len(maps) == N and maps.entries_per_map.min() > 0


@pytest.mark.benchmark(
    group="local_loss_maps N1000 D288 64x64 of 600x800", min_rounds=3, warmup=False
)
def test_pyloc_float16_features(benchmark: Any, data: dict[str, Any]) -> None:
    half = data["features"].astype(np.float16)
    assert len(benchmark(run, data, half)) == N


@pytest.mark.benchmark(
    group="local_loss_maps N1000 D288 64x64 of 600x800", min_rounds=1, warmup=False
)
def test_torch_gathered(benchmark: Any, data: dict[str, Any]) -> None:
    assert benchmark.pedantic(gathered, (data,), rounds=1).shape == (N, WINDOW, WINDOW)


@pytest.mark.benchmark(
    group="local_loss_maps N1000 D288 64x64 of 600x800", min_rounds=1, warmup=False
)
def test_torch_sliced(benchmark: Any, data: dict[str, Any]) -> None:
    assert benchmark.pedantic(sliced, (data,), rounds=3).shape == (N, WINDOW, WINDOW)
