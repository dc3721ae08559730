# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which source views a reference view is matched with: in a sequence by poses, in a model by points.

Sequences follow DeepVideoMVS (Duzceker et al., CVPR 2021), whose rule MVSAnywhere uses; unordered models
follow MVSNet (Yao et al., ECCV 2018).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core._checks import integer, number
from pyloc_core._extras import require
from pyloc_core.pose import as_cam_from_world, camera_center

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

NUM_SOURCES = 7
# DeepVideoMVS: sizes in metres; the penalty of a translation below the best one counts 5 times.
BUFFER_SIZE, KEYFRAME_DISTANCE = 30, 0.1
BEST_TRANSLATION, BEST_ROTATION, TOO_CLOSE = 0.15, 0.0, 5.0
# MVSNet, section 4.1: the best angle between two views of a point, and how the score falls off (degrees).
BEST_ANGLE, NARROW, WIDE = 5.0, 1.0, 10.0
# COLMAP's dense stereo: a source is left out when 75 % of the angles are below 1 degree.
LEAST_ANGLE, PERCENTILE = 1.0, 75


def pose_distance(a_from_world: Any, b_from_world: Any) -> tuple[Array, Array, Array]:
    """(combined, rotation, translation) between poses (..., 3, 4) that broadcast.

    translation = |t|, rotation = sqrt(2 (1 - min(3, tr R) / 3)) of the relative pose, combined = the root
    of the sum of their squares. Source: Hou, Kannala, Solin (2019), as in Duzceker et al. (2021).
    """
    a, b = np.asarray(a_from_world, np.float64), np.asarray(b_from_world, np.float64)
    trace = np.einsum("...ij,...ij->...", a[..., :3], b[..., :3])
    between = np.asarray(camera_center(a)) - np.asarray(camera_center(b))
    translation = np.linalg.norm(between, axis=-1)
    rotation = np.sqrt(2 * (1 - np.minimum(3.0, trace) / 3))
    return np.hypot(translation, rotation), rotation, translation


class KeyframeBuffer:
    """The last keyframes of a sequence, and the best of them as sources of a view.

    Args:
        size: how many keyframes are held.
        keyframe_distance: a frame this far (combined distance) from the last keyframe is the next one.
        unit: length of 1 unit of the poses in metres, since the constants are metres.
    """

    def __init__(
        self,
        size: int = BUFFER_SIZE,
        keyframe_distance: float = KEYFRAME_DISTANCE,
        *,
        unit: float = 1.0,
    ) -> None:
        self._frames: deque[tuple[Any, Array]] = deque(maxlen=integer("size", size, 1))
        self._distance = number("keyframe_distance", keyframe_distance)
        self._unit = number("unit", unit, positive=True)

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, name: Any, cam_from_world: Any) -> bool:
        """Whether the frame became a keyframe. A pose that is not finite (tracking was lost) never does."""
        pose = self._pose(cam_from_world)
        if pose is None:
            return False
        if self._frames and pose_distance(pose, self._frames[-1][1])[0] < self._distance:
            return False
        self._frames.append((name, pose))
        return True

    def sources(
        self, cam_from_world: Any, count: int = NUM_SOURCES, *, exclude: Any = None
    ) -> list[Any]:
        """Names of at most `count` keyframes, the least penalty first; `exclude` is the view itself.

        The penalty is rotation^2 + (translation - 0.15)^2, the second term times 5 below 0.15 m.
        """
        pose = self._pose(cam_from_world)
        if pose is None:
            raise ValueError("cam_from_world holds NaN or infinite values")
        return _best(pose, [f for f in self._frames if exclude is None or f[0] != exclude], count)

    def _pose(self, cam_from_world: Any) -> Array | None:
        values = np.asarray(cam_from_world, np.float64)
        if not np.isfinite(values).all():
            return None
        return as_cam_from_world(values) * [1, 1, 1, self._unit]


def _best(pose: Array, frames: list[tuple[Any, Array]], count: int) -> list[Any]:
    if not frames:
        return []
    cost = view_penalty(pose, np.stack([other for _, other in frames]))
    order = np.argsort(cost, kind="stable")[: integer("count", count, 1)]
    return [frames[i][0] for i in order]


def view_penalty(cam_from_world: Any, others: Any) -> Array:
    """How badly views (..., 3, 4) suit a reference (3, 4), in metres: see `KeyframeBuffer.sources`."""
    _, rotation, translation = pose_distance(cam_from_world, others)
    factor = np.where(translation < BEST_TRANSLATION, TOO_CLOSE, 1.0)
    return (rotation - BEST_ROTATION) ** 2 + factor * (translation - BEST_TRANSLATION) ** 2


