# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Test-time refinement of a depth network by photometric losses between neighbouring frames.

What SfM-TTR is compared with (thesis, section 8.2): McCraith et al., 2020, with the losses of
Godard et al., ICCV 2019. Poses are given here, where those works let a second network estimate them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyloc_core import _checks
from pyloc_core._extras import require
from pyloc_core.depth import gradient_steps
from pyloc_core.depth.gradient_steps import StepOptions, Stepped, predicted_depth
from pyloc_core.pose import as_cam_from_world, compose_poses, inverse_pose

SSIM_SHARE, SMOOTHNESS = 0.85, 1e-3  # Godard et al., 2019, section 3
_C1, _C2 = 0.01**2, 0.03**2  # Wang et al., 2004


@dataclass(frozen=True, eq=False)
class PosedFrame:
    """A frame of a sequence.

    Attributes:
        image: what the network takes.
        picture: (C, H, W) tensor within [0, 1], on the device of the network's depth.
        K: (3, 3) intrinsics in cells of `picture`, centres at integers (`scale_intrinsics`).
        cam_from_world: (3, 4), in the unit that network depth divided by the scale has.
    """

    image: Any
    picture: Any
    K: Any
    cam_from_world: Any


def refine_network_photometric(
    network: Callable[[Any], Any],
    parameters: Iterable[Any],
    frames: Sequence[PosedFrame],
    *,
    scale: float = 1.0,
    targets: Sequence[int] | None = None,
    neighbours: Sequence[int] = (-1, 1),
    modules: Sequence[Any] | None = None,
    options: StepOptions | None = None,
    progress: bool = True,
) -> Stepped:
    """Step `parameters` so that each frame, moved by its depth, looks like the frames before and after it.

    One network for the whole sequence, as `refine_network` makes it; with one target it is the refinement
    per instance of McCraith et al. (`restore` the network between instances).

    Args:
        network, parameters, modules, progress: as for `refine_network`.
        frames: the sequence, in order.
        scale: network depth over depth in the unit of the poses, of `align_scale`.
        targets: indices of the frames to refine for; None for all.
        neighbours: offsets of the frames that each target is compared with, where they exist.
        options: steps, learning rate, seed, mode.

    Raises:
        ValueError: a target without neighbours, pictures or matrices of another shape, and what
            `refine_network` raises.
    """
    options = StepOptions() if options is None else options
    scale = _checks.number("scale", scale, positive=True)
    chosen = gradient_steps.trainable(parameters)
    held = gradient_steps.modules_of(network, modules)
    sequence = [_checked(frame, index) for index, frame in enumerate(frames)]
    which = list(range(len(sequence))) if targets is None else [int(t) for t in targets]
    if not which or any(not 0 <= t < len(sequence) for t in which):
        raise ValueError(f"targets must lie within the {len(sequence)} frames, got {which}")
    sources = {t: [t + o for o in neighbours if o and 0 <= t + o < len(sequence)] for t in which}
    alone = [t for t in which if not sources[t]]
    if alone:
        raise ValueError(f"frame {alone[0]} has no neighbours among the {len(sequence)} frames")

    def loss_of(item: int) -> Any:
        target = sequence[which[item]]
        depth = predicted_depth(network, target.image) / scale
        return photometric_loss(depth, target, [sequence[s] for s in sources[which[item]]])

    return gradient_steps.take_steps(chosen, held, len(which), loss_of, options, progress)


def photometric_loss(depth: Any, target: PosedFrame, sources: Sequence[PosedFrame]) -> Any:
    """Error of the target's picture against its sources', warped by its depth: a differentiable scalar.

    Per pixel the least error over the sources (occlusion), and nothing where an unmoved source fits
    better (no parallax) or where no source sees it, plus the edge-aware smoothness of the inverse depth.

    Args:
        depth: (h, w) tensor, positive, in the unit of the poses; resized to the picture.
        target: whose depth it is.
        sources: the frames to compare with, one or more.
    """
    torch = require("torch", "photometric refinement")
    picture = target.picture
    depth = torch.nn.functional.interpolate(
        depth[None, None], picture.shape[-2:], mode="bilinear", align_corners=False
    )[0, 0]
    moved, unmoved = [], []
    for source in sources:
        warped, seen = warp(source, depth, target)
        error = dissimilarity(warped, picture)
        moved.append(torch.where(seen, error, torch.full_like(error, float("inf"))))
        unmoved.append(dissimilarity(source.picture, picture))
    least = torch.stack(moved).min(0).values
    used = (least < torch.stack(unmoved).min(0).values) & torch.isfinite(least)
    error = torch.where(used, least, torch.zeros_like(least)).sum() / used.sum().clamp(min=1)
    return error + SMOOTHNESS * _smoothness(depth, picture)


