# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Losses of multi-view depth, as MVSAnywhere is trained with them (Izquierdo et al. 2025, section 9.1.5 of
the thesis; weights and details of the published program; SimpleRecon, Sayed et al. 2022).

Every loss is returned per image, (B,): the mean over the pixels that count, 0 where none does. The mean over
images is then the same whether a batch is taken whole or in parts. All arithmetic is float32 or better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyloc_core.depth.normals import backproject_depth
from pyloc_core.geometry import scale_intrinsics
from pyloc_core.training.options import check_positive

GRADIENT_LEVELS = 4
_DROPPED = 0.2  # worst share of the pixels of an image of which less than half is known


@dataclass(frozen=True)
class DepthLosses:
    """The weighted losses by name: depth, gradient, normals and, where the sky is known, sky.

    Attributes:
        depth, gradient, normals, sky: weights; 0 leaves a loss out.
        published: the sky loss as the published program has it; see `sky_loss`.
    """

    depth: float = 1.0
    gradient: float = 1.0
    normals: float = 1.0
    sky: float = 0.1
    published: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "published" and getattr(self, field.name) != 0:
                check_positive(field.name, getattr(self, field.name))

    def __call__(
        self,
        log_depths: Sequence[Tensor],
        depth: Tensor,
        K: Tensor,
        sky_logits: Sequence[Tensor] = (),
        sky: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses (B,) by name.

        Args:
            log_depths: (B, 1, h, w) per scale, finest first.
            depth: (B, H, W); 0, negative or not finite where unknown.
            K: (B, 3, 3) intrinsics of the (H, W) image, pixel centres at one half.
            sky_logits: (B, 1, h, w) per scale.
            sky: (B, H, W) bool, or None where nobody knows: then there is no such loss.

        Raises ValueError for a finest scale of another size than the depth.
        """
        depth, known = _checked(log_depths[0], depth)
        finest = _work(log_depths[0])[:, 0]
        found = {"depth": self.depth * log_depth_loss(log_depths, depth, known)}
        if self.gradient:
            found["gradient"] = self.gradient * gradient_loss(finest.exp(), depth, known)
        if self.normals:
            found["normals"] = self.normals * normal_loss(finest.exp(), depth, known, K)
        if self.sky and sky is not None:
            found["sky"] = self.sky * sky_loss(sky_logits, sky, published=self.published)
        return found


def log_depth_loss(log_depths: Sequence[Tensor], depth: Tensor, known: Tensor) -> Tensor:
    """(B,): sum over scales i of the mean |ln d - ln d*| / 2^i.

    Coarse predictions are enlarged to (H, W) by nearest neighbours. Of an image of which less than half is
    known the worst fifth of the known pixels is left out, per scale.
    """
    target = torch.where(known, depth, 1.0).log()
    total = torch.zeros(len(depth), dtype=target.dtype, device=depth.device)
    for scale, values in enumerate(log_depths):
        error = (_enlarged(values, depth.shape[1:]) - target).abs()
        total = total + _trimmed_mean(error.flatten(1), known.flatten(1)) / 2**scale
    return total


def sky_loss(sky_logits: Sequence[Tensor], sky: Tensor, *, published: bool = False) -> Tensor:
    """(B,): sum over scales i of the mean binary cross entropy / 2^i.

    Args:
        published: the published program takes the sigmoid of the logits and then the cross entropy that
            takes another one. A pixel costs at least 0.31 in the sky and ln 2 elsewhere, however sure and
            right the network is, and its probabilities are not calibrated. False: one sigmoid.
    """
    if not len(sky_logits):
        raise ValueError("sky_logits must hold at least one scale")
    total = torch.zeros(len(sky), dtype=_work(sky_logits[0]).dtype, device=sky.device)
    for scale, values in enumerate(sky_logits):
        logits = _enlarged(values, sky.shape[1:])
        logits = logits.sigmoid() if published else logits
        each = F.binary_cross_entropy_with_logits(logits, sky.to(logits.dtype), reduction="none")
        total = total + each.flatten(1).mean(1) / 2**scale
    return total


def gradient_loss(depth: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """(B,): difference of the spatial gradients of 1 / (d + 1e-6) on four levels, each half as large.

    Levels are blurred with the binomial kernel of side 3 (edges repeated) before every second pixel is
    taken; gradients are Sobel's, with weights that sum to one in absolute value. The mean is over the cells
    whose pixels are all known and both directions, and the levels are added. Not invariant to the unit of
    length, as published.

    Args:
        depth, target: (B, H, W), target 1 or anything positive where it is unknown.
        known: (B, H, W) bool.
    """
    target = torch.where(known, target, 1.0)
    both = torch.stack([1 / (depth + 1e-6), 1 / (target + 1e-6)], 1)
    unknown = (~known)[:, None].to(both.dtype)
    total = torch.zeros(len(depth), dtype=both.dtype, device=depth.device)
    for level in range(GRADIENT_LEVELS):
        if level:
            both, unknown = _blurred(both), (_blurred(unknown) > 0).to(both.dtype)
        dx, dy = _sobel(both)
        error = (dx[:, 0] - dx[:, 1]).abs() + (dy[:, 0] - dy[:, 1]).abs()
        total = total + _mean(error / 2, _all_known(unknown, 3))
    return total


def normal_loss(depth: Tensor, target: Tensor, known: Tensor, K: Tensor) -> Tensor:
    """(B,): mean of (1 - cos) / 2 of the angle between the normals of both depths (B, H, W).

    Over pixels whose neighbourhood of 7 x 7, which makes the normal, is known.
    """
    target = torch.where(known, target, 1.0)
    cosine = (normals_of_depth(depth, K) * normals_of_depth(target, K)).sum(1)
    unknown = (~known)[:, None].to(cosine.dtype)
    return _mean(0.5 * (1 - cosine), _all_known(unknown, 7))


def normals_of_depth(depth: Tensor, K: Tensor) -> Tensor:
    """(B, 3, H, W) unit normals in the camera's frame, towards the camera, of depth (B, H, W).

    The depth is smoothed (Gaussian, 5 x 5, sigma 2, edges repeated) and backprojected; the normal is the
    cross product of the points' Sobel gradients, as published. `depth.normals_from_depth` takes plain
    differences of what it is given.
    """
    offsets = torch.arange(-2.0, 3.0, dtype=depth.dtype, device=depth.device)
    line = torch.exp(-(offsets**2) / 8)
    kernel = torch.outer(line, line) / line.sum() ** 2
    smooth = _convolved(depth[:, None], kernel)[:, 0]
    size = (depth.shape[1], depth.shape[2])
    map_from_image = torch.from_numpy(scale_intrinsics(np.eye(3), size, size)).to(K.device)
    dx, dy = _sobel(backproject_depth(smooth, map_from_image @ K.double()))
    (ax, ay, az), (bx, by, bz) = dy.unbind(1), dx.unbind(1)
    normal = torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], 1)
    return normal / (normal * normal).sum(1, keepdim=True).clamp(min=1e-30).sqrt()


def _checked(finest: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """The depth at working precision and where it is known."""
    if finest.dim() != 4 or depth.dim() != 3 or finest[:, 0].shape != depth.shape:
        raise ValueError(
            f"log_depths[0] must be (B, 1, H, W) for depth (B, H, W), got {tuple(finest.shape)} and "
            f"{tuple(depth.shape)}"
        )
    depth = depth.to(_work(finest).dtype)
    return depth, depth.isfinite() & (depth > 0)


def _work(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _enlarged(values: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H, W) of (B, 1, h, w), by nearest neighbours."""
    values = _work(values)
    if values.shape[2:] != tuple(size):
        values = F.interpolate(values, size=tuple(size), mode="nearest")
    return values[:, 0]


def _trimmed_mean(error: Tensor, known: Tensor) -> Tensor:
    """(B,) means over known pixels of (B, N), without the worst fifth where less than half is known."""
    count = known.sum(1)
    kept = torch.where(2 * count < known.shape[1], count - (_DROPPED * count).long(), count)
    ordered = torch.where(known, error, torch.inf).sort(1).values
    use = torch.arange(known.shape[1], device=known.device) < kept[:, None]
    return torch.where(use, ordered, 0.0).sum(1) / kept.clamp(min=1)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """(B,) means of (B, h, w) where it is known; 0 where nothing is."""
    count = known.flatten(1).sum(1).clamp(min=1)
    return torch.where(known, values, 0.0).flatten(1).sum(1) / count


def _convolved(values: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """Each channel of (B, C, H, W) with one odd kernel, edges repeated."""
    b, c, h, w = values.shape
    around = kernel.shape[-1] // 2
    flat = F.pad(values.reshape(b * c, 1, h, w), (around,) * 4, mode="replicate")
    out = F.conv2d(flat, kernel[None, None], stride=stride)
    return out.view(b, c, *out.shape[2:])


def _blurred(values: Tensor) -> Tensor:
    """Half the size, after the binomial kernel of side 3."""
    line = values.new_tensor([1.0, 2.0, 1.0]) / 4
    return _convolved(values, torch.outer(line, line), stride=2)


def _sobel(values: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of (B, C, H, W) along x and y, per pixel for a ramp."""
    across = values.new_tensor([-1.0, 0.0, 1.0]) / 2
    along = values.new_tensor([1.0, 2.0, 1.0]) / 4
    return (
        _convolved(values, torch.outer(along, across)),
        _convolved(values, torch.outer(across, along)),
    )


def _all_known(unknown: Tensor, side: int) -> Tensor:
    """(B, h, w): whether no cell of a neighbourhood is unknown, of (B, 1, h, w)."""
    return F.max_pool2d(unknown, side, stride=1, padding=side // 2)[:, 0] == 0
