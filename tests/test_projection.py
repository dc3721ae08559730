# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Projection of tensors, one camera and pose per problem, against the native camera."""

from __future__ import annotations

import numpy as np
import pytest

import pyloc_core as pl
from pyloc_core.camera import camera_native_args

torch = pytest.importorskip("torch")

from pyloc_core import _projection  # noqa: E402

CAMERAS = [
    pl.Camera("PINHOLE", 640, 480, (500.0, 510.0, 318.0, 243.0)),
    pl.Camera("OPENCV", 640, 480, (500.0, 510.0, 318.0, 243.0, -0.1, 0.02, 1e-3, -2e-3)),
    pl.Camera("OPENCV_FISHEYE", 640, 480, (400.0, 410.0, 318.0, 243.0, 0.03, -0.01, 0.002, -3e-4)),
]


def test_problems_with_cameras_of_their_own(rng: np.random.Generator) -> None:
    sizes = [5, 0, 9]
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    points = rng.normal(size=(14, 3)) + [0, 0, 2.5]
    points[3, 2] = -4.0
    points[7] = (0.0, 0.0, 2.0)  # on the axis
    poses = np.stack([np.eye(3, 4)] * 3)
    poses[:, :, 3] = rng.normal(scale=0.05, size=(3, 3))
    poses[2, :, 3] = 0.0
    rows = torch.tensor([camera_native_args(c, (60, 80)) for c in CAMERAS])
    xy, front = _projection.project_problems(
        rows, torch.tensor(poses), torch.tensor(points), torch.tensor(ptr)
    )
    for b, camera in enumerate(CAMERAS):
        part = slice(ptr[b], ptr[b + 1])
        local = pl.transform_points(poses[b], points[part])
        expected, mask = camera.project(local)
        expected = pl.map_from_image(expected, camera.size, (60, 80))
        assert np.array_equal(front[part].numpy(), mask)
        np.testing.assert_allclose(xy[part].numpy()[mask], expected[mask], atol=1e-9)
        assert np.isnan(xy[part].numpy()[~mask]).all()


def test_it_traces(rng: np.random.Generator) -> None:
    rows = torch.tensor([camera_native_args(CAMERAS[1])])
    arguments = (rows, torch.eye(3, 4, dtype=torch.float64)[None], torch.ones(4, 3).double())
    ptr = torch.tensor([0, 4])
    compiled = torch.compile(_projection.project_problems, fullgraph=True, backend="aot_eager")
    assert torch.equal(
        compiled(*arguments, ptr)[0], _projection.project_problems(*arguments, ptr)[0]
    )
