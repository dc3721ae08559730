# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Drawn scenes with several views, exact depth, poses and intrinsics: to learn and to judge depth."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.localization.demo_render import SUPERSAMPLE, Face, render, trace
from pyloc_core.localization.demo_scene import look_at
from pyloc_core.localization.depth_views import DepthView
from pyloc_core.training.options import check_int
from pyloc_core.training.scene_layouts import LAYOUTS, Layout
from pyloc_core.training.scene_surfaces import clothed, stock

Array = npt.NDArray[np.float64]
Random = np.random.Generator

_ATTEMPTS = 40
_PATCH = {"street": 5.0, "ground": 6.0, "room": 2.0}  # metres of one texture


@dataclass(frozen=True)
class DepthScene:
    """Views of one scene; the first is the reference, if a method wants one.

    Attributes:
        images: (V, H, W, 3) uint8, RGB.
        depth: (V, H, W) float32 along the optical axis, of the ray through the centre of the pixel;
            0 where there is none.
        cam_from_world: (V, 3, 4).
        cameras: one per view.
        kind: of the layout.
        sky: (V, H, W) bool; None where nobody knows.
    """

    images: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    cam_from_world: Array
    cameras: tuple[Camera, ...]
    kind: str = ""
    sky: npt.NDArray[np.bool_] | None = None

    @property
    def K(self) -> Array:
        """(V, 3, 3) intrinsics of the images, pixel centres at one half."""
        return np.stack([np.asarray(camera.K) for camera in self.cameras])

    def view(self, index: int) -> DepthView:
        """One view as the rest of the library takes posed images with depth."""
        return DepthView(self.depth[index], self.cameras[index], self.cam_from_world[index])


