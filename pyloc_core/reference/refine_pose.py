# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Graduated non-convexity over loss maps in torch float64: the oracle of csrc/include/pyloc/gnc.h."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyloc_core.reference import camera as cameras
from pyloc_core.reference.consensus import MIN_USABLE, Consensus, consensus, map_evidence

if TYPE_CHECKING:
    from pyloc_core.maps import LossMaps

MAX_REJECTIONS = 5
MIN_LAMBDA = 1e-8
MIN_DISPERSION = 0.05
# Published program: nearest depth that counts, and what it adds to every depth.
PUBLISHED_NEAR, PUBLISHED_DEPTH_SHIFT = 1e-4, 1e-8
CONVERGED, STALLED, MAX_ITERATIONS, NO_SUPPORT, NOT_RUN = range(5)


@dataclass(frozen=True)
class Options:
    """See refine_pose."""

    sigma_max: float = 2.0
    sigma_min: float = 0.6
    max_iterations: int = 200
    gain_ratio: float = 0.1
    min_decrease: float = 1e-5
    published: bool = False


class Sums(NamedTuple):
    """Per map: energy (N,), sum_q w (N,), sum_q w r (N, 2), curvature H (N, 2, 2)."""

    energy: Tensor
    weight: Tensor
    pull: Tensor
    curvature: Tensor


class Refined(NamedTuple):
    """Twin of pyloc::cpu::RefinePoseResult."""

    cam_from_world: Tensor
    gains: Tensor
    energy: float
    covariance: Tensor
    dispersion: float
    iterations: int
    reason: int
    consensus: Consensus


def schedule(sigma_max: float, sigma_min: float, published: bool = False) -> list[float]:
    """sigma_max, the powers of two below it down to 1, tenths, sigma_min.

    The published list holds multiples of 1024 up to 11264 above 512, and 1 twice.
    """
    powers = [2.0**k for k in range(40, -1, -1)]
    if published:
        powers = [1024.0 * k for k in range(11, 0, -1)] + [2.0**k for k in range(9, -1, -1)]
    tenths = [0.1 * k for k in range(10 if published else 9, 1 if published else 0, -1)]
    tolerance = 1e-9
    if published:
        inside = [s for s in powers + tenths if sigma_min - tolerance <= s <= sigma_max + tolerance]
        return inside or [sigma_min]
    inside = [s for s in powers + tenths if sigma_min - tolerance <= s < sigma_max - tolerance]
    sigmas = [sigma_max, *inside]
    return sigmas if sigmas[-1] <= sigma_min + tolerance else [*sigmas, sigma_min]


