# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of the cost volumes' launchers that between them need every specialisation of their kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyloc_core._triton import metadata_cost_volume, plane_sweep

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def empty(*shape: int, dtype: Any = FP32) -> Any:
    """Without memory: only its type, shape, strides and address, 0, are asked for."""
    return torch.empty(shape, dtype=dtype, device="meta")


def features(
    b: int, views: int, c: int, size: tuple[int, int], dtype: Any, counted: bool
) -> tuple[Any, Any, Any, Any]:
    """Reference, sources, projection and num_views."""
    counts = empty(b, dtype=torch.int64) if counted else None
    maps = empty(b, c, *size, dtype=dtype), empty(b, views, c, *size, dtype=dtype)
    return *maps, empty(b, views, 3, 4), counts


def sweep(
    reduce: str, dtype: Any = FP32, per_cell: bool = False, counted: bool = False, c: int = 16,
    size: tuple[int, int] = (120, 160), leading: tuple[int, int, int] = (2, 7, 64),
) -> Callable[[], Any]:  # fmt: skip
    """Forward, mask and backward. leading: B, V, D."""
    b, views, planes = leading
    *given, counts = features(b, views, c, size, dtype, counted)
    depths = empty(b, planes, *(size if per_cell else ()))

    def both() -> None:
        volume = plane_sweep.forward(*given, depths, counts, reduce)
        plane_sweep.mask(given[2], depths, counts, size, size, reduce == "none")
        plane_sweep.backward(*given, depths, counts, torch.empty_like(volume), reduce)

    return both


def metadata(
    dtype: Any = FP32, per_cell: bool = False, counted: bool = False, c: int = 16,
    hidden: tuple[int, int] = (32, 32), size: tuple[int, int] = (120, 160),
) -> Callable[[], Any]:  # fmt: skip
    b, views, planes, (h1, h2) = 2, 7, 64, hidden
    *maps, projection, counts = features(b, views, c, size, dtype, counted)
    shapes = ((h1, 2 * c + 14), (h1,), (h2, h1), (h2,), (2, h2), (2,))
    geometry = (
        projection, empty(b, 3, 3), empty(b, views, 3), empty(b, views, 3),
        empty(b, planes, *(size if per_cell else ())), empty(b, 2),
    )  # fmt: skip
    given = (*maps, *(empty(*shape) for shape in shapes), *geometry, counts)

    def both() -> None:
        volume, log_sum = metadata_cost_volume.forward(*given)
        metadata_cost_volume.backward(*given, volume, log_sum, torch.empty_like(volume))

    return both


def cases(target: int) -> dict[str, Callable[[], Any]]:
    return {
        "dot": sweep("mean"),
        "dot, float16": sweep("mean", FP16, counted=True),
        "dot, valid_mean": sweep("valid_mean", BF16, per_cell=True),
        "dot, none": sweep("none", FP32, per_cell=True, counted=True),
        "dot, odd sizes": sweep("valid_mean", FP16, c=37, size=(33, 47)),
        # Sizes of 1 are constants to the compiler.
        "dot, one plane": sweep("none", per_cell=True, c=1, size=(1, 1), leading=(1, 1, 1)),
        "metadata": metadata(),
        "metadata, float16": metadata(FP16, counted=True),
        "metadata, odd sizes": metadata(BF16, True, True, 37, (17, 40), (33, 47)),
    }
