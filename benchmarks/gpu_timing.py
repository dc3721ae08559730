# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Times on a CUDA device: events around single calls, a flushed cache before each, medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

FLUSH_BYTES = 256 << 20  # more than the second-level cache of any GPU so far


def median_seconds(call: Callable[[], Any], rounds: int, warmup: int = 3) -> float:
    """Median of the time between two events around a call, the second-level cache flushed before.

    The flush also gives the host time to enqueue the call; what the host needs beyond that counts.
    """
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(warmup):
        call()
    events = []
    for i in range(rounds):
        flush.fill_(i)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in events) * 1e-3


def rounds_for(call: Callable[[], Any], budget: float) -> int:
    """How many rounds fit the budget in seconds, 5 to 100."""
    call()
    seconds = median_seconds(call, rounds=2, warmup=1)
    return int(min(100, max(5, budget / max(seconds, 1e-6))))


def captured(call: Callable[[], Any]) -> Callable[[], None]:
    """The call as a CUDA graph, which has no host work left in it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay() -> None:
        graph.replay()

    replay.outputs = kept  # type: ignore[attr-defined]
    return replay


def peak_bytes(call: Callable[[], Any]) -> int:
    """What the call held at most beside what was there before it: its results included."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kept = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del kept
    return int(peak)
