# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Loss maps in windows of a fine feature map."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyloc_core import _arrays, _dispatch, _library, _native, _tensors
from pyloc_core._windows import Compat, WindowRule, log_weights, origins_of, window_rule
from pyloc_core.maps import LossMaps
from pyloc_core.maps_device import DeviceLossMaps, fake_entries, padded_entries
from pyloc_core.maps_layout import (
    PUBLISHED_EPSILON,
    MaxEntries,
    check_size,
    default_log_cardinality,
    device_entry_limit,
    entry_limit,
)


def local_loss_maps(
    descriptors: Any,
    features: Any,
    centers: Any,
    *,
    window: int | tuple[int, int] = 64,
    coarse_mass: Any = None,
    scale: float | None = None,
    strides: tuple[float, float] = (2.0, 16.0),
    temperature: float = 1.0,
    max_entries: MaxEntries = None,
    compat: Compat | None = None,
    num_threads: int | None = None,
    check_finite: bool = False,
    implementation: str | None = None,
) -> Any:
    """Loss maps of N descriptors in windows of a fine feature map around prior positions.

    `L_n(p) = min(ln|O|, -ln(C_n(p) * mass_n * scale))`, `C_n` the softmax of
    `<h_n, features(p)> / temperature` over the cells of the window that lie in the map, and
    `|O| = 1 + H W` of the full fine map (thesis, section 4.4.3).

    Args:
        descriptors: h (N, D), float32, float16 or bfloat16.
        features: (D, H, W), float32, float16 or bfloat16; read once, never gathered.
        centers: (N, 2) fine map coordinates (x, y), for example reprojections under a coarse pose.
            The window of a centre holds the cells `floor(centre) - w // 2` and the w - 1 after it.
            A centre that is not finite, or whose window misses the map, drops its map.
        window: w, or (h, w), cells.
        coarse_mass: probability that the coarse stage gave the window, (N,) or one number, within
            0 and 1 (`LossMaps.mass` of the coarse maps); None stands for 1. Mass 0 drops the map.
        scale: factor of the probability; None takes (strides[0] / strides[1])^2, the thesis' 1/64
            for the default strides. 1 is the exact probability, with nearly every cell live.
        strides: strides of the fine and of the coarse map, image pixels per cell.
        temperature: divides the logits.
        max_entries: live cells kept per map, the least informative dropped first (equal losses:
            the later cell). None is the default of 256; "all" keeps everything, on the host only.
        compat: "published" reproduces the published program: windows of 2 (w // 2) + 1 cells around
            the centre truncated towards zero, cells outside the map in the softmax with logit 0,
            scale 1 / w, -ln(x + 2^-23), and entries displaced by w // 2 in x and y.
            "published_placed" is the same without the displacement.
        num_threads: threads to use; the result does not depend on it.
        check_finite: on the CPU values are always checked; on a GPU on request, since it waits for the
            device. Without it a window that a NaN entered gives an empty map.
        implementation: "native", "triton" (CUDA tensors) or "reference" (torch, float64).

    Returns:
        LossMaps with the windows' origins. A dropped map has no entries. CUDA tensors, and tensors of
        any device under torch.compile, give DeviceLossMaps with room for min(max_entries, h w) entries
        per map.

    Raises:
        ValueError: shapes that do not fit, D, H or W = 0, values that are not finite (features are
            checked where a window reads them), mass outside [0, 1], scale or temperature not positive.
        TypeError: arrays that are not real numbers.
    """
    arrays = {"descriptors": descriptors, "features": features, "centers": centers}
    if not isinstance(coarse_mass, (int, float, np.generic)):
        arrays["coarse_mass"] = coarse_mass
    threads = _arrays.thread_count(num_threads)
    if _dispatch.on_tensors("local_loss_maps", implementation, arrays):
        tensors = _check_tensors(descriptors, features, centers, coarse_mass, check_finite)
        size = check_size(tensors.features.shape[1:], "the size of features")
        rule = window_rule(size, window, scale, strides, temperature, compat)
        limit = device_entry_limit(max_entries, rule.window)
        return _tensor_maps(tensors, rule, compat, limit, threads, implementation)
    use_reference = _dispatch.use_reference("local_loss_maps", implementation)
    problem = _check(
        descriptors, features, centers, window, coarse_mass, scale, strides, temperature, compat
    )
    limit = entry_limit(max_entries)
    if use_reference:
        return _run_reference(problem, limit)
    return _run(problem, limit, threads)


