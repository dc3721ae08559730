# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What light, lens, sensor and file format do to the grey values of a photo."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require

cv2 = require("cv2", "training")

Gray = npt.NDArray[np.float32]
Random = np.random.Generator


def taken(rng: Random, scene: Gray, strength: float = 1.0) -> npt.NDArray[np.uint8]:
    """One photo (H, W) uint8 of a scene (H, W) in [0, 255].

    Shadow, slanting light, gain, gamma, blur, noise and JPEG, each with a random strength up to
    `strength` times its usual range; 0 only rounds.
    """
    image = scene / np.float32(255)
    if rng.random() < 0.4 * strength:
        image = image * _shadow(rng, image.shape, strength)
    if rng.random() < 0.5 * strength:
        image = image * _slant(rng, image.shape, strength)
    gamma = np.float32(np.exp(strength * rng.normal(0, 0.25)))
    image = np.maximum(image, np.float32(0)) ** gamma
    gain = np.float32(np.exp(strength * rng.normal(0, 0.2)))
    image = gain * image + np.float32(strength * rng.normal(0, 0.06))
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), 0.3 + strength * rng.uniform(0, 0.8))
    if rng.random() < 0.1 * strength:
        image = cv2.filter2D(image, -1, _motion(rng))
    sigma = strength * rng.uniform(0, 6) ** 2 / 6 / 255
    image = image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
    pixels = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.6 * strength:
        quality = int(rng.integers(35, 96))
        _, file = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        pixels = cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)
    return pixels


def _shadow(rng: Random, shape: tuple[int, ...], strength: float) -> Gray:
    """Factors (H, W): the shade of a few polygons with soft edges."""
    h, w = shape
    mask = np.zeros((h // 4 + 1, w // 4 + 1), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        corners = rng.uniform(-0.2, 1.2, (4, 2)) * [mask.shape[1], mask.shape[0]]
        cv2.fillPoly(mask, [np.int32(corners)], 1.0)
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 6))
    large = cv2.resize(mask, (w, h), interpolation=cv2.INTER_LINEAR)
    return np.asarray(1 - np.float32(strength * rng.uniform(0.2, 0.6)) * large, np.float32)


def _slant(rng: Random, shape: tuple[int, ...], strength: float) -> Gray:
    """Factors (H, W): a ramp in a random direction."""
    h, w = shape
    angle, depth = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0.1, 0.5)
    x = np.linspace(-0.5, 0.5, w, dtype=np.float32) * np.float32(np.cos(angle))
    y = np.linspace(-0.5, 0.5, h, dtype=np.float32) * np.float32(np.sin(angle))
    return np.asarray(1 + np.float32(depth) * (x + y[:, None]), np.float32)


def _motion(rng: Random) -> Gray:
    """A short line as a blur kernel."""
    kernel = np.zeros((5, 5), np.float32)
    angle = rng.uniform(0, np.pi)
    reach = rng.uniform(0.5, 2) * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(int(v) for v in np.round((2 + s * reach) * 16)) for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_AA, 4)
    return np.asarray(kernel / max(float(kernel.sum()), 1e-6), np.float32)
