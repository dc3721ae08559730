# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the sweep operators share: their arguments, checked, and the cameras as the kernels take them.

Letters: B batch, V source views, C channels, D planes, H W reference map, Hs Ws source maps. All leading
dimensions are one here. A cell (x, y) of the reference at depth d lies in a source at q = M (x, y, 1) +
m / d, with M = K_s R K_r^-1 and m = K_s t: made in float64, rounded once.

NumPy arrays and CPU tensors have their values looked at. On a GPU, and while torch.compile traces, shapes
and dtypes alone are: nothing waits for the device. Cameras and depths may stay on the host, where they are
cheap to make, while the features are on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pyloc_core import _aggregation, _arrays, _dispatch, _tensors

_DTYPES = (*_arrays.FEATURE_DTYPES, "float64")
# Below this |det K| / (product of the rows' lengths) intrinsics have no inverse worth the name.
_SINGULAR = 1e-12
_SMALLEST_DEPTH = float(np.finfo(np.float32).tiny)  # its inverse is finite


class SweepShape(NamedTuple):
    """B, V, C, D, H, W, Hs, Ws."""

    batch: int
    views: int
    channels: int
    planes: int
    height: int
    width: int
    source_height: int
    source_width: int


class Cameras(NamedTuple):
    """float64: K_reference (B, 3, 3), K_sources (B, V, 3, 3), source_from_reference (B, V, 3, 4)."""

    reference: Any
    sources: Any
    poses: Any

    def projection(self) -> Any:
        """[M | m] (B, V, 3, 4)."""
        both = self.sources @ self.poses
        turned = both[..., :3] @ inverse(self.reference)[:, None]
        return _concatenate(turned, both[..., 3:])

    def rays(self) -> Any:
        """K_r^-1 (B, 3, 3): times (x, y, 1), the ray of a cell with z = 1."""
        return inverse(self.reference)

    def centres(self) -> Any:
        """Centre of every source camera in the frame of the reference (B, V, 3): -R^T t."""
        return -(self.poses[..., None, :, 3] @ self.poses[..., :3])[..., 0, :]


@dataclass(frozen=True)
class Sweep:
    """Checked arguments. NumPy path: `reference` and `sources` are ArrayIn, the others arrays; torch:
    tensors throughout, the features' gradients kept.

    Attributes:
        reference, sources: (B, C, H, W) and (B, V, C, Hs, Ws), of one dtype.
        cameras: float64, on the host or on the device of the features.
        depths: (B, D) or (B, D, H, W); float32, or float64 beside features of float64.
        num_views: (B,) int64, or None for all.
        leading: the caller's leading dimensions.
    """

    reference: Any
    sources: Any
    cameras: Cameras
    depths: Any
    num_views: Any
    shape: SweepShape
    leading: tuple[int, ...]

    def rounded(self, geometry: Any) -> Any:
        """A part of the geometry as the operators take it: float32 (float64 beside float64 features),
        on the device of the features."""
        if isinstance(geometry, np.ndarray):
            return np.ascontiguousarray(geometry, np.float32)
        wide = str(self.reference.dtype) == "torch.float64"
        out = geometry if wide else geometry.float()
        return _moved(out, "cameras", self.reference.device)


# ---------------------------------------------------------------------- shapes


def check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> SweepShape:
    """From the shapes of reference, sources, K_reference, K_sources, source_from_reference and depths:
    B, V, C, D, H, W, Hs, Ws, or a ValueError that names the argument."""
    reference, sources = shapes["reference"], shapes["sources"]
    if len(reference) < 3:
        raise ValueError(f"reference must have shape (..., C, H, W), got {reference}")
    leading, (channels, height, width) = reference[:-3], reference[-3:]
    if len(sources) != len(leading) + 4 or sources[:-4] != leading or sources[-3] != channels:
        form = _text(*leading, "V", channels, "Hs", "Ws")
        raise ValueError(f"sources must have shape {form} beside reference, got {sources}")
    for name, sizes in (("reference", reference[-3:]), ("sources", sources[-4:])):
        if 0 in sizes:
            raise ValueError(f"{name} must have no size of 0 but the batch's, got {shapes[name]}")
    if (sources[-2] + 2) * (sources[-1] + 2) >= 2**31:  # kernels number the cells of a map in int32
        raise ValueError(f"sources must have maps of fewer than 2^31 cells, got {sources}")
    views = sources[-4]
    expected = {"K_reference": (*leading, 3, 3), "K_sources": (*leading, views, 3, 3)}
    for name, wanted in expected.items():
        if shapes[name] != wanted:
            raise ValueError(f"{name} must have shape {wanted}, got {shapes[name]}")
    poses = shapes["source_from_reference"]
    if poses not in ((*leading, views, 3, 4), (*leading, views, 4, 4)):
        wanted = (*leading, views, 3, 4)
        raise ValueError(f"source_from_reference must have shape {wanted}, or 4 rows, got {poses}")
    planes = _planes(shapes["depths"], leading, (height, width))
    return SweepShape(math.prod(leading), views, channels, planes, height, width, *sources[-2:])


