# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The metadata cost volume at MVSAnywhere's size (7 views, 64 planes, 120 x 160 cells, 16 channels, layers
46-32-32-2), 1 thread, against plain torch: a loop over views and planes, all samples at once (1.6 GB of
metadata), and the loop under torch.compile."""

from __future__ import annotations

import math

import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
VIEWS, PLANES, HEIGHT, WIDTH, CHANNELS, HIDDEN = 7, 64, 120, 160, 16, 32
GROUP = f"metadata volume, {VIEWS} views, {PLANES} planes, {HEIGHT} x {WIDTH}, 1 thread"


def problem(dtype=torch.float32):
    """Features, cameras (float64), depths and weights of one item, without a leading dimension."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    k = torch.tensor([[130.0, 0, 79.5], [0, 130, 59.5], [0, 0, 1]], dtype=torch.float64)
    turns = torch.zeros(VIEWS, 3, 3)
    turns[:, 0, 1], turns[:, 0, 2], turns[:, 1, 2] = 0.05 * normal(3, VIEWS)
    rotation = torch.linalg.matrix_exp(turns - turns.mT)
    poses = torch.cat([rotation, 0.1 * normal(VIEWS, 3, 1)], -1).double()
    features = normal(CHANNELS, HEIGHT, WIDTH), normal(VIEWS, CHANNELS, HEIGHT, WIDTH)
    shapes = ((HIDDEN, 46), (HIDDEN,), (HIDDEN, HIDDEN), (HIDDEN,), (2, HIDDEN), (2,))
    weights = [normal(*s) * (1.4 / s[-1] ** 0.5) for s in shapes]
    depths = torch.exp(torch.linspace(math.log(0.5), math.log(10.0), PLANES, dtype=torch.float64))
    return *(f.to(dtype) for f in features), k, k.expand(VIEWS, 3, 3), poses, depths, weights


def metadata(reference, source, k, k_source, pose, depths, limits, relative):
    """(D, 46, H, W) of one view and some planes, in the features' dtype from float32 geometry."""
    h, w, planes = HEIGHT, WIDTH, len(depths)
    y, x = torch.meshgrid(torch.arange(h) * 1.0, torch.arange(w) * 1.0, indexing="ij")
    ray = k.inverse().float() @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    points = depths[:, None, None] * ray
    rotation, translation = pose[:, :3], pose[:, 3:]
    seen = k_source @ (rotation @ points + translation)
    depth = seen[:, 2:]
    uv = seen[:, :2] / depth
    grid = torch.stack([(2 * uv[:, 0] + 1) / w - 1, (2 * uv[:, 1] + 1) / h - 1], -1)
    grid = grid.reshape(planes, h, w, 2).to(source.dtype)
    warped = torch.nn.functional.grid_sample(
        source.expand(planes, -1, -1, -1), grid, align_corners=False
    )
    mask = (depth > 0).float().reshape(planes, 1, h, w)
    own = reference.expand(planes, -1, -1, -1)
    dot = (warped * own).sum(1, keepdim=True) * mask
    unit = torch.nn.functional.normalize(points, dim=1).reshape(planes, 3, h, w)
    other = points + rotation.T @ translation
    other = torch.nn.functional.normalize(other, dim=1).reshape(planes, 3, h, w)
    cosine = torch.nn.functional.cosine_similarity(unit, other, eps=1e-5)[:, None]
    scalars = [
        mask, (depth.reshape(planes, 1, h, w) - limits[0]) / limits[1],
        ((depths - limits[0]) / limits[1])[:, None, None, None].expand(planes, 1, h, w),
        dot, cosine, unit, other, relative[:, None, None].expand(planes, 3, h, w),
    ]  # fmt: skip
    return torch.cat([warped, own, *(s.to(warped.dtype) for s in scalars)], 1)


def network(values, weights):
    linear, leaky = torch.nn.functional.linear, torch.nn.functional.leaky_relu
    w1, b1, w2, b2, w3, b3 = (w.to(values.dtype) for w in weights)
    x = leaky(linear(values.movedim(1, -1), w1, b1), 0.01)
    return linear(leaky(linear(x, w2, b2), 0.01), w3, b3)


def relative_poses(poses):
    length = poses[:, :, 3].norm(dim=1)
    trace = poses[:, :, :3].diagonal(dim1=1, dim2=2).sum(1)
    angle = (2 * (1 - trace.clamp(max=3) / 3)).sqrt()
    distance = (length**2 + angle**2).sqrt()
    return torch.stack([distance / distance.max(), angle, length / length.max()], 1).float()


def eager(reference, sources, k, k_sources, poses, depths, weights, planes_at_once=1):
    relative, limits = relative_poses(poses), (float(depths.min()), float(depths.max()))
    k_sources, poses, depths = k_sources.float(), poses.float(), depths.float()
    volume = []
    for at in depths.split(planes_at_once):
        found = [
            network(metadata(reference, s, k, ks, pose, at, limits, r), weights)
            for s, ks, pose, r in zip(sources, k_sources, poses, relative)
        ]
        score, logit = torch.stack(found).unbind(-1)
        volume.append((logit.softmax(0) * score).sum(0))
    return torch.cat(volume)


def batched(*arguments):
    """All samples' metadata in memory at once."""
    reference, sources, k, k_sources, poses, depths, weights = arguments
    relative, limits = relative_poses(poses), (float(depths.min()), float(depths.max()))
    given = zip(sources, k_sources.float(), poses.float(), relative)
    values = [metadata(reference, s, k, ks, p, depths.float(), limits, r) for s, ks, p, r in given]
    score, logit = network(torch.cat(values), weights).unflatten(0, (VIEWS, PLANES)).unbind(-1)
    return (logit.softmax(0) * score).sum(0)


def ours(*arguments):
    return pl.metadata_cost_volume(*arguments, num_threads=1)


def compiled():
    return torch.compile(eager)


FORMS = {
    "pyloc": lambda: ours,
    "loop": lambda: eager,
    "batched": lambda: batched,
    "compile": compiled,
}


def both(form, given, slope):
    leaves = [x.detach().requires_grad_() for x in (*given[:2], *given[6])]
    form(*leaves[:2], *given[2:6], leaves[2:]).backward(slope)
    return leaves


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FORMS)
def test_forward(benchmark, name, dtype):
    given = problem(getattr(torch, dtype))
    benchmark.group = f"{GROUP}, {dtype}"
    with torch.no_grad():
        found = benchmark.pedantic(FORMS[name](), given, rounds=3, warmup_rounds=1)
        truth = eager(*(x.float() for x in given[:2]), *given[2:])
    assert (found - truth).abs().max() < (1e-3 if dtype == "float32" else 0.1) * truth.abs().max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FORMS)
def test_forward_and_backward(benchmark, name, dtype):
    given = problem(getattr(torch, dtype))
    benchmark.group = f"{GROUP}, {dtype}, forward and backward"
    slope = torch.randn(PLANES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    found = benchmark.pedantic(
        both, (FORMS[name](), given, slope.to(given[0].dtype)), rounds=2, warmup_rounds=1
    )
    assert all(torch.isfinite(x.grad).all() for x in found)
