# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Photometric refinement: warping against an analytic scene, the loss, and what it makes of a depth."""

from __future__ import annotations

import numpy as np
import pytest

from pyloc_core.depth import PosedFrame, StepOptions, refine_network_photometric
from pyloc_core.depth.photometric_refinement import dissimilarity, photometric_loss, warp

torch = pytest.importorskip("torch")

H, W = 24, 40
K = np.array([[40.0, 0, 19.0], [0, 42.0, 11.5], [0, 0, 1]])
DISTANCE = 5.0  # of the wall z = 5 m


def frame(x: float, turn: float = 0.0, dtype: torch.dtype = torch.float64) -> PosedFrame:
    """A camera at (x, 0, 0), turned about the vertical, before a wall with a smooth pattern."""
    c, s = np.cos(turn), np.sin(turn)
    rotation = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    column, row = np.meshgrid(np.arange(W), np.arange(H))
    rays = np.stack([column, row, np.ones_like(row)], -1) @ np.linalg.inv(K).T @ rotation
    at = rays * (DISTANCE / rays[..., 2:])
    at[..., 0] += x
    waves = [np.sin(2.1 * at[..., 0] + k) * np.cos(1.7 * at[..., 1] - k) for k in range(3)]
    picture = torch.from_numpy(0.5 + 0.4 * np.stack(waves)).to(dtype)
    pose = np.column_stack([rotation, -rotation @ [x, 0, 0]])
    return PosedFrame(None, picture, K, pose)


def wall(depth: float = DISTANCE) -> torch.Tensor:
    return torch.full((H, W), depth, dtype=torch.float64)


def test_warping_by_the_true_depth_gives_the_picture():
    target, source = frame(0.0), frame(0.4, turn=0.03)
    warped, seen = warp(source, wall(), target)
    assert 0.6 < seen.double().mean() < 0.97
    error = (warped - target.picture).abs().mean(0)
    assert error[seen].max() < 0.01  # bilinear reading of a smooth picture
    off, _ = warp(source, wall(4.0), target)
    assert (off - target.picture).abs().mean(0)[seen].mean() > 5 * error[seen].mean()


def test_points_behind_the_source_are_not_seen():
    target = frame(0.0)
    ahead = PosedFrame(None, target.picture, K, np.column_stack([np.eye(3), [0, 0, -6.0]]))
    warped, seen = warp(ahead, wall(), target)
    assert not seen.any() and torch.isfinite(warped).all()
    assert torch.isfinite(photometric_loss(wall(), target, [ahead]))


def test_dissimilarity():
    a, b = frame(0.0).picture, frame(0.6).picture
    assert dissimilarity(a, a).abs().max() < 1e-12
    assert (
        torch.equal(dissimilarity(a, b), dissimilarity(b, a)) and dissimilarity(a, b).mean() > 0.02
    )
    # A constant offset of flat pictures: variances 0, SSIM = (2 m n + C1) / (m^2 + n^2 + C1).
    flat = torch.full((1, 5, 5), 0.5, dtype=torch.float64)
    ssim = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    expected = 0.85 * (1 - ssim) / 2 + 0.15 * 0.2
    np.testing.assert_allclose(dissimilarity(flat, flat + 0.2), expected, rtol=1e-9)


def test_the_loss_is_least_at_the_true_depth():
    target, sources = frame(0.0), [frame(-0.4), frame(0.4, turn=0.02)]
    depths = (3.5, 4.3, 5.0, 6.0, 8.0)
    losses = [float(photometric_loss(wall(d), target, sources)) for d in depths]
    assert np.argmin(losses) == 2 and losses[2] < 0.2 * min(losses[0], losses[-1])


def test_gradient_against_differences():
    target, sources = frame(0.0), [frame(-0.3), frame(0.4, turn=0.02)]
    rng = np.random.default_rng(0)
    depth = torch.from_numpy(4.5 + 0.1 * rng.random((H, W))).requires_grad_()
    photometric_loss(depth, target, sources).backward()
    direction = torch.from_numpy(rng.normal(size=(H, W)))
    step = 1e-6
    with torch.no_grad():
        up, down = (
            photometric_loss(depth + sign * step * direction, target, sources) for sign in (1, -1)
        )
    expected = float((up - down) / (2 * step))
    assert float((depth.grad * direction).sum()) == pytest.approx(expected, rel=2e-3, abs=1e-7)


class Plane(torch.nn.Module):
    """The same depth everywhere, whatever it sees, at half the resolution and twice the unit."""

    def __init__(self, depth: float) -> None:
        super().__init__()
        self.log = torch.nn.Parameter(torch.tensor(np.log(2 * depth)))

    def forward(self, image: object) -> torch.Tensor:
        return self.log.exp().expand(1, 1, H // 2, W // 2)


def refined(network, frames, **options):
    given = {"scale": 2.0, "progress": False, "options": StepOptions(steps=40, learning_rate=0.02)}
    return refine_network_photometric(network, network.parameters(), frames, **given | options)


def test_a_plane_finds_its_depth():
    frames = [frame(0.3 * i) for i in range(4)]
    network = Plane(4.2)
    done = refined(network, frames)
    assert done.losses[-4:].mean() < 0.5 * done.losses[:4].mean()
    assert float(network.log.exp().detach()) / 2 == pytest.approx(DISTANCE, rel=0.03)
    assert set(done.visited) == {0, 1, 2, 3}
    done.restore()
    assert float(network.log.exp().detach()) / 2 == pytest.approx(4.2)
    one = refined(network, frames, targets=[2])
    assert set(one.visited) == {0} and len(one.losses) == 40
    again = Plane(4.2)
    np.testing.assert_array_equal(refined(again, frames, targets=[2]).losses, one.losses)


def test_bad_input():
    frames = [frame(0.3 * i) for i in range(2)]
    for change, words in (
        ({"targets": []}, "targets must lie within"),
        ({"targets": [2]}, "targets must lie within"),
        ({"neighbours": (3,)}, "frame 0 has no neighbours"),
        ({"scale": 0.0}, "scale"),
    ):
        with pytest.raises(ValueError, match=words):
            refined(Plane(4.0), frames, **change)
    with pytest.raises(ValueError, match=r"frames\[1\]\.K"):
        refined(Plane(4.0), [frames[0], PosedFrame(None, frames[1].picture, 0 * K, np.eye(4)[:3])])
    with pytest.raises(ValueError, match=r"frames\[0\]\.picture"):
        refined(Plane(4.0), [PosedFrame(None, torch.zeros(3, 3), K, np.eye(4)[:3]), frames[1]])
    with pytest.raises(ValueError, match="cam_from_world"):
        refined(Plane(4.0), [frames[0], PosedFrame(None, frames[1].picture, K, 2 * np.eye(4)[:3])])
