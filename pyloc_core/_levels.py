# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors and dense features of one or several levels: the arguments of every correlation operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyloc_core import _arrays, _tensors
from pyloc_core._arrays import ArrayIn

MAX_LEVELS = 16  # twin of kMaxLevels in csrc
# Twin of CorrelationStatus in csrc/cpu/correlation_problem.h.
_OUT_OF_MEMORY, _DESCRIPTORS_NOT_FINITE, _FEATURES_NOT_FINITE, _PRODUCTS_TOO_LARGE = 1, 2, 3, 4


@dataclass(frozen=True)
class Level:
    """One level, checked: `descriptors` (N, D); `features` (D, H, W), or (H, W, D) if channels last."""

    descriptors: ArrayIn
    features: ArrayIn
    channels_last: bool
    name: str  # what follows an argument's name in messages: "" or "[1]"

    @property
    def size(self) -> tuple[int, int]:
        shape = self.features.shape
        return (shape[0], shape[1]) if self.channels_last else (shape[1], shape[2])

    def native(self) -> tuple[int, ...]:
        """The form of bindings/levels.h; strides in elements."""
        height, width = self.size
        depth = self.descriptors.shape[1]
        strides = (1, depth) if self.channels_last else (height * width, 1)
        return (
            _arrays.pointer(self.descriptors.data),
            self.descriptors.code,
            _arrays.pointer(self.features.data),
            self.features.code,
            *strides,
            depth,
            height,
            width,
        )


