# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth planes and depths from volumes on torch tensors: the same values, dtypes, gradients, compilation."""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")

K = torch.tensor([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]], dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def poses() -> torch.Tensor:
    return torch.cat([torch.eye(3).double().expand(2, 5, 3, 3), draw(2, 5, 3, 1)], -1)


def test_tensors_give_what_arrays_give() -> None:
    near, far = pl.depth_range(K, poses(), (480, 640))
    for found, expected in zip(
        (near, far), pl.depth_range(K.numpy(), poses().numpy(), (480, 640)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    planes = pl.log_depth_planes(near, far, 16)
    np.testing.assert_allclose(
        planes, pl.log_depth_planes(near.numpy(), far.numpy(), 16), rtol=1e-14
    )
    volume, depth = draw(2, 16, 6, 7), draw(2, 6, 7).exp()
    for found, expected in zip(
        pl.refine_depth_range(depth, near, far),
        pl.refine_depth_range(depth.numpy(), near.numpy(), far.numpy()),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    for options in ({}, {"space": "inverse", "window": 2}, {"space": "linear", "sharpness": 3.0}):
        found = pl.soft_argmax_depth(volume, planes, **options)
        expected = pl.soft_argmax_depth(volume.numpy(), planes.numpy(), **options)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(
        pl.volume_confidence(volume, planes=3),
        pl.volume_confidence(volume.numpy(), planes=3),
        rtol=1e-12,
    )


def test_second_range_equals_torch_quantile() -> None:
    depth = draw(3, 48, 64).mul(0.3).exp().float()
    near, far = pl.refine_depth_range(depth, 0.1, 30.0)
    torch.testing.assert_close(near, 0.75 * depth.flatten(1).quantile(0.05, dim=1))
    torch.testing.assert_close(far, 1.25 * depth.flatten(1).quantile(0.95, dim=1))


@pytest.mark.slow
def test_second_range_of_a_map_that_torch_quantile_refuses() -> None:
    """More than 2^24 values, in float32, where neighbouring ranks are no longer different numbers."""
    depth = torch.linspace(1.0, 6.0, 4096 * 4100).reshape(4096, 4100)
    with pytest.raises(RuntimeError, match="too large"):
        depth.flatten().quantile(0.05)
    near, far = pl.refine_depth_range(depth, 0.5, 10.0)
    assert float(near) == pytest.approx(0.75 * 1.25, rel=1e-6)
    assert float(far) == pytest.approx(1.25 * 5.75, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype) -> None:
    """Halves are computed and given back in float32."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    volume = draw(16, 6, 7).to(dtype)
    planes = pl.log_depth_planes(torch.tensor(0.5), torch.tensor(10.0), 16)
    assert planes.dtype == torch.float32
    depth = pl.soft_argmax_depth(volume, planes.to(dtype))
    expected = pl.soft_argmax_depth(volume.double(), planes.to(dtype).double())
    assert depth.dtype == wide
    torch.testing.assert_close(depth.double(), expected, rtol=1e-5, atol=0)
    assert pl.volume_confidence(volume).dtype == wide
    near, far = pl.refine_depth_range(depth.to(dtype), 0.5, 10.0)
    assert near.dtype == far.dtype == wide


def test_gradients() -> None:
    volume = draw(2, 5, 2, 3).requires_grad_()
    planes = draw(2, 5, 2, 3, seed=1).exp().requires_grad_()
    for space in ("log", "inverse", "linear"):
        for window in (None, 1):
            assert torch.autograd.gradcheck(
                lambda v, d, s=space, w=window: pl.soft_argmax_depth(
                    v, d, space=s, window=w, sharpness=1.5
                ),
                (volume, planes),
            )
    for around in ("mean", "peak"):
        assert torch.autograd.gradcheck(
            lambda v, a=around: pl.volume_confidence(v, planes=2, around=a), (volume,)
        )
    near = torch.tensor([0.5, 0.7], dtype=torch.float64, requires_grad=True)
    far = torch.tensor([9.0, 11.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda n, f: pl.log_depth_planes(n, f, 4), (near, far))
    depth = draw(2, 6, 7, seed=2).mul(0.3).exp().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda d, n, f: pl.refine_depth_range(d, n, f), (depth, near, far)
    )
    given = poses().requires_grad_()
    assert torch.autograd.gradcheck(lambda k, p: pl.depth_range(k, p, (48, 64)),
                                    (K.clone().requires_grad_(), given))  # fmt: skip


def test_gradient_reaches_a_depth_through_its_window_alone() -> None:
    volume = torch.zeros(8, 1, 1, dtype=torch.float64)
    volume[5] = 4
    volume.requires_grad_()
    pl.soft_argmax_depth(volume, torch.arange(1, 9).double(), window=1).sum().backward()
    assert (volume.grad.flatten() != 0).tolist() == [False] * 4 + [True] * 3 + [False]


def test_no_gradient_is_spoiled_by_a_view_without_baseline() -> None:
    given = poses()
    given[0, 1, :, 3] = 0
    given.requires_grad_()
    near, far = pl.depth_range(K, given, (48, 64))
    (near.sum() + far.sum()).backward()
    assert given.grad.isfinite().all()


def test_compiled_functions_give_the_same() -> None:
    """Values are not looked at while torch.compile traces: one graph, no break."""

    def both(volume: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        near, far = pl.depth_range(K, given_poses, (48, 64))
        near, far = pl.refine_depth_range(depth, near, far)
        planes = pl.log_depth_planes(near, far, 16)
        return pl.soft_argmax_depth(volume, planes, window=2), pl.volume_confidence(volume)

    given_poses = poses()
    given = draw(2, 16, 6, 7), draw(2, 6, 7).exp()
    compiled = torch.compile(both, backend="eager", fullgraph=True)
    for found, expected in zip(compiled(*given), both(*given), strict=True):
        torch.testing.assert_close(found, expected)


def test_values_on_a_device_are_looked_at_only_on_request() -> None:
    """The meta device has no values: whoever reads one fails."""
    near = torch.ones(2, device="meta")
    planes = pl.log_depth_planes(near, near, 4)
    assert planes.shape == (2, 4) and planes.device.type == "meta"
    volume = torch.ones(2, 4, 5, 6, device="meta")
    assert pl.soft_argmax_depth(volume, planes, window=1).shape == (2, 5, 6)
    assert pl.volume_confidence(volume).shape == (2, 5, 6)
    assert pl.refine_depth_range(torch.ones(2, 5, 6, device="meta"), near, near)[0].shape == (2,)
    assert pl.depth_range(
        torch.eye(3, device="meta"), torch.ones(2, 3, 3, 4, device="meta"), (4, 5)
    )[0].shape == (2,)
    with pytest.raises(ValueError, match="depths must be on meta"):
        pl.soft_argmax_depth(volume, torch.ones(4))
