# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What the front doors do with tensors on a device, without a device: meta tensors stand in.

They have shapes, dtypes and a device and no values, so that whatever would look at values, and with it
wait for a GPU, raises.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import pyloc_core as pl
from pyloc_core import _dispatch
from pyloc_core.localization.tensor_step import Stage, pose_from_features
from pyloc_core.maps_device import DeviceLossMaps

torch = pytest.importorskip("torch")

CAMERA = pl.Camera("OPENCV", 240, 200, (200.0, 210.0, 120.0, 100.0, 0.1, 0.0, 0.0, 0.01))


@pytest.fixture(autouse=True)
def meta_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "select", lambda op, implementation, arrays: "cuda")
    # There is no autocast on meta.
    module = importlib.import_module("pyloc_core.ops.nre_loss")
    monkeypatch.setattr(module, "_one_precision", lambda d, f, t: (d, f, t))


def on_meta(*shape: int, dtype: Any = torch.float32) -> Any:
    x = torch.empty(shape, dtype=dtype, device="meta")
    return x.requires_grad_() if dtype.is_floating_point else x


def some_maps(**options: Any) -> DeviceLossMaps:
    maps = pl.loss_maps(on_meta(10, 8), on_meta(8, 20, 24), **options)
    assert isinstance(maps, DeviceLossMaps)
    return maps


def points(count: int = 10) -> Any:
    return on_meta(count, 3, dtype=torch.float64)


POINTERS = [[0, 4, 10], np.array([0, 4, 10], np.int32), on_meta(3, dtype=torch.int32)]
CAMERAS = [
    CAMERA,
    [CAMERA, CAMERA],
    on_meta(1, 13, dtype=torch.float64),
    on_meta(3, 3),
    np.diag([9, 9, 1]),
]


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("ptr", POINTERS)
@pytest.mark.parametrize("origin", [(0, 0), (-2, -3)])
def test_pose_operators(camera: Any, ptr: Any, origin: tuple[int, int]) -> None:
    maps = some_maps(origin=origin, image_cells=None if origin == (0, 0) else (14, 20))
    common = {"problem_ptr": ptr}
    starts = pl.estimate_pose(
        maps, points(), camera, initial=np.tile(np.eye(3, 4), (2, 1, 1)), **common
    )
    found = pl.refine_pose(maps, points(), camera, starts.cam_from_world, **common)
    for each in (starts, found):
        assert each.cam_from_world.shape == (2, 3, 4) and each.covariance.shape == (2, 6, 6)
        assert each.inlier_probability.shape == (10,) and each.success.dtype == torch.bool
        assert each.cam_from_world.device.type == "meta"
        assert not each.cam_from_world.requires_grad and not each.covariance.requires_grad
    cost = pl.score_poses(
        maps, points(), camera, on_meta(2, 5, 3, 4, dtype=torch.float64), **common
    )
    assert cost.shape == (2, 5) and not cost.requires_grad


def test_the_whole_step_looks_at_no_value() -> None:
    coarse, fine = (Stage(on_meta(10, 8), on_meta(8, h, w)) for h, w in ((20, 24), (160, 192)))
    found = pose_from_features(points(), CAMERA, coarse, fine, initial=points(3).new_empty(3, 4))
    assert found.cam_from_world.shape == (1, 3, 4) and found.cam_from_world.device.type == "meta"


def test_correlation_operators() -> None:
    found = pl.match(
        on_meta(10, 8), on_meta(8, 20, 24), quantile=0.1, entropy=True, subcell="quadratic"
    )
    assert found.xy.shape == (10, 2) and not any(each.requires_grad for each in found)
    assert pl.filter_matches(found, min_probability=0.1, max_entropy=2.0).shape == (10,)
    assert pl.cyclic_check(found.xy, on_meta(10, 8), on_meta(8, 20, 24)).valid.shape == (10,)
    fine = pl.local_loss_maps(
        on_meta(10, 8), on_meta(8, 20, 24), on_meta(10, 2), window=5, coarse_mass=on_meta(10)
    )
    assert fine.capacity == 250 and not fine.gain.requires_grad
    assert len(DeviceLossMaps.concatenate([fine, fine])) == 20


