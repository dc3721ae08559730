# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""P3P: the up to four camera poses that see three known points along three known directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyloc_core import _arrays, _dispatch, _library, _native, _tensors
from pyloc_core._arrays import ArrayIn
from pyloc_core._dispatch import reference_module, use_reference


@dataclass(frozen=True)
class P3PSolutions:
    """Poses of B problems, four slots each.

    Attributes:
        cam_from_world: (B, 4, 3, 4) `[R | t]`, float64 or float32; zeros in empty slots.
        valid: (B, 4) bool, which slots are solutions. They come first, by rising depth (distance
            along the bearing) of the first point.
    """

    cam_from_world: Any
    valid: Any

    def __len__(self) -> int:
        return len(self.valid)


def p3p(
    bearings: Any,
    points3d: Any,
    *,
    out: P3PSolutions | None = None,
    num_threads: int | None = None,
    check_finite: bool = False,
    implementation: str | None = None,
) -> P3PSolutions:
    """All poses (R, t) with d_i f_i = R X_i + t and depths d_i > 0, for i = 1, 2, 3.

    Args:
        bearings: (B, 3, 3), rows are the directions f of three image points in the camera frame (x right,
            y down, z forward). Normalised here; a zero bearing has no solution.
        points3d: (B, 3, 3), rows are the points X in the world frame.
        out: where to write the result: contiguous, writable, (B, 4, 3, 4) of the result's dtype and
            (B, 4) bool. Saves the allocation; returned as it is.
        num_threads: at most so many threads; the result has the same bits for any number.
        check_finite: refuse NaN and infinity on a device too, which waits for it. Without it a problem
            that holds them has no solution there. NumPy arrays and CPU tensors are always checked.
        implementation: "native" (the CPU's), "cuda" (the default for CUDA tensors) or "reference"
            (torch, float64).

    Returns:
        P3PSolutions of the caller's kind, in units of `points3d`. float32 where both inputs are float32,
        else float64. Collinear or coinciding points have no valid solution. A double solution fills two
        slots. Depth is along the ray: a bearing with z < 0 gives a point behind the image plane.

    Raises:
        TypeError: not numbers, or `out` not a P3PSolutions.
        ValueError: wrong shape, NaN or infinity in the inputs, unequal lengths, inputs on different
            devices, an `out` that does not fit or overlaps an input.

    Source: conic pencil of Persson and Nordberg, "Lambda Twist: An Accurate Fast Robust Perspective Three
    Point (P3P) Solver" (ECCV 2018), and Ding et al., "Revisiting the P3P Problem" (CVPR 2023). float64
    positions lose nothing to a distant world origin; float32 ranks hypotheses and does not finish a pose.
    """
    threads = _arrays.thread_count(num_threads)
    inputs = {"bearings": bearings, "points3d": points3d}
    if _dispatch.on_tensors("p3p", implementation, inputs):
        return _on_tensors(inputs, out, threads, check_finite, implementation or "")
    accepted = ("float64", "float32")
    f = _arrays.as_array(bearings, "bearings", shape=("B", 3, 3), dtype=accepted)
    x = _arrays.as_array(points3d, "points3d", shape=("B", 3, 3), dtype=accepted)
    _arrays.check_equal_length(len(f.data), "bearings", len(x.data), "points3d")
    if f.dtype != x.dtype:
        f = _arrays.as_array(bearings, "bearings", dtype="float64")
        x = _arrays.as_array(points3d, "points3d", dtype="float64")
    poses, valid = _outputs(out, f, x)
    if use_reference("p3p", implementation):
        _run_reference(f, x, poses, valid)
    else:
        _native.p3p(
            _arrays.pointer(f.data),
            _arrays.pointer(x.data),
            len(f.data),
            _arrays.pointer(poses),
            _arrays.pointer(valid),
            f.code,
            threads,
        )
    if out is not None:
        return out
    return P3PSolutions(_arrays.like(poses, f, x), _arrays.like(valid, f, x))


