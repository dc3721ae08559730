# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of the GPU that runs out is torch's OutOfMemoryError, and the next call works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")


@pytest.fixture
def little_memory(cuda: Any) -> Iterator[Any]:
    """The device, of which this process may take 64 MB more than it holds."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_reserved(cuda) + (64 << 20)) / whole, cuda
    )
    yield cuda
    torch.cuda.set_per_process_memory_fraction(1.0, cuda)


def test_operators_survive(little_memory: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(16, 60, 80, generator=generator).to(little_memory)
    small, many = (
        torch.randn(n, 16, generator=generator).to(little_memory, torch.float32)
        for n in (8, 100_000)
    )
    for _ in range(2):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            pl.loss_maps(many, features, max_entries=256)  # 100000 x 256 entries of 8 bytes
        assert len(pl.loss_maps(small, features, max_entries=256)) == 8
        with pytest.raises(torch.cuda.OutOfMemoryError):
            pl.p3p(many.double().repeat(4, 1)[:, :9].reshape(-1, 3, 3), torch.ones(
                400_000, 3, 3, dtype=torch.float64, device=little_memory))  # fmt: skip
        assert len(pl.match(small, features).xy) == 8
