# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs from drawn rooms: boxes and walls in depth, with occlusion, shade and exact geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.localization.demo_render import Block, Face, light, render, trace
from pyloc_core.localization.demo_scene import look_at
from pyloc_core.localization.patches import affine_between
from pyloc_core.pose import camera_center, transform_points
from pyloc_core.training.pairs import Array, Pair, Random, corner_points
from pyloc_core.training.photometric import taken
from pyloc_core.training.textures import TRAINING_PHOTOS, surface

_BORDER = 12
_SAME_DEPTH = 0.01  # relative: a point further behind what is seen is hidden


@dataclass(frozen=True)
class Room:
    """Faces without their pictures, and views: camera, pose and grey picture (H, W) in [0, 255]."""

    faces: list[Face]
    cameras: list[Camera]
    cam_from_world: list[Array]
    pictures: list[npt.NDArray[np.float32]]


@dataclass
class RenderedPairs:
    """Two views of one of `rooms` random rooms. A room is drawn when it is first asked for.

    Attributes:
        size: (H, W) of the photos.
        rooms, views: how many, and views of each.
        seed: of the rooms; the pairs follow the rng they are asked with.
        strength: the largest of the photometric changes; see `taken`.
        points: places tried per pair.
        pose_error: degrees by which the poses behind the affine maps are off, as a coarse pose is.
    """

    size: tuple[int, int] = (320, 320)
    rooms: int = 24
    views: int = 6
    seed: int = 0
    strength: float = 1.0
    points: int = 400
    pose_error: float = 0.3
    photos: tuple[str, ...] = TRAINING_PHOTOS
    _drawn: dict[int, Room] = field(default_factory=dict, repr=False)

    def room(self, index: int) -> Room:
        """Room `index`, always the same."""
        if index not in self._drawn:
            self._drawn[index] = self._draw(np.random.default_rng([self.seed, index]))
        return self._drawn[index]

    def pair(self, rng: Random) -> Pair:
        room = self.room(int(rng.integers(self.rooms)))
        first, second = (int(v) for v in rng.permutation(self.views)[:2])
        strength = self.strength * rng.uniform(0.1, 1)
        reference, query = (taken(rng, room.pictures[v], strength) for v in (first, second))
        query_xy = corner_points(rng, query, self.points, _BORDER)
        points, seen = _surface_points(room, second, query_xy)
        reference_xy, visible = _visible(room, first, points)
        h, w = self.size
        visible &= (reference_xy > _BORDER).all(1) & (
            reference_xy < [w - _BORDER, h - _BORDER]
        ).all(1)
        keep = np.flatnonzero(seen & visible)
        affine, usable = affine_between(
            points[keep], room.cameras[first], room.cam_from_world[first], room.cameras[second],
            _jostled(rng, room.cam_from_world[second], self.pose_error),
        )  # fmt: skip
        keep, affine = keep[usable], affine[usable]
        return Pair(reference, query, reference_xy[keep], query_xy[keep], affine)

    def _draw(self, rng: Random) -> Room:
        blocks = [_block(rng) for _ in range(int(rng.integers(3, 8)))]
        faces = _walls(rng, self.photos)
        for block in blocks:
            faces += _sides(rng, block, self.photos)
        for index, face in enumerate(faces):
            light(face, blocks, floor=index == 0)
        h, w = self.size
        cameras: list[Camera] = []
        poses: list[Array] = []
        pictures: list[npt.NDArray[np.float32]] = []
        middle = rng.uniform(-0.9, 0.9)
        while len(poses) < self.views:
            camera = _camera(rng, h, w)
            angle = middle + rng.normal(0, 0.3)
            radius, height = rng.uniform(4.0, 7.0), rng.uniform(0.8, 2.8)
            target = np.array([5.0, 6.5, 1.2]) + rng.normal(0, 0.4, 3)
            eye = target + radius * np.array([np.sin(angle), -np.cos(angle), 0.0])
            eye[2] = height
            pose = look_at(eye, target, roll=float(rng.normal(0, 4)))
            picture, depth = render(faces, camera, pose)
            if np.median(depth) < 1.5:  # stands in front of a face
                continue
            cameras.append(camera)
            poses.append(pose)
            pictures.append(
                (picture @ np.array([0.299, 0.587, 0.114], np.float32) * 255).astype(np.float32)
            )
        return Room([_shape_of(face) for face in faces], cameras, poses, pictures)


def _shape_of(face: Face) -> Face:
    """The rectangle alone: the textures of a room take 150 MB and are not needed once it is drawn."""
    return Face(face.corner, face.edge_u, face.edge_v, np.zeros((1, 1, 3), np.float32))


