# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Queries per second of `localize --list` with one and two workers, this process against Ray.

    python benchmarks/ray_throughput.py [--data FOLDER] [--photos 48] [--rounds 3] [--out NAME.json]

Each configuration runs in a process of its own, in turn, `rounds` times; the fastest counts, since
other work on the machine only slows down. The photos are those of the map, repeated: what counts is the
work per photo, not the accuracy. Workers have one native thread each, unless the name says otherwise.

start: from asking the engine (Ray is up by then; `ray` is what that took) to the first answers.
rate: photos per second from the first answers to the last. cpu: processor seconds per photo in the same
span, of the workers, and of all else (this process, Ray's daemons); other work hardly changes them.
memory: of the largest worker when three quarters are done, MB; PSS shares a page among the processes
that map it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
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


def workers_of(engine: str, members: dict[int, tuple[float, str]]) -> list[int]:
    if engine == "local":
        return [os.getpid()]
    return [p for p, (_, name) in members.items() if "MapWorker(MapBatches(_Actor))" in name]


def memory(pid: int, map_file: str) -> dict[str, float]:
    """MB: resident and proportional, of the process and of the mapped map in it."""
    total, mapped, inside = [0.0, 0.0], [0.0, 0.0], False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            inside = line.endswith(map_file)
        for position, field in enumerate(("Rss:", "Pss:")):
            if words[0] == field:
                total[position] += int(words[1]) / 1024
                mapped[position] += int(words[1]) / 1024 * inside
    return {"rss": total[0], "pss": total[1], "map_rss": mapped[0], "map_pss": mapped[1]}


def measure(name: str, workers: int, threads: int, folder: Path, photos: int) -> dict[str, Any]:
    """One configuration, in this process."""
    from pyloc_core.localization.batch import CameraSource, LocalizeJob
    from pyloc_core.localization.engine import LocalEngine, limit_threads
    from pyloc_core.localization.journal import MemoryStore
    from pyloc_core.localization.work_list import make_queries

    listed = sorted((folder / "images").iterdir())
    queries = make_queries([(path, None) for path in (listed * photos)[:photos]])
    job, store = LocalizeJob(str(folder / "map"), CameraSource()), MemoryStore()
    marks: list[tuple[float, int, dict[int, tuple[float, str]]]] = []
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
    for answers in engine.run(job, queries, job.batch_size):
        store.append(answers)
        count = len(store.answered)
        if not marks or count == photos:
            marks.append((time.perf_counter(), count, family()))
        if "memory" not in result and count >= photos * 3 / 4:  # while all workers are at work
            pids = workers_of(name, family())
            result["memory"] = [memory(p, str(folder / "map" / "map.safetensors")) for p in pids]
    (t0, n0, before), (t1, n1, after) = marks
    used = {p: seconds - before.get(p, (0.0, ""))[0] for p, (seconds, _) in after.items()}
    own = sum(used[p] for p in pids if p in used)
    succeeded = sum(store.read(q.index).success for q in queries)
    result |= {
        "start": t0 - start, "rate": (n1 - n0) / (t1 - t0), "localized": succeeded,
        "cpu": own / (n1 - n0), "cpu_else": (sum(used.values()) - own) / (n1 - n0),
    }  # fmt: skip
    if name == "ray":
        engine.__exit__()
    return result


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
        "| engine | workers | threads each | Ray up, s | start, s | photos/s | against local 1 | "
        "CPU s/photo | elsewhere | RSS | PSS | map RSS | map PSS | load |",
        "|---|" + "---|" * 13,
    ]
    base = rows[0]["rate"]
    for row in rows:
        shared = [max(m[k] for m in row["memory"]) for k in ("rss", "pss", "map_rss", "map_pss")]
        up = f"{row['ray']:.1f}" if "ray" in row else ""
        cells = [
            row["engine"], row["workers"], row["threads"], up, f"{row['start']:.2f}",
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
    print(table(rows))
    if chosen.out:
        chosen.out.write_text(json.dumps({"machine": data, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
