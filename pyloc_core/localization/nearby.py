# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Which reference images are near a photo: by a global descriptor, or by a prior pose."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pyloc_core.localization.features import Float32
from pyloc_core.localization.map import Map
from pyloc_core.pose import camera_center

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
_AT_ONCE = 1 << 18  # values of descriptors held as float32


def rank_by_descriptor(
    query: Float32, references: npt.NDArray[np.floating]
) -> npt.NDArray[np.int64]:
    """Views, most similar first; ties in order of the views."""
    similar = np.empty(len(references), np.float32)
    step = max(1, _AT_ONCE // max(1, len(query)))
    for start in range(0, len(references), step):  # a map's are float16 on disk: no copy of all
        similar[start : start + step] = references[start : start + step].astype(np.float32) @ query
    return np.argsort(-similar, kind="stable")


def rank_by_prior(prior: Array, cam_from_world: Array) -> npt.NDArray[np.int64]:
    """Views, nearest to a prior pose first; those that look more than 90 degrees away come last."""
    distance = np.linalg.norm(camera_center(cam_from_world) - camera_center(prior), axis=1)
    cosine = cam_from_world[:, 2, :3] @ prior[2, :3]
    # Half of the median distance counts as much as 60 degrees.
    unit = 0.5 * float(np.median(distance)) + 1e-12
    angle = np.arccos(np.clip(cosine, -1, 1)) / (np.pi / 3)
    return np.argsort(distance / unit + angle + np.where(cosine < 0, 1e6, 0.0), kind="stable")


def ranked_views(
    model: Map, query: Float32, count: int, scene: int | None, num_threads: int | None
) -> Index:
    """The `count` views most similar to a photo, of one scene or of all, most similar first."""
    if len(query) != model.global_descriptors.shape[1]:
        raise ValueError(
            f"the photo's global descriptor has {len(query)} dimensions and the map's "
            f"{model.global_descriptors.shape[1]}"
        )
    if scene is None and model.index is not None:
        found = model.index.search(query[None], count, num_threads=num_threads).indices[0]
        return np.asarray(found[found >= 0])
    if scene is None:
        return rank_by_descriptor(query, model.global_descriptors)[:count]
    views = np.flatnonzero(model.view_scene == scene)
    return views[rank_by_descriptor(query, model.global_descriptors[views])][:count]


def check_scene(scenes: Sequence[str], scene: str | None) -> None:
    """ValueError for a scene that a map does not have; None is none in particular."""
    if scene is None or scene in scenes:
        return
    close = difflib.get_close_matches(str(scene), scenes, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(scenes)}"
    raise ValueError(f"the map has no scene {scene!r}{hint if any(scenes) else ''}")
