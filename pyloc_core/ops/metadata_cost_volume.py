# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Plane sweep whose matching score a small network finds from features and metadata of every view."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyloc_core import (
    _aggregation,
    _arrays,
    _dispatch,
    _library,
    _metadata,
    _sweep,
    _sweep_native,
    _tensors,
)

_OP = "metadata_cost_volume"


def metadata_cost_volume(
    reference: Any,
    sources: Any,
    K_reference: Any,
    K_sources: Any,
    source_from_reference: Any,
    depths: Any,
    mlp_weights: Any,
    *,
    depth_limits: Any = None,
    num_valid: Any = None,
    scale_invariant: bool = False,
    check_finite: bool = False,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Cost volume of metadata: any number of views, their order without meaning.

    Every sample (source view, plane, cell) has 2 C + 14 values: 0 to C - 1 the source's features at the
    projection of the cell (zero outside the map), the reference's features, whether the point lies in
    front of the source, (its depth in the source - dmin) / dmax, (depth of the plane - dmin) / dmax, the
    inner product of the features where it lies in front, the cosine of the angle between the two rays to
    it, the unit ray of the reference, the unit ray from the source's centre in the reference's frame, and
    three of the poses: sqrt(|t|^2 + R^2) and |t|, each divided by its maximum over the views, with R =
    sqrt(2 (1 - tr / 3)) of the rotation's trace between them. Two hidden layers with LeakyReLU(0.01) make
    a score and a weight logit of them; the volume is the sum of the scores by the softmax of the logits
    over the views. For tensors that need a gradient the result has one for features and weights (first
    order).

    Args:
        reference: (..., C, H, W) float32, float16 or bfloat16.
        sources: (..., V, C, Hs, Ws).
        K_reference: (..., 3, 3) intrinsics in map coordinates (cell centres at integers): see
            scale_intrinsics.
        K_sources: (..., V, 3, 3).
        source_from_reference: (..., V, 3, 4) or (..., V, 4, 4).
        depths: z in the reference camera, (D,), (..., D) or (..., D, H, W), in the units of the poses.
        mlp_weights: (w1, b1, w2, b2, w3, b3) of shapes (h1, 2 C + 14), (h1,), (h2, h1), (h2,), (2, h2),
            (2,), taken as float32. Published: C = 16, h1 = h2 = 32.
        depth_limits: dmin and dmax (..., 2); None: the smallest and the largest of an item's depths.
        num_valid: views that count, from the first on: an int, or integers of the leading shape, 1 to V;
            None for all. The result has the bits of the call without the others.
        scale_invariant: divide translations by the largest of the views before they meet the rotation in
            the pose distance, as the thesis says. The published program does not, so that its volume
            drifts when the unit of length changes; published weights expect that.
        check_finite: on a GPU, refuse NaN and infinite features and weights, which waits for the device;
            CPU arrays are always checked.
        num_threads: threads of the native code; the result does not depend on it.
        implementation: "native" (CPU), "triton", or "reference" (torch, float64, differentiable).

    Returns:
        (..., D, H, W) of the kind and dtype of `reference`. Sums are float32. float64 tensors are
        computed in float64 by the plain formula (for gradient checks); NumPy arrays of float64 are taken
        as float32.

    Raises:
        ValueError: shapes that do not fit, singular intrinsics, depths that are not positive, NaN or
            infinite values, num_valid out of range, a gradient wanted for cameras or depths, arrays on
            different devices.
        TypeError: something that is no array of real numbers.

    Source: Izquierdo, Sayed, Firman, Garcia-Hernando, Turmukhambetov, Civera, Mac Aodha, Brostow, Watson,
    "MVSAnywhere: zero-shot multi-view stereo", CVPR 2025 (section 3.2), after Sayed, Gibson, Watson,
    Prisacariu, Firman, Godard, "SimpleRecon: 3D reconstruction without 3D convolutions", ECCV 2022.
    """
    threads = _arrays.thread_count(num_threads)
    weights = _metadata.weight_list(mlp_weights)
    arrays = {"reference": reference, "sources": sources, "mlp_weights": weights}
    given = (
        reference, sources, K_reference, K_sources, source_from_reference, depths, num_valid
    )  # fmt: skip
    rest = (depth_limits, scale_invariant)
    if _needs_torch(arrays, implementation):
        options = (threads, implementation or "")
        return _with_torch(given, weights, rest, check_finite, options)
    sweep = _sweep.check_arrays(*given)
    numbers = _metadata.weight_arrays(weights, sweep.shape.channels)
    with np.errstate(over="ignore", invalid="ignore"):  # what leaves float32 is refused below
        geometry = _geometry(sweep, *rest)
        rounded = [sweep.rounded(x) for x in geometry]
    if _dispatch.use_reference(_OP, implementation):
        return _reference(sweep, arrays, numbers, geometry)
    b, v, c, _, h, w, hs, ws = sweep.shape
    features = (
        _metadata.reshaped(sweep.reference, (b, c, h, w)),
        _metadata.reshaped(sweep.sources, (b, v, c, hs, ws)),
    )
    native = _metadata.Native(features, (*numbers, *rounded), sweep.num_views, threads)
    out = native.forward(False)[0]
    return _aggregation.as_kind(out.reshape(*sweep.leading, *out.shape[1:]), sweep.reference)


def _needs_torch(arrays: dict[str, Any], implementation: str | None) -> bool:
    if implementation == "reference":
        _dispatch.select(_OP, implementation, arrays)
        return False
    if _dispatch.on_tensors(_OP, implementation, arrays):
        return True
    given = (arrays["reference"], arrays["sources"], *arrays["mlp_weights"])
    tensors = [x for x in given if _arrays.is_torch(x)]
    return bool(tensors) and _aggregation.needs_formula_or_gradient(tensors)


def _geometry(sweep: _sweep.Sweep, depth_limits: Any, scale_invariant: bool) -> tuple[Any, ...]:
    """The tensors behind the weights, up to depth_limits, not rounded."""
    cameras = sweep.cameras
    return (
        cameras.projection(),
        cameras.rays(),
        cameras.centres(),
        _metadata.pose_values(cameras.poses, sweep.num_views, scale_invariant),
        sweep.depths,
        _metadata.limits(depth_limits, sweep.depths, sweep.leading, sweep.shape.batch),
    )


def _reference(
    sweep: _sweep.Sweep, arrays: dict[str, Any], numbers: list[Any], geometry: tuple[Any, ...]
) -> Any:
    import torch

    module = _dispatch.reference_module(_OP)
    b, v, c, _, h, w, hs, ws = sweep.shape
    features = _aggregation.as_double(arrays["reference"], sweep.reference).reshape(b, c, h, w)
    sources = _aggregation.as_double(arrays["sources"], sweep.sources).reshape(b, v, c, hs, ws)
    weights = tuple(
        x.double() if _arrays.is_torch(x) else torch.from_numpy(n).double()
        for x, n in zip(arrays["mlp_weights"], numbers)
    )
    wide = module.Sweep(*(torch.from_numpy(x.astype("float64")) for x in geometry))
    views = None if sweep.num_views is None else torch.from_numpy(sweep.num_views)
    out = module.metadata_cost_volume(features, sources, weights, wide, views)[0]
    out = out.reshape(*sweep.leading, *out.shape[1:])
    given = (arrays["reference"], arrays["sources"], *arrays["mlp_weights"])
    return out if any(_arrays.is_torch(x) for x in given) else out.numpy()


# ---------------------------------------------------------------------- torch: the operator and its gradient


def _with_torch(
    given: tuple[Any, ...], mlp_weights: list[Any], rest: tuple[Any, bool], check_finite: bool,
    options: tuple[int, str],
) -> Any:  # fmt: skip
    """`options` are the operator's last arguments: num_threads, implementation."""
    _library.ensure()
    torch = _arrays.torch_module()
    sweep = _sweep.check_tensors(*given)
    weights = _metadata.weight_tensors(mlp_weights, sweep.shape.channels, sweep.reference)
    on_cpu = sweep.reference.device.type == "cpu" and not _dispatch.traced()
    if check_finite or (on_cpu and sweep.reference.dtype == torch.float64):
        named = {f"mlp_weights[{i}]": x for i, x in enumerate(weights)}
        _tensors.check_finite(reference=sweep.reference, sources=sweep.sources, **named)
    geometry = [sweep.rounded(x) for x in _geometry(sweep, *rest)]
    tensors = (sweep.reference, sweep.sources, *weights, *geometry, sweep.num_views)
    if _tensors.wants_gradient(tensors):
        out = _library.functions[_OP].apply(*tensors, *options)
    else:
        out = torch.ops.pyloc_core.metadata_cost_volume(*tensors, *options)[0]
    return out.reshape(*sweep.leading, *out.shape[1:])


def _chosen(reference: Any, implementation: str) -> str:
    """What runs the operator on a tensor; float64 takes the plain formula on every device."""
    if str(reference.dtype) == "torch.float64":
        return "formula"
    return _dispatch.select(_OP, implementation, {"reference": reference})


def _native(tensors: tuple[Any, ...], threads: int) -> _metadata.Native:
    features = {"dtype": _arrays.FEATURE_DTYPES}
    cameras = ("K_reference, K_sources or source_from_reference",) * 4
    weights = (f"mlp_weights[{i}]" for i in range(6))
    names = (*_metadata.TENSORS[:2], *weights, *cameras, *_metadata.TENSORS[12:])
    arrays = [
        _arrays.as_array(x, name, **(features if i < 2 else {"dtype": "float32"}))  # type: ignore[arg-type]
        for i, (x, name) in enumerate(zip(tensors, names))
    ]
    _sweep.check_depths(arrays[12].data)
    views = _sweep_native.counts_from_tensor(tensors[14], tensors[1].shape[1])
    return _metadata.Native(tuple(arrays[:2]), [x.data for x in arrays[2:]], views, threads)


def _formula(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """The reference's arguments: reference, sources, weights, sweep, num_views."""
    sweep = _dispatch.reference_module(_OP).Sweep(*tensors[8:14])
    return tensors[0], tensors[1], tensors[2:8], sweep, tensors[14]


def _forward_op(*arguments: Any) -> tuple[Any, ...]:
    *given, threads, implementation = arguments
    tensors = tuple(given)
    chosen = _chosen(tensors[0], implementation)
    if chosen == "native":
        torch = _arrays.torch_module()
        volume, log_sum = (torch.from_numpy(x) for x in _native(tensors, threads).forward(True))
        return volume.to(tensors[0].dtype), log_sum
    if chosen == "triton":
        return tuple(_dispatch.device_module(_OP, chosen).forward(*tensors))
    volume, log_sum = _dispatch.reference_module(_OP).metadata_cost_volume(*_formula(tensors))
    return volume, log_sum.float()


def _forward_fake(*arguments: Any) -> tuple[Any, ...]:
    reference, depths = arguments[0], arguments[12]
    b, _, height, width = reference.shape
    size = (b, depths.shape[1], height, width)
    torch = _arrays.torch_module()
    return reference.new_empty(size), reference.new_empty(size, dtype=torch.float32)


def _backward_op(*arguments: Any) -> tuple[Any, ...]:
    *given, volume, log_sum, d_volume, threads, implementation = arguments
    tensors = tuple(given)
    chosen = _chosen(tensors[0], implementation)
    if chosen == "native":
        torch = _arrays.torch_module()
        native = _native(tensors, threads)
        kept = None  # a rounded volume is not enough to go on from
        if volume.dtype == torch.float32:
            kept = (volume.contiguous().numpy(), log_sum.contiguous().numpy())
        found = native.backward(kept, d_volume.float().contiguous().numpy())
        return tuple(torch.from_numpy(g).to(x.dtype) for g, x in zip(found, tensors))
    if chosen == "triton":
        module = _dispatch.device_module(_OP, chosen)
        return tuple(module.backward(*tensors, volume, log_sum, d_volume))
    module = _dispatch.reference_module(_OP)
    return tuple(module.metadata_cost_volume_backward(*_formula(tensors), d_volume))


def _backward_fake(*arguments: Any) -> tuple[Any, ...]:
    return tuple(x.new_empty(x.shape) for x in arguments[:8])


_ARGUMENTS = "(" + "".join(f"Tensor {name}, " for name in _metadata.TENSORS) + "Tensor? num_views, "
_OPTIONS = "int num_threads, str implementation) "
_library.define(
    _OP,
    _ARGUMENTS + _OPTIONS + "-> (Tensor, Tensor)",
    run=_forward_op,
    fake=_forward_fake,
)
_library.define(
    _OP + "_backward",
    _ARGUMENTS
    + "Tensor volume, Tensor log_sum, Tensor d_volume, "
    + _OPTIONS
    + "-> ("
    + ", ".join(["Tensor"] * 8)
    + ")",
    run=_backward_op,
    fake=_backward_fake,
)
_library.define_gradient(_OP, tensors=15, keep_result=True)
