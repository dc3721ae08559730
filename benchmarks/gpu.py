# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Checks every GPU kernel of the package against the float64 reference on fresh random inputs, and times it.

    python benchmarks/gpu.py                    # on a machine with a GPU: about ten minutes
    python benchmarks/gpu.py --check-only --only nre_loss,match
    python benchmarks/gpu.py --device cpu       # Triton's interpreter, tiny sizes, checks only

Prints a table and writes benchmarks/results/gpu_<device>_<date>.json. An operator whose implementation is
not in this build is listed as such. Each runs in a process of its own on a GPU, since an illegal access leaves
nothing usable behind: one that fails, crashes or hangs is reported and does not stop the others. The exit code
is 1 when a check or a kernel failed. Times are medians of events around single calls with the cache flushed
before each; `graph` is the same call replayed as a CUDA graph, without the host.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODULE_SECONDS = 900  # after which a module is taken to hang
MODULES = sorted(
    p.stem for p in (HERE / "gpu_cases").glob("*.py") if p.stem not in ("__init__", "poses")
)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--check-only", action="store_true", help="no timing")
    parser.add_argument("--only", default="", help=f"comma-separated, of {', '.join(MODULES)}")
    parser.add_argument("--seed", type=int, help="of the inputs; default a fresh one")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds per timed form")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument(
        "--isolate", action=argparse.BooleanOptionalAction, default=None,
        help="a process per operator; default on a GPU",
    )  # fmt: skip
    options = parser.parse_args(given)
    unknown = set(filter(None, options.only.split(","))) - set(MODULES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    return options


def absent(module: Any, setting: Any) -> str:
    """Why the operators of a module cannot run here, or nothing."""
    import pyloc_core as pl

    names = (module.OPERATOR,) if isinstance(module.OPERATOR, str) else module.OPERATOR
    for name in names:
        try:
            found = pl.implementations(name)
        except ValueError as error:
            return str(error)
        gpu = [each for each in found if each.name in ("triton", "cuda")]
        if not any(each.available for each in gpu):
            return f"{name}: " + ("; ".join(e.note for e in gpu) or "no GPU implementation")
        if setting.device.type == "cpu" and not any(
            e.name == "triton" and e.available for e in gpu
        ):
            return f"{name}: needs a GPU"
    if setting.device.type == "cpu" and len(names) > 1:
        return "needs a GPU"
    return ""


def checked(module: Any, setting: Any) -> list[dict[str, Any]]:
    rows = []
    for check in module.check(setting):
        rows.append(
            {
                "check": check.what, "error": check.error, "tolerance": check.tolerance,
                "passed": bool(check.passed),
            }
        )  # fmt: skip
        mark = "ok  " if check.passed else "MISS"
        print(
            f"  {mark} {check.what}: {check.error:.2e} (at most {check.tolerance:.0e})", flush=True
        )
    return rows


def attempt(measure: Any, *given: Any) -> tuple[Any, str]:
    """What a measurement gives, or why it failed; memory is given back either way."""
    import torch

    try:
        return measure(*given), ""
    except Exception as error:  # the others still run
        torch.cuda.empty_cache()
        return (
            None,
            f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
        )


def timed(case: Any, budget: float) -> dict[str, Any]:
    import gpu_timing
    import torch

    def measure(call: Any) -> float:
        return gpu_timing.median_seconds(call, gpu_timing.rounds_for(call, budget))

    row: dict[str, Any] = {"case": case.name, "floor_s": case.floor, "goal_s": case.goal}
    forms = {"pyloc": case.run, "eager": case.eager}
    if case.eager is not None:
        forms["compiled"] = torch.compile(case.eager)
    for name, call in forms.items():
        if call is None:
            continue
        row[f"{name}_s"], problem = attempt(measure, call)
        row[f"{name}_peak_bytes"], _ = attempt(gpu_timing.peak_bytes, call)
        if problem:
            row[f"{name}_failed"] = problem
        torch.cuda.empty_cache()
    row["graph_s"], problem = attempt(lambda: measure(gpu_timing.captured(case.run)))
    if problem:
        row["graph_failed"] = problem
    torch._dynamo.reset()
    best = min((row[k] for k in ("pyloc_s", "graph_s") if row.get(k)), default=None)
    if best:
        row["times_eager"] = row["eager_s"] / best if row.get("eager_s") else None
        row["share_of_floor"] = case.floor / best if case.floor else None
        row["goal_met"] = best <= case.goal if case.goal else None
        row["per_second"] = case.units / best if case.units else None
        row["unit"] = case.unit
    return row


def ran(name: str, setting: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Everything of one module."""
    print(f"\n{name}", flush=True)
    result: dict[str, Any] = {"name": name, "status": "ok", "checks": [], "cases": []}
    try:
        module = importlib.import_module(f"gpu_cases.{name}")
        reason = absent(module, setting)
        if reason:
            print(f"  absent: {reason}")
            return result | {"status": f"absent: {reason}"}
        result["checks"] = checked(module, setting)
        if not all(each["passed"] for each in result["checks"]):
            result["status"] = "failed: a check missed its tolerance"
        if setting.device.type == "cuda" and not options.check_only:
            for case in module.cases(setting):
                row = timed(case, options.budget)
                result["cases"].append(row)
                print("  " + line(row), flush=True)
                if "pyloc_failed" in row:
                    result["status"] = f"failed: {row['case']}: {row['pyloc_failed']}"
                del case
    except Exception as error:  # the others still run
        traceback.print_exc()
        result["status"] = f"failed: {type(error).__name__}: {error}"
    return result


def isolated(command: list[str], name: str, out: Path) -> dict[str, Any]:
    """One module in a process of its own, which writes `out`."""
    try:
        code = subprocess.run(command, timeout=MODULE_SECONDS).returncode
    except subprocess.TimeoutExpired:
        return {"name": name, "status": f"failed: no end after {MODULE_SECONDS} s"}
    if not out.is_file():
        return {"name": name, "status": f"failed: the process ended with code {code}"}
    return json.loads(out.read_text())["results"][0]


def all_isolated(chosen: list[str], seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    results = []
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / f"{name}.json"
            command = [
                sys.executable, str(HERE / "gpu.py"), "--only", name, "--no-isolate", "--seed",
                str(seed), "--out", str(out), "--device", options.device, "--budget",
                str(options.budget), *(["--check-only"] if options.check_only else []),
            ]  # fmt: skip
            results.append(isolated(command, name, out))
    return results


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1e6:.1f} us" if value < 1e-3 else f"{value * 1e3:.2f} ms"


def line(row: dict[str, Any]) -> str:
    """One case in words."""
    parts = [f"{row['case']}: {seconds(row.get('pyloc_s'))}, graph {seconds(row.get('graph_s'))}"]
    for name in ("eager", "compiled"):
        if f"{name}_s" in row:
            parts.append(f"{name} {seconds(row[f'{name}_s'])}")
    if row.get("times_eager"):
        parts.append(f"{row['times_eager']:.1f} x eager")
    if row.get("share_of_floor"):
        parts.append(f"{100 * row['share_of_floor']:.0f} % of the floor")
    if row.get("goal_s"):
        parts.append(f"goal {seconds(row['goal_s'])} {'met' if row.get('goal_met') else 'missed'}")
    if row.get("per_second"):
        parts.append(f"{row['per_second']:.3g} {row['unit']}/s")
    if row.get("pyloc_peak_bytes") is not None:
        parts.append(f"peak {row['pyloc_peak_bytes'] / 1e6:.1f} MB")
    if row.get("eager_peak_bytes") is not None:
        parts.append(f"eager's {row['eager_peak_bytes'] / 1e6:.1f} MB")
    parts += [f"{k}: {v}" for k, v in row.items() if k.endswith("_failed")]
    return ", ".join(parts)


def machine(device: Any) -> dict[str, Any]:
    import torch

    import pyloc_core as pl

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = None
    return {
        "device": name, "date": date.today().isoformat(), "torch": torch.__version__,
        "triton": version, "cuda": torch.version.cuda, "python": sys.version.split()[0],
        "pyloc_core": pl.__version__,
    }  # fmt: skip


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    if options.device == "cpu":  # read when a kernel is decorated
        os.environ["TRITON_INTERPRET"] = "1"
    sys.path.insert(0, str(HERE))
    import torch
    from gpu_cases import Setting

    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device; --device cpu checks the Triton kernels in the interpreter")
        return 2
    device = torch.device(options.device)
    seed = secrets.randbits(31) if options.seed is None else options.seed
    about = machine(device)
    print(", ".join(f"{k} {v}" for k, v in about.items()) + f", seed {seed}")
    begin = time.perf_counter()
    setting = Setting(device, seed, tiny=device.type == "cpu")
    chosen = list(filter(None, options.only.split(","))) or MODULES
    isolate = device.type == "cuda" if options.isolate is None else options.isolate
    if isolate:
        results = all_isolated(chosen, seed, options)
    else:
        results = [ran(name, setting, options) for name in chosen]
    print(f"\n{time.perf_counter() - begin:.0f} s")
    for each in results:
        print(f"  {each['name']}: {each['status']}")
    timed_any = any(each.get("cases") for each in results)
    out = options.out
    if out is None and timed_any:
        slug = re.sub(r"[^a-z0-9]+", "_", about["device"].lower()).strip("_")
        out = HERE / "results" / f"gpu_{slug}_{about['date']}.json"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({**about, "seed": seed, "results": results}, indent=1) + "\n")
        print(f"written: {out}")
    return 1 if any(each["status"].startswith("failed") for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