def geometry(
    camera: tuple[float, ...], cam_from_world: Tensor, points3d: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Projections (N, 2), mask (N,) and Jacobians (N, 2, 6) for the left update, by forward-mode autograd."""

    def projections(delta: Tensor) -> Tensor:
        pose = cameras.left_update(cam_from_world, delta)
        return cameras.project(camera, cameras.transform(pose, points3d))[0]

    J = torch.func.jacfwd(projections)(torch.zeros(6, dtype=torch.float64))
    xy, valid = cameras.project(camera, cameras.transform(cam_from_world, points3d))
    usable = valid & torch.isfinite(xy).all(-1) & torch.isfinite(J).all(-1).all(-1)
    return torch.where(usable[:, None], xy, 0.0), usable, torch.where(usable[:, None, None], J, 0.0)


def published_geometry(
    camera: tuple[float, ...], cam_from_world: Tensor, points3d: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`geometry` of the published program: depth below 1e-4 counts as behind, 1e-8 is added to it, and of
    the distortion (k1, k2, p1, p2) only k1 enters the Jacobian."""
    _, fx, fy, _, _, k1, *_ = camera
    RX = points3d @ cam_from_world[:, :3].T
    local = RX + cam_from_world[:, 3]
    valid = local[:, 2] >= PUBLISHED_NEAR
    z = local[:, 2].clamp_min(PUBLISHED_NEAR) + PUBLISHED_DEPTH_SHIFT
    u, v = local[:, 0] / z, local[:, 1] / z
    xy, _ = cameras.project(camera, torch.stack([u, v, torch.ones_like(u)], -1))
    zero, one = torch.zeros_like(u), torch.ones_like(u)
    across = 2 * k1 * u * v
    slope = [1 + k1 * (3 * u * u + v * v), across, across, 1 + k1 * (u * u + 3 * v * v)]
    D = torch.stack(slope, -1).reshape(-1, 2, 2)
    by_point = torch.stack([one, zero, -u, zero, one, -v], -1).reshape(-1, 2, 3) / z[:, None, None]
    x, y, w = RX.unbind(-1)
    turn = torch.stack([zero, w, -y, -w, zero, x, y, -x, zero], -1).reshape(-1, 3, 3)
    by_pose = torch.cat([turn, torch.eye(3, dtype=turn.dtype).expand(len(turn), 3, 3)], -1)
    J = torch.tensor([[fx], [fy]], dtype=turn.dtype) * (D @ by_point @ by_pose)
    usable = valid & torch.isfinite(xy).all(-1) & torch.isfinite(J).all(-1).all(-1)
    return torch.where(usable[:, None], xy, 0.0), usable, torch.where(usable[:, None, None], J, 0.0)


def map_sums(maps: LossMaps, xy: Tensor, valid: Tensor, sigma: float) -> Sums:
    """The sums of Eq. 4.9 over every live cell q, r = q - p_n, w = g k_sigma(|r|) / sigma^2."""
    rows = torch.repeat_interleave(torch.tensor(maps.entries_per_map))
    r = torch.tensor(maps.xy).double() - xy[rows]
    gain = torch.tensor(maps.gain).double() * valid[rows]
    k = torch.exp(-(r**2).sum(-1) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
    w = gain * k / sigma**2

    def per_map(values: Tensor) -> Tensor:
        out = torch.zeros(len(maps), *values.shape[1:], dtype=torch.float64)
        return out.index_add(0, rows, values)

    weight = per_map(w)
    outer = per_map(w[:, None, None] * r[:, :, None] * r[:, None, :])
    curvature = weight[:, None, None] * torch.eye(2, dtype=torch.float64) - outer / sigma**2
    return Sums(-per_map(gain * k), weight, per_map(w[:, None] * r), curvature)


def damped_step(
    A: Tensor, b: Tensor, damping: float, published: bool
) -> tuple[Tensor, float] | None:
    """d and the predicted fall of the energy; None for a singular system."""
    trace = float(torch.trace(A))
    if not (math.isfinite(trace) and trace > 0):
        return None
    extra = torch.full((6,), damping, dtype=torch.float64)
    if not published:
        extra = damping * torch.diagonal(A) + 1e-14 * trace
    L, info = torch.linalg.cholesky_ex(A + torch.diag(extra))
    if int(info) != 0:
        return None
    d = torch.cholesky_solve(b[:, None], L)[:, 0]
    return (d, 0.5 * float(d @ b)) if torch.isfinite(d).all() else None


class Control:
    """Damping and sigma: the rules of section 4.4.2, twin of gnc_after_trial."""

    def __init__(self, options: Options, levels: int) -> None:
        self.options, self.levels = options, levels
        self.level = self.rejections = self.iterations = 0
        self.damping, self.reason, self.done = MIN_LAMBDA, CONVERGED, False

    def _next_level(self, reason: int) -> bool:
        self.rejections = 0
        if self.level + 1 < self.levels:
            self.level += 1
            return True
        self.reason, self.done = reason, True
        return False

    def rejected(self, predicted: float) -> bool:
        """True: go on at the next sigma with the same pose."""
        if self.options.published:
            self.damping *= 2
            if self.damping >= 1e7:
                self.reason, self.done = STALLED, True
            return False
        self.rejections += 1
        self.damping = 1e-3 if self.damping < 1e-4 else self.damping * 10
        converged = predicted < self.options.min_decrease
        if not converged and self.rejections < MAX_REJECTIONS:
            return False
        self.damping = MIN_LAMBDA
        return self._next_level(CONVERGED if converged else STALLED)

    def accepted(self, fall: float, moved: float) -> bool:
        """True: evaluate again at the next sigma. `moved`: sum of the maps' absolute changes."""
        self.rejections = 0
        if fall < self.options.min_decrease or fall <= self.options.gain_ratio * moved:
            if self.options.published:
                self.level += self.level + 1 < self.levels
                return True
            return self._next_level(CONVERGED)
        self.damping = max(self.damping * (0.5 if self.options.published else 0.1), MIN_LAMBDA)
        return False


def optimise(
    maps: LossMaps,
    points3d: Tensor,
    camera: tuple[float, ...],
    pose: Tensor,
    options: Options,
    trajectory: list[tuple[Tensor, float]] | None = None,
) -> tuple[Tensor, float, float, Control]:
    """Pose, last sigma, energy there, and the control's final state.

    `trajectory` receives every pose that was taken, the start included, with the sigma in use from then on.
    """
    sigmas = schedule(options.sigma_max, options.sigma_min, options.published)
    control = Control(options, len(sigmas))
    look = published_geometry if options.published else geometry
    trajectory = [] if trajectory is None else trajectory
    trajectory.append((pose, sigmas[0]))
    xy, valid, J = look(camera, pose, points3d)
    sums = map_sums(maps, xy, valid, sigmas[0])
    energies = sums.energy
    while not control.done:
        if float(energies.sum()) == 0:
            control.reason = NO_SUPPORT
            break
        A = torch.einsum("n,nij,nik->jk", sums.weight, J, J)
        b = torch.einsum("nij,ni->j", J, sums.pull)
        step = damped_step(A, b, control.damping, options.published)
        control.iterations += 1
        again = False
        if step is None:
            again = control.rejected(math.inf)
        else:
            trial = cameras.left_update(pose, step[0])
            t_xy, t_valid, t_J = look(camera, trial, points3d)
            t_sums = map_sums(maps, t_xy, t_valid, sigmas[control.level])
            change = energies - t_sums.energy
            if float(change.sum()) > 0:
                pose, xy, valid, J, sums = trial, t_xy, t_valid, t_J, t_sums
                energies = sums.energy
                again = control.accepted(float(change.sum()), float(change.abs().sum()))
                trajectory.append((pose, sigmas[control.level]))
            else:
                again = control.rejected(step[1])
        if not control.done and control.iterations >= options.max_iterations:
            control.reason, control.done = MAX_ITERATIONS, True
        if again and not control.done:
            sums = map_sums(maps, xy, valid, sigmas[control.level])
            if not options.published:  # which compares energies of two sigmas
                energies = sums.energy
    return pose, sigmas[control.level], float(energies.sum()), control


def covariance(J: Tensor, sums: Sums) -> tuple[Tensor, float]:
    """c Lambda^-1 (6, 6) and the dispersion c; derivation in csrc/cpu/gnc_covariance.h."""
    values, vectors = torch.linalg.eigh(sums.curvature)
    H = vectors @ torch.diag_embed(values.clamp_min(0)) @ vectors.transpose(-1, -2)
    Lambda = torch.einsum("nia,nij,njb->ab", J, H, J)
    infinite = torch.full((6, 6), math.inf, dtype=torch.float64), math.inf
    scale = torch.diagonal(Lambda)
    if not (scale > 0).all() or not torch.isfinite(scale).all():
        return infinite
    scale = scale.rsqrt()
    L, info = torch.linalg.cholesky_ex(Lambda * scale[:, None] * scale)
    if int(info) != 0:
        return infinite
    C = torch.cholesky_inverse(L) * scale[:, None] * scale
    if not (torch.diagonal(Lambda) * torch.diagonal(C) < 1e10).all():
        return infinite
    V = J @ C @ J.transpose(-1, -2)  # (N, 2, 2): how well the others fix this projection
    kept = (1 + 1e-3) * torch.eye(2, dtype=torch.float64) - H @ V
    inside = torch.linalg.det(kept) > 1e-9
    kept = torch.where(inside[:, None, None], kept, torch.eye(2, dtype=torch.float64))
    move = torch.linalg.solve(kept, sums.pull) * inside[:, None]
    c = max(float(torch.einsum("ni,nij,nj->", move, V, move)) / 6, MIN_DISPERSION)
    return c * C, c


def moved_covariance(C: Tensor, shift: Tensor) -> Tensor:
    """From a frame with origin o back to the world's: t = t' - R o, shift = R o."""
    x, y, z = shift.tolist()
    T = torch.eye(6, dtype=torch.float64)
    T[3:, :3] = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return T @ C @ T.T if bool(torch.isfinite(C).all()) else C


def refine_pose(
    maps: LossMaps,
    points3d: Tensor,
    camera: tuple[float, ...],
    cam_from_world: Tensor,
    options: Options,
) -> Refined:
    """Points (N, 3) float64, camera: 13 numbers in map cells, start (3, 4).

    Runs in a frame whose origin is the start's camera centre, for coordinates far from zero. The published
    program does not (its damping depends on the origin), and needs no usable map to begin.
    """
    R, t = cam_from_world[:, :3], cam_from_world[:, 3]
    origin = -R.T @ t
    if options.published or not (origin.abs() < 1e150).all():
        origin = torch.zeros_like(origin)
    points = points3d - origin
    pose = torch.cat([R, (R @ origin + t)[:, None]], 1)
    sigma, energy, control = options.sigma_min, 0.0, Control(options, 1)
    control.reason = NOT_RUN
    if options.published or int(map_evidence(maps)[2].sum()) >= MIN_USABLE:
        pose, sigma, energy, control = optimise(maps, points, camera, pose, options)
    xy, valid, J = geometry(camera, pose, points)
    C, dispersion = covariance(J, map_sums(maps, xy, valid, sigma))
    loss = torch.as_tensor(maps.evaluate(xy.numpy()))
    gains = torch.where(valid, maps.log_cardinality - loss, 0.0)
    verdict = consensus(maps, gains)
    shift = pose[:, :3] @ origin
    C = moved_covariance(C, shift)
    pose = torch.cat([pose[:, :3], (pose[:, 3] - shift)[:, None]], 1)
    pose = pose if control.iterations else cam_from_world
    return Refined(pose, gains, energy, C, dispersion, control.iterations, control.reason, verdict)
