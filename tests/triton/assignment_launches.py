# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of the assignment launchers that between them need every specialisation of their kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyloc_core._triton import dual_softmax, netvlad_aggregate, salad_aggregate, sinkhorn

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def empty(*shape: int, dtype: Any = FP32) -> Any:
    """Without memory: only its type, shape, strides and address, 0, are asked for."""
    return torch.empty(shape, dtype=dtype, device="meta")


def transport(
    b: int, m: int, n: int, sides: int, dtype: Any = FP32, tolerance: float = 0.0,
    counted: bool = False, iterations: int = 2,
) -> Callable[[], Any]:  # fmt: skip
    """Forward and backward; two iterations need every kernel that more of them do."""
    rows, columns = m + (sides & 1), n + (sides >> 1)
    counts = empty(b, dtype=torch.int64) if counted else None
    problem = (
        empty(b, m, n, dtype=dtype), empty(b, rows), empty(b, columns),
        empty(b) if sides else None, sides, counts if sides != 1 else None, counts,
    )  # fmt: skip

    def both() -> None:
        found = sinkhorn.forward(*problem, iterations, tolerance, True)
        sinkhorn.backward(*problem, *found, torch.empty_like(found[0]), False)

    return both


def salad(
    b: int, m: int, n: int, depth: int, t: int, dtype: Any = FP32, counted: bool = False
) -> Callable[[], Any]:
    token = empty(b, t, dtype=dtype) if t else None
    counts = empty(b, dtype=torch.int64) if counted else None
    given = (empty(b, m, n, dtype=dtype), empty(b, depth, n, dtype=dtype), token, empty(), counts)

    def both() -> None:
        found = salad_aggregate.forward(*given, 3)
        salad_aggregate.backward(*given, *found[1:], torch.empty_like(found[0]), 3)

    return both


def netvlad(
    b: int, d: int, k: int, n: int, dtype: Any = FP32, counted: bool = False
) -> Callable[[], Any]:
    counts = empty(b, dtype=torch.int64) if counted else None
    given = (empty(b, d, n, dtype=dtype), empty(b, k, n, dtype=dtype), empty(k, d), counts)

    def both() -> None:
        found = netvlad_aggregate.forward(*given)
        netvlad_aggregate.backward(*given, *found[1:], torch.empty_like(found[0]))

    return both


def dual(b: int, m: int, n: int, dtype: Any = FP32, counted: bool = False) -> Callable[[], Any]:
    counts = empty(b, dtype=torch.int64) if counted else None
    scores = empty(b, m, n, dtype=dtype)

    def both() -> None:
        found = dual_softmax.forward(scores, counts, counts, 0.1)
        slope = torch.empty_like(found[0])
        dual_softmax.backward(scores, counts, counts, *found[1:], slope, 0.1)

    return both


def cases(target: int) -> dict[str, Callable[[], Any]]:
    return {
        "sinkhorn": transport(1, 1024, 1024, 0),
        "sinkhorn, two dustbins": transport(1, 1024, 1024, 3, tolerance=1e-3, counted=True),
        "sinkhorn, float16": transport(2, 300, 77, 3, FP16),
        "sinkhorn, bfloat16": transport(2, 300, 77, 1, BF16),
        "salad_assign": transport(64, 64, 529, 1),
        "salad_assign, float16": transport(64, 64, 529, 1, FP16, counted=True),
        "salad_assign, 128 rows": transport(2, 128, 1024, 1, BF16),
        "salad_aggregate": salad(64, 64, 529, 128, 256),
        "salad_aggregate, float16": salad(64, 64, 529, 128, 256, FP16, counted=True),
        "salad_aggregate, small head": salad(64, 16, 529, 32, 32, BF16),
        "salad_aggregate, 128 clusters": salad(3, 128, 530, 128, 0),
        "netvlad_aggregate": netvlad(1, 512, 64, 1200),
        "netvlad_aggregate, float16": netvlad(1, 512, 64, 1200, FP16, counted=True),
        "netvlad_aggregate, 128 clusters": netvlad(2, 33, 127, 77, BF16),
        "dual_softmax": dual(1, 4800, 4800),
        "dual_softmax, float16": dual(3, 77, 33, FP16, counted=True),
    }
