# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""MSAC over 2D-3D matches with local optimisation, in float64, without early abandonment."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyloc_core.reference.camera import left_update, project, transform, unproject
from pyloc_core.reference.consensus import MAX_LOG_FALSE_ALARMS, MIN_USABLE, log_false_alarms
from pyloc_core.reference.msac import (
    MIN_ITERATIONS,
    ROOTS,
    required_triplets,
    round_size,
    sample_triplets,
)
from pyloc_core.reference.p3p import p3p

POOL, LOCAL_STEPS, FINAL_STEPS = 4, 5, 50

Options = tuple[float, int, float, int]  # max_error, iterations (0: adaptive), confidence, seed
Candidate = tuple[float, int, Tensor]  # -gain, number, pose (3, 4): sorts best first


class Matches:
    """Measured points (N, 2), world points (N, 3) and weights (N,) with the truncated squared error."""

    def __init__(
        self, xy: Tensor, points: Tensor, weights: Tensor, camera: tuple[float, ...], error: float
    ) -> None:
        self.xy, self.points, self.weights, self.camera = xy, points, weights, camera
        self.limit2 = error**2

    def residual(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N, 2) projection less measurement and (..., N) which are within the limit."""
        xy, ahead = project(self.camera, transform(pose, self.points))
        r = xy - self.xy
        return r, ahead & ((r * r).sum(-1) < self.limit2)

    def kept(self, pose: Tensor) -> Tensor:
        """T^2 - min(r^2, T^2), (..., N)."""
        r, inside = self.residual(pose)
        return torch.where(inside, self.limit2 - (r * r).sum(-1), torch.zeros_like(r[..., 0]))

    def gain(self, pose: Tensor) -> Tensor:
        return (self.weights * self.kept(pose)).sum(-1)

    def information(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """sum w J^T J (6, 6) and -sum w J^T r (6,) over the inliers."""
        r, inside = self.residual(pose)
        rotated = self.points @ pose[:, :3].T
        in_camera = (rotated + pose[:, 3]).requires_grad_(True)
        xy, _ = project(self.camera, in_camera)
        # A point's projection depends on that point alone: the gradient of a sum holds all rows.
        rows = [
            torch.autograd.grad(xy[:, k].sum(), in_camera, retain_graph=True)[0] for k in (0, 1)
        ]
        by_point = torch.stack(rows, dim=1)  # (N, 2, 3)
        # d X_cam / d rotation = -[R X]_x, so that J v = (R X) x J_row for each row.
        by_rotation = torch.linalg.cross(rotated[:, None].expand_as(by_point), by_point)
        J = torch.cat([by_rotation, by_point], dim=2)[inside]
        w = self.weights[inside]
        A = torch.einsum("nki,n,nkj->ij", J, w, J)
        return A, -torch.einsum("nki,n,nk->i", J, w, r[inside])

    def improve(self, pose: Tensor, steps: int) -> Tensor:
        """Levenberg-Marquardt on the truncated cost."""
        damping, gain = 1e-4, self.gain(pose)
        for _ in range(steps):
            A, b = self.information(pose)
            if float(torch.linalg.matrix_norm(A)) == 0:
                break
            step = torch.linalg.lstsq(A + damping * torch.diag(torch.diag(A)), b).solution
            trial = left_update(pose, step)
            trial_gain = self.gain(trial)
            if trial_gain > gain:
                pose, gain, damping = trial, trial_gain, damping / 3
            else:
                damping *= 10
        return pose


def chance_inlier(xy: Tensor, error: float) -> float:
    """Share of the measurements' bounding box that a square of side 2 T holds."""
    extent = (xy.amax(0) - xy.amin(0)).clamp_min(1e-300)
    return float((2 * error / extent).clamp_max(1.0).prod())