def _planes(depths: tuple[int, ...], leading: tuple[int, ...], size: tuple[int, int]) -> int:
    """D of depths (D,), (..., D) or (..., D, H, W)."""
    n = len(leading)
    per_cell = len(depths) == n + 3 and depths[:n] == leading and depths[-2:] == size
    if not (len(depths) == 1 or (len(depths) == n + 1 and depths[:n] == leading) or per_cell):
        forms = [_text("D"), _text(*leading, "D"), _text(*leading, "D", *size)]
        raise ValueError(
            f"depths must have shape {' or '.join(dict.fromkeys(forms))}, got {depths}"
        )
    planes = depths[-3] if per_cell else depths[-1]
    if planes == 0:
        raise ValueError(f"depths must have at least one plane, got shape {depths}")
    return planes


def _text(*sizes: int | str) -> str:
    return "(" + ", ".join(map(str, sizes)) + ("," if len(sizes) == 1 else "") + ")"


# ---------------------------------------------------------------------- cameras


def inverse(matrix: Any) -> Any:
    """Inverse of matrices (..., 3, 3) by cofactors: no solver, so that a device is not waited for."""
    cofactors = _cross(_rolled(matrix, -1), _rolled(matrix, -2))
    determinant = (matrix[..., :1, :] * cofactors[..., :1, :]).sum(-1)[..., None]
    return cofactors.swapaxes(-1, -2) / determinant


def _rolled(matrix: Any, by: int) -> Any:
    return np.roll(matrix, by, -2) if isinstance(matrix, np.ndarray) else matrix.roll(by, -2)


def _cross(a: Any, b: Any) -> Any:
    if isinstance(a, np.ndarray):
        return np.cross(a, b)
    return _arrays.torch_module().linalg.cross(a, b)


def _concatenate(a: Any, b: Any) -> Any:
    if isinstance(a, np.ndarray):
        return np.concatenate([a, b], -1)
    return _arrays.torch_module().cat([a, b], -1)


def check_intrinsics(matrix: np.ndarray, name: str) -> None:
    """ValueError for matrices (..., 3, 3) that have no inverse; they are finite."""
    scale = np.linalg.norm(matrix, axis=-1).prod(-1)
    if not (np.abs(np.linalg.det(matrix)) > _SINGULAR * scale).all():
        raise ValueError(f"{name} must be invertible, got a singular matrix")


def check_poses(matrix: np.ndarray) -> None:
    """ValueError for poses (..., 4, 4) whose last row is not (0, 0, 0, 1)."""
    if matrix.shape[-2] == 4 and not np.allclose(matrix[..., 3, :], (0, 0, 0, 1), atol=1e-6):
        raise ValueError("source_from_reference must end in a row (0, 0, 0, 1)")


def check_depths(depths: np.ndarray) -> None:
    if depths.size and not (depths.min() >= _SMALLEST_DEPTH and depths.max() < math.inf):
        raise ValueError("depths must be positive and finite")


# ---------------------------------------------------------------------- NumPy arrays, and CPU tensors as such


def check_arrays(
    reference: Any, sources: Any, K_reference: Any, K_sources: Any,
    source_from_reference: Any, depths: Any, num_valid: Any,
) -> Sweep:  # fmt: skip
    """Shapes and values. Features keep their dtype where it is one of FEATURE_DTYPES and both agree."""
    refuse_gradients(K_reference, K_sources, source_from_reference, depths)
    given = {
        "reference": _arrays.as_array(reference, "reference", dtype=_arrays.FEATURE_DTYPES),
        "sources": _arrays.as_array(sources, "sources", dtype=_arrays.FEATURE_DTYPES),
        "K_reference": _arrays.as_array(K_reference, "K_reference"),
        "K_sources": _arrays.as_array(K_sources, "K_sources"),
        "source_from_reference": _arrays.as_array(source_from_reference, "source_from_reference"),
        "depths": _arrays.as_array(depths, "depths", dtype="float32"),
    }
    if given["reference"].dtype != given["sources"].dtype:
        for name, x in (("reference", reference), ("sources", sources)):
            given[name] = _arrays.as_array(x, name, dtype="float32")
    shape = check_shapes({name: x.shape for name, x in given.items()})
    matrices = [x.data for x in given.values()][2:5]
    check_intrinsics(matrices[0], "K_reference")
    check_intrinsics(matrices[1], "K_sources")
    check_poses(matrices[2])
    check_depths(given["depths"].data)
    leading = given["reference"].shape[:-3]
    counts = _aggregation.counts(num_valid, leading, 1, shape.views)
    wide = _wide_depths(given["depths"].data, leading, shape)
    return Sweep(
        given["reference"], given["sources"], _cameras(matrices, shape),
        np.ascontiguousarray(wide), counts, shape, leading,
    )  # fmt: skip


