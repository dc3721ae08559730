# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Parity with the recorded outputs of the published systems, and the runner that checks it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import golden_parity
from shared_data import SHARED

GOLDEN = SHARED / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is not there")
# Selections of the normal run and of the slow one: full networks are slow.
QUICK = (
    "s2dhm_ratio", "s2dnet", "nre_maps", "nre_local", "nre_gnc", "nre_sizes", "salad_aggregator",
    "sinkhorn", "mvsa_rule", "mvsa_volume", "sfmttr",
)  # fmt: skip
SLOW = ("s2dhm_4", "nre_net", "salad_full", "mvsa_full")


def assert_parity(prefixes: tuple[str, ...]) -> None:
    rows = golden_parity.run(GOLDEN, prefixes)
    assert rows, f"no case begins with {prefixes}"
    missed = [row for row in rows if not row.ok]
    assert not missed, "\n" + golden_parity.table(missed)


@needs_golden
@pytest.mark.parametrize("prefix", QUICK)
def test_parity(prefix: str) -> None:
    assert_parity((prefix,))


@needs_golden
@pytest.mark.slow
@pytest.mark.parametrize("prefix", SLOW)
def test_parity_of_full_networks(prefix: str) -> None:
    assert_parity((prefix,))


# The runner itself, on a folder of its own: a "golden.py" with the interface that the runner uses.
FIXTURES = """
import json
import numpy as np

def self_test():
    pass

def load_case(path):
    with open(path) as file:
        return json.load(file)

def _values(spec):
    return np.asarray(spec["digest"]["values"], float)

def errors(expected, array):
    a = np.asarray(array, float)
    if list(a.shape) != expected["shape"]:
        return "shape"
    return {"values": np.abs(a - expected["values"]), "mean": 0.0, "std": 0.0}

def check(case, outputs):
    result = {}
    for name, array in outputs.items():
        spec = case["outputs"][name]
        e = errors(spec["digest"], array)
        ok = not isinstance(e, str) and bool((e["values"] <= spec["rtol"]).all())
        result[name] = (ok, "made up")
    return result
"""
SYSTEM = """
def double(case, golden):
    if case["seed"] == 13:
        raise RuntimeError("the network fell over")
    out = {"twice": [2.0 * v for v in case["input"]], "more": [0.0]}
    return {k: v for k, v in out.items() if k not in case.get("without", ())}

def shifted(case, golden):
    return {"twice": [2.0 * v + 1e-3 for v in case["input"]]}

CASES = {"double_*": double, "double_shifted_*": shifted}
"""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / "cases").mkdir()
    (tmp_path / "keys").mkdir()
    (tmp_path / "systems").mkdir()
    (tmp_path / "golden.py").write_text(FIXTURES)
    (tmp_path / "systems" / "double.py").write_text(SYSTEM)
    return tmp_path


def add_case(folder: Path, name: str, rtol: float = 1e-6, off: float = 0.0, **more: Any) -> None:
    values = [1.5, -2.0, 4.0]
    expected = [2 * v + off for v in values]
    outputs = {"twice": {"rtol": rtol, "digest": {"shape": [3], "values": expected}}}
    case = {"case": name, "seed": 1, "input": values, "outputs": outputs, **more}
    (folder / "cases" / f"{name}.json").write_text(json.dumps(case))


def run(folder: Path, *prefixes: str) -> list[golden_parity.Row]:
    return golden_parity.run(folder, prefixes, folder / "systems")


def test_runner_accepts_and_measures(made: Path) -> None:
    add_case(made, "double_s1")
    add_case(made, "double_other_s77", seed=77)
    add_case(made, "double_shifted_s1", rtol=1e-2)
    rows = {row.case: row for row in run(made)}
    assert all(row.ok for row in rows.values())
    assert rows["double_s1"].error == 0
    assert rows["double_shifted_s1"].error == pytest.approx(1e-3)
    text = golden_parity.table(list(rows.values()))
    assert "1.00e-03" in text and "3 cases, 3 rows, 0 cases missed" in text


