# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The localization step and the correlation operators on the GPU: no wait, and captured in graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from test_tensor_step import scene

import pyloc_core as pl
from pyloc_core.localization.tensor_step import CapturedStep, pose_from_features

torch = pytest.importorskip("torch")


def step_arguments(device: Any) -> tuple[Any, ...]:
    """The arguments of `pose_from_features` there, then the true pose."""
    problem, *stages = scene()
    moved = [
        replace(s, descriptors=s.descriptors.to(device), features=s.features.to(device))
        for s in stages
    ]
    points = torch.tensor(problem.points3d, device=device)
    return points, problem.camera, *moved, problem.cam_from_world


def check(found: pl.PoseEstimates, truth: Any) -> None:
    assert bool(found.success[0]), found.reasons
    assert pl.pose_error(found[0].cam_from_world, truth)[0] < 0.1


def test_the_step_finds_the_pose_and_waits_for_nothing(cuda: Any) -> None:
    *arguments, truth = step_arguments(cuda)
    pose_from_features(*arguments)
    torch.cuda.synchronize(cuda)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = pose_from_features(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.cam_from_world.device == cuda
    check(found, truth)


def test_the_captured_step_reads_its_inputs_anew(cuda: Any) -> None:
    *arguments, truth = step_arguments(cuda)
    expected = pose_from_features(*arguments).cam_from_world
    step = CapturedStep(*arguments)
    assert torch.equal(step.replay().cam_from_world, expected)
    frames = [stage.features.clone() for stage in arguments[2:]]
    for stage in arguments[2:]:
        stage.features.zero_()
    assert not bool(step.replay().success[0])
    for stage, frame in zip(arguments[2:], frames):
        stage.features.copy_(frame)
    assert torch.equal(step.replay().cam_from_world, expected)
    check(step.result, truth)


def operators(device: Any) -> dict[str, Callable[[], tuple[Any, ...]]]:
    """Calls, and what of their results is defined throughout."""
    g = torch.Generator().manual_seed(3)
    h = torch.randn(70, 24, generator=g).to(device)
    f = torch.randn(24, 50, 90, generator=g).to(device)
    centers = (torch.rand(70, 2, generator=g, dtype=torch.float64) * 50).to(device)
    q, k = (torch.randn(1, 4, n, 24, generator=g).to(device) for n in (33, 50))

    def of(maps: pl.DeviceLossMaps) -> tuple[Any, ...]:
        return maps.row_ptr, maps.peak_xy, maps.peak_gain, maps.flat_gain

    def derived(form: Callable[..., Any], *given: Any) -> tuple[Any, ...]:
        leaves = [x.detach().requires_grad_() for x in given]
        out = form(*leaves)
        slope = torch.linspace(-1, 1, out.numel(), device=device).reshape(out.shape)
        return out.detach(), *torch.autograd.grad(out, leaves, slope)

    scores, token = torch.randn(3, 24, 50, generator=g).to(device), h[:3, :9]
    parts, masses = torch.randn(3, 16, 50, generator=g).to(device), [h[0] * 0, h.new_zeros(50)]
    masses = [x - x.logsumexp(0) for x in masses]

    def transport(**options: Any) -> Callable[[], tuple[Any, ...]]:
        return lambda: derived(lambda *x: pl.sinkhorn(*x, iterations=9, **options), scores, *masses)

    return {
        "sinkhorn": transport(),
        "sinkhorn to a tolerance": transport(tolerance=1e-3),
        "sinkhorn, implicit": transport(gradient="implicit"),
        "dual_softmax": lambda: derived(pl.dual_softmax, scores),
        "salad_assign": lambda: derived(lambda s: pl.salad_assign(s, 1.0), scores),
        "salad_aggregate": lambda: derived(
            lambda *x: pl.salad_aggregate(*x, 1.0), scores, parts, token
        ),
        "netvlad_aggregate": lambda: derived(pl.netvlad_aggregate, parts, scores, h[:24, :16]),
        "match": lambda: pl.match(h, f, quantile=0.1, entropy=True, subcell="quadratic"),
        "loss_maps": lambda: of(pl.loss_maps(h, f, max_entries=40)),
        "local_loss_maps": lambda: of(pl.local_loss_maps(h, f, centers, window=(9, 20))),
        "concatenate": lambda: of(pl.DeviceLossMaps.concatenate([pl.loss_maps(h, f)] * 2)),
        "gated_attention": lambda: (pl.gated_attention(q, k, k, num_valid=40),),
        "nre_loss": lambda: (pl.nre_loss(h, f, centers[:, :2].clamp(0, 40), reduction="mean"),),
    }


@pytest.mark.parametrize("name", list(operators(torch.device("cpu"))))
def test_operators_in_a_graph_without_a_wait(cuda: Any, name: str) -> None:
    pytest.importorskip("triton")
    call = operators(cuda)[name]
    expected = [x.clone() for x in call()]
    torch.cuda.synchronize(cuda)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream = torch.cuda.Stream(cuda)
    stream.wait_stream(torch.cuda.current_stream(cuda))
    with torch.cuda.stream(stream):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = call()
        for x in captured:
            x.zero_()
        graph.replay()
    torch.cuda.synchronize(cuda)
    for a, b, c in zip(expected, again, captured):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_another_gpu_than_the_current_one(cuda: Any) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    other = torch.device("cuda", (cuda.index + 1) % torch.cuda.device_count())
    *arguments, truth = step_arguments(other)
    found = pose_from_features(*arguments)
    assert found.cam_from_world.device == other and torch.cuda.current_device() == cuda.index
    check(found, truth)
    assert torch.equal(CapturedStep(*arguments).replay().cam_from_world, found.cam_from_world)
