# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Train a small depth network on drawn streets, and refine it on another street with its SfM model.

    pip install 'pyloc_core[training]'
    python examples/refine_depth_network.py

With a network and photos of your own, pass the folder of a COLMAP model and the folder of the photos:

    refine_network(network, network.encoder.parameters(), "sparse/0", "photos")
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from pyloc_core.depth import RefinementOptions, refine_network
from pyloc_core.models.depth_unet import DepthUNet
from pyloc_core.training import RenderedDrives
from pyloc_core.training.rendered_scenes import DepthScene
from pyloc_core.training.simulated_sfm import simulated_sfm

SIZE = (32, 48)


def tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def train(network: DepthUNet, scenes: RenderedDrives, steps: int) -> None:
    images = tensor(np.concatenate([scene.images for scene in scenes]))
    depth = torch.from_numpy(np.concatenate([scene.depth for scene in scenes]))[:, None]
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        batch = torch.from_numpy(rng.choice(len(images), 8, replace=False))
        loss = (network(images[batch]).log() - depth[batch].log()).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()


def errors(network: DepthUNet, scene: DepthScene) -> tuple[float, float]:
    """Mean relative error of pixels nearer and farther than 10 m, each image scaled by its median."""
    with torch.no_grad():
        depth = network(tensor(scene.images))[:, 0].numpy()
    depth *= np.median(scene.depth, (1, 2), keepdims=True) / np.median(depth, (1, 2), keepdims=True)
    relative = np.abs(depth - scene.depth) / scene.depth
    near = scene.depth < 10
    return float(relative[near].mean()), float(relative[~near].mean())


def main(drives: int = 40, steps: int = 300) -> tuple[tuple[float, float], tuple[float, float]]:
    """Errors (near, far) on the street that was not seen, before and after."""
    torch.set_num_threads(1)
    network = DepthUNet((12, 16, 24, 32), seed=0)
    train(network, RenderedDrives(drives, views=4, size=SIZE, seed=1, spacing=1.2), steps)

    street = RenderedDrives(1, views=12, size=SIZE, seed=2, spacing=0.8)[0]
    # Stands for COLMAP on the photos: poses, points in a unit of their own, reprojection errors.
    model = simulated_sfm(street, points=800, unit=0.37)
    images = {f"frame_{i:03d}.png": tensor(street.images[i : i + 1]) for i in range(12)}

    before = errors(network, street)
    refined = refine_network(
        network, network.encoder.parameters(), model, images,
        options=RefinementOptions(steps=100), progress=sys.stderr.isatty(),
    )  # fmt: skip
    after = errors(network, street)
    print(f"{refined.alignment.inliers.sum()} points, scale {refined.scale:.3f}")
    for name, b, a in zip(("near", "far"), before, after):
        print(f"{name}: mean relative error {b:.1%} before, {a:.1%} after")
    refined.restore()  # the network is as it was, for the next scene
    return before, after


if __name__ == "__main__":
    main()
