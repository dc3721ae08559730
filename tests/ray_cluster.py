# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A program for test_ray_engine.py: a cluster of two nodes with one CPU each, and what can go wrong on it.

    python ray_cluster.py map list.txt results_folder

A process of its own, so that Ray's threads and a hang stay out of the tests. Every scenario writes
<results_folder>/<name>.jsonl with the records in the list's order; notes.json tells how often the
engine answered each query, and which processes are left at the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyloc_core.integrations.ray import RayEngine
from pyloc_core.localization.batch import CameraSource, LocalizeJob
from pyloc_core.localization.engine import Job, Worker, work_through
from pyloc_core.localization.journal import MemoryStore
from pyloc_core.localization.photo_camera import read_list
from pyloc_core.localization.work_list import Answer, Query, make_queries

POISON = 5
STORE = 80 * 2**20


@dataclass(frozen=True)
class PoisonedJob:
    """A job that one query takes down with its process, as a crash in native code would."""

    inner: LocalizeJob
    batch_size: int = 4

    def start(self, num_threads: int | None) -> Worker:
        worker = self.inner.start(num_threads)

        def answer(queries: Sequence[Query]) -> list[Answer]:
            if any(query.index == POISON for query in queries):
                os.kill(os.getpid(), signal.SIGKILL)
            return worker(queries)

        return answer

    def failed(self, query: Query, error: str) -> Answer:
        return self.inner.failed(query, error)


class Counting:
    """An engine that counts what another one answers, and does something once."""

    def __init__(self, engine: RayEngine, after: int, act: Callable[[], None]) -> None:
        self.engine, self.after, self.act = engine, after, act
        self.heard: Counter[int] = Counter()
        self.rounds: list[int] = []

    def run(self, job: Job, queries: Sequence[Query], batch_size: int) -> Iterator[list[Answer]]:
        self.rounds.append(len(queries))
        for answers in self.engine.run(job, queries, batch_size):
            before = self.heard.total()
            self.heard.update(answer.index for answer in answers)
            if before < self.after <= self.heard.total():
                self.act()
            yield answers


def descendants(root: int) -> dict[int, str]:
    """Process -> command line, of everything that a process has started, directly or not."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            )
            names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):  # gone meanwhile
            continue
    found: dict[int, str] = {}
    layer = {root}
    while layer:
        layer = {pid for pid, parent in parents.items() if parent in layer and pid not in found}
        found.update((pid, names.get(pid, "")) for pid in layer)
    return found


def kill_an_actor() -> None:
    actors = [pid for pid, name in descendants(os.getpid()).items() if "MapWorker" in name]
    assert len(actors) == 2, f"expected two actors, found {len(actors)}"
    os.kill(actors[0], signal.SIGKILL)


def main() -> None:
    from ray.cluster_utils import Cluster

    map_folder, listed, out = (Path(argument) for argument in sys.argv[1:4])
    queries = make_queries(read_list(listed))
    job = LocalizeJob(str(map_folder), CameraSource())
    start = time.perf_counter()
    node = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    notes: dict[str, Any] = {"start": time.perf_counter() - start}
    try:
        with RayEngine(2, address=cluster.address) as engine:
            notes["nodes"] = len(cluster.list_all_nodes())
            scenarios: dict[str, tuple[Any, Callable[[], None]]] = {
                "plain": (job, lambda: None),
                "killed": (job, kill_an_actor),
                "poison": (PoisonedJob(job), lambda: None),
                "node": (job, lambda: cluster.remove_node(second, allow_graceful=False)),
            }
            for name, (work, act) in scenarios.items():
                start = time.perf_counter()
                counting, store = Counting(engine, len(queries) // 4, act), MemoryStore()
                work_through(work, queries, counting, store)
                records = [store.read(query.index).record for query in queries]
                lines = "".join(json.dumps(record) + "\n" for record in records)
                (out / f"{name}.jsonl").write_text(lines)
                seconds = time.perf_counter() - start
                heard = [counting.heard[query.index] for query in queries]
                notes[name] = {"seconds": seconds, "rounds": counting.rounds, "heard": heard}
                notes[name]["nodes"] = len(cluster.list_all_nodes())
    finally:
        cluster.shutdown()
    time.sleep(0.5)
    notes["left"] = list(descendants(os.getpid()).values())
    (out / "notes.json").write_text(json.dumps(notes))


if __name__ == "__main__":
    main()
