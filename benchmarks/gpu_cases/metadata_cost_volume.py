# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""metadata_cost_volume, forward and backward, at the size of MVSAnywhere's volume, layers 46-32-32-2."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import leaky_relu, normalize

import pyloc_core as pl
from gpu_cases import Case, Check, Setting, relative_error
from gpu_cases.plane_sweep import SIZE, grids, warped
from gpu_cases.plane_sweep import problem as sweep_problem

OPERATOR = "metadata_cost_volume"


def problem(setting: Setting, size: tuple[int, int, int, int, int], dtype: torch.dtype):
    """Reference, sources, cameras, depths; six weights; slope of the volume."""
    given, slope = sweep_problem(setting, 1, size, dtype)
    g = torch.Generator().manual_seed(setting.seed + 2)
    inputs = 2 * size[1] + 14
    shapes = ((32, inputs), (32,), (32, 32), (32,), (2, 32), (2,))
    weights = [torch.randn(s, generator=g) * (1.4 / s[-1] ** 0.5) for s in shapes]
    return given, [w.to(setting.device) for w in weights], slope


def rays(K_reference, poses, depths, size: tuple[int, int]):
    """Unit rays from the reference (B, 1, 3, H W) and from every source (B, V, D, 3, H W)."""
    height, width = size
    y, x = torch.meshgrid(
        torch.arange(height, device=depths.device),
        torch.arange(width, device=depths.device),
        indexing="ij",
    )
    cells = torch.stack([x, y, torch.ones_like(x)]).double().flatten(1)
    ray = torch.linalg.inv(K_reference) @ cells
    centres = -(poses[..., :3].mT @ poses[..., 3:])
    there = ray[:, None, None] * depths[:, None, None] - centres[:, :, None]
    return normalize(ray, dim=1)[:, None].float(), normalize(there, dim=3).float()


def pose_values(poses):
    """Channels 43 to 45, (B, V, 3)."""
    length = poses[..., 3].norm(dim=-1)
    trace = poses[..., :3].diagonal(dim1=-2, dim2=-1).sum(-1)
    turn = (2 * (1 - trace.clamp(max=3) / 3)).clamp_min(0).sqrt()
    far = (length**2 + turn**2).sqrt()
    return torch.stack([far / far.amax(1, True), turn, length / length.amax(1, True)], -1).float()


def eager(reference, sources, K_reference, K_sources, poses, depths, *weights):
    """All 46 values of a view written out, one view after the other."""
    size, planes = reference.shape[-2:], len(depths)
    grid, front = grids(K_reference, K_sources, poses, depths, size)
    own_ray, ray = rays(K_reference, poses, depths, size)
    values = pose_values(poses)
    w1, b1, w2, b2, w3, b3 = (w.to(reference.dtype) for w in weights)
    own = reference.flatten(2)[:, :, None].expand(-1, -1, planes, -1)  # (B, C, D, H W)
    outputs = []
    for v in range(sources.shape[1]):
        there = warped(sources[:, v], grid[:, v])
        z = source_depth(K_reference, poses[:, v], depths, size)
        near, far = depths.amin(), depths.amax()
        plane = ((depths - near) / far).float()[None, :, None].expand_as(z)
        scalars = [front[:, v], (z - near) / far, plane, (there * own).sum(1) * front[:, v]]
        scalars.append((own_ray * ray[:, v]).sum(2))
        vectors = [own_ray.expand(-1, planes, -1, -1).transpose(1, 2), ray[:, v].transpose(1, 2)]
        pose = values[:, v, :, None, None].expand(-1, -1, *z.shape[1:])
        parts = [there, own, torch.stack([s.float() for s in scalars], 1), *vectors, pose]
        x = torch.cat([p.to(reference.dtype) for p in parts], 1).movedim(1, -1)
        x = leaky_relu(leaky_relu(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
        outputs.append(x)
    score, logit = torch.stack(outputs, 1).unbind(-1)
    return (logit.softmax(1) * score).sum(1).unflatten(2, size)


def source_depth(K_reference, pose, depths, size: tuple[int, int]):
    """Depths (B, D, H W) in one source camera."""
    height, width = size
    y, x = torch.meshgrid(
        torch.arange(height, device=depths.device),
        torch.arange(width, device=depths.device),
        indexing="ij",
    )
    cells = torch.stack([x, y, torch.ones_like(x)]).double().flatten(1)
    along = pose[:, 2:, :3] @ torch.linalg.inv(K_reference) @ cells  # (B, 1, H W)
    return (along * depths[:, None] + pose[:, 2, 3, None, None]).float()


def both(form, given, weights, slope):
    inputs = [x.detach().requires_grad_() for x in (*given[:2], *weights)]
    out = form(*inputs[:2], *given[2:], inputs[2:])
    return out.detach(), *torch.autograd.grad(out, inputs, slope.to(out.dtype))


def check(setting: Setting) -> Iterator[Check]:
    size = (2, 5, 2, 6, 9) if setting.tiny else (4, 16, 20, 60, 80)
    names = ("volume", "reference", "sources", "w1", "b1", "w2", "b2", "w3", "b3")
    for dtype, tolerance in (
        (torch.float32, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 6e-2),
    ):  # fmt: skip
        given, weights, slope = problem(setting, size, dtype)
        slope = slope + 1.0  # sums of slopes that cancel would measure the slopes' rounding

        def run(*a, forced=setting.forced):
            return pl.metadata_cost_volume(*a, implementation=forced)

        found = both(run, given, weights, slope)
        exact = [[x.cpu().double() for x in group] for group in (given, weights)]
        truth = both(lambda *a: run(*a, forced="reference"), *exact, slope.cpu().double())
        kind = str(dtype).removeprefix("torch.")
        for what, a, b in zip(names, found, truth):
            yield Check(f"{kind}: {what}, relative", relative_error(a, b), tolerance)
        changed = sum(
            float((a != b).sum()) for a, b in zip(found, both(run, given, weights, slope))
        )
        yield Check(f"{kind}: bits that a second run changes", changed, 0.0)


def cases(setting: Setting) -> Iterator[Case]:
    for dtype, name in ((torch.float32, "fp32"), (torch.float16, "fp16")):
        given, weights, slope = problem(setting, SIZE, dtype)
        all_of = (given, weights, slope)
        yield Case(
            f"metadata_cost_volume, 7 views, 64 planes, 120 x 160, 46-32-32-2, {name}",
            lambda g=given, w=weights: pl.metadata_cost_volume(*g, w),
            lambda g=given, w=weights: eager(*g, *w), 60e-6, 150e-6,
        )  # fmt: skip
        yield Case(
            f"metadata_cost_volume forward + backward, same size, {name}",
            lambda a=all_of: both(pl.metadata_cost_volume, *a),
            lambda a=all_of: both(lambda *x: eager(*x[:-1], *x[-1]), *a),
        )  # fmt: skip