def _cameras(matrices: Any, shape: SweepShape) -> Cameras:
    b, v = shape.batch, shape.views
    k_reference, k_sources, poses = matrices
    return Cameras(
        k_reference.reshape(b, 3, 3),
        k_sources.reshape(b, v, 3, 3),
        poses[..., :3, :].reshape(b, v, 3, 4),
    )


def _wide_depths(depths: Any, leading: tuple[int, ...], shape: SweepShape) -> Any:
    """(B, D) or (B, D, H, W)."""
    size = (shape.batch, shape.planes)
    if depths.ndim == len(leading) + 3:
        return depths.reshape(*size, shape.height, shape.width)
    if depths.ndim == 1:
        return (
            np.broadcast_to(depths, size) if isinstance(depths, np.ndarray) else depths.expand(size)
        )
    return depths.reshape(size)


# ---------------------------------------------------------------------- tensors


def check_tensors(
    reference: Any, sources: Any, K_reference: Any, K_sources: Any,
    source_from_reference: Any, depths: Any, num_valid: Any,
) -> Sweep:  # fmt: skip
    """Shapes, dtypes and devices; the values of cameras and depths that lie on the host. Features of two
    dtypes become the wider one."""
    refuse_gradients(K_reference, K_sources, source_from_reference, depths)
    features = [
        _tensors.check(x, name, dtype=_DTYPES)
        for name, x in (("reference", reference), ("sources", sources))
    ]
    if features[0].dtype != features[1].dtype:
        wide = any(_arrays.torch_module().float64 == x.dtype for x in features)
        features = [x.double() if wide else x.float() for x in features]
    device = features[0].device
    matrices = [
        _tensors.check(x, name).detach()
        for name, x in (
            ("K_reference", K_reference),
            ("K_sources", K_sources),
            ("source_from_reference", source_from_reference),
        )
    ]
    d = _tensors.check(depths, "depths", dtype=("float32", "float64")).detach()
    names = ("reference", "sources", "K_reference", "K_sources", "source_from_reference", "depths")
    given = dict(zip(names, (*features, *matrices, d)))
    shape = check_shapes({name: tuple(x.shape) for name, x in given.items()})
    for name, x in given.items():
        if x.device != device and (x.device.type != "cpu" or name == "sources"):
            raise ValueError(f"{name} must be on {device}, it is on {x.device}")
    _check_host_values(given)
    leading = tuple(features[0].shape[:-3])
    counts = _aggregation.count_tensor(num_valid, leading, 1, shape.views, device)
    d = _moved(
        d if features[0].dtype == _arrays.torch_module().float64 else d.float(), "depths", device
    )
    if any(x.device != matrices[0].device for x in matrices):
        matrices = [_moved(x, name, device) for name, x in zip(names[2:5], matrices)]
    b, v, c = shape.batch, shape.views, shape.channels
    return Sweep(
        features[0].reshape(b, c, shape.height, shape.width),
        features[1].reshape(b, v, c, shape.source_height, shape.source_width),
        _cameras(matrices, shape), _wide_depths(d, leading, shape).contiguous(), counts, shape, leading,
    )  # fmt: skip


def refuse_gradients(
    K_reference: Any, K_sources: Any, source_from_reference: Any, depths: Any
) -> None:
    """ValueError where autograd records and expects a gradient that the sweeps do not give."""
    given = {
        "K_reference": K_reference, "K_sources": K_sources,
        "source_from_reference": source_from_reference, "depths": depths,
    }  # fmt: skip
    for name, x in given.items():
        if _arrays.is_torch(x) and _tensors.wants_gradient([x]):
            raise ValueError(
                f"{name} requires a gradient, but the sweep has one for features alone: detach it"
            )


def _check_host_values(given: dict[str, Any]) -> None:
    """What NumPy arrays are checked for, of cameras and depths on the host."""
    if _dispatch.traced():
        return
    host = {n: x for n, x in given.items() if x.device.type == "cpu" and _has_memory(x)}
    for name in ("K_reference", "K_sources", "source_from_reference", "depths"):
        if name in host:
            values = _arrays.as_array(host[name], name, dtype=("float64", "float32")).data
            if name.startswith("K_"):
                check_intrinsics(values, name)
            elif name == "depths":
                check_depths(values)
            else:
                check_poses(values)


def _has_memory(x: Any) -> bool:
    """Tensor subclasses, among them fake tensors, may have none to read."""
    torch = _arrays.torch_module()
    return type(x) in (torch.Tensor, torch.nn.Parameter)


def _moved(x: Any, name: str, device: Any) -> Any:
    if x.device == device:
        return x
    if _dispatch.traced() or not _has_memory(x):
        return x.to(device)
    return _tensors.on_device(x.numpy(), name, device)