def estimate_pose_from_matches(
    points2d: np.ndarray,
    points3d: np.ndarray,
    weights: np.ndarray | None,
    camera: tuple[float, ...],
    initial: np.ndarray,
    options: Options,
    covariance: np.ndarray,
    inlier_probability: np.ndarray,
) -> dict[str, Any]:
    """As the native kernel: a dictionary of results; the last two arguments are written."""
    error, iterations, confidence, seed = options
    weight = torch.ones(len(points2d), dtype=torch.float64)
    weight = weight if weights is None else torch.as_tensor(weights)
    picked = weight > 0
    count = int(picked.sum())
    found: dict[str, Any] = {"num_usable": count, "num_consistent": 0, "iterations": 0, "status": 1}
    found |= {"cost": 0.0, "gain": 0.0, "seconds": [0.0] * 4, "hypothesis": 0, "scored": 0}
    if count < MIN_USABLE:
        return found
    world = torch.as_tensor(points3d)[picked]
    center = world.mean(0)
    xy = torch.as_tensor(points2d)[picked]
    matches = Matches(xy, world - center, weight[picked], camera, error)
    bearings = unproject(camera, xy)
    pool: list[Candidate] = []
    best: list[Candidate] = []

    def add(poses: Tensor, numbers: list[int]) -> None:
        gains = matches.gain(poses).tolist()
        new = [(-g, n, p) for g, n, p in zip(gains, numbers, poses, strict=True)]
        pool[:] = sorted(pool + new, key=lambda c: c[:2])[:POOL]
        for gain, number, pose in [c for c in pool if c[1] >= numbers[0]]:
            better = matches.improve(pose, LOCAL_STEPS)
            best.append(min((-float(matches.gain(better)), number, better), (gain, number, pose)))
        best[:] = sorted(best, key=lambda c: c[:2])[:1]

    if len(initial):
        starts = torch.as_tensor(initial).clone()
        starts[:, :, 3] += starts[:, :, :3] @ center
        add(starts, [k - ROOTS * len(initial) for k in range(len(initial))])
    done, wanted = 0, iterations or MIN_ITERATIONS
    while done < wanted:
        size = round_size(done, wanted)
        picks = sample_triplets(seed, done, size, count)
        poses, valid = p3p(bearings[picks], matches.points[picks])
        # Two points on one bearing fix no pose.
        same = (xy[picks] == xy[picks.roll(1, 1)]).all(-1).any(-1)
        valid = valid & ~same[:, None]
        numbers = [ROOTS * done + i for i in torch.nonzero(valid.flatten())[:, 0].tolist()]
        if numbers:
            add(poses[valid], numbers)
        done += size
        found["scored"] += len(numbers)
        if not iterations:
            inliers = int(matches.residual(best[0][2])[1].sum()) if best else 0
            wanted = required_triplets(inliers / count, confidence)
    found["iterations"] = done
    if not best:
        return found | {"status": 2}
    pose = matches.improve(best[0][2], FINAL_STEPS)
    inside = matches.residual(pose)[1]
    consistent, gain = int(inside.sum()), float(matches.gain(pose))
    inlier_probability[picked.numpy()] = (matches.kept(pose) / matches.limit2).numpy()
    cam_from_world = pose.clone()
    cam_from_world[:, 3] -= pose[:, :3] @ center
    # The covariance is that of the left update of the world's pose: linearise there.
    A, _ = Matches(xy, world, weight[picked], camera, error).information(cam_from_world)
    observed = bool(torch.linalg.cond(A) < 1e24) and consistent >= 3
    squares = float(matches.weights[inside].sum()) * matches.limit2 - gain
    freedom = 2 * consistent - 6
    if observed:
        sigma2 = max(squares, 0.0) / freedom if freedom >= 1 else matches.limit2
        covariance[:] = (sigma2 * torch.linalg.inv(A)).numpy()
    alarms = log_false_alarms(count, consistent, chance_inlier(xy, error))
    success = consistent >= MIN_USABLE and alarms <= MAX_LOG_FALSE_ALARMS
    return found | {
        "cam_from_world": cam_from_world.flatten().tolist(),
        "status": 3 if not success else 0 if observed else 4,
        "hypothesis": best[0][1],
        "gain": gain,
        "cost": float(matches.weights.sum()) * matches.limit2 - gain,
        "num_consistent": consistent,
    }
