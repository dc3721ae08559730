# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The courtyard of the demo: a brick corner with pictures, crates on gravel, known cameras.

The textures are pictures that lie inside scikit-image's wheel and are in the public domain or CC0;
nothing is downloaded. Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyloc_core._extras import require
from pyloc_core.camera import Camera
from pyloc_core.localization.demo_render import Array, Block, Face, cv2, light

Image = NDArray[np.float32]

# Walls: the inner corner of a yard, 11 x 9 m, with the back wall at y = 9 and the side wall at x = 0.
WIDTH, DEPTH, HEIGHT = 11.0, 9.0, 4.2

# Textures per block: front, right, back, left, top.
BLOCKS = (
    Block((2.6, 6.2), (1.7, 1.3), 1.5, 18.0, ("coffee", "retina", "page", "coins", "camera")),
    Block((5.4, 6.9), (1.2, 1.2), 2.5, -12.0, ("rocket", "ihc", "moon", "hubble", "grass")),
    Block((8.0, 5.6), (1.9, 1.4), 1.2, -24.0, ("chelsea", "hubble", "text", "camera", "ihc")),
    Block((4.6, 4.2), (1.0, 1.0), 0.8, 33.0, ("ihc", "coins", "retina", "page", "moon")),
    Block((2.5, 6.2), (0.8, 0.7), 0.7, 41.0, ("hubble", "page", "moon", "chelsea", "coins"), 1.5),
    Block((6.6, 3.6), (0.7, 0.7), 0.5, 5.0, ("page", "camera", "coins", "moon", "retina")),
)
FILES = {
    "brick": "brick.png", "camera": "camera.png", "chelsea": "chelsea.png", "coffee": "coffee.png",
    "coins": "coins.png", "grass": "grass.png", "gravel": "gravel.png", "ihc": "ihc.png",
    "hubble": "hubble_deep_field.jpg", "moon": "moon.png", "page": "page.png",
    "retina": "retina.jpg", "rocket": "rocket.jpg", "text": "text.png",
}  # fmt: skip
# Pictures on the walls: texture, wall, left edge and bottom in metres, width, height.
POSTERS: tuple[tuple[str, str, float, float, float, float], ...] = (
    ("hubble", "back", 1.0, 1.9, 1.7, 1.5),
    ("chelsea", "back", 3.6, 2.0, 1.9, 1.25),
    ("text", "back", 6.7, 2.6, 1.6, 0.65),
    ("rocket", "back", 8.7, 1.5, 1.8, 1.3),
    ("coffee", "side", 2.4, 1.5, 2.0, 1.4),
    ("camera", "side", 5.2, 1.9, 1.4, 1.4),
    ("retina", "side", 7.3, 1.6, 1.3, 1.3),
)


@dataclass(frozen=True)
class View:
    """One picture to take: file name, camera, pose, exposure; queries are named query_*."""

    name: str
    camera: Camera
    cam_from_world: Array
    exposure: float


def courtyard(seed: int = 0) -> list[Face]:
    """All rectangles of the scene with their light baked in."""
    rng = np.random.default_rng(seed)
    textures = {name: load_texture(file) for name, file in FILES.items()}
    textures["brick"] = _upright_bricks(textures["brick"])
    ground = _tiled(textures["gravel"], (6, 5), (0.86, 0.83, 0.78), 1.0, rng)
    back = _tiled(textures["brick"], (5, 2), (0.95, 0.62, 0.50), 1.35, rng)
    side = _tiled(textures["brick"], (4, 2), (0.90, 0.66, 0.54), 1.35, rng)
    corner = np.array([0.0, DEPTH, HEIGHT])
    x, y, z = np.eye(3)
    faces = [
        Face(np.array([0.0, DEPTH, 0.0]), WIDTH * x, -(DEPTH + 1.5) * y, ground),
        Face(corner, WIDTH * x, -HEIGHT * z, back),
        Face(corner - (DEPTH + 1.5) * y, (DEPTH + 1.5) * y, -HEIGHT * z, side),
    ]
    faces += [_poster(textures[poster[0]], *poster[1:]) for poster in POSTERS]
    for block in BLOCKS:
        faces += _sides(block, textures)
    for index, face in enumerate(faces):
        light(face, BLOCKS, floor=index == 0)
    return faces


def views(references: int = 10, queries: int = 2) -> list[View]:
    """References on an arc around the yard, queries between and nearer, two kinds of camera."""
    wide = Camera("SIMPLE_RADIAL", 800, 600, (640.0, 400.0, 300.0, -0.06))
    tall = Camera("PINHOLE", 640, 800, (760.0, 758.0, 318.5, 402.0))
    target = np.array([4.6, 6.6, 1.2])
    result = []
    for i in range(references):
        angle = np.radians(-38.0 + 88.0 * i / max(1, references - 1))
        radius = 6.6 + 0.7 * np.cos(2.3 * i)
        eye = target + radius * np.array([np.sin(angle), -np.cos(angle), 0.0])
        eye[2] = 1.5 + 0.5 * np.sin(1.7 * i)
        aim = target + 0.5 * np.array([np.sin(3.1 * i), 0.0, 0.4 * np.cos(1.3 * i)])
        camera = tall if i % 4 == 2 else wide
        name = f"view_{i:02d}.jpg"
        pose = look_at(eye, aim, roll=2.0 * np.sin(2.1 * i))
        result.append(View(name, camera, pose, float(1.0 + 0.12 * np.sin(1.9 * i))))
    for i in range(queries):
        angle = np.radians(-14.0 + 41.0 * i)
        radius = 5.3 + 0.8 * i
        eye = target + radius * np.array([np.sin(angle), -np.cos(angle), 0.0])
        eye[2] = 1.25 + 0.55 * i
        camera = tall if i % 2 else wide
        pose = look_at(eye, target + np.array([0.2, 0.0, 0.1 * i]), roll=4.0 - 7.0 * i)
        result.append(View(f"query_{i:02d}.jpg", camera, pose, 0.88 + 0.2 * i))
    return result


