# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Plane sweep: inner products of a reference's features with those of other views, plane by plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyloc_core import (
    _aggregation,
    _arrays,
    _checks,
    _dispatch,
    _library,
    _sweep,
    _sweep_native,
    _tensors,
)

_OP = "plane_sweep"


def plane_sweep(
    reference: Any,
    sources: Any,
    K_reference: Any,
    K_sources: Any,
    source_from_reference: Any,
    depths: Any,
    *,
    reduce: str = "mean",
    num_valid: Any = None,
    return_mask: bool = False,
    check_finite: bool = False,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Cost volume of inner products between a reference and V source views over D fronto-parallel planes.

    A cell (x, y) of the reference map at depth d is projected into every source map, where features are
    interpolated bilinearly, with zero beyond the map. Features warped this way are never stored. For tensors
    that need a gradient the volume has one with respect to the features (first order, and the same bits
    every time); cameras and depths have none.

    Args:
        reference: (..., C, H, W) float32, float16 or bfloat16.
        sources: (..., V, C, Hs, Ws), any size of map.
        K_reference: (..., 3, 3) intrinsics in cells of the reference map, whose centres are the integers:
            `scale_intrinsics` makes them from an image's.
        K_sources: (..., V, 3, 3), in cells of the source maps.
        source_from_reference: (..., V, 3, 4) or (..., V, 4, 4), X_source = R X_reference + t.
        depths: z in the reference camera, positive, in the unit of t: (D,), (..., D) or (..., D, H, W).
        reduce: "mean": the sum over views of the inner products, of those in front of the source camera,
            divided by the number of views; "valid_mean": over the views that see the cell (in front of
            them and within their map), divided by the number of those, 0 where there is none; "none":
            every view by itself.
        num_valid: views that count, from the first on: an int, or integers of the leading shape (...), 1
            to V; None for all. The volume has the bits of the call without the others. On a GPU the
            values are not looked at.
        return_mask: also return whether cells are seen.
        check_finite: on a GPU, refuse NaN and infinite features, which waits for the device; arrays and
            tensors on the CPU are always checked. Unchecked depths and cameras that are not finite make
            the samples they touch NaN and have no part in gradients.
        num_threads: threads of the native code; the result does not depend on it.
        implementation: "native" (CPU), "triton", or "reference" (torch, float64, differentiable).

    Returns:
        (..., D, H, W), for reduce="none" (..., V, D, H, W), of the kind and dtype of the features; sums are
        float32. With return_mask also a bool array of the same shape: whether the view, or at least one of
        them, sees the cell. float64 tensors are computed in float64 by the plain formula (for gradient
        checks); NumPy arrays of float64 are taken as float32.

    Raises:
        ValueError: shapes that do not fit, no view or plane, singular intrinsics, depths that are not
            positive, values that are not finite, num_valid out of range, arrays on different devices,
            cameras or depths that need a gradient.
        TypeError: something that is no array of real numbers.

    Source: Collins, "A space-sweep approach to true multi-image matching", CVPR 1996; the reductions as in
    Sayed, Gibson, Watson, Prisacariu, Firman, Godard, "SimpleRecon: 3D reconstruction without 3D
    convolutions", ECCV 2022, Section 3.1.
    """
    _checks.known_name("reduce", reduce, _sweep_native.REDUCTIONS)
    threads = _arrays.thread_count(num_threads)
    features = {"reference": reference, "sources": sources}
    cameras = (K_reference, K_sources, source_from_reference, depths)
    options = (reduce, threads, implementation or "")
    if _needs_torch(features, implementation):
        return _with_torch(
            (*features.values(), *cameras, num_valid), return_mask, check_finite, options
        )
    sweep = _sweep.check_arrays(reference, sources, *cameras, num_valid)
    if _dispatch.use_reference(_OP, implementation):
        return _reference(sweep, features, reduce, return_mask)
    at = _sweep_native.geometry_of(sweep)
    volume = _sweep_native.run([sweep.reference, sweep.sources], at, reduce, threads)
    volume = _shaped(_as_kind(volume, sweep.reference), sweep.leading)
    if not return_mask:
        return volume
    mask = _sweep_native.run_mask(at, reduce == "none", threads)
    return volume, _shaped(_arrays.like(mask, sweep.reference), sweep.leading)


def _needs_torch(features: dict[str, Any], implementation: str | None) -> bool:
    if implementation == "reference":
        _dispatch.select(_OP, implementation, features)
        return False
    if _dispatch.on_tensors(_OP, implementation, features):
        return True
    tensors = [x for x in features.values() if _arrays.is_torch(x)]
    wide = any(str(x.dtype) == "torch.float64" for x in tensors)
    if not tensors:  # arrays alone: torch may not even be imported
        return False
    return (wide and len(tensors) == 2) or _tensors.wants_gradient(tensors)


def _shaped(out: Any, leading: tuple[int, ...]) -> Any:
    """(B, ...) with the caller's leading dimensions."""
    return out.reshape(*leading, *out.shape[1:])


def _as_kind(volume: np.ndarray, like: _arrays.ArrayIn) -> Any:
    """uint16 holds bfloat16, for which NumPy has no dtype: there it becomes float32."""
    if like.is_torch:
        return _arrays.tensor_of(volume)
    return _arrays.bfloat16_to_float32(volume) if volume.dtype == np.uint16 else volume


def _reference(sweep: _sweep.Sweep, given: dict[str, Any], reduce: str, return_mask: bool) -> Any:
    import torch

    module = _dispatch.reference_module(_OP)
    features = []
    for name, checked in (("reference", sweep.reference), ("sources", sweep.sources)):
        wide = _aggregation.as_double(given[name], checked)
        features.append(wide.reshape(sweep.shape.batch, *wide.shape[len(sweep.leading) :]))
    counts = None if sweep.num_views is None else torch.from_numpy(sweep.num_views)
    geometry = (
        torch.from_numpy(sweep.cameras.projection()),
        torch.tensor(sweep.depths).double(),
        counts,
    )
    found = [module.plane_sweep(*features, *geometry, reduce)]
    if return_mask:
        s = sweep.shape
        sizes = ((s.height, s.width), (s.source_height, s.source_width))
        found.append(module.plane_sweep_mask(*geometry, *sizes, reduce == "none"))
    found = [_shaped(x, sweep.leading) for x in found]
    if not any(_arrays.is_torch(x) for x in given.values()):
        found = [x.numpy() for x in found]
    return tuple(found) if return_mask else found[0]


# ---------------------------------------------------------------------- torch: the operator and its gradient


def _with_torch(
    arguments: tuple[Any, ...], return_mask: bool, check_finite: bool, options: tuple[str, int, str]
) -> Any:
    """`options` are the operator's last arguments: reduce, num_threads, implementation."""
    _library.ensure()
    torch = _arrays.torch_module()
    sweep = _sweep.check_tensors(*arguments)
    on_host = sweep.reference.device.type == "cpu" and not _dispatch.traced()
    if check_finite or (on_host and sweep.reference.dtype == torch.float64):
        _tensors.check_finite(
            reference=sweep.reference, sources=sweep.sources
        )  # else the kernel looks
    projection = sweep.rounded(sweep.cameras.projection())
    given = (sweep.reference, sweep.sources, projection, sweep.depths, sweep.num_views)
    if _tensors.wants_gradient(given):
        volume = _library.functions[_OP].apply(*given, *options)
    else:
        volume = torch.ops.pyloc_core.plane_sweep(*given, *options)
    volume = _shaped(volume, sweep.leading)
    if not return_mask:
        return volume
    s, (reduce, *rest) = sweep.shape, options
    sizes = (s.height, s.width, s.source_height, s.source_width)
    mask = torch.ops.pyloc_core.plane_sweep_mask(*given[2:], *sizes, reduce == "none", *rest)
    return volume, _shaped(mask, sweep.leading)


def _chosen(tensor: Any, implementation: str) -> str:
    """What runs the operator on a tensor; float64 takes the plain formula on every device."""
    if str(tensor.dtype) == "torch.float64":
        return "formula"
    return _dispatch.select(_OP, implementation, {"reference": tensor})


def _forward_op(
    reference: Any, sources: Any, projection: Any, depths: Any, num_views: Any,
    reduce: str, num_threads: int, implementation: str,
) -> Any:  # fmt: skip
    chosen = _chosen(reference, implementation)
    given = (reference, sources, projection, depths, num_views)
    if chosen == "native":
        at = _geometry(*given)
        features = _sweep_native.features_of(reference, sources)
        return _arrays.tensor_of(_sweep_native.run(features, at, reduce, num_threads))
    if chosen == "triton":
        return _dispatch.device_module(_OP, chosen).forward(*given, reduce)
    return _dispatch.reference_module(_OP).plane_sweep(*given, reduce)


def _geometry(
    reference: Any, sources: Any, projection: Any, depths: Any, num_views: Any
) -> _sweep_native.Geometry:
    sizes = (reference.shape[2:], sources.shape[3:], reference.shape[1])
    return _sweep_native.geometry_from_tensors(projection, depths, num_views, *sizes)


def _forward_fake(
    reference: Any, sources: Any, projection: Any, depths: Any, num_views: Any, reduce: str, *_: Any
) -> Any:
    views = (sources.shape[1],) if reduce == "none" else ()
    return reference.new_empty(reference.shape[0], *views, depths.shape[1], *reference.shape[2:])


def _backward_op(
    reference: Any, sources: Any, projection: Any, depths: Any, num_views: Any, d_volume: Any,
    reduce: str, num_threads: int, implementation: str,
) -> tuple[Any, ...]:  # fmt: skip
    chosen = _chosen(reference, implementation)
    given = (reference, sources, projection, depths, num_views)
    if chosen == "native":
        slope = d_volume.float().contiguous().numpy()
        features = _sweep_native.features_of(reference, sources)
        found = _sweep_native.run_backward(features, _geometry(*given), slope, reduce, num_threads)
        return tuple(map(_arrays.tensor_of, found))
    if chosen == "triton":
        return tuple(_dispatch.device_module(_OP, chosen).backward(*given, d_volume, reduce))
    return tuple(_dispatch.reference_module(_OP).plane_sweep_backward(*given, d_volume, reduce))


def _backward_fake(reference: Any, sources: Any, *_: Any) -> tuple[Any, ...]:
    return reference.new_empty(reference.shape), sources.new_empty(sources.shape)


def _mask_op(
    projection: Any, depths: Any, num_views: Any, H: int, W: int, Hs: int, Ws: int,
    per_view: bool, num_threads: int, implementation: str,
) -> Any:  # fmt: skip
    chosen = _chosen(projection, implementation)
    if chosen == "native":
        sizes = ((H, W), (Hs, Ws), 1)
        at = _sweep_native.geometry_from_tensors(projection, depths, num_views, *sizes)
        return _arrays.tensor_of(_sweep_native.run_mask(at, per_view, num_threads))
    if chosen == "triton":
        module = _dispatch.device_module(_OP, chosen)
        return module.mask(projection, depths, num_views, (H, W), (Hs, Ws), per_view)
    module = _dispatch.reference_module(_OP)
    return module.plane_sweep_mask(projection, depths, num_views, (H, W), (Hs, Ws), per_view)


def _mask_fake(
    projection: Any, depths: Any, num_views: Any, H: int, W: int, Hs: int, Ws: int,
    per_view: bool, *_: Any,
) -> Any:  # fmt: skip
    views = (projection.shape[1],) if per_view else ()
    sizes = (projection.shape[0], *views, depths.shape[1], H, W)
    return projection.new_empty(sizes, dtype=_arrays.torch_module().bool)


_GEOMETRY = "Tensor projection, Tensor depths, Tensor? num_views, "
_ARGUMENTS = "(Tensor reference, Tensor sources, " + _GEOMETRY
_OPTIONS = "str reduce, int num_threads, str implementation) "
_library.define(_OP, _ARGUMENTS + _OPTIONS + "-> Tensor", run=_forward_op, fake=_forward_fake)
_library.define(
    _OP + "_backward",
    _ARGUMENTS + "Tensor d_volume, " + _OPTIONS + "-> (Tensor, Tensor)",
    run=_backward_op,
    fake=_backward_fake,
)
_library.define(
    _OP + "_mask",
    f"({_GEOMETRY}int H, int W, int Hs, int Ws, bool per_view, int num_threads, "
    "str implementation) -> Tensor",
    run=_mask_op,
    fake=_mask_fake,
)
_library.define_gradient(_OP, tensors=5)