def test_runner_fails_on_a_miss_whatever_kind(made: Path) -> None:
    add_case(made, "double_off", off=1e-3)
    add_case(
        made,
        "double_shape",
        outputs={"twice": {"rtol": 1, "digest": {"shape": [2], "values": [0, 0]}}},
    )
    add_case(made, "double_absent", without=["twice"])
    add_case(made, "double_raises", seed=13)
    rows = {row.case: row for row in run(made)}
    assert not any(row.ok for row in rows.values())
    assert rows["double_off"].error == pytest.approx(1e-3)
    assert np.isinf(rows["double_shape"].error)
    assert rows["double_absent"].message == "not computed"
    assert "the network fell over" in rows["double_raises"].message
    assert golden_parity.table(list(rows.values())).count("MISS") == 8


def test_runner_fails_on_an_unknown_case_only_when_selected(made: Path) -> None:
    add_case(made, "double_s1")
    add_case(made, "newcomer_s1")
    assert [row.message for row in run(made) if not row.ok] == ["unknown case"]
    assert all(row.ok for row in run(made, "double"))
    assert [row.case for row in run(made, "new", "double")] == ["double_s1", "newcomer_s1"]


def test_runner_selects_nothing(made: Path) -> None:
    add_case(made, "double_s1")
    assert run(made, "s1", "oub") == []


def test_exit_codes(made: Path, capsys: Any) -> None:
    add_case(made, "nobody_knows_this_s1")
    assert golden_parity.main([str(made), "absent"]) == 1
    assert "nothing was selected" in capsys.readouterr().out
    assert golden_parity.main([str(made)]) == 1
    assert "unknown case" in capsys.readouterr().out
    assert golden_parity.main([str(made / "cases")]) == 2
    with pytest.raises(SystemExit, match="2"):
        golden_parity.main([])


@needs_golden
def test_program_on_a_copy_of_the_fixtures(tmp_path: Path, capsys: Any) -> None:
    """The fixtures are read from the folder that is named, wherever it lies."""
    for part in ("cases", "keys"):
        shutil.copytree(GOLDEN / part, tmp_path / part)
    shutil.copy(GOLDEN / "golden.py", tmp_path)
    program = [sys.executable, str(Path(__file__).with_name("golden_parity.py"))]
    good = subprocess.run(
        [*program, str(tmp_path), "s2dhm_ratio"], capture_output=True, text=True, timeout=300
    )
    assert good.returncode == 0, good.stdout + good.stderr
    assert "s2dhm_ratio_a_s1" in good.stdout and "2 cases" in good.stdout
    path = tmp_path / "cases" / "s2dhm_ratio_b_s1.json"
    case = json.loads(path.read_text())
    case["outputs"]["match_valid"]["digest"]["values"][3] ^= 1
    path.write_text(json.dumps(case))
    assert golden_parity.main([str(tmp_path), "s2dhm_ratio"]) == 1
    assert "MISS" in capsys.readouterr().out


