# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out localization of real photos, as a table with the data of the machine.

    python benchmarks/leave_one_out.py SCENE_FOLDER [...] --out benchmarks/results/leave_one_out

Writes OUT.json (all rows) and OUT.md. A scene folder is laid out as docs/data.md describes. `--rows`
takes files that an earlier run wrote with `pyloc-core evaluate --json` instead of running again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from report import machine

from pyloc_core.localization import STAGES, evaluate, format_table

COLUMNS = ("rotation_error_deg", "centre_error_over_depth")


def per_query(rows: list[dict[str, Any]]) -> str:
    """Rotation error in degrees / centre error over median depth of every query and method."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = ["| query | " + " | ".join(methods) + " | NEES |", "|---" * (len(methods) + 2) + "|"]
    for query in dict.fromkeys(row["query"] for row in rows):
        cells = {row["method"]: row for row in rows if row["query"] == query}
        texts = [
            "{:.4f} / {:.5f}".format(*(cells[m][c] for c in COLUMNS))
            if cells[m]["success"]
            else "failed"
            for m in methods
        ]
        nees = cells.get("nre", {}).get("nees")
        texts.append("-" if nees is None else f"{nees:.0f}")
        lines.append(f"| {query} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def stages(rows: list[dict[str, Any]]) -> str:
    """Median seconds per stage of the whole localizer."""
    timed = [row["stages"] for row in rows if "stages" in row]
    if not timed:
        return ""
    values = [f"{1e3 * np.median([t.get(s, 0.0) for t in timed]):.0f}" for s in STAGES]
    head = "| " + " | ".join(STAGES) + " |\n" + "|---" * len(STAGES) + "|\n"
    return head + "| " + " | ".join(values) + " |"


def document(scenes: dict[str, list[dict[str, Any]]], info: dict[str, Any], note: str) -> str:
    parts = [
        "# Leave-one-out localization",
        "Every photo against the model of the others; one set of options for all scenes. Errors against "
        "the reference pose: rotation in degrees, camera centre over the median depth of the points.",
        f"{info['date']}, {info['cpu']}, {info['isa']}, version {info['version']}.",
        note,
    ]
    for name, rows in scenes.items():
        parts += [f"## {name}", format_table(rows), per_query(rows)]
        parts += ["Milliseconds per stage, median:", stages(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def descriptor(name: str) -> Any:
    """None is the default, dense RootSIFT."""
    if name == "rootsift":
        return None
    from pyloc_core.models.gradnet.descriptor import LearnedDescriptor

    return LearnedDescriptor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--rows", nargs="*", type=Path, default=[], help="SCENE.json files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--descriptor", choices=("rootsift", "learned"), default="rootsift")
    parser.add_argument("--methods", nargs="*", help="default: all")
    parser.add_argument("--note", default="", help="text under the head of the table")
    arguments = parser.parse_args()
    scenes = {path.stem: json.loads(path.read_text())["rows"] for path in arguments.rows}
    for folder in arguments.folders:
        scenes[folder.name] = evaluate(
            folder, arguments.methods, descriptor=descriptor(arguments.descriptor),
            num_threads=arguments.threads, progress=True,
        )  # fmt: skip
    info = machine()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": info, "scenes": scenes}
    arguments.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(document(scenes, info, arguments.note))


if __name__ == "__main__":
    main()
