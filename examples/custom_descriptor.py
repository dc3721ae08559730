# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""A descriptor of your own in the map and the localizer.

Anything with `beta`, `dense`, `describe` and `to_dict` will do. This one is plain: grey values around
a point, mean removed, unit length. A network fits the same way: `dense` returns its feature maps,
`describe` reads them at the points.

    python examples/custom_descriptor.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import pyloc_core as pc
from pyloc_core.localization import Features, Localizer, MapOptions
from pyloc_core.localization.demo_data import write_demo
from pyloc_core.localization.scene import Scene


class GreyPatch:
    """9 x 9 grey values, `step` pixels apart, around every point."""

    beta = (25.0,)  # one level; how sharp the softmax over its cells is

    def __init__(self, step: float = 2.5, stride: int = 4) -> None:
        self.step, self.stride = step, stride

    def dense(self, image: np.ndarray) -> list[Features]:
        """One level: (81, H, W), a cell for every `stride` pixels."""
        height, width = image.shape[:2]
        h, w = -(-height // self.stride), -(-width // self.stride)
        x, y = np.meshgrid(np.arange(w), np.arange(h))
        covers = (h * self.stride, w * self.stride)  # the last cells may hang over the border
        centres = (np.stack([x.ravel(), y.ravel()], 1) + 0.5) * self.stride
        values = self._patches(image, centres, 1.0)
        return [Features(np.ascontiguousarray(values.T).reshape(-1, h, w), covers)]

    def describe(
        self, image: np.ndarray, xy: np.ndarray, scales: Sequence[float]
    ) -> list[np.ndarray]:
        """One level: (N, S, 81), the surroundings as if seen from `scale` times as far."""
        return [np.stack([self._patches(image, xy, scale) for scale in scales], axis=1)]

    def to_dict(self) -> dict[str, Any]:
        return {"name": "grey_patch", "step": self.step, "stride": self.stride}

    def _patches(self, image: np.ndarray, xy: np.ndarray, scale: float) -> np.ndarray:
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        soft = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.5 * self.step * scale)
        offset = (np.arange(9) - 4) * self.step * scale
        dx, dy = np.meshgrid(offset, offset)
        # OpenCV counts from the centre of the first pixel, which is (0.5, 0.5) here.
        x = np.float32(xy[:, :1] + dx.ravel() - 0.5)
        y = np.float32(xy[:, 1:] + dy.ravel() - 0.5)
        rows = [
            cv2.remap(soft, x[i : i + 4096], y[i : i + 4096], cv2.INTER_LINEAR,
                      borderMode=cv2.BORDER_REPLICATE)
            for i in range(0, len(x), 4096)
        ]  # fmt: skip
        values = np.concatenate(rows) if rows else np.zeros((0, 81), np.float32)
        values = values - values.mean(axis=1, keepdims=True)
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 5.0)


def main() -> tuple[float, float]:
    """Prints the result; returns the errors in degrees and metres."""
    descriptor = GreyPatch()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene.open(write_demo(folder, points=800, scale=0.6))
        query = scene.query(Path(folder) / "loo" / "query_01.npz")
        place = scene.build_map(query, descriptor, MapOptions())
        estimate = Localizer(place, descriptor).localize(query.image, query.camera)
    angle, distance = pc.pose_error(estimate.cam_from_world, query.cam_from_world)
    print(f"{descriptor.to_dict()}: {angle:.3f} deg, {distance:.4f} m  ({estimate.reason})")
    print(f"{estimate.num_consistent} of {len(estimate.inlier_probability)} points agree")
    return angle, distance


if __name__ == "__main__":
    main()
