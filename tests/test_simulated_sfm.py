# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Drawn drives, their simulated SfM models, and a small network that learns from them."""

from __future__ import annotations

import numpy as np
import pytest

for module in ("torch", "cv2", "pycolmap"):
    pytest.importorskip(module)

import torch  # noqa: E402

import pyloc_core as pl  # noqa: E402
from pyloc_core.depth import RefinementOptions, refine_network, sfm_supervision  # noqa: E402
from pyloc_core.models.depth_unet import DepthUNet  # noqa: E402
from pyloc_core.training import DepthScene  # noqa: E402
from pyloc_core.training.rendered_drives import RenderedDrives  # noqa: E402
from pyloc_core.training.simulated_sfm import simulated_sfm, triangulate  # noqa: E402


@pytest.fixture(scope="module")
def drive() -> DepthScene:
    return RenderedDrives(count=1, views=12, size=(48, 64), seed=4, spacing=0.8)[0]


def test_the_camera_moves_ahead(drive):
    centres = np.stack([pl.camera_center(p) for p in drive.cam_from_world])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert (steps > 0.6).all() and (steps < 1.0).all() and (np.diff(centres[:, 1]) > 0.5).all()
    np.testing.assert_allclose(centres[:, 2], 1.5)
    forward = drive.cam_from_world[:, 2, :3]
    assert (forward[:, 1] > 0.9).all()


def relative_errors(drive, unit=0.5, **options):
    model = simulated_sfm(drive, unit=unit, points=240, **options)
    views = sfm_supervision(model)
    found = np.concatenate([view.depths for view in views]) / unit
    at = [drive.view(i).read_depth(v.xy / 8) for i, v in enumerate(views)]
    return model, np.abs(found / np.concatenate(at) - 1)


def test_without_noise_the_model_is_exact(drive):
    model, error = relative_errors(drive, noise=0.0, outliers=0.0)
    # The depth map is read in the nearest pixel, where a slanted surface lies a little elsewhere.
    assert model.num_points3D() > 60 and np.median(error) < 5e-3 and error.max() < 0.05
    assert model.compute_mean_reprojection_error() < 1e-3
    assert model.cameras[1].width == 8 * 64
    again, _ = relative_errors(drive, noise=0.0, outliers=0.0)
    first = next(iter(model.points3D))
    np.testing.assert_array_equal(model.points3D[first].xyz, again.points3D[first].xyz)


def test_noise_and_outliers_are_as_large_as_asked_for(drive):
    _, little = relative_errors(drive, noise=0.3, outliers=0.0)
    model, more = relative_errors(drive, noise=1.2, outliers=0.0)
    assert np.median(more) > 1.5 * np.median(little) > 1e-4
    assert 0.5 < model.compute_mean_reprojection_error() < 2.5
    _, wrong = relative_errors(drive, noise=0.3, outliers=1.0)
    assert (wrong > 0.2).mean() > 0.3 > 0.05 > (little > 0.2).mean()


def test_triangulation_is_least_squares(drive):
    """No small move of a point lowers its reprojection error."""
    rng = np.random.default_rng(0)
    xyz = np.array([[-3.0, 18.0, 1.0], [3.0, 14.0, 2.5], [-5.0, 25.0, 4.0]])
    pose, K = drive.cam_from_world, drive.K

    def project(points):
        local = np.einsum("vij,pj->pvi", pose[:, :, :3], points) + pose[None, :, :, 3]
        there = np.einsum("vij,pvj->pvi", K, local)
        return there[..., :2] / there[..., 2:]

    xy = project(xyz) + rng.normal(0, 0.1, (3, 12, 2))
    seen = rng.random((3, 12)) < 0.7
    found = triangulate(xy, seen, drive)
    assert np.abs(found - xyz).max() < 1.0

    def error(points):
        return ((project(points) - xy) ** 2 * seen[..., None]).sum((1, 2))

    for move in np.vstack([np.eye(3), -np.eye(3)]):
        assert (error(found + 1e-3 * move) >= error(found)).all()


def test_the_network_learns_and_can_be_refined():
    scene = RenderedDrives(count=1, views=4, size=(24, 32), seed=1, spacing=0.8)[0]
    network = DepthUNet((8, 12, 16, 20), seed=3)
    twin = DepthUNet((8, 12, 16, 20), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters()))
    assert sum(p.numel() for p in DepthUNet().parameters()) < 500_000
    x = torch.from_numpy(scene.images).permute(0, 3, 1, 2).float() / 255
    truth = torch.from_numpy(scene.depth)[:, None].log()
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    losses = []
    for _ in range(40):
        loss = (network(x).log() - truth).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    depth = network(x)
    assert depth.shape == (4, 1, 24, 32) and depth.min() >= 1.0 and depth.max() <= 100.0
    with pytest.raises(ValueError, match="multiples of 8"):
        network(x[..., :-4])
    model = simulated_sfm(scene, points=200, noise=0.1, outliers=0.0)
    images = {f"frame_{i:03d}.png": x[i : i + 1] for i in range(4)}
    options = RefinementOptions(steps=24, learning_rate=1e-3)
    done = refine_network(
        network, network.encoder.parameters(), model, images, options=options, progress=False
    )
    assert done.losses[-4:].mean() < 0.8 * done.losses[:4].mean()
