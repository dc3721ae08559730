# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""MSAC over loss maps (thesis, section 4.4.1) in float64, without early abandonment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyloc_core.reference.camera import project, transform, unproject
from pyloc_core.reference.consensus import CONSISTENT_SHARE, MIN_USABLE, consensus, map_evidence
from pyloc_core.reference.msac import (
    MIN_ITERATIONS,
    ROOTS,
    required_triplets,
    round_size,
    sample_triplets,
)
from pyloc_core.reference.p3p import p3p

if TYPE_CHECKING:
    from pyloc_core.maps import LossMaps

MIN_SAMPLED = 16
FINALISTS = 4

Options = tuple[int, float, float, int]  # iterations (0: adaptive), confidence, top_fraction, seed
Candidate = tuple[float, int, Tensor]  # -gain, number, pose (3, 4): sorts best first


def pose_gain(
    maps: LossMaps, points: Tensor, camera: tuple[float, ...], cam_from_world: Tensor
) -> Tensor:
    """Bilinear gains (M, N) of poses (M, 3, 4), nats (Eq. 4.6); 0 behind the camera and outside."""
    xy, ahead = project(camera, transform(cam_from_world, points))
    loss = torch.as_tensor(maps.evaluate(xy.numpy()))
    return torch.where(ahead, maps.log_cardinality - loss, torch.zeros_like(loss))


def estimate_pose(
    maps: LossMaps,
    points3d: np.ndarray,
    camera: tuple[float, ...],
    initial: np.ndarray,
    options: Options,
    map_gain: np.ndarray,
) -> dict[str, Any]:
    """As the native kernel: a dictionary of results; `map_gain` (N,) receives the gains."""
    iterations, confidence, top_fraction, seed = options
    points = torch.as_tensor(points3d)
    peak, _, is_usable = map_evidence(maps)
    usable = torch.nonzero(is_usable)[:, 0]
    usable = usable[torch.argsort(peak[usable], descending=True, stable=True)]
    found: dict[str, Any] = {"num_usable": len(usable), "num_consistent": 0, "iterations": 0}
    found |= {
        "status": 1,
        "cost": 0.0,
        "gain": 0.0,
        "seconds": [0.0] * 4,
        "hypothesis": 0,
        "scored": 0,
    }
    if len(usable) < MIN_USABLE:
        return found
    sampled = usable[: min(max(math.ceil(top_fraction * len(usable)), MIN_SAMPLED), len(usable))]
    subset, subset_points = maps[sampled.numpy()], points[sampled]
    cells = torch.as_tensor(subset.argmin().xy).double()
    bearings = unproject(camera, cells)

    def best_of(poses: Tensor, numbers: list[int], pool: list[Candidate]) -> list[Candidate]:
        gains = pose_gain(subset, subset_points, camera, poses).sum(1).tolist()
        new = [(-g, n, p) for g, n, p in zip(gains, numbers, poses, strict=True)]
        return sorted(pool + new, key=lambda c: c[:2])[:FINALISTS]

    pool: list[Candidate] = []
    if len(initial):
        numbers = [k - ROOTS * len(initial) for k in range(len(initial))]
        pool = best_of(torch.as_tensor(initial), numbers, pool)
    done, wanted = 0, iterations or MIN_ITERATIONS
    while done < wanted:
        count = round_size(done, wanted)
        picks = sample_triplets(seed, done, count, len(sampled))
        poses, valid = p3p(bearings[picks], subset_points[picks])
        # Two points on one bearing fix no pose.
        same = (cells[picks] == cells[picks.roll(1, 1)]).all(-1).any(-1)
        valid = valid & ~same[:, None]
        numbers = [ROOTS * done + i for i in torch.nonzero(valid.flatten())[:, 0].tolist()]
        if numbers:
            pool = best_of(poses[valid], numbers, pool)
        done += count
        found["scored"] += len(numbers)
        if not iterations:
            share = 0.0
            if pool:
                gain = pose_gain(subset, subset_points, camera, pool[0][2][None])[0]
                share = float((gain >= CONSISTENT_SHARE * peak[sampled]).double().mean())
            wanted = required_triplets(share, confidence)
    found["iterations"] = done
    if not pool:
        return found | {"status": 2}
    poses = torch.stack([pose for _, _, pose in pool])
    totals = pose_gain(maps[usable.numpy()], points[usable], camera, poses).sum(1).tolist()
    order = [
        (-g, number, k) for k, (g, (_, number, _)) in enumerate(zip(totals, pool, strict=True))
    ]
    _, number, k = min(order)
    gain = pose_gain(maps, points, camera, poses[k][None])[0]
    verdict = consensus(maps, gain)
    map_gain[:] = gain.numpy()
    total = float(gain.sum())
    return found | {
        "cam_from_world": poses[k].flatten().tolist(),
        "status": 0 if verdict.success else 3,
        "hypothesis": number,
        "gain": total,
        "cost": len(maps) * maps.log_cardinality - total,
        "num_consistent": verdict.consistent,
    }
