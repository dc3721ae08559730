# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The metadata cost volume in torch, in the dtype of its arguments (float64 in the tests): every one of the
2 C + 14 values of a sample written out, one plane after the other.

Letters: B batch, V source views, C channels, D planes, H W cells of the reference, Hs Ws of a source.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, leaky_relu

SLOPE = 0.01  # of both LeakyReLUs


class Sweep(NamedTuple):
    """The geometry of a sweep. projection (B, V, 3, 4) = [M | m]: a cell (x, y) at depth d lies at
    q = M (x, y, 1) + m / d in the source's map, its depth there is d q_z. rays (B, 3, 3): the inverse
    intrinsics of the reference. centres (B, V, 3): the sources' centres in the reference's frame.
    pose_values (B, V, 3): channels 2 C + 11 to 2 C + 13. depths (B, D) or (B, D, H, W). depth_limits (B, 2).
    """

    projection: Tensor
    rays: Tensor
    centres: Tensor
    pose_values: Tensor
    depths: Tensor
    depth_limits: Tensor


class Cells(NamedTuple):
    """What does not change over the planes: homogeneous cells (3, H, W) and their rays (B, 3, H, W) at
    depth 1."""

    points: Tensor
    rays: Tensor


def cells_of(sweep: Sweep, height: int, width: int) -> Cells:
    like = sweep.rays
    y, x = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    points = torch.stack([x, y, torch.ones_like(x)])
    return Cells(points, torch.einsum("bij,jhw->bihw", sweep.rays, points))


def unit(vectors: Tensor) -> Tensor:
    """Vectors (B, V, 3, H, W) of length 1; a vector without length stays 0."""
    length = vectors.norm(dim=2, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


def warped(sources: Tensor, q: Tensor) -> Tensor:
    """Sources (B, V, C, Hs, Ws) read bilinearly at q (B, V, 3, H, W), zero outside the map. A point behind
    the camera is read where its line of sight meets the map, as published: channel 2 C tells."""
    b, v, _, hs, ws = sources.shape
    u, w = q[:, :, 0] / q[:, :, 2], q[:, :, 1] / q[:, :, 2]
    inside = (u > -1) & (u < ws) & (w > -1) & (w < hs)  # false for NaN
    grid = torch.stack([(2 * u + 1) / ws - 1, (2 * w + 1) / hs - 1], -1)
    grid = torch.where(inside[..., None], grid, 3.0).flatten(0, 1)
    found = grid_sample(sources.flatten(0, 1), grid, padding_mode="zeros", align_corners=False)
    return found.unflatten(0, (b, v))


def plane_metadata(
    reference: Tensor, sources: Tensor, sweep: Sweep, depth: Tensor, cells: Cells
) -> Tensor:
    """The values of one plane (B, V, 2 C + 14, H, W) at depths (B, H, W), in the published order (numbers
    for C = 16)."""
    b, v = sources.shape[:2]
    size = (b, v, *reference.shape[-2:])
    low, high = (x[:, None, None, None] for x in sweep.depth_limits.unbind(1))
    q = torch.einsum("bvij,jhw->bvihw", sweep.projection[..., :3], cells.points)
    q = q + sweep.projection[..., 3, None, None] / depth[:, None, None]
    in_front = (q[:, :, 2] > 0).to(q.dtype)
    source_depth = depth[:, None] * q[:, :, 2]
    features, own = warped(sources, q), reference[:, None].expand(b, v, *reference.shape[1:])
    centres = sweep.centres[..., None, None] / depth[:, None, None]
    ray, source_ray = unit(cells.rays[:, None]), unit(cells.rays[:, None] - centres)
    values = [
        features,  # 0 to 15
        own,  # 16 to 31
        in_front[:, :, None],  # 32
        ((source_depth - low) / high)[:, :, None],  # 33
        ((depth[:, None] - low) / high).expand(size)[:, :, None],  # 34
        ((features * own).sum(2) * in_front)[:, :, None],  # 35
        (ray * source_ray).sum(2, keepdim=True),  # 36: cosine of the angle between the rays
        ray.expand(b, v, 3, *size[2:]),  # 37 to 39
        source_ray,  # 40 to 42
        sweep.pose_values[..., None, None].expand(b, v, 3, *size[2:]),  # 43 to 45
    ]
    return torch.cat(values, 2)


def perceptron(values: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """Values (B, V, 2 C + 14, H, W) through the layers to score and weight logit (B, V, 2, H, W)."""
    w1, b1, w2, b2, w3, b3 = weights
    x = torch.einsum("ij,bvjhw->bvihw", w1, values) + b1[:, None, None]
    x = torch.einsum("ij,bvjhw->bvihw", w2, leaky_relu(x, SLOPE)) + b2[:, None, None]
    return torch.einsum("ij,bvjhw->bvihw", w3, leaky_relu(x, SLOPE)) + b3[:, None, None]


def metadata_cost_volume(
    reference: Tensor,
    sources: Tensor,
    weights: tuple[Tensor, ...],
    sweep: Sweep,
    num_views: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Reference (B, C, H, W), sources (B, V, C, Hs, Ws): the volume (B, D, H, W), the sum over the views of
    score times softmax of the weight logits, and ln of that softmax's denominator. Views from num_views
    (B,) on take no part."""
    height, width = reference.shape[-2:]
    cells = cells_of(sweep, height, width)
    outside = None
    if num_views is not None:
        outside = torch.arange(sources.shape[1], device=sources.device) >= num_views[:, None]
    volume, log_sum = [], []
    for depth in sweep.depths.unbind(1):
        if depth.dim() == 1:
            depth = depth[:, None, None].expand(-1, height, width)
        values = plane_metadata(reference, sources, sweep, depth, cells)
        score, logit = perceptron(values, weights).unbind(2)
        if outside is not None:
            logit = logit.masked_fill(outside[:, :, None, None], -torch.inf)
            score = score.masked_fill(outside[:, :, None, None], 0.0)
        volume.append((logit.softmax(1) * score).sum(1))
        log_sum.append(logit.logsumexp(1))
    return torch.stack(volume, 1), torch.stack(log_sum, 1)


def metadata_cost_volume_backward(
    reference: Tensor,
    sources: Tensor,
    weights: tuple[Tensor, ...],
    sweep: Sweep,
    num_views: Tensor | None,
    d_volume: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the reference, the sources and the six weights."""
    leaves = [x.detach().requires_grad_() for x in (reference, sources, *weights)]
    with torch.enable_grad():
        out = metadata_cost_volume(leaves[0], leaves[1], tuple(leaves[2:]), sweep, num_views)[0]
        return torch.autograd.grad(out, leaves, d_volume)
