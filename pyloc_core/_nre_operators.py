# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""torch.ops.pyloc_core.nre_loss_forward and nre_loss_backward, which have no gradients themselves.

The forward operator gives, beside the loss, what the backward pass needs of it: `statistics` (B, N, 2), the
softmax of every point as its largest logit and the ln of its sum; `counted` (B, N), False for masked points
and padding; and the derivatives of each loss by its own target and descriptor, which cost the forward pass
less than a second reading of the map would. So the backward operator has the features alone to do.
"""

from __future__ import annotations

from typing import Any

from pyloc_core import _arrays, _dispatch, _levels, _library, _native


def _run_forward(
    d: Any, f: Any, t: Any, valid: Any, temperature: float, origin: list[float],
    mask_outside: bool, jacobian: bool, implementation: str, num_threads: int,
) -> Any:  # fmt: skip
    arrays = {"descriptors": d, "features": f, "targets": t}
    chosen = _dispatch.select("nre_loss", implementation, arrays)
    if chosen != "native":
        launcher = _dispatch.device_module("nre_loss", chosen).forward
        return launcher(d, f, t, valid, temperature, origin, mask_outside, jacobian)
    import torch

    options = temperature, mask_outside, num_threads
    problem, held = _native_problem(d, f, t, valid, origin, options)
    loss, _, counted, _, by_descriptor = results = _fake_forward(
        d, f, t, valid, temperature, origin, mask_outside, jacobian, implementation, num_threads
    )
    wide = [torch.empty(r.shape, dtype=torch.float64) for r in results[:4:3]]  # loss, by_target
    statistics = results[1]
    status = _native.nre_loss_forward(
        problem, wide[0].data_ptr(), statistics.data_ptr(), counted.data_ptr(), wide[1].data_ptr(),
        by_descriptor.data_ptr() if jacobian else 0,
    )  # fmt: skip
    _levels.raise_status(status)
    del held
    return wide[0].to(loss.dtype), statistics, counted, wide[1].to(loss.dtype), by_descriptor


def _fake_forward(
    d: Any, f: Any, t: Any, valid: Any, temperature: float, origin: list[float],
    mask_outside: bool, jacobian: bool, implementation: str, num_threads: int,
) -> Any:  # fmt: skip
    import torch

    batch, count, depth = d.shape
    kind = torch.float64 if d.dtype == torch.float64 else torch.float32
    return (
        d.new_empty((batch, count), dtype=kind),
        d.new_empty((batch, count, 2), dtype=torch.float64),
        d.new_empty((batch, count), dtype=torch.bool),
        d.new_empty((batch, count, 2), dtype=kind),
        d.new_empty((batch, count, depth) if jacobian else (0,), dtype=kind),
    )


def _run_backward(
    loss_gradient: Any, statistics: Any, d: Any, f: Any, t: Any, valid: Any, temperature: float,
    origin: list[float], mask_outside: bool, implementation: str, num_threads: int,
) -> Any:  # fmt: skip
    arrays = {"loss gradient": loss_gradient, "descriptors": d, "features": f, "targets": t}
    chosen = _dispatch.select("nre_loss", implementation, arrays)
    gradient = _fake_backward(loss_gradient, statistics, d, f)
    if chosen != "native":
        launcher = _dispatch.device_module("nre_loss", chosen).backward
        launcher(loss_gradient, statistics, d, f, t, valid, temperature, origin, gradient)
        return gradient
    options = temperature, mask_outside, num_threads
    problem, held = _native_problem(d, f, t, valid, origin, options)
    weights = loss_gradient.double().contiguous()
    fits = _cell_strides(gradient) is not None
    target = gradient if fits else gradient.new_empty(gradient.shape)
    status = _native.nre_loss_backward(
        problem, weights.data_ptr(), statistics.contiguous().data_ptr(), target.data_ptr(),
        *(_cell_strides(target) or ()),
    )  # fmt: skip
    _levels.raise_status(status)
    del held
    return gradient if target is gradient else gradient.copy_(target)


def _fake_backward(loss_gradient: Any, statistics: Any, d: Any, f: Any, *_: Any) -> Any:
    import torch

    return torch.empty_like(f)


def _cell_strides(f: Any) -> tuple[int, int, int] | None:
    """Strides of items, channels and cells of (B, D, H, W), if one stride serves all cells."""
    item, plane, row, column = f.stride()
    if f.shape[3] == 1:
        column = row
    if f.shape[2] > 1 and row != f.shape[3] * column:
        return None
    return item, plane, column


def _native_problem(
    d: Any, f: Any, t: Any, valid: Any, origin: list[float], options: tuple[float, bool, int]
) -> tuple[Any, Any]:
    """The tuple of bindings/nre_loss.cpp, and the tensors that it points to."""
    import torch

    d = d.detach().contiguous()
    f = f.detach() if _cell_strides(f) else f.detach().contiguous()
    xy = t.detach().to(torch.float64) - torch.tensor(origin, dtype=torch.float64)
    valid = None if valid is None else valid.contiguous()
    temperature, mask_outside, num_threads = options
    codes = [_arrays.DTYPE_CODES[str(x.dtype).removeprefix("torch.")] for x in (d, f)]
    problem = (
        d.data_ptr(), codes[0], f.data_ptr(), codes[1], *(_cell_strides(f) or ()),
        xy.data_ptr(), 0 if valid is None else valid.data_ptr(),
        *d.shape, *f.shape[2:], temperature, mask_outside, num_threads,
    )  # fmt: skip
    return problem, (d, f, xy, valid)


_library.define(
    "nre_loss_forward",
    "(Tensor descriptors, Tensor features, Tensor targets, Tensor? num_valid, float temperature, "
    "float[] origin, bool mask_outside, bool jacobian, str implementation, int num_threads) -> "
    "(Tensor loss, Tensor statistics, Tensor counted, Tensor target_jacobian, "
    "Tensor descriptor_jacobian)",
    run=_run_forward,
    fake=_fake_forward,
)
_library.define(
    "nre_loss_backward",
    "(Tensor loss_gradient, Tensor statistics, Tensor descriptors, Tensor features, "
    "Tensor targets, Tensor? num_valid, float temperature, float[] origin, bool mask_outside, "
    "str implementation, int num_threads) -> Tensor",
    run=_run_backward,
    fake=_fake_backward,
)
