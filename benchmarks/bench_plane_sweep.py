# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The dot cost volume of a plane sweep, 7 views, 64 planes, 120 x 160 cells, 16 channels, 1 thread: against
grid_sample over all planes at once, plane by plane, and under torch.compile."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from sweep_scenes import grid_sample_sweep, scene  # noqa: E402

VIEWS, PLANES, CHANNELS, SIZE = 7, 64, 16, (120, 160)
GROUP = (
    f"plane sweep, {VIEWS} views, {PLANES} planes, {SIZE[0]} x {SIZE[1]}, C {CHANNELS}, 1 thread"
)


def problem():
    """Sources some tenths of the nearest plane's depth away: 83 % of the samples lie in the map. All float32,
    so that the plain forms pay for no wider coordinates."""
    torch.set_num_threads(1)
    given = scene((1, VIEWS, CHANNELS, PLANES, 0), SIZE, SIZE, baseline=0.2)
    return [x.float() for x in given.tensors()]


@pytest.fixture(scope="module")
def truth():
    return grid_sample_sweep(*(x.double() for x in problem()))


def ours(*given):
    return pl.plane_sweep(*given, num_threads=1)


def plane_by_plane(*given):
    return grid_sample_sweep(*given, per_plane=True)


FORMS = {
    "pyloc": lambda: ours,
    "one call": lambda: grid_sample_sweep,
    "plane by plane": lambda: plane_by_plane,
    "compile": lambda: torch.compile(grid_sample_sweep),
}


def both(form, given, slope):
    leaves = [x.detach().requires_grad_() for x in given[:2]]
    form(*leaves, *given[2:]).backward(slope)
    return [x.grad for x in leaves]


@pytest.mark.parametrize("name", FORMS)
def test_forward(benchmark, truth, name):
    given = problem()
    benchmark.group = GROUP
    with torch.no_grad():
        found = benchmark.pedantic(FORMS[name](), given, rounds=5, warmup_rounds=1)
    assert (found - truth).abs().max() < 1e-3 * truth.abs().max()


@pytest.mark.parametrize("name", FORMS)
def test_forward_and_backward(benchmark, name):
    given = problem()
    benchmark.group = f"{GROUP}, forward and backward"
    slope = torch.randn(1, PLANES, *SIZE, generator=torch.Generator().manual_seed(1))
    found = benchmark.pedantic(both, (FORMS[name](), given, slope), rounds=3, warmup_rounds=1)
    assert all(x.abs().max() > 0 and torch.isfinite(x).all() for x in found)


def peak_memory(name, backward):
    """MB that the largest moment of a call adds to the process, which ends with it."""
    given = problem()
    slope = torch.randn(1, PLANES, *SIZE, generator=torch.Generator().manual_seed(1))
    small = [x[..., :8, :8] for x in given[:2]] + given[2:]
    form = FORMS[name]()
    both(form, small, slope[..., :8, :8])  # imports, and the threads' own memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.set_grad_enabled(backward):
        both(form, given, slope) if backward else form(*given)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@pytest.mark.parametrize("name", ["pyloc", "one call", "plane by plane"])
@pytest.mark.parametrize("backward", [False, True])
def test_peak_memory(benchmark, name, backward):
    """Not a time: the figure is in extra_info, from a process of its own."""
    command = [sys.executable, __file__, name, str(int(backward))]
    found = benchmark.pedantic(subprocess.check_output, (command,), rounds=1)
    benchmark.group = f"{GROUP}, peak memory, {'forward and backward' if backward else 'forward'}"
    benchmark.extra_info["peak_mb"] = float(found.split()[-1])
    assert float(found.split()[-1]) > 0


if __name__ == "__main__":
    print(peak_memory(sys.argv[1], bool(int(sys.argv[2]))))
