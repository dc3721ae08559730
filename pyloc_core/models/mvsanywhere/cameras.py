# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the network is told about its views: sizes, intrinsics, poses; and the padding of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyloc_core import _dispatch
from pyloc_core._sweep import inverse
from pyloc_core.depth_planes import depth_range
from pyloc_core.geometry import Size, scale_intrinsics
from pyloc_core.models.mvsanywhere.matching import STRIDE

MULTIPLE = 16  # of the sides: a token covers 16 x 16 pixels
MIN_SIDE = 32
# Image coordinates to those of a map at a quarter of the sides.
_TO_MAP = scale_intrinsics(np.eye(3), (STRIDE, STRIDE), (1, 1)).tolist()
_SINGULAR = 1e-12  # |det K|
_BORDER = 2.0  # cells at the border of a source map that `overall_mask` leaves out, as published
_NEAR_ZERO = 1e-8  # |z| below which the published projection does not divide


def padded(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) with the last column and row repeated until the sides are multiples of 16.

    What is added lies right of and below the image, so that pixel coordinates, and intrinsics, stay.
    ValueError for sides below 32.
    """
    height, width = images.shape[2:]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"images must have at least {MIN_SIDE} pixels a side, got {height} x {width}"
        )
    if height % MULTIPLE == width % MULTIPLE == 0:
        return images
    return F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")


def can_look(values: Tensor) -> bool:
    """Whether values may be looked at without waiting for a device."""
    return values.device.type == "cpu" and not _dispatch.traced()


def check_images(reference: Tensor, sources: Tensor, *, look: bool) -> None:
    """ValueError or TypeError for what are no images (B, 3, H, W) and (B, V, 3, Hs, Ws), V >= 1."""
    for name, images, axes in (("reference", reference, 4), ("sources", sources, 5)):
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"{name} must be a tensor of floating point, got {kind}")
        if images.dim() != axes or images.shape[-3] != 3:
            wanted = "(B, 3, H, W)" if axes == 4 else "(B, V, 3, Hs, Ws)"
            raise ValueError(f"{name} must be {wanted}, got {tuple(images.shape)}")
        if look and not bool(images.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinite values")
    if len(reference) != len(sources):
        raise ValueError(
            f"sources are of {len(sources)} references, reference has {len(reference)}"
        )
    if sources.shape[1] < 1:
        raise ValueError("sources must hold at least one view")


def size_of(images: Tensor) -> Size:
    """(H, W) of images (..., H, W)."""
    return images.shape[-2], images.shape[-1]


def map_size(size: Size) -> Size:
    """(h, w) of the feature maps of an image (H, W), padded."""
    height, width = (side + -side % MULTIPLE for side in size)
    return height // STRIDE, width // STRIDE


@dataclass(frozen=True)
class Cameras:
    """Checked cameras of B references with V sources each, float64.

    Attributes:
        K_reference, K_sources: (B, 3, 3), (B, V, 3, 3) in image pixels, COLMAP's convention.
        source_from_reference: (B, V, 3, 4).
        size, source_size: (H, W) of the images before padding.
        num_valid: (B,) int64: only the first so many sources count; None: all of them.
    """

    K_reference: Tensor
    K_sources: Tensor
    source_from_reference: Tensor
    size: Size
    source_size: Size
    num_valid: Tensor | None = None

    def on(self, device: torch.device) -> Cameras:
        """The same on a device."""
        K_reference, K_sources, poses = (
            each.to(device)
            for each in (self.K_reference, self.K_sources, self.source_from_reference)
        )
        counts = None if self.num_valid is None else self.num_valid.to(device)
        sizes = (self.size, self.source_size)
        return Cameras(K_reference, K_sources, poses, *sizes, num_valid=counts)

    @property
    def of_maps(self) -> tuple[Tensor, Tensor]:
        """Intrinsics of the reference and source maps, whose cell centres are at integers.

        The published program counts from cell edges: a quarter of the image's matrix. The package's
        convention takes half a cell off the principal point; the samples are the same.
        """
        to_map = torch.tensor(_TO_MAP).to(self.K_sources)
        return to_map @ self.K_reference, to_map @ self.K_sources

    def valid_views(self) -> Tensor:
        """(B, V) int64: each view's own number, and for views beyond `num_valid` that of the last valid."""
        b, v = self.K_sources.shape[:2]
        index = torch.arange(v, device=self.K_sources.device).expand(b, v)
        return index if self.num_valid is None else index.minimum(self.num_valid[:, None] - 1)

    def overall_mask(self, far: Tensor) -> Tensor:
        """(B, h, w) bool: cells that at depth `far` (B,) lie in front of some source and inside some source's
        map without its border. The two may be different sources, as published."""
        cameras = self.on(far.device)
        depth = far[:, None, None].expand(-1, *map_size(cameras.size))
        height, width = cameras.source_size
        return overall_mask(
            *cameras.of_maps, cameras.source_from_reference, depth, (height / STRIDE, width / STRIDE),
            cameras.num_valid,
        )  # fmt: skip