@pytest.mark.parametrize("num_valid", [None, [3, 4], on_meta(2, dtype=torch.int32)])
def test_differentiable_operators(num_valid: Any) -> None:
    d, f, t = on_meta(2, 10, 8), on_meta(2, 8, 5, 6), on_meta(2, 10, 2)
    loss = pl.nre_loss(d, f, t, num_valid=num_valid, reduction="mean")
    loss.backward()
    assert [x.grad.shape for x in (d, f, t)] == [x.shape for x in (d, f, t)]
    q, k, v = on_meta(2, 3, 4, 8), on_meta(2, 3, 5, 8), on_meta(2, 3, 5, 7)
    pl.gated_attention(q, k, v, num_valid=num_valid).sum().backward()
    assert [x.grad.shape for x in (q, k, v)] == [x.shape for x in (q, k, v)]


@pytest.mark.parametrize("num_valid", [None, [8, 9], on_meta(2, dtype=torch.int32)])
@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
def test_sinkhorn(num_valid: Any, gradient: str) -> None:
    given = on_meta(2, 6, 9), on_meta(2, 6), on_meta(9)
    log_p = pl.sinkhorn(*given, tolerance=1e-3, num_valid=(None, num_valid), gradient=gradient)
    assert log_p.shape == (2, 6, 9) and log_p.device.type == "meta"
    log_p.sum().backward()
    assert [x.grad.shape for x in given] == [x.shape for x in given]


@pytest.mark.parametrize("num_valid", [None, [8, 9], on_meta(2, dtype=torch.int32)])
def test_superglues_assignment(num_valid: Any) -> None:
    from pyloc_core.integrations.superglue import log_optimal_transport

    scores, alpha = on_meta(2, 6, 9), on_meta()
    log_p = log_optimal_transport(scores, alpha, 5, num_valid=(None, num_valid))
    assert log_p.shape == (2, 7, 10) and log_p.device.type == "meta"
    log_p.sum().backward()
    assert scores.grad.shape == scores.shape and alpha.grad.shape == ()


@pytest.mark.parametrize("num_valid", [None, [8, 9], on_meta(2, dtype=torch.int32)])
def test_aggregation(num_valid: Any) -> None:
    half = torch.float16
    features, centroids = on_meta(2, 5, 9, dtype=half), on_meta(6, 5, dtype=half)
    scores, token = on_meta(2, 6, 9, dtype=half), on_meta(2, 4, dtype=half)
    dustbin = on_meta()
    salad = pl.salad_aggregate(scores, features, token, dustbin, num_valid=num_valid)
    netvlad = pl.netvlad_aggregate(features, scores, centroids, num_valid=num_valid)
    assert salad.shape == (2, 34) and netvlad.shape == (2, 30) and salad.dtype == half
    (salad.sum() + netvlad.sum()).backward()
    for x in (scores, features, token, dustbin, centroids):
        assert x.grad.shape == x.shape
    number = pl.salad_aggregate(scores, features, None, 1.0, num_valid=num_valid)
    assert number.shape == (2, 30) and number.device.type == "meta"
    log_p = pl.salad_assign(scores, dustbin, num_valid=num_valid)
    assert log_p.shape == (2, 7, 9) and log_p.dtype == half


@pytest.mark.parametrize("num_valid", [None, [5, 6], on_meta(2, dtype=torch.int32)])
def test_dual_softmax(num_valid: Any) -> None:
    scores = on_meta(2, 6, 9)
    log_p = pl.dual_softmax(scores, temperature=0.1, num_valid=(num_valid, None))
    log_p.sum().backward()
    assert log_p.shape == scores.grad.shape == scores.shape and log_p.device.type == "meta"


@pytest.mark.parametrize("op", ["sinkhorn", "dual_softmax", "salad_aggregate", "netvlad_aggregate"])
def test_assignment_operators_have_kernels_for_a_gpu(op: str) -> None:
    found = {each.name: each for each in pl.implementations(op)}
    assert list(found) == ["native", "triton", "reference"] and found["native"].default


