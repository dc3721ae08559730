# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Queries per second of `localize --list` with one and two workers, this process against Ray.

    python benchmarks/ray_throughput.py [--data FOLDER] [--photos 48] [--rounds 3] [--out NAME.json]

Each configuration runs in a process of its own, in turn, `rounds` times; the fastest counts, since
other work on the machine only slows down. The photos are those of the map, repeated: what counts is the
work per photo, not the accuracy. Workers have one native thread each, unless the name says otherwise.

start: from asking the engine (Ray is up by then; `Ray up` is what that took) to the first answers;
total: to the last. photos/s: by the workers' clocks, from when each has done its first batch. CPU:
processor seconds per photo, of the workers after their first batch, and of all else (this process, Ray's
daemons); work of others on the machine changes them less than it changes the rate. Memory in MB, of the
largest worker in the second half of the list; PSS shares a page among the processes that map it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from report import machine

CONFIGURATIONS = (
    ("local", 1, 1), ("local", 2, 1), ("local", 1, 2), ("ray", 1, 1), ("ray", 2, 1),
)  # fmt: skip
_TICK = os.sysconf("SC_CLK_TCK")


def processes() -> dict[int, tuple[int, float, str]]:
    """Process -> parent, processor seconds, command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            name = (folder / "cmdline").read_text().replace("\0", " ")
        except (OSError, IndexError):  # gone meanwhile
            continue
        found[int(folder.name)] = (
            int(fields[1]),
            (int(fields[11]) + int(fields[12])) / _TICK,
            name,
        )
    return found


def family() -> dict[int, tuple[float, str]]:
    """Processor seconds and command line of this process and of all that it has started."""
    known = processes()
    members, layer = {os.getpid()}, {os.getpid()}
    while layer:
        layer = {p for p, (parent, _, _) in known.items() if parent in layer} - members
        members |= layer
    return {p: known[p][1:] for p in members if p in known}


def memory(map_file: str) -> dict[str, float]:
    """MB: resident and proportional, of this process and of the mapped map in it."""
    total, mapped, inside = [0.0, 0.0], [0.0, 0.0], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            inside = line.endswith(map_file)
        for position, field in enumerate(("Rss:", "Pss:")):
            if words[0] == field:
                total[position] += int(words[1]) / 1024
                mapped[position] += int(words[1]) / 1024 * inside
    return {"rss": total[0], "pss": total[1], "map_rss": mapped[0], "map_pss": mapped[1]}


@dataclass(frozen=True)
class ProbedJob:
    """A job whose worker tells, with each batch, its processor time and its memory."""

    inner: Any
    map_file: str
    count: int
    batch_size: int = 4

    def start(self, num_threads: int | None) -> Any:
        worker = self.inner.start(num_threads)

        def probed(queries: Any) -> Any:
            answers = worker(queries)
            probe: dict[str, Any] = {"pid": os.getpid(), "cpu": time.process_time()}
            probe["time"] = time.time()
            if queries[0].index >= self.count / 2:
                probe["memory"] = memory(self.map_file)
            return [replace(a, record=a.record | {"probe": probe}) for a in answers]

        return probed

    def failed(self, query: Any, error: str) -> Any:
        return self.inner.failed(query, error)


def measure(name: str, workers: int, threads: int, folder: Path, photos: int) -> dict[str, Any]:
    """One configuration, in this process."""
    from pyloc_core.localization.batch import CameraSource, LocalizeJob
    from pyloc_core.localization.engine import LocalEngine, limit_threads
    from pyloc_core.localization.work_list import make_queries

    listed = sorted((folder / "images").iterdir())
    queries = make_queries([(path, None) for path in (listed * photos)[:photos]])
    map_file = str(folder / "map" / "map.safetensors")
    job = ProbedJob(LocalizeJob(str(folder / "map"), CameraSource()), map_file, photos)
    result: dict[str, Any] = {"load": os.getloadavg()[0], "photos": photos}
    begin = time.perf_counter()
    if name == "local":
        engine: Any = LocalEngine(workers, threads)
        limit_threads(threads)
    else:
        from pyloc_core.integrations.ray import RayEngine

        engine = RayEngine(workers, threads, object_store_memory=100 * 2**20).__enter__()
        result["ray"] = time.perf_counter() - begin
    start = time.perf_counter()
    batches, times, before = [], [], {}
    for answers in engine.run(job, queries, job.batch_size):
        times.append(time.perf_counter())
        batches.append([answer.record for answer in answers])
        before = before or family()
        if sum(map(len, batches)) == photos:
            after = family()
    records = [record for batch in batches for record in batch]
    probes = [(record["probe"], len(batch)) for batch in batches for record in batch[:1]]
    pids = {probe["pid"] for probe, _ in probes}
    others = sum(after[p][0] - before[p][0] for p in after if p in before and p not in pids)
    told = [probe["memory"] for probe, _ in probes if "memory" in probe]
    result |= {
        "start": times[0] - start, "total": times[-1] - start, "rate": rate(probes),
        "localized": sum(record["success"] for record in records), "processes": len(pids),
        "cpu": processor_seconds(probes), "cpu_else": others / (photos - len(batches[0])),
        "memory": {key: max(each[key] for each in told) for key in told[0]},
    }  # fmt: skip
    result["memory"]["map_pss"] = min(each["map_pss"] for each in told)
    if name == "ray":
        engine.__exit__()
    return result


def rate(probes: list[tuple[dict[str, Any], int]]) -> float:
    """Photos per second by the workers' clocks, from when each has done its first batch."""
    first: dict[int, float] = {}
    for probe, _ in probes:
        first[probe["pid"]] = min(probe["time"], first.get(probe["pid"], probe["time"]))
    start = max(first.values())
    later = [(probe["time"], count) for probe, count in probes if probe["time"] > start]
    return sum(count for _, count in later) / (max(at for at, _ in later) - start)


