# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse loss maps: what every pose operator reads."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

__all__ = ["DEFAULT_MAX_ENTRIES", "LossMaps", "Peaks"]

# Entries kept per map unless the caller says otherwise: the least informative go first.
DEFAULT_MAX_ENTRIES = 256
MAX_SIDE = 32000  # coordinates are stored as int16

MaxEntries = int | Literal["all"] | None


class Peaks(NamedTuple):
    """The best cell of every map: `xy` (N, 2) int32 (column, row) in map coordinates, `loss` and
    `gain` (N,) float32 in nats. A map without entries has xy = (-1, -1) and gain 0."""

    xy: Any
    loss: Any
    gain: Any


class LossMaps:
    """N loss maps `L_n(p) = min(ln|O|, -ln C_n(p))` (thesis, Eq. 4.7), only live cells stored.

    Fields (NumPy, read-only; shared with the native code without copies):
      row_ptr  (N + 1,) int64: the entries of map n are `row_ptr[n]:row_ptr[n + 1]`
      xy       (nnz, 2) int16: column and row in map coordinates, sorted by row, then column
      gain     (nnz,) float32: `ln|O| - L`, nats, positive
      size     (H, W): cells of the full map; window (h, w): extent of each map's array
      origins  (N, 2) int32 or None: map point (x0, y0) of a window's first cell
      log_cardinality: ln|O|
      flat_gain (N,) float32: gain that a map without preference would have in its window
    The centre of cell [row, col] is the integer point (x = col, y = row). The value at a point is
    `ln|O|` minus the bilinearly interpolated gain; cells that are not stored, and everything
    outside the map, count as `ln|O|`.

    Methods that return arrays return the kind (NumPy or torch) of the array they were given, or
    of the arrays the maps were made from.

    Raises ValueError or TypeError when the arrays do not fit together: unsorted or repeated
    cells, cells outside the window or the map, gains that are not positive and finite.
    """

    row_ptr: np.ndarray
    xy: np.ndarray
    gain: np.ndarray
    size: tuple[int, int]
    window: tuple[int, int]
    origins: np.ndarray | None
    log_cardinality: float
    flat_gain: np.ndarray

    def __init__(
        self,
        row_ptr: Any,
        xy: Any,
        gain: Any,
        *,
        size: tuple[int, int],
        log_cardinality: float | None = None,
        window: tuple[int, int] | None = None,
        origins: Any = None,
        flat_gain: Any = None,
    ) -> None:
        size = _size(size, "size")
        window = size if window is None else _size(window, "window")
        if log_cardinality is None:
            log_cardinality = default_log_cardinality(size)
        row_ptr = _exact(row_ptr, "row_ptr", np.int64, (None,))
        if len(row_ptr) < 1:
            raise ValueError("row_ptr must hold N + 1 values, got none")
        count = len(row_ptr) - 1
        xy = _exact(xy, "xy", np.int16, (None, 2))
        gain = _exact(gain, "gain", np.float32, (len(xy),))
        origins = None if origins is None else _exact(origins, "origins", np.int32, (count, 2))
        if origins is None and window != size:
            raise ValueError(f"window {window} differs from size {size}: origins are needed")
        flat = np.zeros(count, np.float32) if flat_gain is None else flat_gain
        flat = _exact(flat, "flat_gain", np.float32, (count,))
        self._set(row_ptr, xy, gain, size, window, origins, _log_cardinality(log_cardinality), flat)
        _check_entries(self)

    def _set(
        self,
        row_ptr: np.ndarray,
        xy: np.ndarray,
        gain: np.ndarray,
        size: tuple[int, int],
        window: tuple[int, int],
        origins: np.ndarray | None,
        log_cardinality: float,
        flat_gain: np.ndarray,
        kind: str = "numpy",
    ) -> None:
        self.row_ptr, self.xy, self.gain = _frozen(row_ptr), _frozen(xy), _frozen(gain)
        self.origins = None if origins is None else _frozen(origins)
        self.flat_gain = _frozen(flat_gain)
        self.size, self.window, self.log_cardinality = size, window, log_cardinality
        self._kind = kind

    @classmethod
    def _trusted(cls, *fields: Any, **named: Any) -> LossMaps:
        """For arrays made here, whose invariants hold by construction; see `_set`."""
        maps = cls.__new__(cls)
        maps._set(*fields, **named)
        return maps

    @classmethod
    def from_dense(
        cls,
        maps: Any,
        *,
        log_cardinality: float | None = None,
        origins: Any = None,
        size: tuple[int, int] | None = None,
        max_entries: MaxEntries = "all",
    ) -> LossMaps:
        """Sparse form of dense loss maps (N, h, w), in nats.

        A cell is live where its loss is below `log_cardinality` rounded to the maps' dtype
        (default ln(1 + H W) of the full size). `origins` (N, 2) integers (x0, y0) place windows
        in a full map of `size` (H, W); cells that fall outside it are left out. `max_entries`
        bounds the entries per map, least informative dropped first (equal gains: the later
        cell); None is the package's default of 256, "all" keeps everything.
        """
        dense, kind = _numpy(maps, "maps")
        if dense.ndim != 3 or dense.dtype.kind != "f":
            raise ValueError(
                f"maps must be floating point (N, h, w), got {dense.dtype} {dense.shape}"
            )
        if 0 in dense.shape[1:]:
            raise ValueError(f"maps must have cells, got shape {dense.shape}")
        if dense.dtype not in (np.float32, np.float64):
            dense = dense.astype(np.float32)
        count, window = len(dense), (dense.shape[1], dense.shape[2])
        size = window if size is None else _size(size, "size")
        _size(window, "the window of maps")
        if origins is None and window != size:
            raise ValueError(f"maps are {window} and size is {size}: origins are needed")
        if origins is not None:
            origins = _exact(origins, "origins", np.int32, (count, 2))
        cardinality = _log_cardinality(
            default_log_cardinality(size) if log_cardinality is None else log_cardinality
        )
        if np.isnan(dense).any() or np.isneginf(dense).any():
            raise ValueError("maps must not hold NaN or -inf")
        gain = (dense.dtype.type(cardinality) - dense).astype(np.float32)
        live = gain > 0
        n, y, x = np.nonzero(live)
        gain = gain[live]
        if origins is not None:
            x = x + origins[n, 0].astype(np.int64)
            y = y + origins[n, 1].astype(np.int64)
            inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
            n, x, y, gain = n[inside], x[inside], y[inside], gain[inside]
        keep = _strongest(n, gain, count, entry_limit(max_entries))
        n, x, y, gain = n[keep], x[keep], y[keep], gain[keep]
        row_ptr = np.zeros(count + 1, np.int64)
        np.cumsum(np.bincount(n, minlength=count), out=row_ptr[1:])
        xy = np.stack([x, y], 1).astype(np.int16)
        flat = np.zeros(count, np.float32)
        return cls._trusted(row_ptr, xy, gain, size, window, origins, cardinality, flat, kind)

    # ------------------------------------------------------------------ reading

    def dense(self, *, fill: float | None = None) -> Any:
        """Loss maps (N, h, w) float32, nats; `fill` (default ln|O|) where nothing is stored."""
        h, w = self.window
        value = self.log_cardinality if fill is None else fill
        out = np.full((len(self), h, w), value, np.float32)
        n, cell = self._rows(), self.xy.astype(np.int64)
        if self.origins is not None:
            cell = cell - self.origins[n]
        out[n, cell[:, 1], cell[:, 0]] = np.float32(self.log_cardinality) - self.gain
        return self._like(out)

    def argmin(self) -> Peaks:
        """Best cell of every map, the first one in storage order when several are equal."""
        xy, gain = self._peaks
        loss = np.float32(self.log_cardinality) - gain
        return Peaks(self._like(xy), self._like(loss), self._like(gain))

    @property
    def peak_gain(self) -> np.ndarray:
        """Largest gain of every map (N,) float32; 0 where nothing is stored. Computed once."""
        return self._peaks[1]

    @functools.cached_property
    def _peaks(self) -> tuple[np.ndarray, np.ndarray]:
        count = len(self)
        gain, xy = np.zeros(count, np.float32), np.full((count, 2), -1, np.int32)
        filled = np.flatnonzero(np.diff(self.row_ptr))
        if filled.size:
            gain[filled] = np.maximum.reduceat(self.gain, self.row_ptr[filled])
            best = np.flatnonzero(self.gain == np.repeat(gain, self.entries_per_map))
            rows, first = np.unique(self._rows()[best], return_index=True)
            xy[rows] = self.xy[best[first]]
        return _frozen(xy), _frozen(gain)

    def evaluate(self, xy: Any, *, compat: Literal["published"] | None = None) -> Any:
        """Loss in nats at map points: (N, 2) gives (N,), (M, N, 2) gives (M, N); float64.

        Bilinear (Eq. 4.3 and 4.6); everything outside the map, and points that are not finite,
        count as ln|O|. `compat="published"` clamps to the map's border instead.
        """
        if compat not in (None, "published"):
            raise ValueError(f'compat must be None or "published", got {compat!r}')
        points, kind = _numpy(xy, "xy")
        if points.ndim not in (2, 3) or points.shape[-2:] != (len(self), 2):
            raise ValueError(
                f"xy must be ({len(self)}, 2) or (M, {len(self)}, 2), got {points.shape}"
            )
        points = points.astype(np.float64)
        h, w = self.size
        if compat:
            points = np.clip(points, 0.0, [w - 1.0, h - 1.0])
        inside = ((points > -1) & (points < [w, h])).all(-1)
        points = np.where(inside[..., None], points, 0.0)
        cell = np.floor(points).astype(np.int64)
        part = points - cell
        gain = np.zeros(points.shape[:-1])
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            weight = np.where(dx, part[..., 0], 1 - part[..., 0])
            weight = weight * np.where(dy, part[..., 1], 1 - part[..., 1])
            gain += weight * self._gain_at(cell[..., 0] + dx, cell[..., 1] + dy)
        return _as_kind(self.log_cardinality - np.where(inside, gain, 0.0), kind)

    def mass(self, centers: Any, window: float | tuple[float, float]) -> Any:
        """Probability of every map under a window: (N,) float64.

        Sum of `exp(gain) / |O|` over live cells, each weighted by the share of its unit square
        that lies in the window of `window` (h, w) cells, not necessarily whole, around `centers`
        (N, 2), map coordinates. A centre that is not finite gives 0.
        """
        points, kind = _numpy(centers, "centers")
        if points.shape != (len(self), 2):
            raise ValueError(f"centers must be ({len(self)}, 2), got {points.shape}")
        extent = np.broadcast_to(np.asarray(window, np.float64), (2,))[::-1]
        if not (np.isfinite(extent).all() and (extent > 0).all()):
            raise ValueError(f"window must be positive and finite, got {window!r}")
        finite = np.isfinite(points).all(-1)
        n = self._rows()
        away = np.where(finite[:, None], points, 0.0).astype(np.float64)[n] - self.xy
        low = np.maximum(away - extent / 2, -0.5)
        share = np.clip(np.minimum(away + extent / 2, 0.5) - low, 0.0, None).prod(-1)
        share *= np.exp(self.gain.astype(np.float64) - self.log_cardinality)
        total = np.bincount(n, weights=share, minlength=len(self))
        return _as_kind(np.where(finite, total, 0.0), kind)

    # ------------------------------------------------------------------ container

    def __len__(self) -> int:
        return len(self.row_ptr) - 1

    @property
    def entries_per_map(self) -> np.ndarray:
        """Number of live cells of every map (N,) int64."""
        return np.diff(self.row_ptr)

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        arrays = (self.row_ptr, self.xy, self.gain, self.flat_gain, self.origins)
        return sum(a.nbytes for a in arrays if a is not None)

    def __getitem__(self, index: Any) -> LossMaps:
        """Maps picked by a slice, integers (in the order given, repetition allowed) or a mask."""
        rows = _row_index(index, len(self))
        counts = self.entries_per_map[rows]
        row_ptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(counts, out=row_ptr[1:])
        entries = np.arange(row_ptr[-1]) + np.repeat(self.row_ptr[rows] - row_ptr[:-1], counts)
        origins = None if self.origins is None else self.origins[rows]
        return self._trusted(
            row_ptr,
            self.xy[entries],
            self.gain[entries],
            self.size,
            self.window,
            origins,
            self.log_cardinality,
            self.flat_gain[rows],
            self._kind,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[LossMaps]) -> LossMaps:
        """All maps of `parts`, in order; sizes, windows and ln|O| must agree."""
        parts = list(parts)
        if not parts:
            raise ValueError("parts must hold at least one LossMaps")
        first = parts[0]
        for part in parts:
            if not isinstance(part, LossMaps):
                raise TypeError(f"parts must be LossMaps, got {type(part).__name__}")
            same = (part.size, part.window, part.log_cardinality, part.origins is None)
            if same != (first.size, first.window, first.log_cardinality, first.origins is None):
                raise ValueError(f"parts differ in size, window or ln|O|: {part!r} and {first!r}")
        counts = np.concatenate([part.entries_per_map for part in parts])
        row_ptr = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=row_ptr[1:])
        origins = [part.origins for part in parts if part.origins is not None]
        return cls._trusted(
            row_ptr,
            np.concatenate([part.xy for part in parts]),
            np.concatenate([part.gain for part in parts]),
            first.size,
            first.window,
            np.concatenate(origins) if origins else None,
            first.log_cardinality,
            np.concatenate([part.flat_gain for part in parts]),
            first._kind,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to `path`: .npz, or .safetensors (needs that package)."""
        from pyloc_core import maps_file

        maps_file.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LossMaps:
        """Read what `save` wrote. Everything is checked: a damaged file raises ValueError."""
        from pyloc_core import maps_file

        return maps_file.load(path)

    def __repr__(self) -> str:
        (h, w), (rows, columns) = self.size, self.window
        window = "" if self.origins is None else f", windows {rows} x {columns}"
        return (
            f"LossMaps({len(self)} maps of {h} x {w}{window}, {len(self.gain)} entries, "
            f"ln|O| = {self.log_cardinality:.4f}, {self.nbytes / 1e6:.2f} MB)"
        )

    def native_args(self) -> tuple[Any, ...]:
        """What the native code takes for a LossMapsView; valid while this object lives."""
        pointer = _pointer
        return (
            len(self),
            pointer(self.row_ptr),
            pointer(self.xy),
            pointer(self.gain),
            0 if self.origins is None else pointer(self.origins),
            self.window[1],
            self.window[0],
            self.size[1],
            self.size[0],
            self.log_cardinality,
            pointer(self.flat_gain),
        )

    # ------------------------------------------------------------------ inside

    def _rows(self) -> np.ndarray:
        return np.repeat(np.arange(len(self)), self.entries_per_map)

    def _gain_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # One search over all maps: (map, row, column) packed into one integer is sorted.
        keys = self._rows() << 32 | self.xy[:, 1].astype(np.int64) << 16 | self.xy[:, 0]
        wanted = np.arange(len(self)) << 32 | np.maximum(y, 0) << 16 | np.maximum(x, 0)
        if not len(keys):
            return np.zeros(wanted.shape)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where((keys[at] == wanted) & (x >= 0) & (y >= 0), self.gain[at], 0.0)

    def _like(self, array: np.ndarray) -> Any:
        return _as_kind(array, self._kind)


def default_log_cardinality(size: tuple[int, int]) -> float:
    """ln(1 + H W): the cells of the full map and "not seen"."""
    return math.log(1 + size[0] * size[1])


def entry_limit(max_entries: MaxEntries) -> int:
    """The bound as a number: None means the documented default, "all" means none."""
    if max_entries is None:
        return DEFAULT_MAX_ENTRIES
    if max_entries == "all":
        return MAX_SIDE * MAX_SIDE
    if isinstance(max_entries, bool) or not isinstance(max_entries, (int, np.integer)):
        raise TypeError(f'max_entries must be a positive int, None or "all", got {max_entries!r}')
    if max_entries < 1:
        raise ValueError(f'max_entries must be positive ("all" keeps all), got {max_entries}')
    return int(max_entries)


def _strongest(n: np.ndarray, gain: np.ndarray, count: int, limit: int) -> np.ndarray:
    """Indices, ascending, of the `limit` largest gains of every row; ties: the earlier entry."""
    per_row = np.bincount(n, minlength=count)
    if count == 0 or per_row.max() <= limit:
        return np.arange(len(n))
    order = np.lexsort((np.arange(len(n)), -gain, n))
    start = np.cumsum(per_row) - per_row
    rank = np.arange(len(n)) - np.repeat(start, per_row)
    return np.sort(order[rank < limit])


def _check_entries(maps: LossMaps) -> None:
    row_ptr, xy, gain = maps.row_ptr, maps.xy.astype(np.int64), maps.gain
    if row_ptr[0] != 0 or row_ptr[-1] != len(xy) or (np.diff(row_ptr) < 0).any():
        raise ValueError(f"row_ptr must rise from 0 to the number of entries, {len(xy)}")
    if not (np.isfinite(gain).all() and (gain > 0).all()):
        raise ValueError("gain must be positive and finite")
    if not (np.isfinite(maps.flat_gain).all() and (maps.flat_gain >= 0).all()):
        raise ValueError("flat_gain must be finite and not negative")
    n = maps._rows()
    (h, w), (rows, columns) = maps.size, maps.window
    if not ((xy >= 0) & (xy < [w, h])).all():
        raise ValueError(f"xy must lie inside the map of size {(h, w)}")
    if maps.origins is not None:
        local = xy - maps.origins[n].astype(np.int64)
        if not ((local >= 0) & (local < [columns, rows])).all():
            raise ValueError(f"xy must lie inside its window of {(rows, columns)} cells")
    if (np.diff(n << 32 | xy[:, 1] << 16 | xy[:, 0]) <= 0).any():
        raise ValueError("the cells of a map must be sorted by row, then column, none twice")


def _row_index(index: Any, count: int) -> np.ndarray:
    if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
        index = [int(index)]
    if isinstance(index, slice):
        return np.arange(count)[index]
    empty = isinstance(index, list) and not index
    rows, _ = _numpy(np.zeros(0, np.int64) if empty else index, "index")
    if rows.ndim != 1 or rows.dtype.kind not in "biu":
        raise TypeError(f"index must be a slice, integers or a mask, got {rows.dtype} {rows.shape}")
    if rows.dtype.kind == "b":
        if len(rows) != count:
            raise IndexError(f"the mask has {len(rows)} values for {count} maps")
        return np.flatnonzero(rows)
    if rows.size and (rows.min() < -count or rows.max() >= count):
        raise IndexError(f"index is out of range for {count} maps")
    return np.where(rows < 0, rows + count, rows).astype(np.int64)


def _size(value: Any, name: str) -> tuple[int, int]:
    try:
        h, w = (int(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (H, W), got {value!r}") from None
    if not (1 <= h <= MAX_SIDE and 1 <= w <= MAX_SIDE):
        raise ValueError(f"{name} must be between 1 and {MAX_SIDE} on each side, got {(h, w)}")
    return h, w


def _log_cardinality(value: float) -> float:
    value = float(value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"log_cardinality must be positive and finite, got {value}")
    return value


def _numpy(value: Any, name: str) -> tuple[np.ndarray, str]:
    """Array and the kind it came as."""
    if type(value).__module__.split(".")[0] == "torch":
        if value.device.type != "cpu":
            raise ValueError(f"{name} must be on the CPU, got a tensor on {value.device}")
        value = value.detach()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy(), "torch"
    return np.asarray(value), "numpy"


def _as_kind(array: np.ndarray, kind: str) -> Any:
    if kind == "numpy":
        return array
    import torch

    return torch.from_numpy(np.array(array))


def _pointer(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def _exact(value: Any, name: str, dtype: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """`value` as a contiguous array of `dtype`, or an error where that would change values."""
    array, _ = _numpy(value, name)
    fits = array.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = tuple("any" if want is None else want for want in shape)
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    out = array.astype(dtype) if array.size else np.zeros(array.shape, dtype)
    kinds = "iu" if np.dtype(dtype).kind == "i" else "f"
    if array.size and (array.dtype.kind not in kinds or not _same(out, array)):
        raise TypeError(f"{name} must be {np.dtype(dtype).name}, got {array.dtype}")
    return np.ascontiguousarray(out)


def _same(out: np.ndarray, array: np.ndarray) -> bool:
    return out.dtype.kind == "f" or bool((out == array).all())


def _frozen(array: np.ndarray) -> np.ndarray:
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