class _Problem(NamedTuple):
    descriptors: _arrays.ArrayIn
    features: _arrays.ArrayIn
    origins: npt.NDArray[np.int32]
    window: tuple[int, int]
    log_weight: npt.NDArray[np.float64]
    temperature: float
    log_cardinality: float
    epsilon: float
    zeros_outside: bool
    shift: int

    @property
    def size(self) -> tuple[int, int]:
        return self.features.shape[1], self.features.shape[2]

    @property
    def placed(self) -> npt.NDArray[np.int32]:
        """Where the windows' entries are stored."""
        return self.origins + np.int32(self.shift)


def _check(
    descriptors: Any,
    features: Any,
    centers: Any,
    window: Any,
    coarse_mass: Any,
    scale: float | None,
    strides: tuple[float, float],
    temperature: float,
    compat: Compat | None,
) -> _Problem:
    h = _arrays.as_array(descriptors, "descriptors", shape=("N", "D"), dtype="float32")
    f = _arrays.as_array(
        features, "features", shape=("D", "H", "W"), dtype=_arrays.FEATURE_DTYPES, finite=False
    )
    c = _arrays.as_array(centers, "centers", shape=("N", 2), finite=False)
    _arrays.check_equal_length(len(h.data), "descriptors", len(c.data), "centers")
    if 0 in f.shape:
        raise ValueError(f"features must not be empty, got shape {f.shape}")
    if h.shape[1] != f.shape[0]:
        raise ValueError(f"descriptors have {h.shape[1]} channels and features {f.shape[0]}")
    size = check_size(f.shape[1:], "the size of features")
    rule = window_rule(size, window, scale, strides, temperature, compat)
    published = compat is not None
    origins, alive = origins_of(c.data, rule.half, published)
    log_weight = log_weights(coarse_mass, len(c.data), rule.scale)
    log_weight[~alive] = -np.inf
    return _Problem(
        h, f, origins, rule.window, log_weight, rule.temperature, rule.log_cardinality,
        PUBLISHED_EPSILON if published else 0.0, published, rule.shift,
    )  # fmt: skip


def _flat_gain(problem: _Problem) -> npt.NDArray[np.float32]:
    """Gain of a softmax that is the same in every cell of the window."""
    size = np.array(problem.size[::-1])
    first = problem.origins.astype(np.int64)
    last = first + np.array(problem.window[::-1])
    extent = np.clip(last, 0, size) - np.clip(first, 0, size)
    if problem.zeros_outside:
        extent = last - first
    cells = extent.prod(1)
    gain = problem.log_cardinality + problem.log_weight - np.log(np.maximum(cells, 1))
    return np.where(cells > 0, np.maximum(gain, 0.0), 0.0).astype(np.float32)


def _run(problem: _Problem, limit: int, threads: int) -> LossMaps:
    count, channels = problem.descriptors.shape
    height, width = problem.size
    rows = _native.SparseRows(count)
    status = _native.local_loss_maps(
        _arrays.pointer(problem.descriptors.data), _arrays.pointer(problem.features.data),
        problem.features.code, count, channels, height, width, _arrays.pointer(problem.origins),
        *problem.window, _arrays.pointer(problem.log_weight), problem.temperature,
        problem.log_cardinality, problem.epsilon, problem.zeros_outside, problem.shift, limit,
        threads, rows,
    )  # fmt: skip
    if status == 1:
        raise MemoryError("local_loss_maps: out of memory")
    if status == 2:
        raise ValueError("features holds NaN, infinite or too large values inside a window")
    return _finish(problem, rows)


def _run_reference(problem: _Problem, limit: int) -> LossMaps:
    """Dense windows from the oracle, made sparse by the same code as everyone's dense maps."""
    reference = _dispatch.reference_module("local_loss_maps")
    features = problem.features.data
    if problem.features.dtype == "bfloat16":
        features = _arrays.bfloat16_to_float32(features)
    dense = reference.local_loss_maps(problem.descriptors.data, features, *problem[2:-1]).numpy()
    if np.isnan(dense).any():
        raise ValueError("features holds NaN or infinite values inside a window")
    maps = LossMaps.from_dense(
        dense, log_cardinality=problem.log_cardinality, origins=problem.placed, size=problem.size,
        max_entries=limit,
    )  # fmt: skip
    return LossMaps._make(
        maps.row_ptr, maps.xy, maps.gain, problem.size, problem.window, problem.placed,
        problem.log_cardinality, _flat_gain(problem), (problem.descriptors, problem.features),
    )  # fmt: skip


def _finish(problem: _Problem, rows: Any) -> LossMaps:
    return LossMaps._from_rows(
        rows, len(problem.log_weight), problem.size, problem.window, problem.placed,
        problem.log_cardinality, _flat_gain(problem), (problem.descriptors, problem.features),
    )  # fmt: skip


class _Tensors(NamedTuple):
    """The arguments on their device; `mass` (N,) float64 or None."""

    descriptors: Any
    features: Any
    centers: Any
    mass: Any


