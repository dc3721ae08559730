# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse loss maps: what every pose operator reads."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from pyloc_core import _arrays, _native
from pyloc_core.maps_layout import (
    Array,
    MaxEntries,
    check_entries,
    check_frame,
    check_log_cardinality,
    check_size,
    default_log_cardinality,
    entry_limit,
    exact,
    frozen,
    row_index,
)


class Peaks(NamedTuple):
    """The best cell of every map: `xy` (N, 2) int32 (x, y) in map coordinates, `loss` and `gain`
    (N,) float32 in nats. A map without entries has gain 0 and xy = (-1, -1)."""

    xy: Any
    loss: Any
    gain: Any


class LossMaps:
    """N loss maps `L_n(p) = min(ln|O|, -ln C_n(p))` (thesis, Eq. 4.7), only live cells stored.

    Fields (NumPy, read-only, shared with the native code):
      row_ptr  (N + 1,) int64: the entries of map n are `row_ptr[n]:row_ptr[n + 1]`
      xy       (nnz, 2) int16: column and row of the array, sorted by row, then column
      gain     (nnz,) float32: `ln|O| - L`, nats, positive
      size     (H, W): cells of the full map, at most 32000 a side
      window   (h, w): extent of each map's array; origins (N, 2) int32 or None: column and row of
               a window's first cell, None for full maps
      origin   (x0, y0): map point of cell [0, 0]; negative for maps padded beyond the image
      image_cells (H, W): the cells from map point (0, 0) on that the image covers. `size` unless
               there is an origin; then, unless given, the image lies in the middle of the map
      log_cardinality: ln|O|
      flat_gain (N,) float32: gain that a map without preference would have in its window
    The centre of cell [row, col] is the integer point (x = col + x0, y = row + y0). The value at a
    point is `ln|O|` minus the bilinearly interpolated gain; cells that are not stored, and
    everything outside the map, count as `ln|O|`. Methods take and give map points; a camera in
    image pixels is brought to them through `image_cells`. Pickling, `==` and in-place changes are
    not offered.

    Methods that return arrays return the kind (NumPy or torch) of the array they were given, or
    of the arrays the maps were made from.

    Raises ValueError or TypeError when the arrays do not fit together: unsorted or repeated
    cells, cells outside the window or the map, gains that are not positive and finite.
    """

    row_ptr: Array
    xy: Array
    gain: Array
    size: tuple[int, int]
    window: tuple[int, int]
    origins: Array | None
    log_cardinality: float
    flat_gain: Array
    origin: tuple[int, int] = (0, 0)
    _image_cells: tuple[int, int] | None = None
    _like: tuple[_arrays.ArrayIn, ...]

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
        origin: tuple[int, int] = (0, 0),
        image_cells: tuple[int, int] | None = None,
    ) -> None:
        size = check_size(size, "size")
        window = size if window is None else check_size(window, "window")
        row_ptr = exact(row_ptr, "row_ptr", "int64", ("N + 1",))
        if len(row_ptr) < 1:
            raise ValueError("row_ptr must hold N + 1 values, got none")
        count = len(row_ptr) - 1
        xy = exact(xy, "xy", "int16", ("nnz", 2))
        gain = exact(gain, "gain", "float32", (len(xy),))
        if origins is not None:
            origins = exact(origins, "origins", "int32", (count, 2))
        elif window != size:
            raise ValueError(f"window {window} differs from size {size}: origins are needed")
        flat = np.zeros(count, np.float32) if flat_gain is None else flat_gain
        flat = exact(flat, "flat_gain", "float32", (count,))
        if (flat < 0).any():
            raise ValueError("flat_gain must not be negative")
        check_entries(row_ptr, xy, gain, size, window, origins)
        if log_cardinality is None:
            log_cardinality = default_log_cardinality(size)
        cardinality = check_log_cardinality(log_cardinality)
        self._set(row_ptr, xy, gain, size, window, origins, cardinality, flat, ())
        self._place(origin, image_cells)

    def _set(
        self, row_ptr: Array, xy: Array, gain: Array, size: tuple[int, int], window: tuple[int, int],
        origins: Array | None, log_cardinality: float, flat_gain: Array,
        like: tuple[_arrays.ArrayIn, ...],
    ) -> None:  # fmt: skip
        self.row_ptr, self.xy, self.gain = frozen(row_ptr), frozen(xy), frozen(gain)
        self.origins = None if origins is None else frozen(origins)
        self.flat_gain = frozen(flat_gain)
        self.size, self.window, self.log_cardinality = size, window, log_cardinality
        # Only the kind is needed later, not the caller's memory.
        empty = np.zeros(0)
        self._like = tuple(_arrays.ArrayIn(empty, "float64", a.is_torch) for a in like)

    @classmethod
    def _make(cls, *fields: Any) -> LossMaps:
        """For arrays made here, whose invariants hold by construction."""
        maps = cls.__new__(cls)
        maps._set(*fields)
        return maps

    @classmethod
    def _from_rows(cls, rows: Any, count: int, *rest: Any) -> LossMaps:
        """From the native `SparseRows`; `rest` as in `_set` from `size` on."""
        row_ptr = np.empty(count + 1, np.int64)
        xy, gain = np.empty((rows.entries, 2), np.int16), np.empty(rows.entries, np.float32)
        rows.compress(_arrays.pointer(row_ptr), _arrays.pointer(xy), _arrays.pointer(gain))
        return cls._make(row_ptr, xy, gain, *rest)

    def _place(self, origin: Any, image_cells: Any) -> LossMaps:
        """Sets where the array lies over the image; for new maps only."""
        self.origin, self._image_cells = check_frame(origin, image_cells, self.size)
        return self

    @property
    def image_cells(self) -> tuple[int, int]:
        return self._image_cells or self.size

    def without_origin(self) -> LossMaps:
        """The same maps in the coordinates of their array: origin (0, 0), image as large as the map."""
        if self.origin == (0, 0) and self.image_cells == self.size:
            return self
        return self._make(
            self.row_ptr, self.xy, self.gain, self.size, self.window, self.origins,
            self.log_cardinality, self.flat_gain, self._like,
        )  # fmt: skip

    def _in_array(self, points: Array) -> Array:
        return points if self.origin == (0, 0) else points - np.array(self.origin, np.float64)

    @classmethod
    def from_dense(
        cls,
        maps: Any,
        *,
        log_cardinality: float | None = None,
        origins: Any = None,
        size: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
        image_cells: tuple[int, int] | None = None,
        max_entries: MaxEntries = "all",
        num_threads: int | None = None,
    ) -> LossMaps:
        """Sparse form of dense loss maps (N, h, w), in nats; infinite losses are not live.

        A cell is live where its loss is below `log_cardinality` rounded to the maps' dtype
        (default ln(1 + H W) of the full size). `origins` (N, 2) integers (column, row) place windows
        in a full map of `size` (H, W); cells that fall outside it are left out. `origin` and
        `image_cells` say where the full map lies over the image, as in LossMaps. `max_entries`
        bounds the entries per map, least informative dropped first (equal gains: the later
        cell); None is the package's default of 256, "all" keeps everything.
        """
        dense = _arrays.as_array(
            maps, "maps", shape=("N", "h", "w"), dtype=("float32", "float64"), finite=False
        )
        count, window = len(dense.data), check_size(dense.shape[1:], "the size of maps")
        size = window if size is None else check_size(size, "size")
        if origins is not None:
            origins = exact(origins, "origins", "int32", (count, 2))
        elif window != size:
            raise ValueError(f"maps are {window} and size is {size}: origins are needed")
        if log_cardinality is None:
            log_cardinality = default_log_cardinality(size)
        cardinality = check_log_cardinality(log_cardinality)
        rows = _native.SparseRows(count)
        status = _native.maps_from_dense(
            _arrays.pointer(dense.data), dense.code, count, *window,
            0 if origins is None else _arrays.pointer(origins), *size, cardinality,
            entry_limit(max_entries), _arrays.thread_count(num_threads), rows,
        )  # fmt: skip
        if status == 1:
            raise MemoryError("from_dense: out of memory")
        if status == 2:
            raise ValueError("maps must not hold NaN, -inf, or losses below the range of float32")
        flat = np.zeros(count, np.float32)
        made = cls._from_rows(rows, count, size, window, origins, cardinality, flat, (dense,))
        return made._place(origin, image_cells)

    # ------------------------------------------------------------------ reading

    def dense(self, *, fill: float | None = None) -> Any:
        """Loss maps (N, h, w) float32, nats; `fill` (default ln|O|) where nothing is stored."""
        out = np.empty((len(self), *self.window), np.float32)
        value = self.log_cardinality if fill is None else float(fill)
        _native.maps_to_dense(self.native_args(), value, _arrays.pointer(out))
        return _arrays.like(out, *self._like)

    def argmin(self) -> Peaks:
        """Best cell of every map, the first one in storage order when several are equal."""
        xy, gain = self._peaks
        xy = xy + np.array(self.origin, np.int32) * (gain > 0)[:, None]
        loss = np.float32(self.log_cardinality) - gain
        return Peaks(*(_arrays.like(a, *self._like) for a in (xy, loss, gain.copy())))

    @property
    def peak_gain(self) -> Array:
        """Largest gain of every map (N,) float32; 0 where nothing is stored. Computed once."""
        return self._peaks[1]

    @functools.cached_property
    def _peaks(self) -> tuple[Array, Array]:
        xy, gain = np.empty((len(self), 2), np.int32), np.empty(len(self), np.float32)
        _native.maps_peaks(self.native_args(), _arrays.pointer(xy), _arrays.pointer(gain))
        return frozen(xy), frozen(gain)

    def evaluate(
        self,
        xy: Any,
        *,
        compat: Literal["published"] | None = None,
        num_threads: int | None = None,
    ) -> Any:
        """Loss in nats at map points: (N, 2) gives (N,), (M, N, 2) gives (M, N); float64.

        Bilinear (Eq. 4.3 and 4.6); everything outside the map, and points that are not finite,
        count as ln|O|. `compat="published"` clamps to the map's border instead.
        """
        if compat not in (None, "published"):
            raise ValueError(f'compat must be None or "published", got {compat!r}')
        points = _arrays.as_array(xy, "xy", finite=False)
        if points.data.ndim not in (2, 3) or points.shape[-2:] != (len(self), 2):
            raise ValueError(
                f"xy must have shape ({len(self)}, 2) or (M, {len(self)}, 2), got {points.shape}"
            )
        out = np.empty(points.shape[:-1])
        inside = self._in_array(points.data)
        _native.maps_evaluate(
            self.native_args(), _arrays.pointer(inside), 1 if out.ndim == 1 else len(out),
            compat is not None, _arrays.thread_count(num_threads), _arrays.pointer(out),
        )  # fmt: skip
        return _arrays.like(out, points)

    def mass(
        self,
        centers: Any,
        window: float | tuple[float, float],
        *,
        num_threads: int | None = None,
    ) -> Any:
        """Probability of every map under a window: (N,) float64.

        Sum of `exp(gain) / |O|` over live cells, each weighted by the share of its unit square
        that lies in the window of `window` (h, w) cells, not necessarily whole, around `centers`
        (N, 2), map coordinates (thesis, section 4.4.3). A centre that is not finite gives 0.
        """
        points = _arrays.as_array(centers, "centers", shape=(len(self), 2), finite=False)
        extent = np.ravel(np.asarray(window, np.float64))
        if extent.size not in (1, 2) or not (np.isfinite(extent).all() and (extent > 0).all()):
            raise ValueError(f"window must be positive and finite cells, got {window!r}")
        out = np.empty(len(self))
        inside = self._in_array(points.data)
        _native.maps_mass(
            self.native_args(), _arrays.pointer(inside), float(extent[-1]), float(extent[0]),
            _arrays.thread_count(num_threads), _arrays.pointer(out),
        )  # fmt: skip
        return _arrays.like(out, points)

    # ------------------------------------------------------------------ container

    def __len__(self) -> int:
        return len(self.row_ptr) - 1

    @property
    def entries_per_map(self) -> Array:
        """Number of live cells of every map (N,) int64."""
        return np.diff(self.row_ptr)

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        arrays = (self.row_ptr, self.xy, self.gain, self.flat_gain, self.origins)
        return sum(a.nbytes for a in arrays if a is not None)

    def __getitem__(self, index: Any) -> LossMaps:
        """Maps picked by a slice, integers (in the order given, repetition allowed) or a mask."""
        rows = np.ascontiguousarray(row_index(index, len(self)))
        row_ptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self.entries_per_map[rows], out=row_ptr[1:])
        xy, gain = np.empty((row_ptr[-1], 2), np.int16), np.empty(row_ptr[-1], np.float32)
        _native.maps_take(
            self.native_args(), _arrays.pointer(rows), len(rows),
            *(_arrays.pointer(a) for a in (row_ptr, xy, gain)),
        )  # fmt: skip
        origins = None if self.origins is None else self.origins[rows]
        flat = self.flat_gain[rows]
        taken = self._make(
            row_ptr, xy, gain, self.size, self.window, origins, self.log_cardinality, flat,
            self._like,
        )  # fmt: skip
        return taken._place(self.origin, self.image_cells)

    @classmethod
    def concatenate(cls, parts: Sequence[LossMaps]) -> LossMaps:
        """All maps of `parts`, in order; sizes, windows, origin and ln|O| must agree."""
        parts = list(parts)
        if not parts or not all(isinstance(part, LossMaps) for part in parts):
            raise TypeError(f"parts must be at least one LossMaps, got {parts!r}")
        first = parts[0]
        for part in parts:
            if part._shape_of() != first._shape_of():
                raise ValueError(f"parts differ in size, window or ln|O|: {part!r} and {first!r}")
        counts = np.concatenate([part.entries_per_map for part in parts])
        row_ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        origins = [part.origins for part in parts if part.origins is not None]
        xy, gain, flat = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("xy", "gain", "flat_gain")
        )
        joined = cls._make(
            row_ptr, xy, gain, first.size, first.window,
            np.concatenate(origins) if origins else None, first.log_cardinality, flat, first._like,
        )  # fmt: skip
        return joined._place(first.origin, first.image_cells)

    def _shape_of(self) -> tuple[Any, ...]:
        placed = (self.origin, self.image_cells, self.origins is None)
        return self.size, self.window, self.log_cardinality, *placed

    def to(self, device: Any) -> Any:
        """The maps as tensors on a torch device: DeviceLossMaps. Imports torch."""
        from pyloc_core import _extras
        from pyloc_core.maps_device import DeviceLossMaps

        _extras.require("torch", "LossMaps.to")
        return DeviceLossMaps.from_host(self, device)

    def _with_kind_of(self, array: Any) -> LossMaps:
        """The same maps, whose methods return arrays of this array's kind."""
        self._like = (_arrays.ArrayIn(np.zeros(0), "float64", _arrays.is_torch(array)),)
        return self

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
        window += "" if self.origin == (0, 0) else f", origin {self.origin}"
        return (
            f"LossMaps({len(self)} maps of {h} x {w}{window}, {len(self.gain)} entries, "
            f"ln|O| = {self.log_cardinality:.4f}, {self.nbytes / 1e6:.2f} MB)"
        )

    def native_args(self) -> tuple[Any, ...]:
        """What the native code takes for a LossMapsView; valid while this object lives."""
        pointer = _arrays.pointer
        return (
            len(self), pointer(self.row_ptr), pointer(self.xy), pointer(self.gain),
            0 if self.origins is None else pointer(self.origins), self.window[1], self.window[0],
            self.size[1], self.size[0], self.log_cardinality, pointer(self.flat_gain),
        )  # fmt: skip