def sweep_arguments(b: int, v: int, c: int, depths: Any) -> list[Any]:
    """Features on the device; cameras and depths on the host or there."""
    K = np.array([[9.0, 0, 4], [0, 9, 3], [0, 0, 1]])
    pose = np.concatenate([np.eye(3), [[0.1], [0.2], [0.0]]], 1)
    cameras = [np.tile(K, (b, 1, 1)), np.tile(K, (b, v, 1, 1)), np.tile(pose, (b, v, 1, 1))]
    return [on_meta(b, c, 6, 9), on_meta(b, v, c, 7, 8), *cameras, depths]


@pytest.mark.parametrize("num_valid", [None, [2, 3], on_meta(2, dtype=torch.int32)])
@pytest.mark.parametrize("reduce", ["mean", "valid_mean", "none"])
def test_plane_sweep(reduce: str, num_valid: Any) -> None:
    views = (3,) if reduce == "none" else ()
    for depths in ([1.0, 2.0, 4.0], on_meta(2, 3).detach(), on_meta(2, 3, 6, 9).detach()):
        given = sweep_arguments(2, 3, 5, depths)
        volume, mask = pl.plane_sweep(*given, reduce=reduce, num_valid=num_valid, return_mask=True)
        assert volume.shape == mask.shape == (2, *views, 3, 6, 9) and mask.dtype == torch.bool
        volume.sum().backward()
        assert [x.grad.shape for x in given[:2]] == [x.shape for x in given[:2]]


@pytest.mark.parametrize("num_valid", [None, [2, 3], on_meta(2, dtype=torch.int32)])
def test_metadata_cost_volume(num_valid: Any) -> None:
    for depths in ([1.0, 2.0, 4.0], on_meta(2, 3, 6, 9).detach()):
        given = sweep_arguments(2, 3, 5, depths)
        weights = [on_meta(*s) for s in ((7, 24), (7,), (8, 7), (8,), (2, 8), (2,))]
        volume = pl.metadata_cost_volume(*given, weights, num_valid=num_valid)
        assert volume.shape == (2, 3, 6, 9) and volume.device.type == "meta"
        volume.sum().backward()
        assert [x.grad.shape for x in weights] == [x.shape for x in weights]
        assert [x.grad.shape for x in given[:2]] == [x.shape for x in given[:2]]


@pytest.mark.parametrize("op", ["plane_sweep", "metadata_cost_volume"])
def test_cost_volumes_have_kernels_for_a_gpu(op: str) -> None:
    found = {each.name: each for each in pl.implementations(op)}
    assert list(found) == ["native", "triton", "reference"] and found["native"].default


def test_p3p() -> None:
    found = pl.p3p(on_meta(7, 3, 3), on_meta(7, 3, 3, dtype=torch.float64))
    assert found.cam_from_world.dtype == torch.float64 and not found.cam_from_world.requires_grad


def test_host_arrays_are_refused_in_a_graph_that_is_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pyloc_core import _tensors

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(ValueError, match="problem_ptr is on the host"):
        _tensors.on_device(np.arange(3), "problem_ptr", torch.device("cuda", 0))


def test_descriptors_with_nan_are_in_no_mutual_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device values are not checked, and the row of a best cell that is NaN is no index."""
    from pyloc_core import match_filters

    def best(queries: Any, features: Any, **_: Any) -> pl.Matches:
        similarity = queries @ features[:, 0]
        row = similarity.argmax(1).double().masked_fill(similarity.isnan().any(1), float("nan"))
        return pl.Matches(torch.stack([row, row], 1), row, None, None)

    monkeypatch.setattr(match_filters, "match", best)
    a = torch.eye(4)
    a[1, 2] = float("nan")
    pairs = match_filters._mutual(a, torch.eye(4)[:2], None, None, torch)
    assert pairs.indices.shape[1] == 2 and 1 not in pairs.indices[:, 0]
