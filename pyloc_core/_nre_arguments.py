# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the arguments of `nre_loss` must satisfy, for arrays and tensors alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyloc_core import _arrays, _levels


@dataclass(frozen=True)
class Options:
    temperature: float
    origin: tuple[float, float]
    mask_outside: bool
    reduction: str
    implementation: str
    num_threads: int


def as_options(
    temperature: Any,
    origin: Any,
    outside: Any,
    reduction: Any,
    implementation: str | None,
    num_threads: int | None,
) -> Options:
    if outside not in ("raise", "mask"):
        raise ValueError(f"outside must be 'raise' or 'mask', got {outside!r}")
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction must be 'none', 'sum' or 'mean', got {reduction!r}")
    try:
        x0, y0 = (float(each) for each in origin)
    except (TypeError, ValueError):
        raise TypeError(f"origin must be two numbers (x0, y0), got {origin!r}") from None
    if not (abs(x0) < 1e9 and abs(y0) < 1e9):
        raise ValueError(f"origin must be two finite numbers below 1e9, got {origin!r}")
    return Options(
        _levels.as_positive(temperature, "temperature"),
        (x0, y0),
        outside == "mask",
        reduction,
        implementation or "",
        _arrays.thread_count(num_threads),
    )


def check_shapes(d: tuple[int, ...], f: tuple[int, ...], t: tuple[int, ...]) -> None:
    """Shapes of descriptors, features and targets, all with or all without a batch dimension."""
    if len(d) not in (2, 3):
        raise ValueError(f"descriptors must have shape (N, D) or (B, N, D), got {tuple(d)}")
    batched = len(d) == 3
    for name, found, wanted in (
        ("features", f, "(B, D, H, W)" if batched else "(D, H, W)"),
        ("targets", t, "(B, N, 2)" if batched else "(N, 2)"),
    ):
        if len(found) != wanted.count(",") + 1 or (name == "targets" and found[-1] != 2):
            raise ValueError(
                f"{name} must have shape {wanted} beside descriptors {tuple(d)}, got {tuple(found)}"
            )
    if batched and (f[0] != d[0] or t[0] != d[0]):
        raise ValueError(
            f"descriptors, features and targets must have the same batch size, got {d[0]}, {f[0]} "
            f"and {t[0]}"
        )
    _arrays.check_equal_length(d[-2], "descriptors", t[-2], "targets")
    if d[-1] != f[-3]:
        raise ValueError(
            f"descriptors and features must have the same number of channels D, got {d[-1]} and "
            f"{f[-3]}"
        )
    if d[-1] == 0:
        raise ValueError("features must have at least one channel, got D = 0")
    if 0 in f[-2:]:
        raise ValueError(f"features must have at least one cell, got H, W = {tuple(f[-2:])}")


def valid_counts(num_valid: Any, batch: int, count: int, batched: bool) -> Any:
    """(B,) int64 array within [0, N]."""
    held = (
        num_valid.detach().cpu().numpy() if _arrays.is_torch(num_valid) else np.asarray(num_valid)
    )
    if held.dtype.kind not in "iu":
        raise TypeError(f"num_valid must hold integers, got dtype {held.dtype}")
    if held.shape not in ([(batch,)] if batched else [(), (1,)]):
        wanted = f"({batch},)" if batched else "()"
        raise ValueError(f"num_valid must have shape {wanted}, got {held.shape}")
    if held.size and not (held.min() >= 0 and held.max() <= count):
        raise ValueError(f"num_valid must lie between 0 and N = {count}, got {held.tolist()}")
    return np.ascontiguousarray(held.reshape(-1), dtype=np.int64)


def check_targets(
    targets: Any, size: tuple[int, int], num_valid: Any, options: Options, batched: bool
) -> None:
    """Refuse (B, N, 2) targets that lie outside the map; `targets` are relative to the origin."""
    x, y = targets[..., 0], targets[..., 1]
    bad = ~((x >= 0) & (x <= size[1] - 1) & (y >= 0) & (y <= size[0] - 1))
    if num_valid is not None:
        bad &= np.arange(targets.shape[1]) < num_valid[:, None]
    if not bad.any():
        return
    b, n = (int(i) for i in np.argwhere(bad)[0])
    x0, y0 = options.origin
    index = f"{b}, {n}" if batched else f"{n}"
    raise ValueError(
        f"targets: {int(bad.sum())} of {bad.size} are NaN or lie outside the map, the first is "
        f"targets[{index}] = ({x[b, n] + x0:g}, {y[b, n] + y0:g}); x must lie in "
        f"[{x0:g}, {x0 + size[1] - 1:g}] and y in [{y0:g}, {y0 + size[0] - 1:g}]; outside='mask' leaves "
        f"them out"
    )
