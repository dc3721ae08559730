# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Projection with distortion in torch, differentiable; the oracle of csrc/include/pyloc/camera.h."""

from __future__ import annotations

import torch
from torch import Tensor


def project(camera: tuple[float, ...], points_cam: Tensor) -> tuple[Tensor, Tensor]:
    """Points (..., 3) in the camera frame to coordinates (..., 2) and a mask (...) of depth > 0.

    `camera` holds the 13 numbers of `camera_native_args`. Coordinates of masked points are those of
    depth 1, so that gradients stay finite.
    """
    kind, fx, fy, cx, cy, *d = camera
    valid = points_cam[..., 2] > 0
    z = torch.where(valid, points_cam[..., 2], torch.ones_like(points_cam[..., 2]))
    x, y = points_cam[..., 0], points_cam[..., 1]
    if kind == 2:
        r = torch.sqrt(x * x + y * y).clamp_min(1e-300)
        theta = torch.atan2(r, z)
        poly = 1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(d[:4]))
        u, v = theta * poly / r * x, theta * poly / r * y
    else:
        u, v = _distort(d, x / z, y / z)
    return torch.stack([fx * u + cx, fy * v + cy], dim=-1), valid


def _distort(d: list[float], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    k1, k2, p1, p2, k3, k4, k5, k6 = d
    r2 = u * u + v * v
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return (
        u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u),
        v * radial + p1 * (r2 + 2 * v * v) + 2 * p2 * u * v,
    )


def transform(cam_from_world: Tensor, points3d: Tensor) -> Tensor:
    """Points (N, 3) by poses (..., 3, 4): (..., N, 3)."""
    R, t = cam_from_world[..., :3], cam_from_world[..., 3]
    return points3d @ R.transpose(-1, -2) + t[..., None, :]


def left_update(cam_from_world: Tensor, delta: Tensor) -> Tensor:
    """R <- exp(delta[:3]) R, t <- t + delta[3:]."""
    zero = torch.zeros_like(delta[0])
    wx, wy, wz = delta[:3]
    skew = torch.stack([zero, -wz, wy, wz, zero, -wx, -wy, wx, zero]).reshape(3, 3)
    rotation = torch.linalg.matrix_exp(skew)
    return torch.cat([rotation @ cam_from_world[:, :3], cam_from_world[:, 3:] + delta[3:, None]], 1)


def unproject(camera: tuple[float, ...], xy: Tensor) -> Tensor:
    """Unit bearings (..., 3) of points (..., 2): Newton's method on the distortion."""
    kind, fx, fy, cx, cy, *d = camera
    m = torch.stack([(xy[..., 0] - cx) / fx, (xy[..., 1] - cy) / fy], dim=-1)
    if kind == 2:
        r = m.norm(dim=-1)
        theta = r.clone()
        for _ in range(50):
            powers = [k * theta ** (2 * i + 2) for i, k in enumerate(d[:4])]
            slope = 1 + sum((2 * i + 3) * p for i, p in enumerate(powers))
            theta = theta - (theta * (1 + sum(powers)) - r) / slope
        scale = torch.where(r > 1e-12, torch.sin(theta) / r.clamp_min(1e-12), torch.ones_like(r))
        return torch.cat([scale[..., None] * m, torch.cos(theta)[..., None]], dim=-1)
    uv = m.clone()
    for _ in range(50):
        uv.requires_grad_(True)
        ud, vd = _distort(d, uv[..., 0], uv[..., 1])
        ju = torch.autograd.grad(ud.sum(), uv, retain_graph=True)[0]
        jv = torch.autograd.grad(vd.sum(), uv)[0]
        J = torch.stack([ju, jv], dim=-2)
        error = torch.stack([ud, vd], dim=-1).detach() - m
        uv = (uv - torch.linalg.solve(J, error[..., None])[..., 0]).detach()
    ray = torch.cat([uv, torch.ones_like(uv[..., :1])], dim=-1)
    return ray / ray.norm(dim=-1, keepdim=True)