def _surface_points(room: Room, view: int, xy: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """World points (N, 3) seen at pixels (N, 2) of a view, and where there is one."""
    camera, pose = room.cameras[view], room.cam_from_world[view]
    depth, owner, _, _ = trace(room.faces, camera, pose, xy)
    bearings = np.asarray(camera.unproject(xy))
    rays = bearings / bearings[:, 2:]
    local = rays * np.where(owner >= 0, depth, 1.0)[:, None]
    return np.asarray((local - pose[:, 3]) @ pose[:, :3]), owner >= 0


def _visible(room: Room, view: int, points: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Projections (N, 2) of world points into a view, and whether nothing lies before them."""
    camera, pose = room.cameras[view], room.cam_from_world[view]
    local = transform_points(pose, points)
    xy, front = camera.project(local)
    inside = np.asarray(front) & (np.nan_to_num(xy, nan=-1) > 0).all(1)
    inside &= (np.nan_to_num(xy, nan=-1) < [camera.width, camera.height]).all(1)
    out = np.where(inside[:, None], np.asarray(xy), camera.width / 2)
    depth, _, _, _ = trace(room.faces, camera, pose, out)
    return out, inside & (np.abs(depth - local[:, 2]) < _SAME_DEPTH * local[:, 2])


def _jostled(rng: Random, cam_from_world: Array, degrees: float) -> Array:
    """The pose turned about the camera's centre by a random small angle."""
    x, y, z = np.radians(degrees) * rng.standard_normal(3)
    turn = np.array([[1, -z, y], [z, 1, -x], [-y, x, 1.0]])
    u, _, vt = np.linalg.svd(turn)
    rotation = u @ vt @ cam_from_world[:, :3]
    return np.column_stack([rotation, -rotation @ camera_center(cam_from_world)])


def _camera(rng: Random, h: int, w: int) -> Camera:
    focal = w * rng.uniform(0.8, 1.4)
    k1 = rng.uniform(-0.08, 0.03)
    return Camera("SIMPLE_RADIAL", w, h, (focal, w / 2, h / 2, k1))


def _block(rng: Random) -> Block:
    size = tuple(float(v) for v in rng.uniform(0.5, 2.0, 2))
    centre = (float(rng.uniform(2.0, 8.0)), float(rng.uniform(4.5, 8.3)))
    base = float(rng.choice([0.0, 0.0, rng.uniform(0.4, 1.5)]))
    return Block(
        centre,
        (size[0], size[1]),
        float(rng.uniform(0.4, 2.6)),
        float(rng.uniform(-45, 45)),
        (),
        base,
    )


def _walls(rng: Random, photos: tuple[str, ...]) -> list[Face]:
    """Floor, back wall, and two side walls of a room of 10 x 9 metres."""
    x, y, z = np.eye(3)
    back = 9.0
    return [
        Face(np.array([-1.0, back, 0.0]), 12 * x, -12 * y, _picture(rng, photos, 4, 768)),
        Face(np.array([-1.0, back, 4.5]), 12 * x, -4.5 * z, _picture(rng, photos, 3, 768)),
        Face(np.array([0.0, -2.0, 4.5]), 11 * y, -4.5 * z, _picture(rng, photos, 3, 512)),
        Face(np.array([10.0, back, 4.5]), -11 * y, -4.5 * z, _picture(rng, photos, 3, 512)),
    ]


def _sides(rng: Random, block: Block, photos: tuple[str, ...]) -> list[Face]:
    """Four sides and the top."""
    return box_faces(block, lambda: _picture(rng, photos, 1, 320))


def box_faces(block: Block, picture: Callable[[], npt.NDArray[np.float32]]) -> list[Face]:
    """Four sides and the top of a box, each with a picture (h, w, 3) of its own."""
    c, s = np.cos(np.radians(block.yaw)), np.sin(np.radians(block.yaw))
    along, back = np.array([c, s, 0.0]), np.array([-s, c, 0.0])
    up = np.array([0.0, 0.0, block.height])
    half_x, half_y = along * block.size[0] / 2, back * block.size[1] / 2
    middle = np.array([*block.centre, block.base])
    starts = (-half_x - half_y, half_x - half_y, half_x + half_y, half_y - half_x)
    edges = (2 * half_x, 2 * half_y, -2 * half_x, -2 * half_y)
    faces = [
        Face(middle + start + up, edge, -up, picture(), block) for start, edge in zip(starts, edges)
    ]
    corner = middle - half_x + half_y + up
    return [*faces, Face(corner, 2 * half_x, -2 * half_y, picture(), block)]


def _picture(
    rng: Random, photos: tuple[str, ...], across: int, side: int
) -> npt.NDArray[np.float32]:
    """(side, side, 3) albedo; large faces are a patchwork, so that their parts differ."""
    picture = surface(rng, side, photos)
    for _ in range(6 * (across - 1)):
        part = side // int(rng.integers(3, 7))
        y, x = (int(v) for v in rng.integers(0, side - part, 2))
        picture[y : y + part, x : x + part] = surface(rng, part, photos)
    tint = 0.2 + 0.8 * picture / 255
    return np.repeat(tint[..., None], 3, axis=2).astype(np.float32)
