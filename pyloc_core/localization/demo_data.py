# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the demo scene as a dataset: images, COLMAP model, cameras, leave-one-out problems.

The folder has the layout that `evaluate` and `demo --data` read:

    images/*.jpg          the pictures
    sparse/*.bin          COLMAP model of all views, exact points and observations
    cameras.json          name -> size, model, params, K, k1, R_cam_from_world, t_cam_from_world
    scene.json            where it comes from, counts
    loo/<stem>.npz        one localization problem per picture, made of the other pictures only
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyloc_core._extras import require
from pyloc_core.localization.demo_render import Array, Face, cv2, render, trace
from pyloc_core.localization.demo_scene import View, courtyard, views

NOISE = 1.5 / 255  # standard deviation of the sensor noise
MARGIN = 6.0  # pixels between an observation and the border
MIN_VIEWS = 3
GRAZING = 0.2  # cosine below which a point counts as not seen


@dataclass(frozen=True)
class Observations:
    """Points (P, 3) with where (V, P, 2) and whether (V, P) each view sees them."""

    xyz: Array
    rgb: NDArray[np.uint8]
    xy: Array
    seen: NDArray[np.bool_]


def write_demo(
    folder: str | Path, *, seed: int = 0, points: int = 1500, scale: float = 1.0
) -> Path:
    """Render the demo scene into `folder` (created; files of an earlier run are overwritten).

    Args:
        folder: where to write.
        seed: of everything random: stains, noise, choice of points.
        points: about how many 3D points the model gets.
        scale: of the pictures; 0.5 renders them at half their width and height.

    Returns the folder. Raises MissingExtra without OpenCV, pycolmap or scikit-image.
    """
    require("pycolmap", "writing the demo's COLMAP model")
    root = Path(folder)
    for part in ("images", "sparse", "loo"):
        (root / part).mkdir(parents=True, exist_ok=True)
    faces, shots = courtyard(seed), [_scaled(view, scale) for view in views()]
    rng = np.random.default_rng([seed, 1])
    for view in shots:
        picture, _ = render(faces, view.camera, view.cam_from_world)
        noisy = picture * view.exposure + NOISE * rng.standard_normal(picture.shape)
        _write_jpeg(root / "images" / view.name, noisy)
    observed = observe(faces, shots, points, rng)
    _write_model(root / "sparse", shots, observed)
    _write_json(root, shots, observed, seed)
    for index, view in enumerate(shots):
        _write_problem(root / "loo" / f"{Path(view.name).stem}.npz", shots, index, observed)
    return root


def _scaled(view: View, scale: float) -> View:
    size = (round(view.camera.height * scale), round(view.camera.width * scale))
    return replace(view, camera=view.camera.resized(size))


def observe(
    faces: Sequence[Face], shots: Sequence[View], points: int, rng: np.random.Generator
) -> Observations:
    """Corners of the textures as 3D points, kept where at least MIN_VIEWS views see them."""
    found = [_corners(face, 2 * points // len(faces) + 40) for face in faces]
    owner = np.repeat(np.arange(len(faces)), [len(uv) for uv, _ in found])
    xyz = np.concatenate([face.points(uv) for face, (uv, _) in zip(faces, found)])
    rgb = np.concatenate([colour for _, colour in found])
    normals = np.array([face.normal for face in faces])[owner]
    xy = np.zeros((len(shots), len(xyz), 2))
    seen = np.zeros((len(shots), len(xyz)), bool)
    for i, view in enumerate(shots):
        xy[i], seen[i] = _visible(faces, view, xyz, owner, normals)
    keep = np.flatnonzero(seen.sum(0) >= MIN_VIEWS)
    keep = np.sort(rng.permutation(keep)[:points])
    return Observations(xyz[keep], rgb[keep], xy[:, keep], seen[:, keep])


def _corners(face: Face, count: int) -> tuple[Array, NDArray[np.uint8]]:
    """Texture coordinates (n, 2) of the strongest corners of a face, and their colours."""
    index = min(len(face.levels) - 1, 1)
    level = face.levels[index]
    grey = cv2.cvtColor(np.clip(level * 255, 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    h, w = grey.shape
    gap = max(4.0, 0.6 * np.sqrt(h * w / count))
    corners = cv2.goodFeaturesToTrack(grey, count, 0.01, gap)
    if corners is None:
        return np.zeros((0, 2)), np.zeros((0, 3), np.uint8)
    at = corners[:, 0].astype(np.float64)
    cells = np.round(at).astype(int)
    colour = np.clip(level[cells[:, 1], cells[:, 0]] * 255, 0, 255).astype(np.uint8)
    return (at + 0.5) / (w, h), colour


def _visible(
    faces: Sequence[Face], view: View, xyz: Array, owner: NDArray[np.int64], normals: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Projections (P, 2) and whether the first surface along each ray is the point's own face."""
    rotation, translation = view.cam_from_world[:, :3], view.cam_from_world[:, 3]
    local = xyz @ rotation.T + translation
    narrow = (np.abs(local[:, :2]) < 1.3 * local[:, 2:]).all(1)
    xy, front = view.camera.project(local)
    size = (view.camera.width, view.camera.height)
    inside = front & narrow & ((xy > MARGIN) & (xy < np.array(size) - MARGIN)).all(1)
    toward = -(rotation.T @ translation) - xyz
    cosine = np.einsum("ij,ij->i", toward, normals) / np.linalg.norm(toward, axis=1)
    inside &= cosine > GRAZING
    seen = np.zeros(len(xyz), bool)
    use = np.flatnonzero(inside)
    depth, hit, _, _ = trace(faces, view.camera, view.cam_from_world, xy[use])
    seen[use] = (hit == owner[use]) & (np.abs(depth - local[use, 2]) < 1e-6 * local[use, 2])
    return np.where(np.isfinite(xy), xy, 0.0), seen


def _write_jpeg(path: Path, picture: Array) -> None:
    pixels = np.clip(np.round(picture * 255), 0, 255).astype(np.uint8)
    done = cv2.imwrite(
        str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95]
    )
    if not done:
        raise OSError(f"could not write {path}")


def _write_model(folder: Path, shots: Sequence[View], observed: Observations) -> None:
    import pycolmap

    model = pycolmap.Reconstruction()
    rows: list[Any] = []
    for i, view in enumerate(shots):
        camera = view.camera
        model.add_camera_with_trivial_rig(
            pycolmap.Camera(
                camera_id=i + 1, model=camera.model, width=camera.width, height=camera.height,
                params=list(camera.params),
            )
        )  # fmt: skip
        ids = np.flatnonzero(observed.seen[i])
        rows.append(dict(zip(ids.tolist(), range(len(ids)))))
        image = pycolmap.Image(
            name=view.name, keypoints=observed.xy[i, ids], camera_id=i + 1, image_id=i + 1
        )
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(view.cam_from_world))
    for p in range(len(observed.xyz)):
        track = [
            pycolmap.TrackElement(i + 1, rows[i][p]) for i in np.flatnonzero(observed.seen[:, p])
        ]
        model.add_point3D(observed.xyz[p], pycolmap.Track(track), observed.rgb[p])
    model.update_point_3d_errors()
    model.write(str(folder))


def _write_json(root: Path, shots: Sequence[View], observed: Observations, seed: int) -> None:
    cameras = {}
    for view in shots:
        entry = {**view.camera.to_dict(), "K": view.camera.K.tolist(), "k1": _k1(view)}
        entry["R_cam_from_world"] = view.cam_from_world[:, :3].tolist()
        entry["t_cam_from_world"] = view.cam_from_world[:, 3].tolist()
        cameras[view.name] = entry
    (root / "cameras.json").write_text(json.dumps(cameras, indent=1))
    scene = {
        "units": "metres",
        "poses": "exact: the pictures were rendered with them",
        "seed": seed,
        "n_images": len(shots),
        "n_points": len(observed.xyz),
        "n_obs": int(observed.seen.sum()),
        "queries": [view.name for view in shots if view.name.startswith("query")],
    }
    (root / "scene.json").write_text(json.dumps(scene, indent=1))


def _k1(view: View) -> float:
    return view.camera.params[3] if view.camera.model == "SIMPLE_RADIAL" else 0.0


def _write_problem(path: Path, shots: Sequence[View], query: int, observed: Observations) -> None:
    """The points that at least two other views see, with those views' observations only."""
    others = observed.seen.copy()
    others[query] = False
    keep = np.flatnonzero(others.sum(0) >= 2)
    point, image = np.nonzero(others[:, keep].T)
    view = shots[query]
    pose = view.cam_from_world
    local = observed.xyz[keep] @ pose[:, :3].T + pose[:, 3]
    xy = observed.xy[query, keep]
    size = np.array([view.camera.width, view.camera.height])
    np.savez_compressed(
        path,
        query=view.name,
        image_names=np.array([shot.name for shot in shots]),
        width=view.camera.width,
        height=view.camera.height,
        K=view.camera.K,
        k1=_k1(view),
        R_ref=pose[:, :3],
        t_ref=pose[:, 3],
        median_depth=float(np.median(local[observed.seen[query, keep], 2])),
        point3D_ids=keep + 1,
        xyz=observed.xyz[keep],
        obs_ptr=np.concatenate([[0], np.cumsum(others[:, keep].sum(0))]).astype(np.int32),
        obs_image=image.astype(np.int32),
        obs_xy=observed.xy[image, keep[point]].astype(np.float32),
        ref_proj_xy=xy.astype(np.float32),
        in_image=(local[:, 2] > 0) & (xy >= 0).all(1) & (xy < size).all(1),
        sift_visible=observed.seen[query, keep],
    )
