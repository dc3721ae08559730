# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs, what torch sees of it, and the checks of tensors."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import pyloc_core as pl
from pyloc_core import _dispatch, _library, _tensors


def test_numpy_runs_native_and_unknown_names_are_refused() -> None:
    arrays = {"bearings": np.ones((1, 3, 3))}
    assert _dispatch.select("p3p", None, arrays) == "native"
    assert not _dispatch.on_tensors("p3p", None, arrays)
    with pytest.raises(ValueError, match="no implementation 'fortran'"):
        _dispatch.select("p3p", "fortran", arrays)


def test_devices_are_not_mixed() -> None:
    torch = pytest.importorskip("torch")
    meta = torch.ones(2, device="meta")
    with pytest.raises(ValueError, match=r"one device, got a on cpu, b\[1\] on meta"):
        _dispatch.select("p3p", None, {"a": torch.ones(2), "b": [None, meta]})
    with pytest.raises(ValueError, match="a is on meta: p3p has no implementation"):
        _dispatch.select("p3p", None, {"a": meta})


def test_a_forced_gpu_implementation_does_not_run_on_the_cpu() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    code = (
        "import torch, pyloc_core._dispatch as d\n"
        "ops = [o for o in d.operators() if any(i.name == 'triton' for i in d.implementations(o))]\n"
        "for op in ops:\n"
        "    try:\n"
        "        d.select(op, 'triton', {'a': torch.ones(2)})\n"
        "        print(op, 'ran')\n"
        "    except RuntimeError as e:\n"
        "        assert 'triton' in str(e), e\n"
        "print('done')"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "done\n"


def test_what_is_missing_for_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_common_device", lambda op, arrays: "cuda:0")
    monkeypatch.setattr(_dispatch, "_gpu_default", lambda op: None)
    monkeypatch.setattr(_dispatch, "_cuda_import", lambda: (None, "no module named so"))
    with pytest.raises(
        ValueError, match=r"points3d is on cuda:0.*cuda: not in this build \(no module"
    ):
        _dispatch.select("estimate_pose", None, {"points3d": None})
    with pytest.raises(ValueError, match=r"no implementation for that device in this build; move"):
        _dispatch.select("correlation_maps", None, {"descriptors": None})


def test_definitions_reach_torch_and_trace() -> None:
    torch = pytest.importorskip("torch")

    def run(a: object, factor: float) -> object:
        return torch.from_numpy(a.numpy() * np.float32(factor))  # type: ignore[attr-defined]

    name = "scaled_for_a_test"
    if not hasattr(torch.ops.pyloc_core, name):
        _library.define(
            name,
            "(Tensor a, float factor) -> Tensor",
            run=run,
            fake=lambda a, f: a.new_empty(a.shape),
        )
    assert _library.ensure() is True

    @torch.compile(fullgraph=True, backend="aot_eager")
    def traced(a):  # type: ignore[no-untyped-def]
        assert _dispatch.traced()
        _library.ensure()
        return torch.ops.pyloc_core.scaled_for_a_test(a, 3.0) + 1

    a = torch.arange(5, dtype=torch.float32)
    assert torch.equal(traced(a), 3 * a + 1)
    torch.library.opcheck(torch.ops.pyloc_core.scaled_for_a_test.default, (a, 2.0))
    assert not _dispatch.traced()


def test_tensor_checks_look_at_no_values() -> None:
    torch = pytest.importorskip("torch")
    half = torch.ones(3, 2, dtype=torch.float16)
    assert _tensors.check(half, "x", shape=("N", 2), dtype=("float32", "float16")) is half
    assert _tensors.check(half, "x", dtype="float32").dtype == torch.float32
    assert _tensors.check(np.ones(3), "x", dtype="float64").dtype == torch.float64
    with pytest.raises(ValueError, match=r"x must have shape \(N, 3\), got \(3, 2\)"):
        _tensors.check(half, "x", shape=("N", 3))
    with pytest.raises(TypeError, match="real numbers"):
        _tensors.check(torch.ones(2, dtype=torch.complex64), "x")
    with pytest.raises(ValueError, match="x must be on meta"):
        _tensors.check(half, "x", device=torch.device("meta"))
    with pytest.raises(ValueError, match="bad holds NaN"):
        _tensors.check_finite(good=half, bad=torch.tensor([1.0, float("nan")]))


def test_device_maps_go_there_and_back(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    maps = pl.loss_maps(
        rng.normal(size=(7, 8)).astype(np.float32), rng.normal(size=(8, 12, 15)).astype(np.float32)
    )
    there = maps.to("cpu")
    assert isinstance(there, pl.DeviceLossMaps) and len(there) == 7
    assert there.capacity == len(maps.gain) and there.device == torch.device("cpu")
    assert torch.equal(there.peak_gain, torch.tensor(maps.peak_gain.copy()))
    back = there.cpu()
    for name in ("row_ptr", "xy", "gain", "flat_gain"):
        assert np.array_equal(getattr(back, name), getattr(maps, name)), name
    assert (back.size, back.log_cardinality) == (maps.size, maps.log_cardinality)
    assert isinstance(back.dense(), torch.Tensor)


def test_device_maps_are_joined_where_they_lie(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    features = rng.normal(size=(8, 12, 15)).astype(np.float32)
    parts = [pl.loss_maps(rng.normal(size=(n, 8)).astype(np.float32), features) for n in (3, 1, 5)]
    there = []
    for part in parts:  # with room that holds nothing defined, as operators on a device leave it
        each = part.to("cpu")
        room = torch.full((40,), 7e8)
        there.append(
            replace(
                each, xy=torch.cat([each.xy, torch.full((40, 2), 99, dtype=torch.int16)]),
                gain=torch.cat([each.gain, room]),
            )
        )  # fmt: skip
    joined = pl.DeviceLossMaps.concatenate(there)
    assert joined.capacity == sum(part.capacity for part in there)
    whole = pl.LossMaps.concatenate(parts)
    for name in ("row_ptr", "xy", "gain", "flat_gain"):
        assert np.array_equal(getattr(joined.cpu(), name), getattr(whole, name)), name
    assert np.array_equal(joined.peak_gain, whole.peak_gain)
    other = pl.loss_maps(rng.normal(size=(2, 8)).astype(np.float32), features[:, :11]).to("cpu")
    with pytest.raises(ValueError, match="parts differ"):
        pl.DeviceLossMaps.concatenate([there[0], other])
    with pytest.raises(TypeError, match="at least one"):
        pl.DeviceLossMaps.concatenate([])