def look_at(eye: Array, target: Array, roll: float = 0.0) -> Array:
    """cam_from_world (3, 4) of a camera at `eye` that sees `target` in its centre; roll in degrees."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])
    return np.hstack([rotation, -rotation @ eye[:, None]])


def load_texture(file: str) -> Image:
    """RGB in [0, 1] of a picture that scikit-image ships; never fetches one."""
    skimage = require("skimage", "the demo scene")
    path = Path(skimage.__file__).parent / "data" / file
    if not path.is_file():
        raise FileNotFoundError(
            f"scikit-image {skimage.__version__} does not ship {file}, a texture of the demo scene"
        )
    with require("PIL.Image", "the demo scene").open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.float32) / 255.0


def _upright_bricks(picture: Image) -> Image:
    """The pavement of brick.png seen straight on and turned into courses of a wall."""
    seen = np.array([[72, 0], [425, 0], [497, 512], [10, 512]], np.float32)
    flat = np.array([[0, 0], [512, 0], [512, 512], [0, 512]], np.float32)
    warped = cv2.warpPerspective(
        picture, cv2.getPerspectiveTransform(seen, flat), (512, 512), borderMode=cv2.BORDER_REFLECT
    )
    return np.ascontiguousarray(np.rot90(warped))


def _tiled(
    tile: Image,
    repeats: tuple[int, int],
    tint: Sequence[float],
    gain: float,
    rng: np.random.Generator,
) -> Image:
    """A large surface of mirrored tiles, with stains that tell its parts apart."""
    columns, rows = repeats
    grid = []
    for r in range(rows):
        line = [tile[:: 1 - 2 * (r % 2), :: 1 - 2 * (c % 2)] for c in range(columns)]
        grid.append(np.concatenate(line, axis=1))
    surface = np.concatenate(grid, axis=0)
    h, w = surface.shape[:2]
    stains = np.zeros((h, w), np.float32)
    for cells, strength in ((4, 0.10), (12, 0.09), (40, 0.09), (150, 0.07)):
        noise = rng.standard_normal((cells, cells * columns // rows)).astype(np.float32)
        stains += strength * cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC)
    return np.asarray(
        surface * (1.0 + stains[..., None]) * np.array(tint, np.float32) * gain, np.float32
    )


def _poster(
    picture: Image, wall: str, left: float, bottom: float, width: float, height: float
) -> Face:
    """A framed picture two centimetres in front of a wall."""
    x, y, z = np.eye(3)
    if wall == "back":
        corner, along = np.array([left, DEPTH - 0.02, bottom + height]), x
    else:
        corner, along = np.array([0.02, left, bottom + height]), y
    return Face(corner, width * along, -height * z, _framed(picture, width / height, 0.96))


def _sides(block: Block, textures: dict[str, Image]) -> list[Face]:
    """The four sides and the top of a block."""
    c, s = np.cos(np.radians(block.yaw)), np.sin(np.radians(block.yaw))
    along, back = np.array([c, s, 0.0]), np.array([-s, c, 0.0])
    up = np.array([0.0, 0.0, block.height])
    middle = np.array([*block.centre, block.base])
    half_x, half_y = along * block.size[0] / 2, back * block.size[1] / 2
    front, right, rear, left, top = (textures[name] for name in block.textures)
    plan = ((-half_x - half_y, 2 * half_x, front), (half_x - half_y, 2 * half_y, right),
            (half_x + half_y, -2 * half_x, rear), (half_y - half_x, -2 * half_y, left))  # fmt: skip
    faces = []
    for start, edge, picture in plan:
        ratio = float(np.linalg.norm(edge)) / block.height
        faces.append(Face(middle + start + up, edge, -up, _framed(picture, ratio, 0.8), block))
    ratio = block.size[0] / block.size[1]
    corner = middle - half_x + half_y + up
    faces.append(Face(corner, 2 * half_x, -2 * half_y, _framed(top, ratio, 0.8), block))
    return faces


def _framed(picture: Image, ratio: float, frame: float) -> Image:
    """The middle of a picture cropped to width / height = ratio, with a thin wooden border."""
    h, w = picture.shape[:2]
    width, height = min(w, int(h * ratio)), min(h, int(w / ratio))
    x, y = (w - width) // 2, (h - height) // 2
    out = picture[y : y + height, x : x + width].copy()
    border = max(3, min(width, height) // 28)
    wood = frame * np.array([0.42, 0.30, 0.19], np.float32)
    out[:border], out[-border:], out[:, :border], out[:, -border:] = wood, wood, wood, wood
    return out
