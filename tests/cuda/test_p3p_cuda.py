# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""P3P on the GPU against the CPU: the same header, so the same solutions to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyloc_core as pl


def problems(count: int, seed: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rotation = pl.rotation_from_quaternion(rng.normal(size=(count, 4)))
    rays = np.concatenate([rng.uniform(-1, 1, (count, 3, 2)), np.ones((count, 3, 1))], -1)
    in_camera = rays * rng.uniform(1, 5, (count, 3, 1)) - rng.uniform(-1, 1, (count, 1, 3))
    return rays.astype(dtype), np.einsum("bji,bnj->bni", rotation, in_camera).astype(dtype)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 128, 129, 20_000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_agrees_with_the_cpu(cuda: Any, count: int, dtype: str) -> None:
    import torch

    f, x = problems(count, 7, dtype)
    ours = pl.p3p(torch.tensor(f, device=cuda), torch.tensor(x, device=cuda))
    assert ours.cam_from_world.device == cuda and ours.valid.dtype == torch.bool
    if count == 0:
        assert ours.cam_from_world.shape == (0, 4, 3, 4)
        return
    theirs = pl.p3p(f, x)
    same = (ours.valid.cpu().numpy() == theirs.valid).all(1)
    # A pair of solutions on the edge of vanishing may fall on either side of it.
    assert same.mean() >= (0.999 if dtype == "float64" else 0.99)
    difference = np.abs(ours.cam_from_world.cpu().numpy() - theirs.cam_from_world).max((1, 2, 3))
    near = difference[same] < (1e-6 if dtype == "float64" else 2e-2)
    assert near.mean() >= (0.999 if dtype == "float64" else 0.97)


def test_same_bits_every_time_and_into_the_callers_arrays(cuda: Any) -> None:
    import torch

    f, x = (torch.tensor(a, device=cuda) for a in problems(1000, 3, "float32"))
    first = pl.p3p(f, x)
    out = pl.P3PSolutions(
        torch.full((1000, 4, 3, 4), 9.0, device=cuda),
        torch.ones(4003, dtype=torch.bool, device=cuda)[3:].view(1000, 4),  # not aligned
    )
    assert pl.p3p(f, x, out=out) is out
    assert torch.equal(out.cam_from_world, first.cam_from_world)
    assert torch.equal(out.valid, first.valid)


def test_bad_values_spoil_only_their_problem(cuda: Any) -> None:
    import torch

    f, x = (torch.tensor(a, device=cuda) for a in problems(300, 4, "float64"))
    good = pl.p3p(f, x)
    f[17, 1, 0], x[200, 2, 2] = float("nan"), float("inf")
    found = pl.p3p(f, x)
    bad = torch.zeros(300, dtype=torch.bool, device=cuda)
    bad[[17, 200]] = True
    assert not found.valid[bad].any()
    assert torch.equal(found.cam_from_world[~bad], good.cam_from_world[~bad])
    with pytest.raises(ValueError, match="bearings holds NaN"):
        pl.p3p(f, x, check_finite=True)
    with pytest.raises(ValueError, match="one device"):
        pl.p3p(f, x.cpu())


def test_strided_tensors_streams_and_graphs(cuda: Any) -> None:
    import torch

    f, x = (torch.tensor(a, device=cuda) for a in problems(500, 5, "float32"))
    plain = pl.p3p(f, x).cam_from_world
    wide = f.mT.contiguous().mT
    assert not wide.is_contiguous()
    assert torch.equal(pl.p3p(wide, x).cam_from_world, plain)
    stream = torch.cuda.Stream(cuda)
    stream.wait_stream(torch.cuda.current_stream(cuda))
    with torch.cuda.stream(stream):
        pl.p3p(f, x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = pl.p3p(f, x).cam_from_world
        captured.zero_()
        graph.replay()
    torch.cuda.synchronize(cuda)
    assert torch.equal(captured, plain)