@dataclass(frozen=True)
class RenderedScenes:
    """`count` random scenes, drawn when they are first asked for: `scenes[i]`, `len(scenes)`, iteration.

    In every view the largest depth is at least `ratio` times the smallest. All lengths are metres, and
    rooms are smaller than streets: with `scale` they are multiplied by a random factor (poses, too).

    Attributes:
        count: scenes.
        views: of each.
        size: (H, W) of the images.
        seed: of everything; scene i depends on it and on i alone.
        kinds: layouts that take part: street, ground, room.
        sky: probability that a scene has pixels without depth; without it every pixel has one.
        noise: standard deviation of the pixels' noise, of 255.
        step: factor on the distance between views (about 0.55 m in a street, 0.1 m in a room).
        scale: the factor on all lengths is exp(U(-scale, scale)).
        ratio: see above.
        textures: size of the stock that all scenes of this seed share; `photos` those of
            `textures.PHOTOS` that take part (none: drawn patterns only).
        keep: scenes kept in memory, the latest.

    Raises:
        ValueError or TypeError for options outside their range.
    """

    count: int = 100
    views: int = 4
    size: tuple[int, int] = (96, 128)
    seed: int = 0
    kinds: tuple[str, ...] = ("street", "ground", "room")
    sky: float = 0.0
    noise: float = 1.5
    step: float = 1.0
    scale: float = 0.0
    ratio: float = 20.0
    textures: int = 32
    photos: tuple[str, ...] = ()
    keep: int = 1000
    _kept: OrderedDict[int, DepthScene] = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name in ("count", "views", "textures"):
            check_int(name, getattr(self, name), 1)
        for name in ("seed", "keep"):
            check_int(name, getattr(self, name), 0)
        if len(self.size) != 2 or min(self.size) < 16:
            raise ValueError(f"size must be (H, W) of at least 16, got {self.size!r}")
        unknown = sorted(set(self.kinds) - set(LAYOUTS))
        if unknown or not self.kinds:
            raise ValueError(f"kinds must be some of {tuple(LAYOUTS)}, got {self.kinds!r}")
        if not 0 <= self.sky <= 1:
            raise ValueError(f"sky must be a probability, got {self.sky!r}")
        for name in ("noise", "step", "scale", "ratio"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be finite and not negative")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[DepthScene]:
        return (self[index] for index in range(self.count))

    def __getitem__(self, index: int) -> DepthScene:
        if not -self.count <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        index %= self.count
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        scene = self._draw(index)
        self._kept[index] = scene
        while len(self._kept) > self.keep:
            self._kept.popitem(last=False)
        return scene

    def _draw(self, index: int) -> DepthScene:
        """The first of a row of random scenes in which no view stands too close or sees too little."""
        textures = stock(self.seed, self.textures, self.photos)
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([self.seed, 1, index, attempt])
            kind = self.kinds[int(rng.integers(len(self.kinds)))]
            sky = bool(rng.random() < self.sky)
            layout = LAYOUTS[kind](rng, sky)
            cameras, poses = self._cameras(rng, layout)
            traced = self._traced(layout, cameras, poses, sky)
            if traced is None:
                continue
            depth, owner = traced
            nearest = _nearest(depth, owner, len(layout.faces))
            pixel = nearest / (SUPERSAMPLE * cameras[0].fx)
            faces = [
                clothed(rng, textures, face, _PATCH[kind], float(size))
                for face, size in zip(layout.faces, pixel)
            ]
            images = np.stack([self._picture(rng, faces, c, p) for c, p in zip(cameras, poses)])
            factor = np.exp(rng.uniform(-self.scale, self.scale))
            moved = np.stack(poses)
            moved[:, :, 3] *= factor
            known = np.where(np.isfinite(depth), depth, 0.0) * factor
            return DepthScene(
                images, known.astype(np.float32), moved, tuple(cameras), kind, known == 0
            )
        raise ValueError(
            f"no scene of depth ratio {self.ratio:g} in {_ATTEMPTS} attempts; ask for less"
        )

    def _traced(
        self, layout: Layout, cameras: list[Camera], poses: list[Array], sky: bool
    ) -> tuple[Array, npt.NDArray[np.int16]] | None:
        """(V, H, W) depths and faces of all views; None as soon as one does not fit."""
        views = []
        for camera, pose in zip(cameras, poses):
            views.append(_traced(layout.faces, camera, pose))
            if not self._fits(views[-1][0], sky, layout.nearest):
                return None
        depth, owner = zip(*views)
        return np.stack(depth), np.stack(owner)

    def _fits(self, depth: Array, sky: bool, nearest: float) -> bool:
        seen = np.isfinite(depth)
        if not sky and not seen.all():
            return False
        if seen.mean() < 0.4 or (sky and seen.mean() > 0.98):
            return False
        low, high = depth[seen].min(), depth[seen].max()
        return bool(low > nearest and high >= self.ratio * low)

    def _cameras(self, rng: Random, layout: Layout) -> tuple[list[Camera], list[Array]]:
        """Views about the origin that turn a little, none on top of the first."""
        h, w = self.size
        focal = w * rng.uniform(0.75, 1.1)
        middle = np.array([w, h]) / 2 + rng.uniform(-0.03, 0.03, 2) * [w, h]
        camera = Camera("PINHOLE", w, h, (focal, focal * rng.uniform(0.98, 1.02), *middle))
        first = np.array([rng.uniform(-0.5, 0.5) * layout.step, 0.0, layout.height])
        aim = np.array([rng.uniform(-0.15, 0.15), 1.0, rng.uniform(-0.15, 0.02)])
        poses = []
        for number in range(self.views):
            move = layout.step * self.step * rng.normal(0, [1.0, 0.6, 0.25])
            if number:
                length = max(float(np.linalg.norm(move)), 1e-12)
                move *= max(1.0, 0.6 * layout.step * self.step / length)
            eye = first + move * (number > 0)
            turn = rng.normal(0, [0.05, 0.0, 0.03])
            poses.append(look_at(eye, eye + aim + turn, roll=float(rng.normal(0, 1.5))))
        return [camera] * self.views, poses

    def _picture(
        self, rng: Random, faces: list[Face], camera: Camera, pose: Array
    ) -> npt.NDArray[np.uint8]:
        picture, _ = render(faces, camera, pose)
        grain = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(self.noise)
        return np.clip(picture * 255 + grain + 0.5, 0, 255).astype(np.uint8)


def _traced(faces: list[Face], camera: Camera, pose: Array) -> tuple[Array, npt.NDArray[np.int16]]:
    """(H, W) depth at the centres of the pixels, inf where nothing is hit, and which face it is of."""
    x, y = np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5
    depth, owner, _, _ = trace(faces, camera, pose, np.stack(np.meshgrid(x, y), axis=-1))
    return depth, owner


def _nearest(depth: Array, owner: npt.NDArray[np.int16], count: int) -> Array:
    """Smallest depth at which each face is seen; inf for those that no pixel's centre sees."""
    nearest = np.full(count, np.inf)
    seen = owner >= 0
    np.minimum.at(nearest, owner[seen], depth[seen])
    return nearest
