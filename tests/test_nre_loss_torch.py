# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""nre_loss in torch's machinery: opcheck, torch.compile, autocast, training steps; memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from test_nre_loss import problem, with_gradients

import pyloc_core as pc

torch = pytest.importorskip("torch")


def arguments(dtype: Any = torch.float32) -> tuple[Any, ...]:
    h, f, t = (x.detach() for x in problem((2, 7, 5, 6, 9), 1, dtype))
    return h, f, t, torch.tensor([7, 4]), 0.8, [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(dtype: Any) -> None:
    h, f, t, valid, *rest = arguments(dtype)
    pc.nre_loss(h, f, t)  # registers the operators
    forward = torch.ops.pyloc_core.nre_loss_forward
    for jacobian in (True, False):
        torch.library.opcheck(forward, (h, f, t, valid, *rest, True, jacobian, "", 1))
    statistics = forward(h, f, t, None, *rest, True, True, "", 1)[1]
    loss_gradient = torch.randn(2, 7, generator=torch.Generator().manual_seed(2))
    for g in (f, f.contiguous(memory_format=torch.channels_last)):
        torch.library.opcheck(
            torch.ops.pyloc_core.nre_loss_backward,
            (loss_gradient, statistics, h, g, t, valid, *rest, True, "", 1),
        )


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_compiles_without_a_graph_break(backend: str, reduction: str) -> None:
    arrays = problem((2, 7, 5, 6, 9), 1, torch.float32)
    valid = torch.tensor([7, 4])

    def loss(h: Any, f: Any, t: Any) -> Any:
        return pc.nre_loss(
            torch.nn.functional.normalize(h, dim=-1), f, t, num_valid=valid, reduction=reduction,
            outside="mask",
        )  # fmt: skip

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    expected = with_gradients(loss(*arrays), arrays)
    found = with_gradients(compiled(*arrays), arrays)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_compiles_with_a_list_of_counts() -> None:
    h, f, t = problem((2, 7, 5, 6, 9), 1, torch.float32)
    compiled = torch.compile(
        lambda h: pc.nre_loss(h, f, t, num_valid=[7, 4]), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(h), pc.nre_loss(h, f, t, num_valid=[7, 4]))


def test_compiled_code_spoils_only_the_bad_point() -> None:
    """Values are not looked at there: NaN for the point itself, nothing for the features."""
    arrays = problem((1, 5, 4, 6, 7), 2)
    bad = [x.detach().clone() for x in arrays]
    bad[2][0, 3, 1] = 40.0
    bad = [x.requires_grad_() for x in bad]
    compiled = torch.compile(pc.nre_loss, fullgraph=True, backend="aot_eager")
    found = with_gradients(compiled(*bad), bad)
    left = [arrays[0], arrays[1], arrays[2]]
    mask = torch.ones(1, 5, dtype=torch.bool)
    mask[0, 3] = False
    weights = torch.randn(1, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gradients = torch.autograd.grad((pc.nre_loss(*left) * weights * mask).sum(), left)
    assert found[0].isnan().tolist() == (~mask).tolist()
    torch.testing.assert_close(found[2], gradients[1], atol=1e-12, rtol=1e-12)
    for ours, expected in ((found[1], gradients[0]), (found[3], gradients[2])):
        assert ours[0, 3].isnan().all()
        torch.testing.assert_close(ours[mask], expected[mask], atol=1e-12, rtol=1e-12)


def test_autocast_lowers_the_operands_and_nothing_else() -> None:
    h, f, t = problem((1, 9, 16, 6, 7), 3, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradients(pc.nre_loss(h, f, t), [h, f, t])
    low = [h.detach().bfloat16().requires_grad_(), f.detach().bfloat16().requires_grad_(), t]
    expected = with_gradients(pc.nre_loss(*low), low)
    assert found[0].dtype == found[1].dtype == found[2].dtype == torch.float32
    for a, b in zip(found, expected):
        assert torch.equal(a.double(), b.double())


def test_gradient_descent_brings_the_peak_to_the_target() -> None:
    """What the loss is for: after some steps `match` finds the targets."""
    generator = torch.Generator().manual_seed(4)
    h = torch.randn(12, 24, generator=generator).requires_grad_()
    f = torch.randn(24, 11, 13, generator=generator).requires_grad_()
    cells = torch.randperm(11 * 13, generator=generator)[:12]
    t = torch.stack([cells % 13, cells // 13], 1).double()
    optimizer = torch.optim.Adam([h, f], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        pc.nre_loss(h, f, t, temperature=2.0, reduction="mean").backward()
        optimizer.step()
    assert torch.equal(pc.match(h.detach(), f.detach()).xy, t)


def test_the_target_moves_to_the_peak() -> None:
    """Gradients of the target: a point slides to the cell that its descriptor describes."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    peak = torch.tensor([21.0, 7.0])
    f = -((x - peak[0]) ** 2 + (y - peak[1]) ** 2)[None] / 8
    t = torch.tensor([[12.3, 15.6]], requires_grad=True)
    optimizer = torch.optim.Adam([t], lr=0.3)
    for _ in range(120):
        optimizer.zero_grad()
        pc.nre_loss(torch.ones(1, 1), f, t).sum().backward()
        optimizer.step()
    assert (t.detach() - peak).abs().max() < 0.5


MEMORY = """
import re, sys
from pathlib import Path
import torch
import pyloc_core as pc

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
B, N, D, H, W = 1, 1000, 128, 300, 400
h = torch.randn(B, N, D, generator=g).requires_grad_()
f = torch.randn(B, D, H, W, generator=g).requires_grad_()
t = (torch.rand(B, N, 2, generator=g) * torch.tensor([W - 1, H - 1])).requires_grad_()
small = [torch.ones(1, 70, D).requires_grad_(), torch.ones(1, D, 9, 9).requires_grad_(), torch.ones(1, 70, 2)]
pc.nre_loss(*small, num_threads=2).sum().backward()
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
before = resident("VmRSS")
pc.nre_loss(h, f, t, num_threads=int(sys.argv[1]), reduction="mean").backward()
print(resident("VmHWM") - before - 4 * (h.numel() + f.numel() + t.numel()))
assert all(bool(x.grad.isfinite().all()) and x.grad.any() for x in (h, f, t))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_does_not_grow_with_points_times_cells(threads: int) -> None:
    """1000 points on 300 x 400 cells: one dense map of them takes 480 MB; beside the gradients a call
    holds less than 16 MB."""
    command = [sys.executable, "-c", MEMORY, str(threads)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 0 < int(output) < 16e6