def processor_seconds(probes: list[tuple[dict[str, Any], int]]) -> float:
    """Per photo, over all processes, each after its first batch."""
    seconds, photos = 0.0, 0
    for pid in {probe["pid"] for probe, _ in probes}:
        own = sorted((probe["cpu"], count) for probe, count in probes if probe["pid"] == pid)
        seconds += own[-1][0] - own[0][0]
        photos += sum(count for _, count in own[1:])
    return seconds / max(1, photos)


def build(data: Path | None, folder: Path) -> None:
    """A map of all images of the data folder, or of the demo's scene; images beside it."""
    from pyloc_core.localization import Map

    if data is None:
        from pyloc_core.localization.demo_data import write_demo

        data = write_demo(folder / "scene")
    Map.build(data / "sparse", data / "images", progress=False).save(folder / "map")
    (folder / "images").symlink_to(data / "images")


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| engine | workers | threads each | Ray up, s | start, s | total, s | photos/s | against local 1 | "
        "CPU s/photo | of all else | RSS | PSS | map RSS | map PSS | load |",
        "|---|" + "---|" * 14,
    ]
    base = rows[0]["rate"]
    for row in rows:
        shared = [row["memory"][key] for key in ("rss", "pss", "map_rss", "map_pss")]
        up = f"{row['ray']:.1f}" if "ray" in row else ""
        cells = [
            row["engine"], row["workers"], row["threads"], up, f"{row['start']:.1f}", f"{row['total']:.1f}",
            f"{row['rate']:.2f}", f"{row['rate'] / base:.2f}", f"{row['cpu']:.3f}",
            f"{row['cpu_else']:.3f}", *(f"{value:.0f}" for value in shared), f"{row['load']:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="folder with images/ and sparse/")
    parser.add_argument("--photos", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        name, workers, threads, folder = chosen.one
        print(json.dumps(measure(name, int(workers), int(threads), Path(folder), chosen.photos)))
        return
    data = machine()
    print(", ".join(f"{key}: {value}" for key, value in data.items()), "\n")
    best: dict[tuple[str, int, int], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        build(chosen.data, Path(place))
        for _ in range(chosen.rounds):
            for configuration in CONFIGURATIONS:
                words = [
                    sys.executable,
                    __file__,
                    "--photos",
                    chosen.photos,
                    "--one",
                    *configuration,
                    place,
                ]
                done = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                row |= dict(zip(("engine", "workers", "threads"), configuration))
                known = best.get(configuration)
                if known is None or row["rate"] > known["rate"]:
                    best[configuration] = row
            rows = list(best.values())
            if chosen.out:
                chosen.out.write_text(json.dumps({"machine": data, "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
