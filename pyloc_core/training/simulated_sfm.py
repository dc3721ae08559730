# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Structure from motion of a drawn sequence, without its features: noisy tracks, triangulated.

Poses are exact. What matters for depth is as in a real reconstruction: errors that grow with depth and
shrink with parallax, points that are missing where there is none, wrong tracks, and a scale of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._extras import require
from pyloc_core.pose import camera_center
from pyloc_core.training.rendered_scenes import DepthScene

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# COLMAP's defaults for points that are kept: degrees between two rays, pixels of mean reprojection error.
MIN_ANGLE, MAX_ERROR = 1.5, 4.0
TRACK_SPREAD = 0.6  # standard deviation of the logarithm of a track's noise
SAME_SURFACE = 0.02  # relative difference of depth


def simulated_sfm(
    scene: DepthScene,
    *,
    points: int = 2000,
    enlarged: int = 8,
    noise: float = 0.6,
    lifetime: float = 10.0,
    outliers: float = 0.1,
    unit: float = 1.0,
    seed: int = 0,
) -> Any:
    """A `pycolmap.Reconstruction` of a sequence of frames, named `frame_000.png` and so on.

    Args:
        scene: the frames, in order, taken by one PINHOLE camera.
        points: tracks to start; fewer become points.
        enlarged: the photos of the reconstruction have so many times the scene's width and height, as
            photos have that are shrunk for a network. Pixels below are theirs.
        noise: standard deviation of the observations, pixels: the median of tracks, some of which are
            a few times as exact as others.
        lifetime: mean number of frames that a point is followed to either side, while it is seen.
        outliers: share of wrong tracks: half of them jump from one surface to another, and half lie on
            things that drive along with the camera or towards it, which triangulation does not notice.
        unit: metres times this is the model's unit.
        seed: of everything.
    """
    require("pycolmap", "a COLMAP model")
    rng = np.random.default_rng(seed)
    world, xy, seen = _tracks(rng, scene, points, lifetime)
    wrong = rng.random(len(xy)) < outliers
    sigma = noise / enlarged * np.exp(rng.normal(0, TRACK_SPREAD, (len(xy), 1, 1)))
    xy = xy + sigma * rng.standard_normal(xy.shape)
    moving = wrong & (rng.random(len(xy)) < 0.5)
    xy[moving] += _motion(rng, scene, world[moving])
    xy[wrong & ~moving] += _jumps(rng, int((wrong & ~moving).sum()), seen.shape[1])
    h, w = scene.depth.shape[1:]
    seen &= (xy >= 0).all(2) & (xy[..., 0] < w) & (xy[..., 1] < h)
    long_enough = seen.sum(1) >= 2
    xy, seen = xy[long_enough], seen[long_enough]
    xyz = triangulate(xy, seen, scene)
    keep = _good(xyz, xy, seen, scene, MAX_ERROR / enlarged)
    return _model(scene, xyz[keep], enlarged * xy[keep], seen[keep], unit, enlarged)


