# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Drawn drives: the scenes of `RenderedScenes`, seen by one camera that moves ahead like a car's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyloc_core.camera import Camera
from pyloc_core.localization.demo_scene import look_at
from pyloc_core.training.rendered_scenes import Array, Random, RenderedScenes
from pyloc_core.training.scene_layouts import Layout


@dataclass(frozen=True)
class RenderedDrives(RenderedScenes):
    """Sequences of frames: every scene has the same camera, at the same height, as in a car.

    So depth in metres can be learned from one picture, which random cameras do not allow.

    Attributes:
        spacing: metres from one frame to the next, mostly ahead, slowly swerving.
        height: of the camera above the ground, metres.
        focal: of the camera, in widths of the image.
    """

    kinds: tuple[str, ...] = ("street",)
    ratio: float = 8.0
    spacing: float = 0.35
    height: float = 1.5
    focal: float = 0.85

    def _cameras(self, rng: Random, layout: Layout) -> tuple[list[Camera], list[Array]]:
        h, w = self.size
        camera = Camera("PINHOLE", w, h, (self.focal * w, self.focal * w, w / 2, h / 2))
        eye = np.array([rng.uniform(-0.5, 0.5), -1.0, self.height])
        heading, turn = rng.uniform(-0.15, 0.15), rng.normal(0, 0.02)
        poses = []
        for _ in range(self.views):
            ahead = np.array([np.sin(heading), np.cos(heading), 0.0])
            aim = ahead + [0.0, 0.0, -0.08] + rng.normal(0, [0.01, 0.0, 0.01])
            poses.append(look_at(eye, eye + aim, roll=float(rng.normal(0, 0.4))))
            eye = eye + self.spacing * ahead * rng.uniform(0.8, 1.2)
            heading += turn
        return [camera] * self.views, poses
