# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A camera pose from loss maps alone: consensus first, then graduated non-convexity.

The maps here are made up: six in ten have a peak near the true projection and a lower false one, the
others have two false ones. Any matcher that gives a probability per cell can take their place.

    python examples/pose_from_loss_maps.py
"""

from __future__ import annotations

import numpy as np

import pyloc_core as pc

H, W = 60, 80  # cells of a map: a 640 x 480 image at stride 8
CAMERA = pc.Camera("PINHOLE", 640, 480, (520.0, 520.0, 320.0, 240.0))


def scene(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) in the world and the camera's pose (3, 4)."""
    rng = np.random.default_rng(seed)
    angle = 0.3
    rotation = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    pose = np.column_stack([rotation, [0.4, -0.2, 0.7]])
    pixels = rng.uniform((20, 20), (620, 460), (count, 2))
    local = CAMERA.unproject(pixels) * rng.uniform(4, 9, (count, 1))
    return pc.transform_points(pc.inverse_pose(pose), local), pose


def made_up_maps(points: np.ndarray, pose: np.ndarray, seed: int) -> pc.LossMaps:
    """Loss maps (N, H, W): -log of a mixture of peaks over a low floor."""
    rng = np.random.default_rng(seed)
    pixels, _ = CAMERA.project(pc.transform_points(pose, points))
    cells = pc.map_from_image(pixels, CAMERA.size, (H, W)) + 0.3 * rng.standard_normal(pixels.shape)
    false, other = rng.uniform((0, 0), (W - 1, H - 1), (2, *cells.shape))
    lost = rng.uniform(size=len(points)) < 0.4
    first = np.where(lost[:, None], other, cells)
    y, x = np.mgrid[:H, :W]

    def peak(at: np.ndarray) -> np.ndarray:
        square = (x - at[:, 0, None, None]) ** 2 + (y - at[:, 1, None, None]) ** 2
        return np.exp(-square / (2 * 0.8**2))

    probability = peak(first) + 0.7 * peak(false) + 1e-4
    probability /= probability.sum(axis=(1, 2), keepdims=True)
    unseen = np.log(1 + H * W)  # the loss of "not in the picture" bounds every loss
    return pc.LossMaps.from_dense(np.minimum(-np.log(probability), unseen).astype(np.float32))


def main(count: int = 200) -> tuple[float, float]:
    """Prints the result; returns rotation error (degrees) and centre error."""
    points, truth = scene(count, seed=1)
    maps = made_up_maps(points, truth, seed=2)
    print(maps)

    start = pc.estimate_pose(maps, points, CAMERA, seed=0)
    refined = pc.refine_pose(maps, points, CAMERA, start.cam_from_world)
    for name, estimate in (("consensus", start), ("refined", refined)):
        angle, distance = pc.pose_error(estimate.cam_from_world, truth)
        print(
            f"{name:<10} {angle:.4f} deg, centre {distance:.4f}; gain {estimate.gain:.0f} nats, "
            f"{estimate.num_consistent} of {count} maps agree, {estimate.iterations} iterations"
        )
    sigma = np.sqrt(np.diag(refined.covariance))
    print(f"expected   {np.degrees(np.linalg.norm(sigma[:3])):.4f} deg (from the covariance)")
    print(f"reason     {refined.reason}")
    return pc.pose_error(refined.cam_from_world, truth)


if __name__ == "__main__":
    main()
