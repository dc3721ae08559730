# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse loss maps of descriptors in dense features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from pyloc_core import _arrays, _dispatch, _levels, _library, _native
from pyloc_core.maps import LossMaps
from pyloc_core.maps_device import DeviceLossMaps, fake_entries, padded_entries
from pyloc_core.maps_layout import (
    PUBLISHED_EPSILON,
    MaxEntries,
    check_frame,
    check_size,
    default_log_cardinality,
    device_entry_limit,
    entry_limit,
)


def loss_maps(
    descriptors: Any,
    features: Any,
    *,
    size: tuple[int, int] | None = None,
    temperature: float = 1.0,
    max_entries: MaxEntries = None,
    origin: tuple[int, int] = (0, 0),
    image_cells: tuple[int, int] | None = None,
    compat: Literal["published"] | None = None,
    num_threads: int | None = None,
    check_finite: bool = False,
    implementation: str | None = None,
) -> Any:
    """Loss maps `L_n(p) = min(ln|O|, -ln C_n(p))`, `|O| = 1 + H W` (thesis, Eq. 4.7).

    `C_n` is the softmax over all cells of `<h_n, F(p)> / temperature`. Only live cells, those with
    `L < ln|O|`, are kept; the N x H W values are never stored: cells are streamed as in `match`.

    Args:
        descriptors: h (N, D) float32, float16 or bfloat16, or a list with one array per level.
        features: F (D, H, W), or a list, as in `match`.
        size: (H, W) of the maps; default the size of the level with most cells. At most 32000.
        temperature: T > 0.
        max_entries: live cells kept per map. A flat map has nearly half of its cells just below
            the truncation; they carry no information, and must not dominate cost or memory. So
            the least informative are dropped first (equal losses: the later cell), beyond 256
            entries by default (None); "all" keeps everything, on the host only.
        origin: map point (x0, y0) of the first cell, negative where the features are padded beyond
            the image (NeurHal); `|O|` counts every cell, the padded ones too.
        image_cells: (H, W) in cells that the image covers from map point (0, 0) on; by default, with
            an origin, the image lies in the middle of the map.
        compat: "published" uses -ln(C + 2^-23), as the published program does.
        num_threads: threads to use; the result does not depend on it.
        check_finite: on the CPU values are always checked; on a GPU on request, since it waits for the
            device. Without it a map that a NaN entered is empty.
        implementation: "native", "triton" (CUDA tensors) or "reference" (torch, float64, stores N H W
            values).

    Returns:
        LossMaps of full maps (no windows); N = 0 gives empty ones. CUDA tensors, and tensors of any
        device under torch.compile, give DeviceLossMaps with room for min(max_entries, H W) entries per
        map.

    Raises:
        ValueError: shapes that do not fit, D, H or W of 0, NaN or infinite values, magnitudes whose
            products leave float32, temperature, size, origin or max_entries out of
            range.
        TypeError: something that is no array, or an array that holds no real numbers.
    """
    if compat not in (None, "published"):
        raise ValueError(f'compat must be None or "published", got {compat!r}')
    arrays = {"descriptors": descriptors, "features": features}
    if _dispatch.on_tensors("loss_maps", implementation, arrays):
        tensors = _levels.as_tensor_levels(descriptors, features, size, check_finite)
        threads = _arrays.thread_count(num_threads)
        frame = check_frame(origin, image_cells, check_size(tensors.size, "the size of the maps"))
        made = _tensor_loss_maps(tensors, temperature, max_entries, compat, threads, implementation)
        return replace(made, origin=frame[0], image_cells=frame[1])
    levels = _levels.as_levels(descriptors, features, size)
    map_size = check_size(levels.size, "the size of the maps")
    temperature = _levels.as_positive(temperature, "temperature")
    limit, threads = entry_limit(max_entries), _arrays.thread_count(num_threads)
    epsilon = 0.0 if compat is None else PUBLISHED_EPSILON
    check_frame(origin, image_cells, map_size)
    cardinality = default_log_cardinality(map_size)
    if _dispatch.use_reference("loss_maps", implementation):
        pairs = _levels.as_tensors(levels, descriptors, features)
        dense = _dispatch.reference_module("loss_maps").loss_maps(
            pairs, map_size, temperature, cardinality, epsilon
        )
        maps = LossMaps.from_dense(
            dense.detach().numpy(), log_cardinality=cardinality, max_entries=limit
        )
        fields = (maps.row_ptr, maps.xy, maps.gain, map_size, map_size, None, cardinality)
        return LossMaps._make(*fields, maps.flat_gain, levels.sources)._place(origin, image_cells)
    rows = _native.SparseRows(levels.count)
    status = _native.loss_maps(
        levels.native(), levels.count, *map_size, temperature, cardinality, epsilon, limit, threads,
        rows,
    )  # fmt: skip
    levels.check_status(status)
    flat = np.zeros(levels.count, np.float32)
    maps = LossMaps._from_rows(
        rows, levels.count, map_size, map_size, None, cardinality, flat, levels.sources
    )
    return maps._place(origin, image_cells)


def _tensor_loss_maps(
    levels: _levels.TensorLevels,
    temperature: float,
    max_entries: MaxEntries,
    compat: str | None,
    threads: int,
    implementation: str | None,
) -> DeviceLossMaps:
    size = check_size(levels.size, "the size of the maps")
    temperature = _levels.as_positive(temperature, "temperature")
    limit = device_entry_limit(max_entries, size)
    _library.ensure()
    torch = _arrays.torch_module()
    row_ptr, xy, gain, peak_xy, peak_gain = torch.ops.pyloc_core.loss_maps(
        levels.descriptors, levels.features, *size, temperature, limit, compat or "", threads,
        implementation or "",
    )  # fmt: skip
    flat = torch.zeros_like(peak_gain)
    cardinality = default_log_cardinality(size)
    return DeviceLossMaps(
        row_ptr, xy, gain, size, size, None, cardinality, flat, peak_xy, peak_gain
    )


def _run(
    descriptors: list[Any], features: list[Any], height: int, width: int, temperature: float,
    limit: int, compat: str, threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    arrays = {"descriptors": descriptors, "features": features}
    chosen, size = _dispatch.select("loss_maps", implementation, arrays), (height, width)
    if chosen in ("triton", "cuda"):
        epsilon = PUBLISHED_EPSILON if compat else 0.0
        run = _dispatch.device_module("loss_maps", chosen).loss_maps
        cardinality = default_log_cardinality(size)
        return tuple(run(descriptors, features, size, temperature, cardinality, epsilon, limit))
    maps = loss_maps(
        descriptors, features, size=size, temperature=temperature, max_entries=limit,
        compat="published" if compat else None, num_threads=threads or None, implementation=chosen,
    )  # fmt: skip
    assert isinstance(maps, LossMaps)
    return padded_entries(maps, limit)


def _fake(
    descriptors: list[Any], features: list[Any], height: int, width: int, temperature: float,
    limit: int, *rest: Any,
) -> tuple[Any, ...]:  # fmt: skip
    return fake_entries(descriptors[0], limit)


_library.define(
    "loss_maps",
    "(Tensor[] descriptors, Tensor[] features, int height, int width, float temperature, int limit,"
    " str compat, int threads, str implementation) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    run=_run,
    fake=_fake,
)