@needs_golden
def test_other_seeds_and_factors_of_the_ratio_test(tmp_path: Path) -> None:
    """Inputs come from the case file: another seed, shape and factor, digested by the plain formula."""
    golden = golden_parity.load_module(GOLDEN / "golden.py", "golden_fixtures")
    for part in ("cases", "keys"):
        (tmp_path / part).mkdir()
    shutil.copy(GOLDEN / "golden.py", tmp_path)
    case = json.loads((GOLDEN / "cases" / "s2dhm_ratio_a_s1.json").read_text())
    text = case["input"]["correlation"].replace("(40,24,32)", "(7,9,11)").replace("(40,)", "(7,)")
    case["input"]["correlation"] = text.replace("0,24)", "0,9)").replace("0,32)", "0,11)")
    case["input"]["factor"], case["seed"] = 0.05, 5
    maps = golden.normal(5, "corr_a", (7, 9, 11), std=0.1, mean=0.5)
    y, x = golden.integers(5, "py_a", (7,), 0, 9), golden.integers(5, "px_a", (7,), 0, 11)
    maps[np.arange(7), y, x] = golden.uniform(5, "pk_a", (7,), 0.6, 1.3)
    flat = np.sort(maps.reshape(7, -1), axis=1)[:, ::-1]
    valid = 0.9**2 * flat[:, 0] >= flat[:, int(0.05 * 99) - 1]
    best = maps.reshape(7, -1).argmax(1)
    for name, value in {
        "correlation": maps, "match_xy": np.stack([best % 11, best // 11], 1),
        "match_valid": valid.astype(np.int64),
    }.items():  # fmt: skip
        case["outputs"][name]["digest"] = golden.digest(value)
    assert 0 < valid.sum() < 7
    (tmp_path / "cases" / "s2dhm_ratio_z_s5.json").write_text(json.dumps(case))
    assert [row.ok for row in golden_parity.run(tmp_path)] == [True] * 3


# Cases of other seeds and sizes, with outputs computed here in float64 straight from the published names.
def vgg(state: Any, x: Any, last: int) -> dict[int, Any]:
    """Outputs of the modules 0 to `last` of the trunk, by index."""
    import torch
    from torch.nn import functional as F

    found: dict[int, Any] = {}
    for index in range(last + 1):
        weight = state.get(f"encoder.{index}.weight")
        if weight is not None:
            x = F.conv2d(x, weight, state[f"encoder.{index}.bias"], padding=1)
        elif index in (4, 9, 16, 23):
            x = F.max_pool2d(x, 2)
        else:
            x = torch.relu(x)
        found[index] = x
    return found


def prepared(golden: Any, image: np.ndarray) -> Any:
    import torch

    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return torch.from_numpy(((image / 255.0 - mean) / std).transpose(2, 0, 1)[None])


def write_case(folder: Path, golden: Any, case: dict[str, Any], outputs: dict[str, Any]) -> None:
    for part in ("cases", "keys"):
        (folder / part).mkdir(exist_ok=True)
    shutil.copy(GOLDEN / "golden.py", folder)
    shutil.copy(GOLDEN / "keys" / case["state"]["keys_file"], folder / "keys")
    case["outputs"] = {
        name: {"rtol": 0.0 if value.dtype.kind == "i" else 2e-4, "digest": golden.digest(value)}
        for name, value in outputs.items()
    }
    (folder / "cases" / f"{case['case']}.json").write_text(json.dumps(case))


@needs_golden
def test_s2dnet_of_another_seed_and_size(tmp_path: Path) -> None:
    from torch.nn import functional as F

    golden = golden_parity.load_module(GOLDEN / "golden.py", "golden_fixtures")
    case = json.loads((GOLDEN / "cases" / "s2dnet_97x133_s1.json").read_text())
    image = golden.random_image(11, 43, 38, "other")
    entry = {"size_hw": [43, 38], "tag": "other", "crc32": golden.image_crc(image)}
    case |= {"case": "s2dnet_43x38_s11", "seed": 11, "input": {"image": entry}}
    loaded = golden.load_case(str(GOLDEN / "cases" / "s2dnet_97x133_s1.json")) | {"seed": 11}
    state = {k: v.double() for k, v in golden.to_torch(golden.case_state(loaded)).items()}
    levels = vgg(state, prepared(golden, image), 28)
    outputs = {}
    for i, tap in enumerate((3, 15, 28)):
        p = {k.split(".", 2)[2]: v for k, v in state.items() if f"adap_layer_{i}." in k}
        x = F.relu(F.conv2d(levels[tap], p["0.weight"], p["0.bias"]))
        x = F.conv2d(x, p["2.weight"], p["2.bias"], padding=2)
        scale = p["3.weight"] / (p["3.running_var"] + 1e-5).sqrt()
        x = (x - p["3.running_mean"].view(-1, 1, 1)) * scale.view(-1, 1, 1)
        outputs[f"map{i}"] = (x + p["3.bias"].view(-1, 1, 1)).numpy()
    write_case(tmp_path, golden, case, outputs)
    rows = golden_parity.run(tmp_path, ["s2dnet_43"])
    assert [row.ok for row in rows] == [True] * 3, golden_parity.table(rows)
    assert all(0 < row.error < 1e-5 for row in rows)


@needs_golden
def test_s2dhm_of_another_seed_and_size(tmp_path: Path) -> None:
    """A query and a reference of different sizes, not square, and below the size that is shrunk."""
    pytest.importorskip("PIL")
    import torch
    from torch.nn import functional as F

    golden = golden_parity.load_module(GOLDEN / "golden.py", "golden_fixtures")
    source = str(GOLDEN / "cases" / "s2dhm_480x640_s1.json")
    case, loaded = json.loads(Path(source).read_text()), golden.load_case(source) | {"seed": 5}
    sizes = {"image": (70, 93, ""), "reference_image": (66, 81, "ref")}
    cells = [[3, 4], [0, 0], [15, 19], [9, 2], [12, 17]]
    inputs: dict[str, Any] = {"cells": cells}
    state = {k: v.double() for k, v in golden.to_torch(golden.case_state(loaded)).items()}
    columns, netvlad, pixels = {}, None, {}
    for name, (height, width, tag) in sizes.items():
        image = golden.random_image(5, height, width, tag)
        entry = {"size_hw": [height, width], "tag": tag, "crc32": golden.image_crc(image)}
        inputs[name], pixels[name] = entry, prepared(golden, image)
        levels = vgg(state, pixels[name], 28)
        size = levels[13].shape[-2:]
        stack = torch.cat(
            [F.interpolate(levels[t], size, mode="bilinear", align_corners=True)
             for t in (13, 16, 20, 23, 27)], 1,
        )  # fmt: skip
        columns[name] = stack / stack.norm(dim=1, keepdim=True)
        if name == "image":
            x = F.normalize(levels[28], dim=1)
            a = F.conv2d(x, state["pool.conv.weight"]).softmax(1).flatten(2)[0]
            x = x.flatten(2)[0]
            vlad = a @ x.T - a.sum(1, keepdim=True) * state["pool.centroids"]
            netvlad = F.normalize(F.normalize(vlad, dim=1).flatten(), dim=0)[None]
    query, reference = columns["image"][0], columns["reference_image"][0]
    maps = torch.einsum(
        "nd,dhw->nhw", reference[:, [r for r, _ in cells], [c for _, c in cells]].T, query
    )
    h, w = query.shape[1:]
    ordered, _ = maps.flatten(1).sort(dim=1, descending=True)
    best = maps.flatten(1).argmax(1).numpy()
    margin = 0.9**2 * ordered[:, 0] - ordered[:, max(1, int(0.006 * h * w)) - 1]
    xy = np.stack([best % w, best // w], 1)
    cell = np.array([66 / h, 81 / w])
    outputs = {
        "input": pixels["image"].numpy(), "netvlad": netvlad.numpy(),
        "hypercolumn": columns["image"].numpy(),
        "reference_hypercolumn": columns["reference_image"].numpy(), "correlation": maps.numpy(),
        "match_xy": xy.astype(np.int64), "match_valid": (margin >= 0).numpy().astype(np.int64),
        "match_px": xy * cell + cell / 2, "ratio": margin.numpy(),
    }  # fmt: skip
    write_case(
        tmp_path, golden, case | {"case": "s2dhm_70x93_s5", "seed": 5, "input": inputs}, outputs
    )
    rows = golden_parity.run(tmp_path, ["s2dhm_70"])
    assert len(rows) == 9 and all(row.ok for row in rows), golden_parity.table(rows)
