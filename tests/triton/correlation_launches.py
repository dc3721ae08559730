# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of the correlation launchers that between them need every specialisation of their kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from pyloc_core._triton import correlation_tile, local_loss_maps, loss_maps, match

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def level(n: int, d: int, h: int, w: int, dtype: Any = BF16) -> tuple[Any, Any]:
    return empty(n, d, dtype=dtype), empty(d, h, w, dtype=dtype)


def empty(*shape: int, dtype: Any = FP32) -> Any:
    """Without memory: only its type, shape, strides and address, 0, are asked for."""
    return torch.empty(shape, dtype=dtype, device="meta")


def matching(*levels: tuple[Any, Any], rank: int, size: Any = None) -> Callable[[], Any]:
    descriptors, features = [p[0] for p in levels], [p[1] for p in levels]
    size = size or tuple(features[0].shape[1:])
    return lambda: match.match(descriptors, features, size, 1.0, rank, rank > 0, rank > 0)


def mapping(pair: tuple[Any, Any], limit: int, epsilon: float) -> Callable[[], Any]:
    size = tuple(pair[1].shape[1:])
    cardinality = math.log(1 + size[0] * size[1])
    return lambda: loss_maps.loss_maps([pair[0]], [pair[1]], size, 1.0, cardinality, epsilon, limit)


def windows(pair: tuple[Any, Any], window: tuple[int, int], published: bool) -> Callable[[], Any]:
    n, cells = pair[0].shape[0], window[0] * window[1]
    half = (window[0] // 2, window[1] // 2)
    rule = local_loss_maps.WindowRule(window, half, half[0] if published else 0, 0.5, published)
    mass = None if published else empty(n, dtype=torch.float64)
    centers = empty(n, 2, dtype=torch.float64)
    epsilon = 1e-7 if published else 0.0
    return lambda: local_loss_maps.local_loss_maps(
        *pair, centers, mass, rule, 1.0, 9.0, epsilon, min(256, cells)
    )


def cases(target: int) -> dict[str, Callable[[], Any]]:
    correlation_tile._resources = lambda device: (132, target in (80, 90))
    strided = (empty(1, 40, dtype=FP16).expand(9, 40), empty(40, 7, 16, dtype=FP16)[:, :, ::2])
    channels_last = (empty(9, 40), empty(7, 8, 40).permute(2, 0, 1))
    return {
        "match": matching(level(1000, 128, 40, 60), rank=0),
        "match float32": matching(level(1000, 128, 40, 60, FP32), rank=0),
        "ratio": matching(level(1000, 128, 150, 200), rank=300),
        "ratio float32": matching(level(90, 128, 150, 200, FP32), rank=300),
        "one of everything": matching(level(1, 1, 1, 1), rank=1),
        "one of everything, float32": matching(level(1, 1, 1, 1, FP32), rank=1),
        "many channels": matching(level(200, 1280, 20, 32), rank=0),
        "three levels": matching(
            level(70, 32, 24, 33), level(70, 64, 6, 9), level(70, 64, 1, 1), rank=3
        ),
        "resized to one cell": matching(level(7, 32, 24, 33, FP32), rank=1, size=(1, 1)),
        "mixed": matching((level(9, 40, 1, 1, FP16)[0], level(9, 40, 7, 8)[1]), rank=3),
        "strided": matching(strided, rank=3),
        "channels last": matching(channels_last, rank=3),
        "beyond 2^31": matching(level(9, 64, 8000, 9000), level(9, 64, 70, 90), rank=1000),
        "loss maps": mapping(level(1000, 128, 150, 200), 256, 0.0),
        "loss maps, float32": mapping(level(90, 128, 150, 200, FP32), 256, 1e-7),
        "one loss map": mapping(level(1, 1, 1, 1), 1, 0.0),
        "windows": windows(level(1000, 288, 100, 100), (64, 64), False),
        "windows beyond 2^31": windows(level(9, 640, 8000, 9000), (64, 64), False),
        "windows, float32": windows(level(3, 7, 9, 11, FP32), (3, 1), True),
        "one window": windows(level(1, 1, 1, 1, FP16), (1, 1), False),
        "few windows": windows(level(2, 5, 9, 1), (30, 40), True),
    }