@dataclass(frozen=True)
class Levels:
    """All levels of a call and the map size (H, W) that they are brought to."""

    levels: tuple[Level, ...]
    size: tuple[int, int]

    @property
    def count(self) -> int:
        return self.levels[0].descriptors.shape[0]

    @property
    def sources(self) -> tuple[ArrayIn, ...]:
        return tuple(
            array for level in self.levels for array in (level.descriptors, level.features)
        )

    def native(self) -> tuple[tuple[int, ...], ...]:
        return tuple(level.native() for level in self.levels)

    def check_status(self, status: int) -> None:
        """Raise what a kernel reported."""
        raise_status(status % 8, self.levels[status // 8].name if status else "")


def raise_status(kind: int, name: str = "") -> None:
    """Raise what CorrelationStatus `kind` stands for; `name` follows the arguments' names."""
    if kind == 0:
        return
    if kind == _OUT_OF_MEMORY:
        raise MemoryError("not enough memory for the working buffers of the correlation stream")
    if kind == _DESCRIPTORS_NOT_FINITE:
        raise ValueError(f"descriptors{name} holds NaN or infinite values")
    if kind == _FEATURES_NOT_FINITE:
        raise ValueError(f"features{name} holds NaN or infinite values")
    raise ValueError(
        "descriptors and features are too large: their products divided by the temperature may "
        "leave the range of float32; scale them down"
    )


def as_levels(descriptors: Any, features: Any, size: Any) -> Levels:
    """Check one level, `(N, D)` and `(D, H, W)`, or lists of levels; values are not looked at."""
    levels = tuple(_as_level(*level) for level in _named_levels(descriptors, features))
    checked = Levels(
        levels,
        _map_size([(level.descriptors.shape[0], level.size, level.name) for level in levels], size),
    )
    for level in levels:  # the kernel looks at the values of the cells it reads: here, all of them
        if level.size != checked.size and not _arrays.all_finite(level.features):
            raise ValueError(f"features{level.name} holds NaN or infinite values")
    return checked


@dataclass(frozen=True)
class TensorLevels:
    """All levels of a call as tensors on one device, (N, D) and (D, h, w), and the map size (H, W)."""

    descriptors: list[Any]
    features: list[Any]
    size: tuple[int, int]

    @property
    def count(self) -> Any:
        return self.descriptors[0].shape[0]


def as_tensor_levels(descriptors: Any, features: Any, size: Any, finite: bool) -> TensorLevels:
    """`as_levels` for tensors, from shapes and dtypes alone; `finite` also looks at the values."""
    found: list[tuple[Any, tuple[int, int], str]] = []
    h_levels, f_levels = [], []
    for d, f, name in _named_levels(descriptors, features):
        kinds = _arrays.FEATURE_DTYPES
        h = _tensors.check(d, f"descriptors{name}", shape=("N", "D"), dtype=kinds).detach()
        dense = _tensors.check(
            f, f"features{name}", shape=("D", "H", "W"), dtype=kinds, device=h.device
        ).detach()
        extent = (dense.shape[1], dense.shape[2])
        _check_channels(h.shape[1], dense.shape[0], extent, name)
        if finite:
            _tensors.check_finite(**{f"descriptors{name}": h, f"features{name}": dense})
        h_levels.append(h)
        f_levels.append(dense)
        found.append((h.shape[0], extent, name))
    return TensorLevels(h_levels, f_levels, _map_size(found, size))


def _named_levels(descriptors: Any, features: Any) -> list[tuple[Any, Any, str]]:
    """Pairs of descriptors and features, and what follows an argument's name in messages."""
    several = isinstance(descriptors, (list, tuple)), isinstance(features, (list, tuple))
    if several[0] != several[1]:
        raise TypeError(
            "descriptors and features must both be arrays, or both lists with one array per level"
        )
    if not several[0]:
        descriptors, features = [descriptors], [features]
    if len(descriptors) != len(features):
        raise ValueError(
            f"descriptors and features must have as many levels, got {len(descriptors)} and "
            f"{len(features)}"
        )
    if not 1 <= len(descriptors) <= MAX_LEVELS:
        raise ValueError(f"descriptors must have 1 to {MAX_LEVELS} levels, got {len(descriptors)}")
    return [
        (d, f, f"[{i}]" if several[0] else "")
        for i, (d, f) in enumerate(zip(descriptors, features))
    ]


def _map_size(levels: list[tuple[int, tuple[int, int], str]], size: Any) -> tuple[int, int]:
    """The size of the maps, from (N, size, name) of every level."""
    for count, _, name in levels[1:]:
        if count != levels[0][0]:
            raise ValueError(
                f"descriptors{name} must have {levels[0][0]} rows as descriptors[0] has, got {count}"
            )
    finest = levels[0][1]
    for _, extent, _ in levels[1:]:
        if extent[0] * extent[1] > finest[0] * finest[1]:
            finest = extent
    return finest if size is None else _as_size(size)


def _as_level(descriptors: Any, features: Any, name: str) -> Level:
    d = _arrays.as_array(
        descriptors,
        f"descriptors{name}",
        shape=("N", "D"),
        dtype=_arrays.FEATURE_DTYPES,
        finite=False,
    )
    # (D, H, W) as a view of (H, W, D) memory is read as it lies.
    channels_last = _lies_channels_last(features)
    if channels_last:
        features = (
            features.permute(1, 2, 0) if _arrays.is_torch(features) else features.transpose(1, 2, 0)
        )
    f = _arrays.as_array(
        features,
        f"features{name}",
        shape=("H", "W", "D") if channels_last else ("D", "H", "W"),
        dtype=_arrays.FEATURE_DTYPES,
        finite=False,
    )
    level = Level(d, f, channels_last, name)
    _check_channels(d.shape[1], f.shape[2] if channels_last else f.shape[0], level.size, name)
    return level


def _check_channels(wanted: int, depth: int, size: tuple[int, int], name: str) -> None:
    if wanted != depth:
        raise ValueError(
            f"descriptors{name} and features{name} must have the same number of channels D, got "
            f"{wanted} and {depth}"
        )
    if depth == 0:
        raise ValueError(f"features{name} must have at least one channel, got D = 0")
    if size[0] == 0 or size[1] == 0:
        raise ValueError(f"features{name} must have at least one cell, got H, W = {tuple(size)}")


def _lies_channels_last(features: Any) -> bool:
    if getattr(features, "ndim", 0) != 3 or 0 in features.shape:
        return False
    if _arrays.is_torch(features):
        return not features.is_contiguous() and features.permute(1, 2, 0).is_contiguous()
    if not isinstance(features, np.ndarray):
        return False
    return not features.flags.c_contiguous and bool(features.transpose(1, 2, 0).flags.c_contiguous)


def _as_size(size: Any) -> tuple[int, int]:
    try:
        height, width = (int(s) for s in size)
        exact = all(int(s) == s for s in size)
    except (TypeError, ValueError):
        raise TypeError(f"size must be two integers (H, W), got {size!r}") from None
    if not exact or not (1 <= height < 2**31 and 1 <= width < 2**31):
        raise ValueError(f"size must be two positive integers (H, W), got {size!r}")
    return height, width


def as_positive(value: Any, name: str) -> float:
    """A finite float above zero."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return number


def as_tensors(levels: Levels, descriptors: Any, features: Any) -> list[tuple[Any, Any]]:
    """The levels as float64 torch tensors for the reference; tensors keep their graph."""
    import torch

    def tensor(original: Any, checked: ArrayIn) -> Any:
        if isinstance(original, torch.Tensor):
            return original.double()
        data = checked.data
        if checked.dtype == "bfloat16":
            data = _arrays.bfloat16_to_float32(data)
        return torch.from_numpy(np.array(data, dtype=np.float64))

    if not isinstance(descriptors, (list, tuple)):
        descriptors, features = [descriptors], [features]
    result = []
    for level, d, f in zip(levels.levels, descriptors, features):
        for array, name in ((level.descriptors, "descriptors"), (level.features, "features")):
            if not _arrays.all_finite(array):
                raise ValueError(f"{name}{level.name} holds NaN or infinite values")
        dense = tensor(f, level.features)
        if level.channels_last and not isinstance(f, torch.Tensor):
            dense = dense.permute(2, 0, 1)
        result.append((tensor(d, level.descriptors), dense))
    return result
