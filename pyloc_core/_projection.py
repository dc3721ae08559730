# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Projection of tensors where they lie, with a pose and a camera per problem; nothing waits for the device."""

from __future__ import annotations

from typing import Any

from pyloc_core import _arrays
from pyloc_core.camera import _FISHEYE


def project_problems(
    cameras: Any, cam_from_world: Any, points3d: Any, problem_ptr: Any
) -> tuple[Any, Any]:
    """Points of B problems to image or map coordinates, in the unit of the cameras.

    Args:
        cameras: (B, 13) or (1, 13) float64, rows of `camera_native_args`.
        cam_from_world: (B, 3, 4) float64.
        points3d: (N, 3) float64.
        problem_ptr: (B + 1,) integers; points problem_ptr[b]:problem_ptr[b + 1] belong to problem b.

    Returns:
        xy (N, 2) float64, NaN where a point cannot be projected, and front (N,) bool, depth > 0.
    """
    torch = _arrays.torch_module()
    count = points3d.shape[0]
    index = torch.arange(count, device=points3d.device)
    problem = torch.searchsorted(problem_ptr[1:].contiguous(), index, right=True)
    # Points past the last problem, if any, belong to nobody; they go with the last one.
    problem = problem.clamp_max(cam_from_world.shape[0] - 1)
    pose = cam_from_world[problem]  # (N, 3, 4)
    local = (pose[:, :, :3] @ points3d[:, :, None])[..., 0] + pose[:, :, 3]
    each = cameras.expand(cam_from_world.shape[0], 13)[problem]  # (N, 13)
    return project_points(each, local)


def project_points(cameras: Any, points_cam: Any) -> tuple[Any, Any]:
    """Points (N, 3) in the camera frame by their cameras (N, 13); results as of `project_problems`."""
    torch = _arrays.torch_module()
    front = points_cam[:, 2] > 0
    z = torch.where(front, points_cam[:, 2], torch.ones_like(points_cam[:, 2]))
    x, y = points_cam[:, 0], points_cam[:, 1]
    kind, d = cameras[:, 0], cameras[:, 5:].unbind(1)
    plane = _brown(d, x / z, y / z)
    sphere = _fisheye(d, x, y, z)
    bent = torch.where((kind == _FISHEYE)[:, None], sphere, plane)
    xy = bent * cameras[:, 1:3] + cameras[:, 3:5]
    return torch.where(front[:, None], xy, torch.full_like(xy, float("nan"))), front


def _brown(d: Any, u: Any, v: Any) -> Any:
    torch = _arrays.torch_module()
    k1, k2, p1, p2, k3, k4, k5, k6 = d
    r2 = u * u + v * v
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    du = 2 * p1 * u * v + p2 * (r2 + 2 * u * u)
    dv = p1 * (r2 + 2 * v * v) + 2 * p2 * u * v
    return torch.stack([u * radial + du, v * radial + dv], 1)


def _fisheye(d: Any, x: Any, y: Any, z: Any) -> Any:
    torch = _arrays.torch_module()
    k1, k2, k3, k4 = d[:4]
    r = torch.hypot(x, y)
    theta = torch.atan2(r, z)
    t2 = theta * theta
    bent = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
    # On the axis the ratio tends to 1 / z.
    scale = torch.where(r > 1e-12 * z, bent / r.clamp_min(1e-300), 1 / z)
    return torch.stack([x * scale, y * scale], 1)
