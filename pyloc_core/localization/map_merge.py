# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""One map of several: everything side by side, each scene in its own frame of reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.localization.identity import plain
from pyloc_core.localization.map import Map
from pyloc_core.localization.rootsift import descriptor_from
from pyloc_core.localization.whole_images import WholeImages, learned_vocabulary


def merge_maps(maps: Mapping[str, Map], descriptor: Any) -> Map:
    """`Map.merge`."""
    parts = _checked(maps)
    scenes = [_scene_names(name, part) for name, part in maps.items()]
    names = [
        f"{scenes[i][part.view_scene[v]]}/{image[len(_prefix(part, v)) :]}"
        for i, part in enumerate(parts)
        for v, image in enumerate(part.image_names)
    ]
    all_scenes = tuple(name for group in scenes for name in group)
    for kind, found in (("scenes", all_scenes), ("images", names)):
        name, times = Counter(found).most_common(1)[0]
        if times > 1:
            raise ValueError(f"two {kind} of the merged map would be called {name!r}")
    before_view = _before([len(p.cameras) for p in parts])
    before_scene = _before([len(p.scenes) for p in parts])
    before_obs = np.cumsum([0] + [len(p.obs_view) for p in parts])
    fine = [part.fine for part in parts if part.fine is not None]
    images = [image for part in parts for image in part.images]
    vocabulary, described = _global_descriptors(parts, images, descriptor)
    ptr = [part.obs_ptr[1:] + o for part, o in zip(parts, before_obs)]
    return Map(
        xyz=np.concatenate([p.xyz for p in parts]),
        point_ids=np.concatenate([p.point_ids for p in parts]),
        obs_ptr=np.concatenate([np.zeros(1, np.int64), *ptr]),
        obs_view=np.concatenate([p.obs_view + v for p, v in zip(parts, before_view)]),
        obs_xy=np.concatenate([p.obs_xy for p in parts]),
        coarse=np.concatenate([p.coarse for p in parts]),
        fine=np.concatenate(fine) if fine else None,
        image_names=names,
        cameras=[camera for p in parts for camera in p.cameras],
        cam_from_world=np.concatenate([p.cam_from_world for p in parts]),
        images=images,
        vocabulary=vocabulary,
        global_descriptors=described,
        descriptor=parts[0].descriptor,
        options=parts[0].options,
        global_descriptor=parts[0].global_descriptor,
        scenes=all_scenes,
        view_scene=np.concatenate([p.view_scene + s for p, s in zip(parts, before_scene)]),
        point_scene=np.concatenate([p.point_scene + s for p, s in zip(parts, before_scene)]),
    )


def _checked(maps: Mapping[str, Map]) -> list[Map]:
    if not isinstance(maps, Mapping):
        raise TypeError(f"maps must be a mapping of names to maps, got {type(maps).__name__}")
    if not maps:
        raise ValueError("maps must hold at least one map")
    parts = list(maps.values())
    for name, part in maps.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"a scene's name must be a string that is not empty, got {name!r}")
        if not isinstance(part, Map):
            raise TypeError(f"maps[{name!r}] must be a Map, got {type(part).__name__}")
        if not len(part.xyz) or not len(part.obs_view):
            raise ValueError(f"the map of scene {name!r} holds no points that an image sees")
    first_name, first = next(iter(maps.items()))
    for name, part in maps.items():
        for what, a, b in (
            ("descriptors", plain(first.descriptor), plain(part.descriptor)),
            ("global descriptors", _network(first), _network(part)),
            ("options", first.options, part.options),
            ("stored fine descriptors", _depth(first.fine), _depth(part.fine)),
            ("coarse descriptors", _depth(first.coarse), _depth(part.coarse)),
            ("stored images", bool(first.images), bool(part.images)),
        ):
            if a != b:
                raise ValueError(
                    f"the maps of scenes {first_name!r} and {name!r} differ in {what}: {a} and {b}"
                )
    return parts


def _network(part: Map) -> Any:
    return None if part.global_descriptor is None else plain(part.global_descriptor)


def _depth(array: Any) -> int | None:
    return None if array is None else int(array.shape[-1])


def _scene_names(name: str, part: Map) -> list[str]:
    return [f"{name}/{scene}" if scene else name for scene in part.scenes]


def _prefix(part: Map, view: int) -> str:
    """What a merged map has put before an image's name."""
    scene = part.scenes[part.view_scene[view]]
    return f"{scene}/" if scene else ""


def _before(counts: list[int]) -> npt.NDArray[np.int32]:
    """How many come before each part."""
    return np.cumsum([0, *counts[:-1]]).astype(np.int32)


def _global_descriptors(parts: list[Map], images: list[Any], descriptor: Any) -> tuple[Any, Any]:
    """Vocabulary and descriptors that can be compared across scenes."""
    first = parts[0]
    if first.global_descriptor is not None or first.options.vocabulary == 0:
        return first.vocabulary, np.concatenate([p.global_descriptors for p in parts])
    if len(parts) == 1:
        return first.vocabulary, first.global_descriptors
    if not images:
        raise ValueError(
            "the maps store no images to learn a common vocabulary from: build them with a "
            "global_descriptor, or with vocabulary=0"
        )
    maker = descriptor_from(descriptor, first.descriptor)
    words = first.options.vocabulary
    vocabulary = learned_vocabulary(lambda v: images[v], len(images), maker, words)
    whole = WholeImages(maker, None, vocabulary)
    return vocabulary, np.array([whole.describe(image) for image in images], np.float16)
