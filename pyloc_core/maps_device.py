# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Loss maps as tensors on one device, with shapes that do not depend on the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyloc_core import _arrays
from pyloc_core.maps import LossMaps


@dataclass(frozen=True, eq=False)
class DeviceLossMaps:
    """N sparse loss maps on a device: what `LossMaps` is on the host.

    Made by the operators from tensors on a device, without waiting for it: the number of live cells is
    known there only, so the entry arrays have room for `capacity` = N max_entries of them, and what lies
    past `row_ptr[N]` is undefined.

    Attributes:
        row_ptr: (N + 1,) int64; the entries of map n are `row_ptr[n]:row_ptr[n + 1]`.
        xy: (capacity, 2) int16, column and row of the array, sorted by row, then column.
        gain: (capacity,) float32, `ln|O| - L` in nats, positive.
        size: (H, W) of the full map; `window` (h, w) the extent of each map's array.
        origins: (N, 2) int32 column and row of each window's first cell, or None for full maps.
        log_cardinality: ln|O|.
        flat_gain: (N,) float32, gain that a map without preference would have in its window.
        peak_xy: (N, 2) int32 column and row of every map's best cell, (-1, -1) where nothing is stored.
        peak_gain: (N,) float32 its gain, 0 where nothing is stored.
        origin: (x0, y0) map point of cell [0, 0]; `image_cells` (H, W) as in LossMaps, None for `size`.
    """

    row_ptr: Any
    xy: Any
    gain: Any
    size: tuple[int, int]
    window: tuple[int, int]
    origins: Any
    log_cardinality: float
    flat_gain: Any
    peak_xy: Any
    peak_gain: Any
    origin: tuple[int, int] = (0, 0)
    image_cells: tuple[int, int] | None = None

    def __len__(self) -> int:
        return int(self.row_ptr.shape[0]) - 1

    @property
    def device(self) -> Any:
        return self.row_ptr.device

    @property
    def capacity(self) -> int:
        """Entries that the arrays have room for."""
        return int(self.gain.shape[0])

    def cpu(self) -> LossMaps:
        """The maps on the host. Waits for the device. ValueError if NaN entered them."""
        torch = _arrays.torch_module()
        row_ptr = self.row_ptr.cpu()
        count = int(row_ptr[-1])
        maps = LossMaps(
            row_ptr.numpy(),
            self.xy[:count].cpu().numpy(),
            self.gain[:count].cpu().numpy(),
            size=self.size,
            log_cardinality=self.log_cardinality,
            window=self.window,
            origins=None if self.origins is None else self.origins.cpu().numpy(),
            flat_gain=self.flat_gain.cpu().numpy(),
            origin=self.origin,
            image_cells=self.image_cells,
        )
        return maps._with_kind_of(torch.zeros(0))

    @classmethod
    def from_host(cls, maps: LossMaps, device: Any) -> DeviceLossMaps:
        """`LossMaps.to`."""
        torch = _arrays.torch_module()

        def moved(array: Any) -> Any:
            return torch.from_numpy(array.copy()).to(device)

        peak_xy, peak_gain = maps._peaks
        return cls(
            row_ptr=moved(maps.row_ptr),
            xy=moved(maps.xy),
            gain=moved(maps.gain),
            size=maps.size,
            window=maps.window,
            origins=None if maps.origins is None else moved(maps.origins),
            log_cardinality=maps.log_cardinality,
            flat_gain=moved(maps.flat_gain),
            peak_xy=moved(peak_xy),
            peak_gain=moved(peak_gain),
            origin=maps.origin,
            image_cells=maps.image_cells,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[DeviceLossMaps]) -> DeviceLossMaps:
        """All maps of `parts`, in order, without waiting for the device; frames must agree.

        Only the device knows how many entries each part holds, so they are scattered to where the
        scan over the parts puts them. Room is the sum of the parts' room.
        """
        torch = _arrays.torch_module()
        parts = list(parts)
        if not parts or not all(isinstance(part, DeviceLossMaps) for part in parts):
            raise TypeError(f"parts must be at least one DeviceLossMaps, got {parts!r}")
        first = parts[0]
        for part in parts:
            if _frame(part) != _frame(first):
                raise ValueError(f"parts differ in frame, ln|O| or device: {part!r} and {first!r}")
        room = sum(part.capacity for part in parts)
        # One more row takes what lies past a part's last entry, which is undefined.
        xy = first.xy.new_zeros((room + 1, 2))
        gain = first.gain.new_zeros((room + 1,))
        row_ptrs, before = [first.row_ptr.new_zeros((1,))], first.row_ptr.new_zeros((1,))
        for part in parts:
            index = torch.arange(part.capacity, device=part.device)
            place = torch.where(index < part.row_ptr[-1:], index + before, room)
            xy[place], gain[place] = part.xy, part.gain
            row_ptrs.append(part.row_ptr[1:] + before)
            before = before + part.row_ptr[-1:]
        joined = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("flat_gain", "peak_xy", "peak_gain")
        }
        origins = [part.origins for part in parts if part.origins is not None]
        return replace(
            first, row_ptr=torch.cat(row_ptrs), xy=xy[:room], gain=gain[:room],
            origins=torch.cat(origins) if origins else None, **joined,
        )  # fmt: skip

    def __repr__(self) -> str:
        (h, w), (rows, columns) = self.size, self.window
        window = "" if self.origins is None else f", windows {rows} x {columns}"
        return (
            f"DeviceLossMaps({len(self)} maps of {h} x {w}{window} on {self.device}, room for "
            f"{self.capacity} entries, ln|O| = {self.log_cardinality:.4f})"
        )


def _frame(maps: DeviceLossMaps) -> tuple[Any, ...]:
    """What maps must share to be rows of one object."""
    whole = maps.origins is None
    fixed = (maps.size, maps.window, maps.log_cardinality, maps.origin, maps.image_cells)
    return (*fixed, whole, maps.device)


def padded_entries(maps: LossMaps, limit: int) -> tuple[Any, ...]:
    """(row_ptr, xy, gain, peak_xy, peak_gain) of host maps, as tensors with room for N limit entries."""
    torch = _arrays.torch_module()
    entries = len(maps.gain)
    xy = torch.zeros((len(maps) * limit, 2), dtype=torch.int16)
    gain = torch.zeros(len(maps) * limit)
    xy[:entries], gain[:entries] = (torch.from_numpy(a.copy()) for a in (maps.xy, maps.gain))
    peaks = maps.argmin()
    found = (torch.as_tensor(peaks.xy), torch.as_tensor(peaks.gain))
    return (torch.from_numpy(maps.row_ptr.copy()), xy, gain, *found)


def fake_entries(rows: Any, limit: int) -> tuple[Any, ...]:
    """What `padded_entries` gives for len(rows) maps, on the device of `rows`, without the values."""
    torch, n = _arrays.torch_module(), rows.shape[0]
    return (
        rows.new_empty((n + 1,), dtype=torch.int64),
        rows.new_empty((n * limit, 2), dtype=torch.int16),
        rows.new_empty((n * limit,), dtype=torch.float32),
        rows.new_empty((n, 2), dtype=torch.int32),
        rows.new_empty((n,), dtype=torch.float32),
    )