def _tracks(
    rng: np.random.Generator, scene: DepthScene, count: int, lifetime: float
) -> tuple[Array, Array, Mask]:
    """Surface points (P, 3), their positions (P, V, 2), and the frames in which each is followed."""
    views, h, w = scene.depth.shape
    xyz, start = [], []
    for index in range(views):
        view = scene.view(index)
        xy = rng.uniform([1, 1], [w - 1, h - 1], (-(-count // views), 2))
        xy = np.floor(xy) + 0.5  # where the depth is exact
        xy = xy[~view.steep(xy)]
        xyz.append(view.lift(xy))
        start += [index] * len(xy)
    world = np.concatenate(xyz)
    xy, seen = np.zeros((len(world), views, 2)), np.zeros((len(world), views), bool)
    for index in range(views):
        view = scene.view(index)
        there, depth = view.project(world)
        surface = view.read_depth(there)
        with np.errstate(invalid="ignore"):
            near = np.abs(surface - depth) < SAME_SURFACE * depth + 0.02
        seen[:, index] = near & np.isfinite(there).all(1)
        xy[:, index] = np.nan_to_num(there)
    first = np.array(start)
    reach = rng.geometric(1 / max(lifetime, 1.0), (2, len(world)))
    frame = np.arange(views)
    lives = (frame > (first - reach[0])[:, None]) & (frame < (first + reach[1])[:, None])
    return world, xy, _connected(seen & lives, first)


def _connected(seen: Mask, start: npt.NDArray[np.int64]) -> Any:
    """The frames around the first one in which a point is seen without a gap."""
    frame = np.arange(seen.shape[1])
    hidden = ~seen
    last_gap = np.where(hidden & (frame < start[:, None]), frame, -1).max(1)
    next_gap = np.where(hidden & (frame > start[:, None]), frame, seen.shape[1]).min(1)
    return (frame > last_gap[:, None]) & (frame < next_gap[:, None])


def _jumps(rng: np.random.Generator, count: int, views: int) -> Array:
    """(P, V, 2) pixels: from some frame on, another place."""
    after = np.arange(views) >= rng.integers(0, views, (count, 1))
    return np.asarray(after[..., None] * rng.normal(0, 2.0, (count, 1, 2)))


def _motion(rng: np.random.Generator, scene: DepthScene, world: Array) -> Array:
    """(P, V, 2) pixels: what points move by that go a share of the camera's way, ahead or towards it."""
    way = np.stack([np.asarray(camera_center(p)) for p in scene.cam_from_world])
    share = rng.uniform(-1.0, 0.6, (len(world), 1, 1))
    moved = world[:, None] + share * (way - way[len(way) // 2])[None]
    return _projected(scene, moved) - _projected(scene, world[:, None] + 0 * moved)


def _projected(scene: DepthScene, points: Array) -> Array:
    """(P, V, 2) pixels of points (P, V, 3), one position per frame; behind the camera it is far outside."""
    pose = scene.cam_from_world
    local = np.einsum("vij,pvj->pvi", pose[:, :, :3], points) + pose[None, :, :, 3]
    there = np.einsum("vij,pvj->pvi", scene.K, local)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(local[..., 2:] > 0.1, there[..., :2] / there[..., 2:], -1e4)


def triangulate(xy: Array, seen: Mask, scene: DepthScene) -> Array:
    """Points (P, 3) of least reprojection error: linear, then Gauss-Newton."""
    K, pose = scene.K, scene.cam_from_world
    rays = np.concatenate([xy, np.ones_like(xy[..., :1])], 2)
    normal = np.einsum("vij,pvj->pvi", np.linalg.inv(K), rays)[..., :2]
    # Rows x P3 - P1 and y P3 - P2 of each observation, P = [R | t].
    rows = normal[..., None] * pose[None, :, 2:3] - pose[None, :, :2]
    rows = (rows * seen[..., None, None]).reshape(len(xy), -1, 4)
    A, b = rows[..., :3], -rows[..., 3]
    found = _solve(A, b)
    for _ in range(10):
        local = np.einsum("vij,pj->pvi", pose[:, :, :3], found) + pose[None, :, :, 3]
        z = np.where(np.abs(local[..., 2]) > 1e-6, local[..., 2], 1e-6)
        focal = K[None, :, (0, 1), (0, 1)]
        residual = normal - local[..., :2] / z[..., None]
        ratio = local[..., :2] / z[..., None]
        jacobian = pose[None, :, :2, :3] - ratio[..., None] * pose[None, :, 2:3, :3]
        weight = focal * seen[..., None]
        jacobian = jacobian / z[..., None, None] * weight[..., None]
        step = _solve(jacobian.reshape(len(xy), -1, 3), (residual * weight).reshape(len(xy), -1))
        length = np.linalg.norm(step, axis=1, keepdims=True)
        found = found + step * np.minimum(1.0, 5.0 / np.maximum(length, 1e-12))
    return found


def _solve(A: Array, b: Array) -> Array:
    """(P, 3) least-squares solutions of P systems (P, n, 3), (P, n)."""
    AtA = np.einsum("pni,pnj->pij", A, A)
    AtA = (
        AtA + 1e-9 * np.trace(AtA, axis1=1, axis2=2)[:, None, None] * np.eye(3) + 1e-12 * np.eye(3)
    )
    return np.linalg.solve(AtA, np.einsum("pni,pn->pi", A, b)[..., None])[..., 0]


def _good(xyz: Array, xy: Array, seen: Mask, scene: DepthScene, max_error: float) -> Mask:
    """In front of all cameras, with enough parallax and a small mean error."""
    pose = scene.cam_from_world
    there = _projected(scene, np.repeat(xyz[:, None], len(pose), 1))
    front = ((there > -1e4).all(2) | ~seen).all(1)
    error = (np.linalg.norm(there - xy, axis=2) * seen).sum(1) / seen.sum(1)
    centres = np.stack([np.asarray(camera_center(p)) for p in pose])
    towards = centres[None] - xyz[:, None]
    towards /= np.linalg.norm(towards, axis=2, keepdims=True)
    cosine = np.einsum("pvi,pwi->pvw", towards, towards)
    pair = seen[:, :, None] & seen[:, None]
    angle = np.degrees(np.arccos(np.clip(np.where(pair, cosine, 1.0).min((1, 2)), -1, 1)))
    return np.asarray(front & (error < max_error) & (angle > MIN_ANGLE))


def _model(scene: DepthScene, xyz: Array, xy: Array, seen: Mask, unit: float, enlarged: int) -> Any:
    pycolmap = require("pycolmap", "a COLMAP model")
    size = scene.depth.shape[1:]
    camera = scene.cameras[0].resized((size[0] * enlarged, size[1] * enlarged))
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(
            camera_id=1, model=camera.model, width=camera.width, height=camera.height,
            params=list(camera.params),
        )
    )  # fmt: skip
    rows = np.cumsum(seen, axis=0) - 1
    for v, cam_from_world in enumerate(scene.cam_from_world):
        image = pycolmap.Image(
            name=f"frame_{v:03d}.png", keypoints=xy[seen[:, v], v], camera_id=1, image_id=v + 1
        )
        moved = np.column_stack([cam_from_world[:, :3], cam_from_world[:, 3] * unit])
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(moved))
    for p in range(len(xyz)):
        track = [
            pycolmap.TrackElement(int(v) + 1, int(rows[p, v])) for v in np.flatnonzero(seen[p])
        ]
        model.add_point3D(xyz[p] * unit, pycolmap.Track(track), np.zeros(3, np.uint8))
    model.update_point_3d_errors()
    return model