def overall_mask(
    K_reference: Tensor,
    K_sources: Tensor,
    source_from_reference: Tensor,
    depth: Tensor,
    source_size: tuple[float, float],
    num_valid: Tensor | None = None,
) -> Tensor:
    """(B, h, w) bool: cells that at `depth` (B, h, w) lie in front of some source and inside some source's map
    without its border. The two may be different sources, as published.

    Args:
        K_reference, K_sources, source_from_reference: (B, 3, 3), (B, V, 3, 3), (B, V, 3, 4) of the maps, on the
            device of the depth.
        source_size: (Hs, Ws) of the source maps in cells.
        num_valid: (B,), as of `Cameras`.
    """
    cells, d = depth.shape[1:], depth.detach().to(K_sources)
    y, x = torch.meshgrid(*(torch.arange(side).to(d) for side in cells), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    points = d.flatten(1)[:, None] * (inverse(K_reference) @ pixels)  # (B, 3, h w)
    R, t = source_from_reference[..., :3], source_from_reference[..., 3:]
    uvz = K_sources @ (R @ points[:, None] + t)  # (B, V, 3, h w)
    z = uvz[:, :, 2]
    uv = uvz[:, :, :2] / torch.where(z.abs() > _NEAR_ZERO, z, torch.ones_like(z))[:, :, None] + 0.5
    limit = torch.tensor(source_size[::-1]).to(d)[:, None] - _BORDER
    inside = ((uv > _BORDER) & (uv < limit)).all(2)
    if num_valid is not None:
        valid = torch.arange(z.shape[1], device=z.device) < num_valid[:, None]
        inside, z = inside & valid[..., None], torch.where(valid[..., None], z, -1.0)
    return ((z > 0).any(1) & inside.any(1)).unflatten(1, cells)


def checked_cameras(
    matrices: tuple[Any, Any, Any],
    sizes: tuple[Size, Size],
    batch: tuple[int, int],
    num_valid: Any = None,
    *,
    device: torch.device,
    look: bool = True,
) -> Cameras:
    """Cameras of B references and V sources.

    Args:
        matrices: K_reference, K_sources, source_from_reference as tensors or arrays; matrices without the
            leading axes hold for all. The last may be (..., 4, 4).
        sizes: of the reference and of the source images.
        batch: (B, V).
        num_valid: int, or ints (B,).
        device: of the images. Cameras that lie on the host stay there, where they are checked and their
            range is made without waiting; if any lies on the device, all do.
        look: at the values, which waits for a GPU.

    Raises ValueError that names an argument of another shape and, where values are looked at, NaN,
    intrinsics that cannot be inverted, and numbers of views outside 1 to V.
    """
    b, v = batch
    names = ("K_reference", "K_sources", "source_from_reference")
    shapes = ((b, 3, 3), (b, v, 3, 3), (b, v, 3, 4))
    K_reference, K_sources, poses = (
        _matrix(*each, look=look) for each in zip(names, matrices, shapes)
    )
    counts = None if num_valid is None else _counts(num_valid, b, v, look)
    cameras = Cameras(K_reference, K_sources, poses, *sizes, num_valid=counts)
    given = (K_reference, K_sources, poses, counts)
    on_host = all(each is None or each.device.type == "cpu" for each in given)
    return cameras if on_host else cameras.on(device)


@torch.no_grad()
def first_range(cameras: Cameras, given: tuple[Any, Any] | None) -> tuple[Tensor, Tensor]:
    """(near, far), each (B,) float64: the caller's, or what the cameras can triangulate; where those lie.

    ValueError for another shape, for a range that is none, and for cameras without a baseline.
    """
    K, poses = cameras.K_sources, cameras.source_from_reference
    b, v = K.shape[:2]
    if given is None:
        # Views that do not count stand in as repetitions of one that does.
        index = cameras.valid_views()[..., None, None].expand(b, v, 3, 4)
        near, far = depth_range(K[:, 0], poses.gather(1, index), cameras.source_size)
    else:
        if not isinstance(given, Sequence) or len(given) != 2:
            raise ValueError(f"depth_range must be (near, far), got {given!r}")
        near, far = (torch.as_tensor(each).detach() for each in given)
        if any(each.shape not in ((), (1,), (b,)) for each in (near, far)):
            shapes = f"{tuple(near.shape)} and {tuple(far.shape)}"
            raise ValueError(f"depth_range must be two numbers or two ({b},), got {shapes}")
        on_host = can_look(near) and can_look(far)
        if on_host and not bool(((near > 0) & (near < far) & far.isfinite()).all()):
            raise ValueError(f"depth_range must have 0 < near < far, got {given}")
    return near.double().expand(b), far.double().expand(b)


def _matrix(name: str, value: Any, shape: tuple[int, ...], *, look: bool) -> Tensor:
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(f"{name} requires a gradient, which is not defined: detach it")
    given = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value, np.float64))
    matrix = given.to(torch.float64)
    if shape[-2:] == (3, 4) and tuple(matrix.shape[-2:]) == (4, 4):
        matrix = matrix[..., :3, :]
    fits = tuple(matrix.shape[-2:]) == shape[-2:] and matrix.dim() <= len(shape)
    if not fits or any(a not in (1, w) for a, w in zip(matrix.shape[::-1], shape[::-1])):
        raise ValueError(f"{name} must have shape {shape}, got {tuple(given.shape)}")
    if look or can_look(matrix):
        if not bool(matrix.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinite values")
        if shape[-1] == 3 and bool((torch.linalg.det(matrix).abs() < _SINGULAR).any()):
            raise ValueError(f"{name} cannot be inverted")
    return matrix.expand(shape)


def _counts(value: Any, b: int, v: int, look: bool) -> Tensor:
    counts = torch.as_tensor(value)
    if counts.is_floating_point() or counts.dtype == torch.bool or counts.dim() > 1:
        raise TypeError(f"num_valid must be an integer, or integers ({b},), got {value!r}")
    if counts.dim() == 1 and len(counts) != b:
        raise ValueError(f"num_valid must have shape ({b},), got {tuple(counts.shape)}")
    if (look or can_look(counts)) and not bool(((counts >= 1) & (counts <= v)).all()):
        raise ValueError(f"num_valid must be 1 to {v}, the number of sources, got {value}")
    return counts.to(torch.int64).expand(b)
