# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks and writes the table of ratios with the data of the machine.

    python benchmarks/report.py --out benchmarks/results/cpu_NAME [pytest arguments]

Each pytest-benchmark group is one problem; the entry whose name has `pyloc` is ours, the others are what
it is compared with, measured in the same run. Times are medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import pyloc_core

HERE = Path(__file__).resolve().parent


def machine() -> dict[str, Any]:
    info = pyloc_core.build_info()
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    return {
        "date": date.today().isoformat(),
        "cpu": cpu,
        "cores": pyloc_core.get_num_threads(),
        "isa": info["isa"],
        "avx512_bf16": info["avx512_bf16"],
        "amx_bf16": info["amx_bf16"],
        "compiler": info["compiler"],
        "python": info["python"],
        "numpy": np.__version__,
        "version": info["version"],
    }


def run(arguments: list[str]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "benchmarks.json"
        command = [
            str(Path(sys.executable).with_name("pytest")), *(arguments or [str(HERE)]), "--benchmark-enable",
            "--benchmark-only", f"--benchmark-json={out}", "-q",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        return json.loads(out.read_text())["benchmarks"]


def rows(benchmarks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in benchmarks:
        groups.setdefault(entry["group"] or entry["name"], []).append(entry)
    table = []
    for group, entries in groups.items():
        ours = [e for e in entries if "pyloc" in e["name"]]
        base = ours[0]["stats"]["median"] if ours else None
        for entry in sorted(entries, key=lambda e: e["stats"]["median"]):
            median = entry["stats"]["median"]
            table.append(
                {
                    "group": group,
                    "name": entry["name"],
                    "ours": "pyloc" in entry["name"],
                    "median_s": median,
                    "times_ours": None if base is None else median / base,
                    **entry.get("extra_info", {}),
                }
            )
    return table


def markdown(table: list[dict[str, Any]], data: dict[str, Any]) -> str:
    lines = ["# CPU benchmarks", "", ", ".join(f"{k}: {v}" for k, v in data.items()), ""]
    lines += ["| problem | implementation | median | times ours | notes |", "|---|---|---|---|---|"]
    fixed = {"group", "name", "ours", "median_s", "times_ours"}
    for row in table:
        ratio = "" if row["times_ours"] is None else f"{row['times_ours']:.2f}"
        notes = ", ".join(f"{k} {format_value(v)}" for k, v in row.items() if k not in fixed)
        name = f"**{row['name']}**" if row["ours"] else row["name"]
        lines.append(
            f"| {row['group']} | {name} | {seconds(row['median_s'])} | {ratio} | {notes} |"
        )
    return "\n".join(lines) + "\n"


def format_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="path without a suffix")
    options, rest = parser.parse_known_args()
    table, data = rows(run(rest)), machine()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(
        json.dumps({"machine": data, "rows": table}, indent=1) + "\n"
    )
    options.out.with_suffix(".md").write_text(markdown(table, data))
    print(markdown(table, data))


if __name__ == "__main__":
    main()
