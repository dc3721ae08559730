# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""match: what it stores beside its inputs and outputs, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
import pyloc_core as pc

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

rng = np.random.default_rng(0)
features = rng.random((128, 1200, 1600), dtype=np.float32)
descriptors = rng.standard_normal((1000, 128), dtype=np.float32)
pc.match(descriptors[:8], np.ones((128, 4, 4), np.float32), num_threads=2)
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
before = resident("VmRSS")
found = pc.match(descriptors, features, num_threads=int(sys.argv[1]))
assert np.isfinite(found.log_probability).all()
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_does_not_grow_with_the_map(threads: int) -> None:
    """1000 descriptors on 1200 x 1600 cells: the maps would take 7.7 GB, the call less than 16 MB."""
    command = [sys.executable, "-c", MEMORY, str(threads)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 0 < int(output) < 16e6
