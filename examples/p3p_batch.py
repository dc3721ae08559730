# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Ten thousand P3P problems in one call: how many find the true pose, and how long one takes.

python examples/p3p_batch.py
"""

from __future__ import annotations

import time

import numpy as np

import pyloc_core as pc


def random_problems(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bearings (B, 3, 3), points (B, 3, 3) and the poses (B, 3, 4) that made them."""
    rng = np.random.default_rng(seed)
    quaternions = rng.standard_normal((count, 4))
    rotations = pc.rotation_from_quaternion(quaternions)
    centres = rng.uniform(-5, 5, (count, 3))
    in_camera = np.concatenate(
        [rng.uniform(-1.5, 1.5, (count, 3, 2)), rng.uniform(2, 8, (count, 3, 1))], axis=2
    )
    # X_world = R^T X_cam + C, and t = -R C.
    points = np.einsum("bji,bnj->bni", rotations, in_camera) + centres[:, None]
    translations = -np.einsum("bij,bj->bi", rotations, centres)
    poses = np.concatenate([rotations, translations[:, :, None]], axis=2)
    bearings = in_camera / np.linalg.norm(in_camera, axis=2, keepdims=True)
    return bearings, points, poses


def main(count: int = 10_000) -> float:
    """Prints the result; returns the share of problems solved to 1e-6."""
    bearings, points, truth = random_problems(count, seed=7)
    out = pc.p3p(bearings, points, num_threads=1)  # also the memory for the timed call
    start = time.perf_counter()
    solutions = pc.p3p(bearings, points, out=out, num_threads=1)
    seconds = time.perf_counter() - start

    # Four slots per problem; the truth is one of the valid ones.
    error = np.abs(solutions.cam_from_world - truth[:, None]).max(axis=(2, 3))
    error = np.where(solutions.valid, error, np.inf).min(axis=1)
    found = float((error < 1e-6).mean())
    print(f"{count} problems, {solutions.valid.sum(axis=1).mean():.2f} solutions each on average")
    print(f"true pose among them: {100 * found:.2f} % (median error {np.median(error):.1e})")
    print(f"{1e9 * seconds / count:.0f} ns per problem on one thread ({pc.build_info()['isa']})")
    return found


if __name__ == "__main__":
    main()
