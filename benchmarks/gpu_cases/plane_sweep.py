# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""plane_sweep, forward and backward, at the size of MVSAnywhere's volume: 7 views, 64 planes, 120 x 160."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import pyloc_core as pl
from gpu_cases import Case, Check, Setting, relative_error

OPERATOR = "plane_sweep"
SIZE = (7, 16, 64, 120, 160)  # V, C, D, H, W


def cameras(setting: Setting, batch: int, views: int, size: tuple[int, int]):
    """K_reference, K_sources, source_from_reference and depth limits: sources a little aside, turned towards
    the scene."""
    g = torch.Generator().manual_seed(setting.seed)
    height, width = size
    K = torch.tensor(
        [[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]], dtype=torch.float64
    )
    skew = torch.zeros(batch, views, 3, 3, dtype=torch.float64)
    turn = 0.05 * torch.randn(batch, views, 3, generator=g, dtype=torch.float64)
    skew[..., 0, 1], skew[..., 0, 2], skew[..., 1, 2] = turn.unbind(-1)
    R = torch.linalg.matrix_exp(skew - skew.mT)
    t = 0.15 * torch.randn(batch, views, 3, 1, generator=g, dtype=torch.float64)
    found = K.expand(batch, 3, 3), K.expand(batch, views, 3, 3), torch.cat([R, t], -1)
    return [x.to(setting.device) for x in found]


def problem(setting: Setting, batch: int, size: tuple[int, int, int, int, int], dtype: torch.dtype):
    """Reference, sources, cameras, depths; slope of the volume."""
    views, channels, planes, height, width = size
    g = torch.Generator().manual_seed(setting.seed + 1)
    reference = torch.randn(batch, channels, height, width, generator=g)
    sources = torch.randn(batch, views, channels, height, width, generator=g)
    slope = torch.randn(batch, planes, height, width, generator=g).to(setting.device)
    depths = torch.logspace(-0.3, 1.2, planes, dtype=torch.float64).to(setting.device)
    features = [x.to(setting.device, dtype) for x in (reference, sources)]
    return [*features, *cameras(setting, batch, views, (height, width)), depths], slope


def grids(K_reference, K_sources, poses, depths, size: tuple[int, int]):
    """Where the cells of all planes lie in every source: grids of grid_sample, and the depths there."""
    height, width = size
    y, x = torch.meshgrid(
        torch.arange(height, device=depths.device),
        torch.arange(width, device=depths.device),
        indexing="ij",
    )
    cells = torch.stack([x, y, torch.ones_like(x)]).double().flatten(1)
    rays = torch.linalg.inv(K_reference) @ cells
    points = rays[:, None] * depths[:, None, None]  # (B, D, 3, H W)
    there = poses[:, :, None, :, :3] @ points[:, None] + poses[:, :, None, :, 3:]
    q = K_sources[:, :, None] @ there
    uv = q[..., :2, :] / q[..., 2:, :]
    scale = torch.tensor([width, height], device=depths.device)[:, None]
    grid = ((2 * uv + 1) / scale - 1).transpose(-1, -2).float()
    return grid, (q[..., 2, :] > 0).float()


def eager(reference, sources, *rest):
    """A view at a time, all planes in one call of grid_sample."""
    size = reference.shape[-2:]
    grid, front = grids(*rest, size)
    total = 0.0
    for v in range(sources.shape[1]):
        there = warped(sources[:, v], grid[:, v]).unflatten(3, size)
        total = total + (reference[:, :, None] * there).sum(1) * front[:, v].unflatten(2, size)
    return (total / sources.shape[1]).to(reference.dtype)


def warped(source, grid):
    """Features (B, C, D, H W) of one view."""
    return torch.nn.functional.grid_sample(source, grid.to(source.dtype), align_corners=False)


def both(form, given, slope):
    features = [x.detach().requires_grad_() for x in given[:2]]
    out = form(*features, *given[2:])
    return out.detach(), *torch.autograd.grad(out, features, slope.to(out.dtype))


def check(setting: Setting) -> Iterator[Check]:
    size = (2, 5, 2, 6, 9) if setting.tiny else (4, 16, 20, 60, 80)
    for dtype, tolerance in (
        (torch.float32, 1e-4), (torch.float16, 4e-3), (torch.bfloat16, 3e-2),
    ):  # fmt: skip
        given, slope = problem(setting, 1, size, dtype)
        per_cell = given[5][None, :, None, None] * (
            1 + 0.1 * torch.rand(1, *size[2:], device=setting.device)
        )
        forms = [("planes", given[5]), ("depths of cells", per_cell)]
        for planes, depths in forms[: 1 if setting.tiny and dtype != torch.float32 else 2]:
            case = [*given[:5], depths]
            found = both(lambda *a: pl.plane_sweep(*a, implementation=setting.forced), case, slope)
            exact = [x.cpu().double() for x in case]
            truth = both(
                lambda *a: pl.plane_sweep(*a, implementation="reference"),
                exact,
                slope.cpu().double(),
            )
            name = str(dtype).removeprefix("torch.")
            for what, a, b in zip(("volume", "reference", "sources"), found, truth):
                yield Check(f"{name}, {planes}: {what}, relative", relative_error(a, b), tolerance)
            again = both(lambda *a: pl.plane_sweep(*a, implementation=setting.forced), case, slope)
            changed = sum(float((a != b).sum()) for a, b in zip(found, again))
            yield Check(f"{name}, {planes}: bits that a second run changes", changed, 0.0)


def cases(setting: Setting) -> Iterator[Case]:
    for dtype, name in ((torch.float32, "fp32"), (torch.float16, "fp16")):
        given, slope = problem(setting, 1, SIZE, dtype)
        yield Case(
            f"plane_sweep, 7 views, 64 planes, 120 x 160, C 16, {name}",
            lambda g=given: pl.plane_sweep(*g), lambda g=given: eager(*g), 29e-6, 60e-6,
        )  # fmt: skip
        yield Case(
            f"plane_sweep forward + backward, same size, {name}",
            lambda g=given, s=slope: both(pl.plane_sweep, g, s),
            lambda g=given, s=slope: both(eager, g, s), None, 180e-6,
        )  # fmt: skip
