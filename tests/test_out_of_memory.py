# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that runs out is a MemoryError, and the next call works."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pyloc_core as pl

# A process of its own: the limit on its address space cannot be taken back.
_PROGRAM = """
import resource
import numpy as np
import pyloc_core as pl

rng = np.random.default_rng(3)
def array(*shape):
    return rng.normal(size=shape).astype(np.float32)

small, features = array(4, 8), array(8, 300, 400)
many, heads = array(1500, 8), array(1, 1, 3000, 8)
dense = np.minimum(rng.exponential(5.0, (60, 300, 400)), 20).astype(np.float32)
centers = np.tile([200.0, 150.0], (1500, 1))
calls = {
    "correlation_maps": lambda h: pl.correlation_maps(h, features),
    "match": lambda h: pl.match(h, features, quantile=0.1),
    "loss_maps": lambda h: pl.loss_maps(h, features, temperature=50.0, max_entries="all"),
    "local_loss_maps": lambda h: pl.local_loss_maps(
        h, features, centers[: len(h)], window=200, max_entries="all", scale=1.0, temperature=50.0
    ),
    "from_dense": lambda h: pl.LossMaps.from_dense(dense[: len(h)], log_cardinality=30.0),
}
for call in calls.values():
    call(small)  # threads and what is made once
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
room = held + (24 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
for name, call in calls.items():
    try:
        call(many)
        print(name, "ran")
    except MemoryError as error:
        assert str(error), name
        print(name, "MemoryError")
    before = call(small)
    assert len(before[0]) > 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")
@pytest.mark.skipif(
    bool(pl.build_info().get("sanitizers")), reason="sanitizers reserve most of the address space"
)
def test_cpu_operators_survive() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    outcome = dict(line.split() for line in done.stdout.splitlines())
    assert len(outcome) == 5
    assert set(outcome.values()) == {"MemoryError"}, outcome
