# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu.py where there is no GPU: the script runs, reports, and its cases compute what they say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_interpreter import interpreter_fault

import pyloc_core as pl

torch = pytest.importorskip("torch")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu.py"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(name)


@pytest.fixture
def here(module: Any) -> Any:
    """A setting whose front doors run natively: what a case passes to them is then tested."""
    return module("gpu_cases").Setting(torch.device("cpu"), 11, tiny=True)


def test_the_script_checks_in_the_interpreter(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    if interpreter_fault():
        pytest.skip(interpreter_fault())
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--out", str(out), "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["device"] == "interpreter" and found["seed"] == 3
    status = {each["name"]: each for each in found["results"]}
    for name in ("match", "loss_maps", "local_loss_maps", "nre_loss", "gated_attention"):
        assert status[name]["status"] == "ok" and status[name]["checks"], name
        assert all(check["passed"] for check in status[name]["checks"])
    for name in (
        "p3p",
        "refine_pose",
        "estimate_pose",
        "score_poses",
        "localization_step",
        "pose_chain",
    ):
        assert status[name]["status"].startswith("absent: ")


def test_a_failure_does_not_stop_the_others(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    gpu, cases = module("gpu"), module("gpu_cases")
    broken, off = module("gpu_cases.match"), module("gpu_cases.nre_loss")

    def raises(setting: Any) -> Any:
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(gpu, "absent", lambda *_: "")
    monkeypatch.setattr(broken, "check", raises)
    monkeypatch.setattr(off, "check", lambda _: iter([cases.Check("loss", float("nan"), 1.0)]))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert gpu.main(["--device", "cpu", "--only", "match,nre_loss"]) == 1
    text = capsys.readouterr().out
    assert "match: failed: RuntimeError: illegal memory access" in text
    assert "MISS loss" in text and "nre_loss: failed: a check missed" in text


def test_a_crash_takes_its_own_process_alone(module: Any, tmp_path: Path) -> None:
    gpu, out = module("gpu"), tmp_path / "x.json"
    crash = [sys.executable, "-c", "import os; os._exit(134)"]
    assert gpu.isolated(crash, "x", out)["status"] == "failed: the process ended with code 134"
    write = f'open({str(out)!r}, \'w\').write(\'{{"results": [{{"status": "ok"}}]}}\')'
    assert gpu.isolated([sys.executable, "-c", write], "x", out) == {"status": "ok"}


def test_a_process_per_operator(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [
        sys.executable, str(SCRIPT), "--device", "cpu", "--isolate", "--only", "p3p,score_poses",
        "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(out.read_text())["results"]
    assert [each["name"] for each in results] == ["p3p", "score_poses"]
    assert all(each["status"].startswith("absent: ") for each in results)


def test_a_timed_case_reports_ratios_and_failures(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arithmetic of the table; the clock itself needs a GPU."""
    gpu, cases, timing = module("gpu"), module("gpu_cases"), module("gpu_timing")
    costs = {"ours": 2e-3, "plain": 1e-2, "replayed": 1e-3}

    def clock(call: Any, rounds: int = 1, warmup: int = 1) -> float:
        return costs[call()]

    def out_of_memory() -> str:
        raise torch.cuda.OutOfMemoryError("17 GB\nand more")

    monkeypatch.setattr(timing, "median_seconds", clock)
    monkeypatch.setattr(timing, "rounds_for", lambda call, budget: 1)
    monkeypatch.setattr(timing, "captured", lambda call: lambda: "replayed")
    monkeypatch.setattr(timing, "peak_bytes", lambda call: len(call()) * 10**6)
    monkeypatch.setattr(torch, "compile", lambda call: call)
    ours = cases.Case("sum", lambda: "ours", lambda: "plain", 5e-4, 2e-3, 1000, "sums")
    row = gpu.timed(ours, 1.0)
    assert row["times_eager"] == pytest.approx(10) and row["share_of_floor"] == pytest.approx(0.5)
    assert row["goal_met"] and row["per_second"] == pytest.approx(1e6)
    assert row["pyloc_peak_bytes"] == 4e6 and row["eager_peak_bytes"] == 5e6
    text = gpu.line(row)
    assert "10.0 x eager" in text and "50 % of the floor" in text and "goal 2.00 ms met" in text
    failing = gpu.timed(cases.Case("sum", lambda: "ours", out_of_memory, goal=1e-4), 1.0)
    assert failing["eager_s"] is None and failing["times_eager"] is None and not failing["goal_met"]
    assert "17 GB" in failing["eager_failed"] and "and more" not in failing["eager_failed"]
    assert "missed" in gpu.line(failing) and "eager_failed" in gpu.line(failing)


def test_unknown_names_are_refused(module: Any) -> None:
    with pytest.raises(SystemExit):
        module("gpu").main(["--only", "mach"])


@pytest.mark.parametrize("name", ["refine_pose", "estimate_pose", "score_poses", "pose_chain"])
def test_the_pose_cases_pass_on_the_cpu(name: str, module: Any, here: Any) -> None:
    checks = list(module(f"gpu_cases.{name}").check(here))
    assert checks and all(each.passed for each in checks), checks


def test_p3p_case(module: Any, here: Any) -> None:
    f, x = module("gpu_cases.p3p").problems(here, 50, torch.float64)
    assert pl.p3p(f, x).valid.any(1).all()


def test_the_localization_step_finds_the_pose(module: Any, here: Any) -> None:
    case = module("gpu_cases.localization_step")
    arguments, truth = case.step(here, 300)
    found = case.pose_from_features(*arguments)
    assert bool(found.success[0])
    assert np.abs(np.asarray(found.cam_from_world[0]) - truth).max() < 2e-2


def test_the_eager_forms_compute_the_same(module: Any, here: Any) -> None:
    """What the table compares with must give the same result."""
    match = module("gpu_cases.match")
    h, f = match.level(here, 7, 20, 9, 11, torch.float32)
    ours = pl.match(h, f, quantile=0.1)
    cell, log_p, ratio = match.eager(h, f, 0.1)
    assert torch.equal((ours.xy @ torch.tensor([1.0, 11.0]).double()).long(), cell)
    torch.testing.assert_close(ours.log_probability, log_p, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.quantile_ratio, ratio, atol=1e-4, rtol=1e-4)
    nre = module("gpu_cases.nre_loss")
    arrays = nre.problem(here, (2, 7, 20, 9, 11), torch.float32)
    for a, b in zip(nre.step(pl.nre_loss, arrays), nre.step(nre.eager, arrays)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    gated = module("gpu_cases.gated_attention")
    q = gated.tensors(here, 9, 13, 8, torch.float32)
    for a, b in zip(gated.both(pl.gated_attention, *q), gated.both(gated.eager, *q)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    maps = module("gpu_cases.loss_maps")
    h, f = match.level(here, 7, 20, 17, 19, torch.float32)
    dense = torch.tensor(pl.loss_maps(h, f).peak_gain)
    torch.testing.assert_close(dense, maps.eager(h, f).values[:, 0], atol=1e-4, rtol=1e-4)
    local = module("gpu_cases.local_loss_maps")
    h, f = match.level(here, 5, 20, 90, 100, torch.float32)
    xy = 40 + local.centers(here, 5, 10, 20)
    peaks = torch.tensor(pl.local_loss_maps(h, f, xy).peak_gain)
    torch.testing.assert_close(peaks, local.eager(h, f, xy).values[:, 0], atol=1e-4, rtol=1e-4)


def test_the_eager_assignment_forms_compute_the_same(module: Any, here: Any) -> None:
    case = module("gpu_cases.sinkhorn")
    s, a, b = case.problem(here, (2, 7, 11), torch.float32)
    truth = pl.sinkhorn(s, a, b, iterations=5)
    torch.testing.assert_close(case.eager(s, a, b, 5), truth, atol=1e-5, rtol=1e-5)
    dual = module("gpu_cases.dual_softmax")
    truth = pl.dual_softmax(s, temperature=dual.TEMPERATURE)
    torch.testing.assert_close(dual.eager(s), truth, atol=1e-4, rtol=1e-5)
    dustbin = torch.ones(())
    torch.testing.assert_close(
        case.eager_salad(s, dustbin, 3), pl.salad_assign(s, dustbin), atol=1e-5, rtol=1e-5
    )
    for name, shape in (("salad", (2, 6, 15, 5, 4)), ("netvlad", (2, 6, 5, 15))):
        case = module(f"gpu_cases.{name}_aggregate")
        arrays = case.problem(here, shape, torch.float32)
        ours = case.both(getattr(pl, f"{name}_aggregate"), *arrays)
        for x, y in zip(ours, case.both(case.eager, *arrays)):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)