def keyframes(
    cam_from_world: Any, keyframe_distance: float = KEYFRAME_DISTANCE, *, unit: float = 1.0
) -> Index:
    """Positions (K,) of the frames of a sequence that `KeyframeBuffer.add` would hold, rising.

    Args: as of `select_sources`.
    """
    poses = _sequence(cam_from_world) * [1, 1, 1, number("unit", unit, positive=True)]
    distance = number("keyframe_distance", keyframe_distance)
    found: list[int] = []
    for i in np.flatnonzero(np.isfinite(poses).all((1, 2))):
        if not found or pose_distance(poses[i], poses[found[-1]])[0] >= distance:
            found.append(int(i))
    return np.array(found, dtype=np.int64)


def select_sources(
    cam_from_world: Any,
    reference: int,
    count: int = NUM_SOURCES,
    *,
    future: bool = False,
    buffer_size: int = BUFFER_SIZE,
    keyframe_distance: float = KEYFRAME_DISTANCE,
    unit: float = 1.0,
    frames: Any = None,
) -> list[int]:
    """Source frames of one frame of a sequence, best first.

    Args:
        cam_from_world: (N, 3, 4) or (N, 4, 4) poses in the order of the sequence; frames with poses that
            are not finite are passed over.
        reference: position of the reference frame.
        count: most sources, 7 by default.
        future: keyframes after the reference may be chosen as well: of each side the nearest half of
            the buffer. Without, only what a running camera has seen.
        buffer_size, keyframe_distance, unit: as in `KeyframeBuffer`.
        frames: `keyframes` of the sequence, where many references of it are asked about.

    Returns:
        At most `count` positions, never the reference; [] where there is no keyframe besides.

    Raises:
        ValueError: shapes, a reference outside the sequence or with a pose that is not finite, `frames`
            outside it, options.

    Source: Duzceker et al. (2021), with its defaults.
    """
    poses = _sequence(cam_from_world)
    if not 0 <= integer("reference", reference, 0) < len(poses):
        raise ValueError(f"reference must be one of {len(poses)} frames, got {reference}")
    if not np.isfinite(poses[reference]).all():
        raise ValueError(f"cam_from_world[{reference}] holds NaN or infinite values")
    size = integer("buffer_size", buffer_size, 2 if future else 1)
    size = size // 2 if future else size
    if frames is None:
        frames = keyframes(poses if future else poses[:reference], keyframe_distance, unit=unit)
    chosen = np.asarray(frames, np.int64)
    if chosen.ndim != 1 or ((chosen < 0) | (chosen >= len(poses))).any():
        raise ValueError(f"frames must be positions among {len(poses)} frames, got {frames}")
    before, after = chosen[chosen < reference][-size:], chosen[chosen > reference][:size]
    candidates = np.concatenate([before, after]) if future else before
    metres = poses * [1, 1, 1, number("unit", unit, positive=True)]
    return _best(metres[reference], [(int(i), metres[i]) for i in candidates], count)


def _sequence(cam_from_world: Any) -> Array:
    poses = np.asarray(cam_from_world, np.float64)
    if poses.ndim != 3 or poses.shape[1:] not in ((3, 4), (4, 4)):
        raise ValueError(
            f"cam_from_world must have shape (N, 3, 4) or (N, 4, 4), got {poses.shape}"
        )
    return poses[:, :3]


def rank_sources(
    cam_from_world: Any,
    xyz: Any,
    obs_ptr: Any,
    obs_view: Any,
    count: int = NUM_SOURCES,
    *,
    references: Sequence[int] | None = None,
    best_angle: float = BEST_ANGLE,
    least_angle: float = LEAST_ANGLE,
) -> list[Index]:
    """Source views of views of an unordered model, by the points they share.

    A view scores sum_p G(angle of p), over the points p that both see, the angle at p between the two
    camera centres, G a Gaussian around `best_angle` of 1 degree on the narrow and 10 on the wide side.
    Views whose angles are below `least_angle` for 75 % of the shared points see too little parallax and
    come only after all others.

    Args:
        cam_from_world: (V, 3, 4) or (V, 4, 4).
        xyz: (N, 3) points.
        obs_ptr, obs_view: (N + 1,) and (O,): point n is seen by views `obs_view[obs_ptr[n]:obs_ptr[n+1]]`.
        count: most sources.
        references: views to answer for; None for all.
        best_angle, least_angle: degrees.

    Returns:
        For each reference an int64 array of at most `count` views, best first; views that share no point
        with it are never in it.

    Raises:
        ValueError: shapes, values that are not finite, views and references outside 0 to V - 1.

    Sources: Yao et al. (2018), section 4.1; the least angle: Schoenberger et al., "Pixelwise View
    Selection for Unstructured Multi-View Stereo" (2016), and COLMAP's default.
    """
    most, best = integer("count", count, 1), number("best_angle", best_angle, positive=True)
    least = number("least_angle", least_angle)
    poses = _sequence(cam_from_world)
    if not np.isfinite(poses).all():
        raise ValueError("cam_from_world holds NaN or infinite values")
    points, ptr, view = _tracks(xyz, obs_ptr, obs_view, len(poses))
    centres = np.asarray(camera_center(poses))
    point = np.repeat(np.arange(len(points)), np.diff(ptr))
    ends = np.cumsum(np.bincount(view, minlength=len(centres)))
    seen_by = np.split(point[np.argsort(view, kind="stable")], ends[:-1])  # points of each view
    result = []
    asked = range(len(centres)) if references is None else references
    if any(not 0 <= reference < len(centres) for reference in asked):
        raise ValueError(f"references must be among {len(centres)} views, got {list(asked)}")
    for reference in asked:
        shared = _observations(ptr, np.unique(seen_by[reference]))
        shared = shared[view[shared] != reference]
        other, at = view[shared], points[point[shared]]
        angle = _angles(centres[reference] - at, centres[other] - at)
        result.append(_ranked(other.astype(np.int64), angle, best, least)[:most])
    return result


