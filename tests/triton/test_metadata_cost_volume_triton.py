# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The metadata cost volume's Triton kernels against the float64 form: values, gradients, equal bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sweep_problems import metadata_problem

import pyloc_core as pl

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

NAMES = ("reference", "sources")


def run(
    problem: dict[str, Any], device: Any, dtype: Any = None, slope: Any = None, **options: Any
) -> list[Any]:
    """Volume and the gradients of both features and six weights, as float64 on the CPU."""
    options = {"implementation": "triton", **options}
    exact = options["implementation"] == "reference"
    where, wide = ("cpu", torch.float64) if exact else (device, torch.float32)
    given = [torch.as_tensor(problem[name]).to(dtype or torch.float32) for name in NAMES]
    given = [x.to(wide) if exact else x for x in given]
    given += [torch.as_tensor(x).to(wide) for x in problem["mlp_weights"]]
    given = [x.to(where).requires_grad_() for x in given]
    rest = {
        name: torch.as_tensor(x).to(where)
        for name, x in problem.items()
        if name not in (*NAMES, "mlp_weights")
    }
    out = pl.metadata_cost_volume(*given[:2], **rest, mlp_weights=given[2:], **options)
    if slope is None:
        slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(4))
    out.backward(slope.to(out))
    return [x.double().cpu() for x in (out.detach(), *(x.grad for x in given))]


def relative(found: Any, truth: Any) -> float:
    return float((found - truth).abs().max() / truth.abs().max())


def errors(problem: dict[str, Any], device: Any, dtype: Any = None, **options: Any) -> list[float]:
    found = run(problem, device, dtype, **options)
    truth = run(problem, device, dtype, **options, implementation="reference")
    return [relative(a, b) for a, b in zip(found, truth)]


def small(**changes: Any) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "batch": 1, "views": 2, "channels": 5, "planes": 2, "size": (6, 9), "source_size": (7, 8),
        "hidden": (7, 5), "seed": 61,
    }  # fmt: skip
    return metadata_problem(**(sizes | changes))


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"batch": 2, "planes": 1}, {"num_valid": [2, 1]}),
        ({"channels": 16, "hidden": (32, 32)}, {}),
        ({"channels": 70, "hidden": (17, 33), "planes": 1}, {"scale_invariant": True}),
        ({"channels": 1, "views": 1, "size": (1, 1), "hidden": (1, 1)}, {}),
    ],
)
def test_equals_float64(changes: Any, options: Any, device: Any) -> None:
    assert max(errors(small(**changes), device, **options)) < 2e-5


def test_depths_of_every_cell(device: Any) -> None:
    problem = small(channels=16)
    noise = np.random.default_rng(62).uniform(0.8, 1.2, (1, 2, 6, 9))
    problem["depths"] = problem["depths"][None, :, None, None] * noise
    assert max(errors(problem, device)) < 2e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 3e-3), ("bfloat16", 2e-2)])
def test_half_precision(dtype: str, tolerance: float, device: Any) -> None:
    found = errors(small(channels=16, planes=1), device, getattr(torch, dtype))
    # b3's score part is the sum of the slopes, which nearly cancel as they are rounded.
    assert max(found[:-1]) < tolerance and found[-1] < 0.1


def test_points_behind_a_source_are_told_by_the_mask_alone(device: Any) -> None:
    problem = small(channels=4)
    pose = problem["source_from_reference"].copy()
    pose[0, 1, :, :3] = np.diag([-1.0, 1.0, -1.0]) @ pose[0, 1, :, :3]
    problem["source_from_reference"] = pose
    assert max(errors(problem, device)) < 2e-5


def test_padding_and_repetition_change_no_bit(device: Any) -> None:
    problem, wide = small(planes=1), small(views=3, planes=1)
    for name in ("sources", "K_sources", "source_from_reference"):
        wide[name] = np.concatenate([problem[name], wide[name][:, 2:]], 1)
    wide["sources"][:, 2:] = np.nan  # is not read
    wide["mlp_weights"], wide["reference"] = problem["mlp_weights"], problem["reference"]
    clean, found = run(problem, device), run(wide, device, num_valid=2)
    sources = found.pop(2)
    assert torch.equal(sources[:, :2], clean[2]) and not sources[:, 2:].any()
    assert all(torch.equal(a, b) for a, b in zip(found, clean[:2] + clean[3:]))
    assert all(torch.equal(a, b) for a, b in zip(run(problem, device), clean))


def test_large_and_small_slopes(device: Any) -> None:
    """The unit of the integers follows the slopes."""
    problem = small(planes=1, views=1)
    clean = run(problem, device)
    slope = torch.randn(clean[0].shape, generator=torch.Generator().manual_seed(4))
    for factor in (2.0**-60, 2.0**50):
        found = run(problem, device, slope=slope * factor)
        assert relative(found[2] / factor, clean[2]) < 1e-6
    assert not run(problem, device, slope=torch.zeros_like(slope))[2].any()


def test_empty_batch_and_what_is_refused(device: Any) -> None:
    from pyloc_core._triton import metadata_arguments as arguments

    maps = torch.ones(0, 3, 4, 5), torch.ones(0, 2, 3, 4, 5)
    geometry = [torch.ones(0, *s) for s in ((2, 3, 4), (3, 3), (2, 3), (2, 3), (2,), (2,))]
    weights = [torch.ones(s) for s in ((65, 20), (65,), (8, 65), (8,), (2, 8), (2,))]
    with pytest.raises(ValueError, match="hidden layers of up to 64"):
        arguments.prepare(*maps, tuple(weights), tuple(geometry), None)
    found = run(small(batch=0), device)
    assert found[0].shape == (0, 2, 6, 9) and found[2].shape == (0, 2, 5, 7, 8)
    assert not any(x.any() for x in found)
