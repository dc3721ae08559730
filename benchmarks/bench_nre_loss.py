# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""nre_loss forward and backward at N 1000, D 128, 200 x 150 cells, 1 thread, against dense torch in one run.

`eager` is einsum, logsumexp and four gathers, with autograd; gradients of descriptors, features and targets
in both. `peak_MB` is what one forward and backward pass held at most beside arguments and gradients, in a
process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
N, D, H, W = 1000, 128, 150, 200
CASES = [("float32", 1), ("float32", 2), ("bfloat16", 1)]


def problem(dtype: str, batch: int):
    g = torch.Generator().manual_seed(0)
    # Correlations of standard deviation 3: peaked, not degenerate.
    h = 3 * torch.randn(batch, N, D, generator=g) / D**0.5
    f = torch.randn(batch, D, H, W, generator=g)
    t = torch.rand(batch, N, 2, generator=g) * torch.tensor([W - 1, H - 1])
    kind = getattr(torch, dtype)
    return [x.requires_grad_() for x in (h.to(kind), f.to(kind), t)]


def eager(h, f, t):
    width = f.shape[3]
    c = torch.einsum("bnd,bdp->bnp", h, f.flatten(2))
    corner = t.detach().floor()
    fx, fy = (t - corner).unbind(-1)
    x, y = corner.long().unbind(-1)
    value = 0
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
            cell = (y + dy).clamp(max=f.shape[2] - 1) * width + (x + dx).clamp(max=width - 1)
            value = value + weight * c.gather(2, cell[..., None])[..., 0]
    return c.logsumexp(2) - value


def pyloc(h, f, t):
    return pl.nre_loss(h, f, t, num_threads=1)


def step(loss, arrays):
    value = loss(*arrays)
    return value.detach(), *torch.autograd.grad(value.float().mean(), arrays)


def peak_bytes(name: str, dtype: str, batch: int) -> int:
    command = [sys.executable, __file__, name, dtype, str(batch)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c[0]}, B {c[1]}")
def case(request):
    torch.set_num_threads(1)
    arrays = problem(*request.param)
    found, expected = step(pyloc, arrays), step(eager, arrays)
    tolerance = 1e-5 if request.param[0] == "float32" else 5e-2
    for a, b in zip(found, expected):
        assert (a.double() - b.double()).abs().max() < tolerance * max(b.abs().max(), 1)
    return request.param, arrays


@pytest.mark.parametrize("name", ["pyloc", "eager"])
def test_step(benchmark, case, name):
    (dtype, batch), arrays = case
    benchmark.group = (
        f"nre_loss forward + backward, {dtype}, B {batch}, 1000 x 128 x 30000, 1 thread"
    )
    benchmark.extra_info["peak_MB"] = peak_bytes(name, dtype, batch) / 1e6
    rounds = {"rounds": 7 if name == "pyloc" else 3, "warmup_rounds": 1}
    benchmark.pedantic(step, (globals()[name], arrays), **rounds)


@pytest.mark.parametrize("name", ["pyloc", "eager"])
def test_forward(benchmark, case, name):
    (dtype, batch), arrays = case
    benchmark.group = f"nre_loss forward, no gradients, {dtype}, B {batch}, 1 thread"
    detached = [x.detach() for x in arrays]
    benchmark.pedantic(globals()[name], detached, rounds=5, warmup_rounds=1)


def resident(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(re.search(field + r":\s+(\d+) kB", text)[1]) * 1024


def main() -> None:
    name, dtype, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    loss, arrays = globals()[name], problem(dtype, batch)
    h, f, t = (x.detach() for x in arrays)
    small = h[:, :40], f[..., :9, :9].contiguous(), t[:, :40] / 40  # loads what a call loads
    step(loss, [x.clone().requires_grad_() for x in small])
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    before = resident("VmRSS")
    kept = step(loss, arrays)
    gradients = sum(x.numel() * x.element_size() for x in kept)
    print(resident("VmHWM") - before - gradients)


if __name__ == "__main__":
    main()
