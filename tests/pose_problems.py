# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Random pose problems for the tests of the refinements, with every camera model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import pyloc_core as pl

SIZE = (768, 1024)
CAMERAS = {
    "SIMPLE_PINHOLE": (800.0, 512.0, 384.0),
    "PINHOLE": (800.0, 810.0, 512.0, 384.0),
    "SIMPLE_RADIAL": (800.0, 512.0, 384.0, -0.05),
    "RADIAL": (800.0, 512.0, 384.0, -0.05, 0.01),
    "OPENCV": (800.0, 810.0, 512.0, 384.0, -0.1, 0.02, 0.001, -0.002),
    "FULL_OPENCV": (
        800.0,
        810.0,
        512.0,
        384.0,
        -0.1,
        0.02,
        0.001,
        -0.002,
        0.01,
        0.02,
        -0.01,
        0.003,
    ),
    "SIMPLE_RADIAL_FISHEYE": (500.0, 512.0, 384.0, 0.01),
    "RADIAL_FISHEYE": (500.0, 512.0, 384.0, 0.01, 0.002),
    "OPENCV_FISHEYE": (500.0, 510.0, 512.0, 384.0, 0.01, 0.002, -0.001, 0.0002),
}


def camera(model: str = "PINHOLE") -> pl.Camera:
    return pl.Camera(model, SIZE[1], SIZE[0], CAMERAS[model])


def rotation(w: np.ndarray) -> np.ndarray:
    """exp of the rotation vector w (Rodrigues)."""
    angle = float(np.linalg.norm(w))
    K = np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]])
    half = np.sinc(angle / 2 / np.pi)
    return np.eye(3) + np.sinc(angle / np.pi) * K + 0.5 * half**2 * K @ K


def perturbed(pose: np.ndarray, rng: np.random.Generator, size: float) -> np.ndarray:
    R = rotation(rng.normal(size=3) * size) @ pose[:, :3]
    return np.hstack([R, pose[:, 3:] + rng.normal(size=(3, 1)) * 5 * size])


@dataclass
class Problem:
    points2d: np.ndarray  # (N, 2) image pixels, with noise and outliers
    points3d: np.ndarray  # (N, 3)
    camera: pl.Camera
    cam_from_world: np.ndarray  # the truth
    start: np.ndarray
    outlier: np.ndarray  # (N,)


def reprojection_problem(
    count: int,
    seed: int,
    *,
    model: str = "PINHOLE",
    noise: float = 0.5,
    outliers: float = 0.0,
    start: float = 0.003,
) -> Problem:
    """Points seen between 3 and 9 units away, all over the image."""
    rng = np.random.default_rng(seed)
    cam = camera(model)
    xy = rng.uniform([20, 20], [SIZE[1] - 20, SIZE[0] - 20], (count, 2))
    rays = cam.unproject(xy)
    points_cam = rays / rays[:, 2:] * rng.uniform(3, 9, (count, 1))
    R, t = rotation(rng.normal(size=3)), rng.normal(size=3)
    truth = np.hstack([R, t[:, None]])
    points2d = cam.project(points_cam)[0] + rng.normal(size=(count, 2)) * noise
    outlier = rng.random(count) < outliers
    points2d[outlier] = rng.uniform([0, 0], [SIZE[1], SIZE[0]], (int(outlier.sum()), 2))
    return Problem(
        points2d, (points_cam - t) @ R, cam, truth, perturbed(truth, rng, start), outlier
    )


def normalized_error(estimate: pl.PoseEstimate, truth: np.ndarray) -> float:
    """e^T covariance^-1 e for the left update e that leads from the truth to the estimate."""
    dR = estimate.cam_from_world[:, :3] @ truth[:, :3].T
    w = 0.5 * np.array([dR[2, 1] - dR[1, 2], dR[0, 2] - dR[2, 0], dR[1, 0] - dR[0, 1]])
    e = np.concatenate([w, estimate.cam_from_world[:, 3] - truth[:, 3]])
    return float(e @ np.linalg.solve(estimate.covariance, e))


@dataclass
class FeatureProblem(Problem):
    descriptors: np.ndarray  # (N, D) float32
    features: np.ndarray  # (D, H, W) float32


def smooth_features(
    rng: np.random.Generator, channels: int, size: tuple[int, int], waves: int = 6
) -> np.ndarray:
    """(D, H, W) of sums of plane waves of about 10 to 40 cells, unit length at every cell."""
    y, x = np.mgrid[: size[0], : size[1]]
    features = np.zeros((channels, *size))
    for _ in range(waves):
        angle, length = rng.uniform(0, np.pi, (2, channels, 1, 1)) * [[[[2.0]]], [[[10.0]]]]
        k = 2 * np.pi / (8 + length)
        phase = rng.uniform(0, 2 * np.pi, (channels, 1, 1))
        features += np.cos(k * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    return features / np.linalg.norm(features, axis=0, keepdims=True)


def bilinear(features: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(D, H, W) at interior map points (N, 2): (N, D)."""
    x0, y0 = np.floor(xy).astype(int).T
    a, b = (xy - np.floor(xy)).T
    value = (1 - a) * (1 - b) * features[:, y0, x0] + a * (1 - b) * features[:, y0, x0 + 1]
    value += (1 - a) * b * features[:, y0 + 1, x0] + a * b * features[:, y0 + 1, x0 + 1]
    return value.T


def feature_problem(
    count: int,
    seed: int,
    *,
    channels: int = 16,
    size: tuple[int, int] = (48, 64),
    noise: float = 0.02,
    outliers: float = 0.0,
    **options: Any,
) -> FeatureProblem:
    """Descriptors read from random smooth features at the true projections, plus noise."""
    problem = reprojection_problem(count, seed, noise=0.0, **options)
    rng = np.random.default_rng(1000 + seed)
    features = smooth_features(rng, channels, size)
    descriptors = bilinear(features, pl.map_from_image(problem.points2d, SIZE, size))
    descriptors += rng.normal(size=descriptors.shape) * noise
    outlier = rng.random(count) < outliers
    wrong = rng.normal(size=(int(outlier.sum()), channels))
    descriptors[outlier] = wrong / np.linalg.norm(wrong, axis=1, keepdims=True)
    fields = {**vars(problem), "outlier": outlier}
    return FeatureProblem(
        **fields,
        descriptors=descriptors.astype(np.float32),
        features=features.astype(np.float32),
    )