def warp(source: PosedFrame, depth: Any, target: PosedFrame) -> tuple[Any, Any]:
    """The source's picture (C, H, W) as the target's camera would see it, and where (H, W) it does."""
    torch = require("torch", "photometric refinement")
    world_from_target = inverse_pose(target.cam_from_world)
    source_from_target = np.asarray(compose_poses(source.cam_from_world, world_from_target))
    matrix = source.K @ source_from_target[:, :3] @ np.linalg.inv(target.K)
    offset = source.K @ source_from_target[:, 3]
    height, width = depth.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=depth.device, dtype=depth.dtype),
        torch.arange(width, device=depth.device, dtype=depth.dtype), indexing="ij",
    )  # fmt: skip
    rays = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    to = {"device": depth.device, "dtype": depth.dtype}
    points = torch.as_tensor(matrix, **to) @ rays * depth.reshape(1, -1)
    points = points + torch.as_tensor(offset, **to)[:, None]
    front = points[2] > 1e-6
    z = torch.where(front, points[2], torch.ones_like(points[2]))
    rows, columns = source.picture.shape[-2:]
    u, v = points[0] / z, points[1] / z
    seen = front & (u >= 0) & (u <= columns - 1) & (v >= 0) & (v <= rows - 1)
    grid = torch.stack([2 * u / max(columns - 1, 1) - 1, 2 * v / max(rows - 1, 1) - 1], -1)
    grid = torch.where(seen[:, None], grid, torch.zeros_like(grid)).reshape(1, height, width, 2)
    warped = torch.nn.functional.grid_sample(
        source.picture[None].to(depth.dtype), grid, padding_mode="border", align_corners=True
    )
    return warped[0], seen.reshape(height, width)


def dissimilarity(a: Any, b: Any) -> Any:
    """(H, W) from 0: 0.85 (1 - SSIM) / 2 over 3 x 3 windows plus 0.15 times the L1 distance, channels' mean."""
    torch = require("torch", "photometric refinement")
    pad = torch.nn.functional.pad
    pool = torch.nn.functional.avg_pool2d
    x, y = (pad(p[None], (1, 1, 1, 1), mode="reflect") for p in (a, b))
    mean_x, mean_y = pool(x, 3, 1), pool(y, 3, 1)
    var_x, var_y = pool(x * x, 3, 1) - mean_x**2, pool(y * y, 3, 1) - mean_y**2
    cov = pool(x * y, 3, 1) - mean_x * mean_y
    over = (2 * mean_x * mean_y + _C1) * (2 * cov + _C2)
    under = (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    ssim = ((1 - over / under) / 2).clamp(0, 1)[0].mean(0)
    return SSIM_SHARE * ssim + (1 - SSIM_SHARE) * (a - b).abs().mean(0)


def _smoothness(depth: Any, picture: Any) -> Any:
    """Steps of the inverse depth (of mean one), less where the picture steps as well."""
    inverse = 1 / depth
    inverse = inverse / inverse.mean()
    total = 0.0
    for axis in (-1, -2):
        step = inverse.diff(dim=axis).abs()
        total = total + (step * (-picture.diff(dim=axis).abs().mean(0)).exp()).mean()
    return total


def _checked(frame: PosedFrame, index: int) -> PosedFrame:
    torch = require("torch", "photometric refinement")
    picture, K = frame.picture, np.asarray(frame.K, np.float64)
    if not isinstance(picture, torch.Tensor) or picture.ndim != 3 or min(picture.shape[1:]) < 2:
        raise ValueError(f"frames[{index}].picture must be a (C, H, W) tensor of 2 x 2 or more")
    if K.shape != (3, 3) or not np.isfinite(K).all() or abs(np.linalg.det(K)) < 1e-12:
        raise ValueError(f"frames[{index}].K must be (3, 3) and regular")
    cam_from_world = as_cam_from_world(frame.cam_from_world, f"frames[{index}].cam_from_world")
    return PosedFrame(frame.image, picture, K, np.asarray(cam_from_world))