def _tracks(xyz: Any, obs_ptr: Any, obs_view: Any, views: int) -> tuple[Array, Index, Index]:
    """Checked arguments of `rank_sources`."""
    points = np.asarray(xyz, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"xyz must hold finite points (N, 3), got shape {points.shape}")
    ptr, view = np.asarray(obs_ptr, np.int64), np.asarray(obs_view, np.int64)
    ends = ptr[[0, -1]].tolist() if ptr.shape == (len(points) + 1,) else None
    if view.ndim != 1 or ends != [0, len(view)] or (np.diff(ptr) < 0).any():
        raise ValueError(f"obs_ptr must rise from 0 to {len(view)} in {len(points)} steps")
    if ((view < 0) | (view >= views)).any():
        raise ValueError(f"obs_view must be among {views} views")
    return points, ptr, view


def _ranked(other: Index, angle: Array, best: float, least: float) -> Index:
    """Views, best first, from the view and the angle of each shared observation."""
    if not len(other):
        return np.zeros(0, np.int64)
    order = np.lexsort((angle, other))  # by view, and by angle within it
    other, angle = other[order], angle[order]
    seen, first, counts = np.unique(other, return_index=True, return_counts=True)
    gain = np.exp(-(((angle - best) / np.where(angle <= best, NARROW, WIDE)) ** 2) / 2)
    score = np.add.reduceat(gain, first)
    rank = PERCENTILE / 100 * (counts - 1)
    below = first + np.floor(rank).astype(np.int64)
    above = np.minimum(below + 1, first + counts - 1)
    high = angle[below] + (rank - np.floor(rank)) * (angle[above] - angle[below])
    return np.asarray(seen[np.lexsort((seen, -score, high < least))], np.int64)


def _observations(ptr: Any, points: Index) -> Index:
    """Observations of some points: the ranges ptr[n]:ptr[n + 1], one after the other."""
    lengths = ptr[points + 1] - ptr[points]
    starts = np.repeat(ptr[points] - np.cumsum(lengths) + lengths, lengths)
    return np.asarray(starts + np.arange(len(starts)), np.int64)


def _angles(a: Array, b: Array) -> Array:
    """Degrees between rows, exact for small ones, where an arc cosine is not."""
    return np.asarray(
        np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)))
    )


def sources_from_model(
    model: Any,
    count: int = NUM_SOURCES,
    *,
    best_angle: float = BEST_ANGLE,
    least_angle: float = LEAST_ANGLE,
) -> dict[str, list[str]]:
    """Image name -> names of its source images, best first, for every registered image of a model.

    Args:
        model: `pycolmap.Reconstruction`, or a folder with cameras, images and points3D.
        count, best_angle, least_angle: as in `rank_sources`, which says what the choice is.

    Raises:
        ValueError: a folder that is no model, a model without poses or points. MissingExtra: no pycolmap.
    """
    if isinstance(model, (str, Path)):
        pycolmap = require("pycolmap", "reading a COLMAP model")
        if not Path(model).is_dir():
            raise ValueError(f"no such model folder: {model}")
        try:
            model = pycolmap.Reconstruction(str(model))
        except Exception as error:  # pycolmap raises RuntimeError and others for damaged files
            raise ValueError(f"cannot read the COLMAP model in {model}: {error}") from None
    images = sorted((i for i in model.images.values() if i.has_pose), key=lambda image: image.name)
    if not images:
        raise ValueError("the model has no image with a pose")
    view = {image.image_id: i for i, image in enumerate(images)}
    points = list(model.points3D.values())
    # An image that sees a point twice in one track counts once. Cameras may be of any model.
    tracks = [
        sorted({view[e.image_id] for e in point.track.elements if e.image_id in view})
        for point in points
    ]
    if not any(tracks):
        raise ValueError("the model has no 3D point that one of its images sees")
    ranked = rank_sources(
        np.array([image.cam_from_world().matrix() for image in images]),
        np.array([point.xyz for point in points]).reshape(-1, 3),
        np.cumsum([0] + [len(track) for track in tracks]),
        np.array([each for track in tracks for each in track], dtype=np.int64),
        count,
        best_angle=best_angle,
        least_angle=least_angle,
    )
    names = [image.name for image in images]
    return {name: [names[i] for i in found] for name, found in zip(names, ranked, strict=True)}