def _check_tensors(
    descriptors: Any, features: Any, centers: Any, coarse_mass: Any, finite: bool
) -> _Tensors:
    kinds = _arrays.FEATURE_DTYPES
    h = _tensors.check(descriptors, "descriptors", shape=("N", "D"), dtype=kinds).detach()
    f = _tensors.check(
        features, "features", shape=("D", "H", "W"), dtype=kinds, device=h.device
    ).detach()
    c = _tensors.check(centers, "centers", shape=("N", 2), device=h.device).detach()
    _arrays.check_equal_length(h.shape[0], "descriptors", c.shape[0], "centers")
    if 0 in tuple(f.shape):
        raise ValueError(f"features must not be empty, got shape {tuple(f.shape)}")
    if h.shape[1] != f.shape[0]:
        raise ValueError(f"descriptors have {h.shape[1]} channels and features {f.shape[0]}")
    mass = None
    if isinstance(coarse_mass, (int, float, np.generic)):
        share = float(coarse_mass)
        if not 0 <= share <= 1 + 1e-6:
            raise ValueError(f"coarse_mass must lie within 0 and 1, got {coarse_mass}")
        mass = c.new_full((h.shape[0],), share)
    elif coarse_mass is not None:
        mass = _tensors.check(coarse_mass, "coarse_mass", device=h.device).detach()
        if tuple(mass.shape) not in ((), (h.shape[0],)):
            raise ValueError(
                f"coarse_mass must be a number or ({h.shape[0]},), got {tuple(mass.shape)}"
            )
        mass = mass.expand(h.shape[0])
    if finite:
        _tensors.check_finite(descriptors=h, features=f)
    return _Tensors(h, f, c, mass)


def _tensor_maps(
    tensors: _Tensors,
    rule: WindowRule,
    compat: str | None,
    limit: int,
    threads: int,
    implementation: str | None,
) -> DeviceLossMaps:
    _library.ensure()
    run = _arrays.torch_module().ops.pyloc_core.local_loss_maps
    row_ptr, xy, gain, peak_xy, peak_gain, origins, flat_gain = run(
        *tensors, *rule.window, rule.scale, rule.temperature, limit, compat or "", threads,
        implementation or "",
    )  # fmt: skip
    return DeviceLossMaps(
        row_ptr, xy, gain, rule.size, rule.window, origins, rule.log_cardinality, flat_gain, peak_xy,
        peak_gain,
    )  # fmt: skip


def _run_tensors(
    descriptors: Any, features: Any, centers: Any, mass: Any, window_h: int, window_w: int,
    scale: float, temperature: float, limit: int, compat: str, threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    arrays = {"descriptors": descriptors, "features": features, "centers": centers}
    chosen = _dispatch.select("local_loss_maps", implementation, arrays)
    size, window = tuple(features.shape[1:]), (window_h, window_w)
    if chosen in ("triton", "cuda"):
        module = _dispatch.device_module("local_loss_maps", chosen)
        half = (window_h // 2, window_w // 2)
        shift = half[0] if compat == "published" else 0
        placed = module.WindowRule(window, half, shift, scale, bool(compat))
        entries, origins, flat = module.local_loss_maps(
            descriptors, features, centers, mass, placed, temperature,
            default_log_cardinality(size), PUBLISHED_EPSILON if compat else 0.0, limit,
        )  # fmt: skip
        return (*entries, origins, flat)
    maps = local_loss_maps(
        descriptors, features, centers, window=window, coarse_mass=mass, scale=scale,
        temperature=temperature, max_entries=limit, compat=compat or None,  # type: ignore[arg-type]
        num_threads=threads or None, implementation=chosen,
    )  # fmt: skip
    assert isinstance(maps, LossMaps) and maps.origins is not None
    torch = _arrays.torch_module()
    placed_at, flat = (torch.from_numpy(a.copy()) for a in (maps.origins, maps.flat_gain))
    return (*padded_entries(maps, limit), placed_at, flat)


def _fake(
    descriptors: Any, features: Any, centers: Any, mass: Any, window_h: int, window_w: int,
    scale: float, temperature: float, limit: int, *rest: Any,
) -> tuple[Any, ...]:  # fmt: skip
    row_ptr, xy, gain, peak_xy, peak_gain = fake_entries(descriptors, limit)
    origins, flat = peak_xy.new_empty(peak_xy.shape), peak_gain.new_empty(peak_gain.shape)
    return row_ptr, xy, gain, peak_xy, peak_gain, origins, flat


_library.define(
    "local_loss_maps",
    "(Tensor descriptors, Tensor features, Tensor centers, Tensor? mass, int window_h, int window_w,"
    " float scale, float temperature, int limit, str compat, int threads, str implementation)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    run=_run_tensors,
    fake=_fake,
)
