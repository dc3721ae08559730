# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Runs cases of a folder of golden fixtures against the wrappers of this package.

    python tests/golden_parity.py FOLDER [PREFIX ...]

FOLDER holds golden.py, cases/ and keys/; a PREFIX selects cases by the start of their name. Every
selected case runs with its own seed, sizes and options. The table has one row per output: the worst
error in units of the expected spread, the tolerance, and whether it held. The exit code is 1 when an
output misses or is not computed, when no system here knows a selected case, and when nothing was
selected; 2 when the folder is none of that layout.

A system is one file in tests/golden/ with `CASES`, pattern of case names -> function. The function gets
the case (`golden.load_case`) and the golden module, and returns every output that the case lists.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

SYSTEMS = Path(__file__).with_name("golden")
Run = Callable[[dict[str, Any], ModuleType], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One output of one case; `error` is NaN where there is no number."""

    case: str
    output: str
    error: float
    rtol: float
    ok: bool
    message: str


def load_module(path: Path, name: str) -> ModuleType:
    """A file as a module, under a name that hides nothing."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def known_cases(systems: Path = SYSTEMS) -> dict[str, Run]:
    """Pattern -> function, of every system that is done."""
    cases: dict[str, Run] = {}
    for path in sorted(systems.glob("*.py")):
        for pattern, run in load_module(path, f"golden_system_{path.stem}").CASES.items():
            if pattern in cases:
                raise ValueError(f"two systems claim the cases {pattern!r}")
            cases[pattern] = run
    return cases


def function_for(name: str, cases: dict[str, Run]) -> Run | None:
    """The function of the longest pattern that fits a case's name, if any does."""
    fitting = [pattern for pattern in cases if fnmatch.fnmatchcase(name, pattern)]
    return cases[max(fitting, key=len)] if fitting else None


def selected(folder: Path, prefixes: Sequence[str]) -> list[Path]:
    """Case files whose name begins with one of the prefixes; all of them without prefixes."""
    files = sorted((folder / "cases").glob("*.json"))
    return [file for file in files if not prefixes or file.stem.startswith(tuple(prefixes))]


def run_case(file: Path, run: Run, golden: ModuleType) -> list[Row]:
    """A row per output that the case lists. An exception is a miss of all of them."""
    name = file.stem
    try:
        case = golden.load_case(str(file))
        outputs = run(case, golden)
        checked = golden.check(case, {k: v for k, v in outputs.items() if k in case["outputs"]})
    except Exception as error:
        return [Row(name, "-", float("nan"), 0.0, False, f"{type(error).__name__}: {error}")]
    rows = []
    for output, spec in case["outputs"].items():
        rtol = float(spec["rtol"])
        if output not in checked:
            rows.append(Row(name, output, float("nan"), rtol, False, "not computed"))
            continue
        ok, message = checked[output]
        rows.append(Row(name, output, worst(spec, outputs[output], golden), rtol, ok, message))
    return rows


def worst(spec: dict[str, Any], array: Any, golden: ModuleType) -> float:
    """The largest error of values, mean and standard deviation (of the values alone, where a share of
    them may be wrong); infinite for another shape."""
    errors = golden.errors(spec["digest"], array)
    if isinstance(errors, str):
        return float("inf")
    values = max([float(v) for v in errors["values"]], default=0.0)
    return values if spec.get("max_bad") else max(values, errors["mean"], errors["std"])


def run(folder: Path, prefixes: Sequence[str] = (), systems: Path = SYSTEMS) -> list[Row]:
    """Rows of all selected cases. FileNotFoundError when the folder has another layout."""
    golden = load_module(folder / "golden.py", "golden_fixtures")
    golden.self_test()
    cases = known_cases(systems)
    rows: list[Row] = []
    for file in selected(folder, prefixes):
        function = function_for(file.stem, cases)
        if function is None:
            rows.append(Row(file.stem, "-", float("nan"), 0.0, False, "unknown case"))
        else:
            rows += run_case(file, function, golden)
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as text, and a line per case with its worst error over its tolerance."""
    width = max(len(row.case) for row in rows)
    inner = max(len(row.output) for row in rows)
    lines = [f"{'case':<{width}}  {'output':<{inner}}  {'worst':>9}  {'allowed':>8}  result"]
    for row in rows:
        result = "ok" if row.ok else f"MISS  {row.message}"
        lines.append(
            f"{row.case:<{width}}  {row.output:<{inner}}  {row.error:>9.2e}  {row.rtol:>8.0e}  {result}"
        )
    cases = list(dict.fromkeys(row.case for row in rows))
    missed = sorted({row.case for row in rows if not row.ok})
    lines.append("")
    for case in cases:
        of_case = [row for row in rows if row.case == case]
        top = max(of_case, key=lambda row: (not row.ok, row.error == row.error, row.error))
        verdict = "MISS" if case in missed else "ok"
        lines.append(f"{case:<{width}}  worst {top.error:.2e} ({top.output})  {verdict}")
    lines.append(f"{len(cases)} cases, {len(rows)} rows, {len(missed)} cases missed")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="golden.py, cases/ and keys/")
    parser.add_argument("prefix", nargs="*", help="start of the names of the cases to run")
    given = parser.parse_args(arguments)
    try:
        rows = run(given.folder, given.prefix)
    except FileNotFoundError as error:
        print(f"error: {given.folder} is no folder of golden fixtures: {error}", file=sys.stderr)
        return 2
    if not rows:
        chosen = " ".join(given.prefix) or "any name"
        print(f"error: nothing was selected: {given.folder / 'cases'} has no case of {chosen}")
        return 1
    print(table(rows))
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
