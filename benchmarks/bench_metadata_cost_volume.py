# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The metadata cost volume at MVSAnywhere's size (7 views, 64 planes, 120 x 160 cells, 16 channels, layers
46-32-32-2), 1 thread, against plain torch: a loop over views and planes, all samples at once (1.6 GB of
metadata), and the loop with its body
under torch.compile.

    python benchmarks/bench_metadata_cost_volume.py pyloc float32 [backward]

prints one form's seconds of the process (a busy machine changes them less than the clock's) and how far the
process's peak of memory rises."""

from __future__ import annotations

import functools
import math
import resource
import sys
import time

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


def of_length_1(vectors):
    """Much faster than torch's normalize and cosine_similarity are along this dimension."""
    return vectors * (vectors * vectors).sum(1, keepdim=True).rsqrt()


def metadata(reference, source, k, k_source, pose, depths, limits, relative, dtype):
    """(D, 46, H W) of one view and some planes, from float32 geometry; source (1, C, H, W) float32, since
    coordinates of bfloat16 would be no coordinates."""
    planes, cells = len(depths), HEIGHT * WIDTH
    y, x = torch.meshgrid(torch.arange(HEIGHT) * 1.0, torch.arange(WIDTH) * 1.0, indexing="ij")
    ray = k.inverse().float() @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    points = depths[:, None, None] * ray
    rotation, translation = pose[:, :3], pose[:, 3:]
    seen = k_source @ (rotation @ points + translation)
    depth = seen[:, 2:]
    uv = seen[:, :2] / depth
    grid = torch.stack([(2 * uv[:, 0] + 1) / WIDTH - 1, (2 * uv[:, 1] + 1) / HEIGHT - 1], -1)
    warped = torch.nn.functional.grid_sample(
        source.expand(planes, -1, -1, -1), grid[:, None], align_corners=False
    )
    warped = warped.flatten(2).to(dtype)
    mask = (depth > 0).float()
    own = reference.flatten(1).expand(planes, -1, -1)
    dot = (warped * own).sum(1, keepdim=True) * mask
    unit, other = of_length_1(points), of_length_1(points + rotation.T @ translation)
    cosine = (unit * other).sum(1, keepdim=True)
    scalars = [
        mask, (depth - limits[0]) / limits[1],
        ((depths - limits[0]) / limits[1])[:, None, None].expand(planes, 1, cells),
        dot, cosine, unit, other, relative[:, None].expand(planes, 3, cells),
    ]  # fmt: skip
    return torch.cat([warped, own, *(s.to(dtype) for s in scalars)], 1)


def network(values, weights):
    """(D, 46, N) to (D, 2, N): products of matrices, the fastest form here."""
    leaky = torch.nn.functional.leaky_relu
    w1, b1, w2, b2, w3, b3 = (w.to(values.dtype) for w in weights)
    x = leaky(w1 @ values + b1[:, None], 0.01)
    return w3 @ leaky(w2 @ x + b2[:, None], 0.01) + b3[:, None]


def step(reference, source, k, k_source, pose, depths, limits, relative, weights):
    """Scores and logits (D, 2, N) of a view."""
    dtype = reference.dtype
    values = metadata(reference, source, k, k_source, pose, depths, limits, relative, dtype)
    return network(values, weights)


def relative_poses(poses):
    length = poses[:, :, 3].norm(dim=1)
    trace = poses[:, :, :3].diagonal(dim1=1, dim2=2).sum(1)
    angle = (2 * (1 - trace.clamp(max=3) / 3)).sqrt()
    distance = (length**2 + angle**2).sqrt()
    return torch.stack([distance / distance.max(), angle, length / length.max()], 1).float()


def eager(reference, sources, k, k_sources, poses, depths, weights, step=step):
    """A loop over planes and views."""
    relative, limits = relative_poses(poses), (float(depths.min()), float(depths.max()))
    sources, k_sources, poses = sources[:, None].float(), k_sources.float(), poses.float()
    volume = []
    for at in depths.float().split(1):
        given = zip(sources, k_sources, poses, relative)
        found = [step(reference, s, k, ks, p, at, limits, r, weights) for s, ks, p, r in given]
        score, logit = torch.stack(found).unbind(2)
        volume.append((logit.softmax(0) * score).sum(0))
    return torch.cat(volume).unflatten(-1, (HEIGHT, WIDTH))


def batched(reference, sources, k, k_sources, poses, depths, weights):
    """All samples' metadata in memory at once."""
    relative, limits = relative_poses(poses), (float(depths.min()), float(depths.max()))
    given = zip(sources[:, None].float(), k_sources.float(), poses.float(), relative)
    at, dtype = depths.float(), reference.dtype
    values = [metadata(reference, s, k, ks, p, at, limits, r, dtype) for s, ks, p, r in given]
    score, logit = network(torch.cat(values), weights).unflatten(0, (VIEWS, PLANES)).unbind(2)
    return (logit.softmax(0) * score).sum(0).unflatten(-1, (HEIGHT, WIDTH))


def ours(*arguments):
    return pl.metadata_cost_volume(*arguments, num_threads=1)


def compiled():
    """The loop with its body compiled: 448 bodies in one graph are more than the compiler takes."""
    return functools.partial(eager, step=torch.compile(step))


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


def main(name, dtype, backward=""):
    given = problem(getattr(torch, dtype))
    slope = torch.randn(PLANES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    slope, form, seconds = slope.to(given[0].dtype), FORMS[name](), []
    pl.get_num_threads()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(7 if name == "pyloc" else 2):
        start = time.process_time()
        with torch.set_grad_enabled(bool(backward)):
            both(form, given, slope) if backward else form(*given)
        seconds.append(time.process_time() - start)
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{name} {dtype} {backward}: {min(seconds):.3f} s, {rise / 1024:.0f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
