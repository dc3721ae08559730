# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The neural reprojection error as a training loss, without storing a correlation map."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyloc_core import (
    _arrays,
    _dispatch,
    _levels,
    _library,
    _native,
    _nre_operators,  # noqa: F401  defines them
    _tensors,
)
from pyloc_core._nre_arguments import (
    Options,
    as_options,
    check_shapes,
    check_targets,
    valid_counts,
)

_DTYPES = ("float32", "float16", "bfloat16", "float64")
_TARGET_DTYPES = ("float32", "float64")


def nre_loss(
    descriptors: Any,
    features: Any,
    targets: Any,
    *,
    temperature: float = 1.0,
    origin: tuple[float, float] = (0.0, 0.0),
    num_valid: Any = None,
    outside: str = "raise",
    reduction: str = "none",
    check_finite: bool = False,
    num_threads: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Negative log-likelihood of target points under correspondence maps, in nats.

    With c_n(p) = <h_n, F(p)> / T and C_n = softmax over all cells of c_n, the loss of point n is
    -ln C_n read bilinearly at its target: logsumexp over p of c_n(p), minus the weighted sum of the
    four c_n around the target (the weights sum to one, so that the log-sum-exp enters once). At
    least 0; ln(H W) where all correlations are equal. For torch tensors it is differentiable, once, with
    respect to descriptors, features and targets.

    Cells are streamed in both directions: beside arguments, result and gradients a call holds
    O(B N D + H W) values, never N H W. Accumulation is float32, float64 for float64 arguments.

    Args:
        descriptors: (N, D), or (B, N, D), float32, float16, bfloat16 or float64; other real dtypes
            become float32. Where either of the two is float64 both are taken as such. Under
            torch.autocast they are cast to its dtype, as the operands of a matrix product are.
        features: (D, H, W), or (B, D, H, W), dense features. Channels-last memory is read as it lies.
        targets: (N, 2), or (B, N, 2), map points (x, y); the centre of cell [row, col] is the point
            (col, row) + origin. The derivative on the last row and column is the one from inside.
        temperature: T > 0.
        origin: (x0, y0), the map point of cell [0, 0], for maps padded beyond the image.
        num_valid: (B,) integers (one integer without B), the points of each item that exist; those
            after them are padding, whose values do not matter. Results are those without padding.
        outside: what happens to targets outside the map, that is not between the centres of the
            outermost cells, and to NaN: "raise" refuses them; "mask" gives loss 0 and gradients 0 and
            leaves them out of the mean. On a device, and in code that torch.compile traces, values are
            looked at only with `check_finite`: there, with "raise", a bad target gives NaN for its
            own loss and for the gradients of its descriptor and target, and nothing to the features.
        reduction: "none" gives the loss of every point (padding 0), "sum" their sum, "mean" the mean
            over all points that are neither padding nor masked (0 where there are none).
        check_finite: look at the values of tensors on a device too, which waits for the device.
        num_threads: threads to use on the CPU; the result does not depend on it.
        implementation: "native", "triton" or "reference" (torch, float64, stores N H W values).

    Returns:
        (N,) or (B, N), or a scalar; float32, float64 for float64 arguments (and from the reference).

    Raises:
        ValueError: shapes that do not fit, D, H or W of 0, targets outside (see `outside`), NaN or
            infinite descriptors or features, magnitudes whose products leave the dtype, options out of
            range.
        TypeError: something that is no array, or an array that holds no real numbers.

    Source: Germain, Lepetit, Bourmaud, "Neural Reprojection Error: Merging Feature Learning and
    Camera Pose Estimation" (2021), thesis Eq. 4.10.
    """
    options = as_options(temperature, origin, outside, reduction, implementation, num_threads)
    arrays = {"descriptors": descriptors, "features": features, "targets": targets}
    if any(_arrays.is_torch(x) for x in arrays.values()) or _dispatch.traced():
        return _tensor_loss(arrays, num_valid, options, check_finite)
    return _array_loss(arrays, num_valid, options)


# NumPy in, NumPy out.


def _array_loss(arrays: dict[str, Any], num_valid: Any, options: Options) -> Any:
    if options.implementation not in ("", "native"):
        return _array_loss_through_torch(arrays, num_valid, options)
    d, f, t = (
        _arrays.as_array(x, name, dtype=_DTYPES if name != "targets" else "float64", finite=False)
        for name, x in arrays.items()
    )
    check_shapes(d.shape, f.shape, t.shape)
    if "float64" in (d.dtype, f.dtype):
        d, f = (_arrays.as_array(_wide(x), "operand", finite=False) for x in (d, f))
    batched = len(d.shape) == 3
    batch, count, depth = d.shape if batched else (1, *d.shape)
    height, width = f.shape[-2:]
    cells = height * width
    xy = t.data.reshape(batch, count, 2) - np.array(options.origin)
    valid = None if num_valid is None else valid_counts(num_valid, batch, count, batched)
    if not options.mask_outside:
        check_targets(xy, (height, width), valid, options, batched)
    loss, counted = np.empty((batch, count)), np.empty((batch, count), np.bool_)
    statistics, target_jacobian = np.empty((batch, count, 2)), np.empty((batch, count, 2))
    problem = (
        _arrays.pointer(d.data), d.code, _arrays.pointer(f.data), f.code, depth * cells, cells, 1,
        _arrays.pointer(xy), 0 if valid is None else _arrays.pointer(valid),
        batch, count, depth, height, width,
        options.temperature, options.mask_outside, options.num_threads,
    )  # fmt: skip
    p_loss, p_statistics, p_counted, p_target = (
        _arrays.pointer(a) for a in (loss, statistics, counted, target_jacobian)
    )
    status = _native.nre_loss_forward(problem, p_loss, p_statistics, p_counted, p_target, 0)
    _levels.raise_status(status)
    kind = np.float64 if d.dtype == "float64" else np.float32
    if options.reduction == "none":
        return (loss if batched else loss[0]).astype(kind)
    total = loss.sum()
    return kind(total if options.reduction == "sum" else total / max(int(counted.sum()), 1))


def _wide(x: _arrays.ArrayIn) -> Any:
    if x.dtype == "bfloat16":
        return _arrays.bfloat16_to_float32(x.data).astype(np.float64)
    return x.data.astype(np.float64)


def _array_loss_through_torch(arrays: dict[str, Any], num_valid: Any, options: Options) -> Any:
    _dispatch.use_reference("nre_loss", options.implementation)
    if options.implementation != "reference":
        raise TypeError(f"nre_loss: implementation {options.implementation!r} takes torch tensors")
    import torch

    tensors = {}
    for name, x in arrays.items():
        checked = _arrays.as_array(x, name, dtype=_DTYPES, finite=False)
        data = _wide(checked) if checked.dtype == "bfloat16" else np.array(checked.data)
        tensors[name] = torch.from_numpy(data)
    found = _tensor_loss(tensors, num_valid, options, False).numpy()
    return found if found.ndim else found[()]


# torch tensors: two operators without gradients, and an autograd.Function around them.


def _tensor_loss(
    arrays: dict[str, Any], num_valid: Any, options: Options, check_finite: bool
) -> Any:
    _prepare()
    import torch

    tensors = {
        name: _tensors.check(x, name, dtype=_DTYPES if name != "targets" else _TARGET_DTYPES)
        for name, x in arrays.items()
    }
    d, f, t = _one_precision(*tensors.values())
    check_shapes(tuple(d.shape), tuple(f.shape), tuple(t.shape))
    batched = d.ndim == 3
    if not batched:
        d, f, t = d[None], f[None], t[None]
    valid = _valid_tensor(num_valid, t, batched)
    implementation = options.implementation
    if not _dispatch.traced():
        implementation = _dispatch.select("nre_loss", implementation, tensors)
        if d.device.type == "cpu" or check_finite:
            _check_values(d, f, t, valid, options, batched)
    if implementation == "reference":
        loss, counted = _reference(d, f, t, valid, options)
    else:
        needed = torch.is_grad_enabled() and d.requires_grad
        loss, counted = _Function.apply(
            d, f, t, valid, options.temperature, list(options.origin), options.mask_outside,
            needed, implementation, options.num_threads,
        )  # fmt: skip
    if options.reduction == "none":
        return loss if batched else loss[0]
    total = loss.sum()
    return total if options.reduction == "sum" else total / counted.sum().clamp(min=1)


def _one_precision(d: Any, f: Any, t: Any) -> tuple[Any, Any, Any]:
    """Descriptors and features in the dtypes that they meet in."""
    import torch

    device = d.device.type
    if torch.is_autocast_enabled(device) and torch.float64 not in (d.dtype, f.dtype):
        dtype = torch.get_autocast_dtype(device)
        return d.to(dtype), f.to(dtype), t
    if d.dtype != f.dtype:
        dtype = torch.promote_types(d.dtype, f.dtype)
        return d.to(dtype), f.to(dtype), t
    return d, f, t


def _valid_tensor(num_valid: Any, targets: Any, batched: bool) -> Any:
    """(B,) int64 on the targets' device, or None. Values on a device are not looked at."""
    import torch

    if num_valid is None:
        return None
    batch, count = targets.shape[:2]
    if _dispatch.traced() and not _arrays.is_torch(num_valid):
        num_valid = torch.as_tensor(num_valid, device=targets.device)
    if not _arrays.is_torch(num_valid) or (
        num_valid.device.type == "cpu" and not _dispatch.traced()
    ):
        counts = valid_counts(num_valid, batch, count, batched)
        return _tensors.on_device(counts, "num_valid", targets.device)
    if num_valid.is_floating_point() or num_valid.dtype == torch.bool:
        raise TypeError(f"num_valid must hold integers, got dtype {num_valid.dtype}")
    if num_valid.numel() != batch or num_valid.ndim > 1:
        raise ValueError(f"num_valid must have shape ({batch},), got {tuple(num_valid.shape)}")
    if num_valid.device != targets.device:
        raise ValueError(f"num_valid is on {num_valid.device}, targets are on {targets.device}")
    return num_valid.reshape(-1).to(torch.int64).clamp(0, count)


def _check_values(d: Any, f: Any, t: Any, valid: Any, options: Options, batched: bool) -> None:
    if d.device.type != "cpu" or options.implementation == "reference":
        _tensors.check_finite(descriptors=d, features=f)
    if not options.mask_outside:
        xy = t.detach().cpu().double().numpy() - np.array(options.origin)
        counts = None if valid is None else valid.cpu().numpy()
        check_targets(xy, tuple(f.shape[2:]), counts, options, batched)


def _reference(d: Any, f: Any, t: Any, valid: Any, options: Options) -> tuple[Any, Any]:
    import torch

    module = _dispatch.reference_module("nre_loss")
    xy = t.double() - torch.tensor(options.origin, dtype=torch.float64)
    counted = torch.ones(t.shape[:2], dtype=torch.bool)
    if valid is not None:
        counted = torch.arange(t.shape[1]) < valid[:, None]
    if options.mask_outside:
        counted = counted & module.inside_map(xy, tuple(f.shape[2:]))
    return module.nre_loss(d.double(), f.double(), xy, options.temperature, counted), counted


_Function: Any = None


def _prepare() -> bool:
    """Register the operators and define the autograd.Function, when the first tensor comes."""
    global _Function
    if _Function is None:
        _Function = _define_function()
    return _library.ensure()


_prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _define_function() -> Any:
    import torch

    class NreLoss(torch.autograd.Function):
        """Loss (B, N) and which points count, with the gradients of `nre_loss_backward`."""

        @staticmethod
        def forward(  # type: ignore[override]
            ctx: Any, d: Any, f: Any, t: Any, valid: Any, temperature: float, origin: list[float],
            mask_outside: bool, jacobian: bool, implementation: str, num_threads: int,
        ) -> Any:  # fmt: skip
            rest = temperature, origin, mask_outside
            loss, statistics, counted, by_target, by_descriptor = (
                torch.ops.pyloc_core.nre_loss_forward(
                    d, f, t, valid, *rest, jacobian, implementation, num_threads
                )
            )
            ctx.save_for_backward(d, f, t, valid, statistics, by_target, by_descriptor)
            ctx.rest = (*rest, implementation, num_threads)
            ctx.mark_non_differentiable(counted)
            return loss, counted

        @staticmethod
        def backward(ctx: Any, loss_gradient: Any, _: Any) -> Any:  # type: ignore[override]
            if not _dispatch.traced() and torch.is_grad_enabled():  # create_graph=True
                raise RuntimeError(
                    "nre_loss can be differentiated once; implementation='reference' gives second "
                    "derivatives"
                )
            d, f, t, valid, statistics, by_target, by_descriptor = ctx.saved_tensors
            by_d = by_f = by_t = None
            if ctx.needs_input_grad[0]:
                by_d = (loss_gradient[..., None] * by_descriptor).to(d.dtype)
            if ctx.needs_input_grad[1]:
                by_f = torch.ops.pyloc_core.nre_loss_backward(
                    loss_gradient, statistics, d, f, t, valid, *ctx.rest
                )
            if ctx.needs_input_grad[2]:
                by_t = (loss_gradient[..., None] * by_target).to(t.dtype)
            return by_d, by_f, by_t, *[None] * 7

    return NreLoss
