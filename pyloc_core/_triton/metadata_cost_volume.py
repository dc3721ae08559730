# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs
"""The metadata cost volume on a GPU: one launch beside the copies with channels last.

A program owns a block of reference cells and some planes. Per plane it walks over the views: bilinear samples,
the metadata, the perceptron as matrix products of tiles, and the softmax over the views as a running maximum
and sum. What is stored is the volume and ln of the softmax's denominator. Gradients: metadata_gradient.py.

Run in Triton's interpreter and compiled for sm_80 and sm_90 only: never yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyloc_core._triton import metadata_gradient
from pyloc_core._triton.assignment_tiles import exp, finite_or_zero
from pyloc_core._triton.metadata_arguments import Problem, prepare
from pyloc_core._triton.metadata_sample import (
    first_layer,
    leaky,
    matrix,
    meta_weights,
    product,
    ray_of,
    reference_part,
)
from pyloc_core._triton.sweep_tiles import cell_of, count_views, depth_of

_GROUP = 8  # planes that a program sweeps


@triton.jit
def forward_kernel(
    reference, sources, w1, b1, w2, b2, w3, b3, projection, rays, centres, pose_values, depths,
    limits, num_views, volume, log_sum, blocks, groups, views, planes, cells, width, hs, ws, channels,
    h1, h2, HAS_VIEWS: tl.constexpr, PER_CELL: tl.constexpr, H1: tl.constexpr, H2: tl.constexpr,
    DEPTH: tl.constexpr, BLOCK_C: tl.constexpr, SPLIT: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    cell, x, y, inside = cell_of(blocks, cells, width, ROWS)
    group = (tl.program_id(0) // blocks) % groups
    item = (tl.program_id(0) // blocks // groups).to(tl.int64)
    count = count_views(num_views, item, views, HAS_VIEWS)
    size = (hs + 2) * (ws + 2) * DEPTH
    reference += item * cells * DEPTH
    ray = ray_of(rays + item * 9, x, y)
    low = tl.load(limits + item * 2)
    reciprocal_high = 1.0 / tl.load(limits + item * 2 + 1)
    base = reference_part(
        reference, w1, cell, inside, channels, h1, ROWS, H1, DEPTH, BLOCK_C, SPLIT
    )
    h = tl.arange(0, H1)
    g = tl.arange(0, H2)
    w_source = matrix(
        w1, h[None, :], tl.arange(0, BLOCK_C)[:, None], h1, channels, 2 * channels + 14
    )
    w_meta = meta_weights(w1, b1, channels, h1, H1)
    w_second = matrix(w2, g[None, :], h[:, None], h2, h1, h1)
    bias = tl.load(b2 + g, mask=g < h2, other=0.0).to(tl.float32)
    w_score = tl.load(w3 + g, mask=g < h2, other=0.0).to(tl.float32)
    w_logit = tl.load(w3 + h2 + g, mask=g < h2, other=0.0).to(tl.float32)
    b_score = tl.load(b3).to(tl.float32)
    b_logit = tl.load(b3 + 1).to(tl.float32)
    for plane in range(group * GROUP, tl.minimum(planes, (group + 1) * GROUP)):
        if PER_CELL:
            depth = depth_of(depths, item, plane, planes, cell, inside, cells, True)
        else:  # a number: the compiler lays this kernel out better so
            depth = tl.load(depths + item * planes + plane)
        inverse = 1.0 / depth
        peak = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        scores = tl.zeros([ROWS], tl.float32)
        maps = sources + item * views * size
        view = item * views
        for _ in range(count):
            first, _meta, _front, _offset, _fx, _fy, _on_map = first_layer(
                base, reference, maps, w1, w_source, w_meta, projection + view * 12,
                centres + view * 3, pose_values + view * 3, ray, cell, inside, x, y, depth, inverse,
                low, reciprocal_high, channels, h1, hs, ws, ROWS, H1, DEPTH, BLOCK_C, SPLIT,
            )  # fmt: skip
            second = tl.zeros([ROWS, H2], tl.float32) + bias[None, :]
            second = leaky(product(leaky(first), w_second, second, SPLIT))
            score = tl.sum(second * w_score[None, :], 1) + b_score
            logit = tl.sum(second * w_logit[None, :], 1) + b_logit
            top = tl.maximum(peak, logit)
            base_level = finite_or_zero(top)
            fade = exp(peak - base_level)
            share = exp(logit - base_level)
            total = total * fade + share
            scores = scores * fade + share * score
            peak = top
            maps += size
            view += 1
        some = tl.where(total == 0.0, 1.0, total)
        place = (item * planes + plane) * cells + cell
        tl.store(volume + place, (scores / some).to(volume.dtype.element_ty), mask=inside)
        tl.store(log_sum + place, peak + tl.log(some), mask=inside)


# ---------------------------------------------------------------------------------------------- launchers


def _rows(options: dict[str, Any]) -> int:
    """Cells of a tile: fewer for larger layers, so that the sums stay in registers."""
    return 128 if max(options["H1"], options["H2"], options["BLOCK_C"]) <= 32 else 64


def forward(
    reference: Tensor, sources: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor,
    b3: Tensor, projection: Tensor, rays: Tensor, centres: Tensor, pose_values: Tensor,
    depths: Tensor, depth_limits: Tensor, num_views: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Volume (B, D, H, W) in the dtype of the features, and the log of the softmax's denominator, float32."""
    weights, geometry = (w1, b1, w2, b2, w3, b3), (
        projection, rays, centres, pose_values, depths, depth_limits
    )  # fmt: skip
    with torch.cuda.device_of(reference):
        return _run(prepare(reference, sources, weights, geometry, num_views), reference.dtype)


def _run(problem: Problem, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    shape = (problem.batch, problem.planes, *problem.size)
    volume = problem.tensors[0].new_empty(shape, dtype=dtype)
    log_sum = torch.empty_like(volume, dtype=torch.float32)
    if problem.batch:
        rows = _rows(problem.options)
        blocks, groups = triton.cdiv(problem.cells, rows), triton.cdiv(problem.planes, _GROUP)
        forward_kernel[(problem.batch * groups * blocks,)](
            *problem.tensors, problem.num_views, volume, log_sum, blocks, groups, *problem.sizes,
            **problem.options, GROUP=_GROUP, ROWS=rows, num_warps=4, num_stages=1,
        )  # fmt: skip
    return volume, log_sum


def backward(
    reference: Tensor, sources: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor,
    b3: Tensor, projection: Tensor, rays: Tensor, centres: Tensor, pose_values: Tensor,
    depths: Tensor, depth_limits: Tensor, num_views: Tensor | None, volume: Tensor, log_sum: Tensor,
    d_volume: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of reference, sources, w1, b1, w2, b2, w3 and b3, in their dtypes."""
    weights = (w1, b1, w2, b2, w3, b3)
    if reference.shape[0] == 0:
        return tuple(torch.zeros_like(t) for t in (reference, sources, *weights))
    with torch.cuda.device_of(reference):
        geometry = (projection, rays, centres, pose_values, depths, depth_limits)
        problem = prepare(reference, sources, weights, geometry, num_views)
        if volume.dtype != torch.float32:  # rounded, it is not enough to go on from
            volume, log_sum = _run(problem, torch.float32)
        kept = tuple(t.contiguous() for t in (volume, log_sum, d_volume))
        d_reference, d_weights, unit, inverse_unit = metadata_gradient.owned(
            problem, kept, reference, weights
        )
        d_sources = metadata_gradient.scattered(problem, kept, sources, unit, inverse_unit)
    return d_reference, d_sources, *d_weights