def _outputs(out: P3PSolutions | None, f: ArrayIn, x: ArrayIn) -> tuple[Any, Any]:
    """The arrays to fill: fresh, or the caller's after checks."""
    count = len(f.data)
    if out is None:
        return np.empty((count, 4, 3, 4), f.dtype), np.empty((count, 4), bool)
    if not isinstance(out, P3PSolutions):
        raise TypeError(f"out must be a P3PSolutions, got {type(out).__name__}")
    poses = _arrays.as_array(
        out.cam_from_world,
        "out.cam_from_world",
        shape=(count, 4, 3, 4),
        dtype=f.dtype,
        finite=False,
        writable=True,
    ).data
    valid = _arrays.as_array(
        out.valid, "out.valid", shape=(count, 4), dtype="bool", finite=False, writable=True
    ).data
    arrays = {"bearings": f.data, "points3d": x.data, "out.valid": valid}
    for name, other in arrays.items():
        if np.may_share_memory(poses, other):
            raise ValueError(f"out.cam_from_world overlaps {name}")
        if name != "out.valid" and np.may_share_memory(valid, other):
            raise ValueError(f"out.valid overlaps {name}")
    return poses, valid


def _run_reference(f: ArrayIn, x: ArrayIn, poses: Any, valid: Any) -> None:
    module = reference_module("p3p")
    torch = module.torch
    result, mask = module.p3p(torch.from_numpy(f.data.copy()), torch.from_numpy(x.data.copy()))
    poses[...] = result.numpy()
    valid[...] = mask.numpy()


# ---------------------------------------------------------------------- torch.ops.pyloc_core.p3p


def _on_tensors(
    inputs: dict[str, Any],
    out: P3PSolutions | None,
    threads: int,
    check_finite: bool,
    implementation: str,
) -> P3PSolutions:
    torch = _arrays.torch_module()
    _library.ensure()
    accepted = ("float64", "float32")
    f, x = (
        _tensors.check(v, k, shape=("B", 3, 3), dtype=accepted).detach() for k, v in inputs.items()
    )
    x = _tensors.check(x, "points3d", dtype=accepted, device=f.device)
    _arrays.check_equal_length(f.shape[0], "bearings", x.shape[0], "points3d")
    if f.dtype != x.dtype:
        f, x = f.double(), x.double()
    if check_finite:
        _tensors.check_finite(bearings=f, points3d=x)
    if out is None:
        return P3PSolutions(*torch.ops.pyloc_core.p3p(f, x, threads, implementation))
    if not isinstance(out, P3PSolutions):
        raise TypeError(f"out must be a P3PSolutions, got {type(out).__name__}")
    poses, valid = out.cam_from_world, out.valid
    for name, tensor, tail in (("cam_from_world", poses, (4, 3, 4)), ("valid", valid, (4,))):
        kind = f.dtype if name == "cam_from_world" else torch.bool
        fits = isinstance(tensor, torch.Tensor) and tensor.shape == (f.shape[0], *tail)
        if (
            not fits
            or tensor.dtype != kind
            or tensor.device != f.device
            or not tensor.is_contiguous()
        ):
            raise ValueError(
                f"out.{name} must be a contiguous {kind} tensor of shape {(f.shape[0], *tail)} on "
                f"{f.device}"
            )
    torch.ops.pyloc_core.p3p_out(f, x, threads, implementation, poses, valid)
    return out


def _run_out(f: Any, x: Any, threads: int, implementation: str, poses: Any, valid: Any) -> None:
    name = _dispatch.select("p3p", implementation, {"bearings": f, "points3d": x})
    if name == "cuda":
        _dispatch.device_module("p3p", name).p3p(f, x, poses, valid)
    elif name == "reference":
        result, mask = reference_module("p3p").p3p(f, x)
        poses.copy_(result)
        valid.copy_(mask)
    else:
        f, x = f.contiguous(), x.contiguous()
        code = _arrays.DTYPE_CODES[str(f.dtype).removeprefix("torch.")]
        arrays = (f.data_ptr(), x.data_ptr(), len(f), poses.data_ptr(), valid.data_ptr())
        _native.p3p(*arrays, code, threads)


def _run(f: Any, x: Any, threads: int, implementation: str) -> tuple[Any, Any]:
    poses, valid = _fake(f, x, threads, implementation)
    _run_out(f, x, threads, implementation, poses, valid)
    return poses, valid


def _fake(f: Any, x: Any, threads: int, implementation: str) -> tuple[Any, Any]:
    torch = _arrays.torch_module()
    return f.new_empty((f.shape[0], 4, 3, 4)), f.new_empty((f.shape[0], 4), dtype=torch.bool)


_INPUTS = "Tensor bearings, Tensor points3d, int num_threads, str implementation"
_library.define("p3p", f"({_INPUTS}) -> (Tensor, Tensor)", run=_run, fake=_fake)
_library.define(
    "p3p_out",
    f"({_INPUTS}, Tensor(a!) cam_from_world, Tensor(b!) valid) -> ()",
    run=_run_out,
    fake=lambda *args: None,
)
