# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""What SALAD keeps of a photo for place recognition, as a picture (thesis, Fig. 4.3).

    python examples/retrieval_heat_map.py PHOTO OUT.png [WEIGHTS]

WEIGHTS is `dino_salad.ckpt` or a file of CliqueMining (see docs/models.md). Without it the network is
random, and the picture is noise that shows the manner alone. Without a photo, one is made.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyloc_core import models
from pyloc_core.localization.images import read_image
from pyloc_core.models.salad.heat_map import draw_heat_map


def made_photo() -> np.ndarray:
    """A sky, a house with windows, a road."""
    photo = np.zeros((240, 320, 3), np.uint8)
    photo[:140] = (150, 190, 235)
    photo[140:] = (95, 95, 100)
    photo[50:170, 70:250] = (170, 110, 80)
    photo[70:150:40, 90:240:40] = 30
    for row in (70, 115):
        for column in range(90, 240, 40):
            photo[row : row + 25, column : column + 20] = (40, 50, 70)
    noise = np.random.default_rng(0).normal(0, 4, photo.shape)
    return (photo + noise).clip(0, 255).astype(np.uint8)


def main(
    photo: Path | None = None, out: Path | None = None, weights: Path | None = None, **options: Any
) -> np.ndarray:
    """Writes the picture; returns the weights (h, w) of the patches."""
    image = made_photo() if photo is None else read_image(photo)
    model = models.create("salad", **options)
    if weights is None:
        print("random weights: the picture shows noise, not what the trained network keeps")
    else:
        model.load_official(weights)
    kept = model.heat_map(image)
    path = out or Path(tempfile.gettempdir()) / "retrieval_heat_map.png"
    Image.fromarray(draw_heat_map(image, kept)).save(path)
    print(f"{kept.shape[0]} x {kept.shape[1]} patches keep {kept.mean():.1%} of their mass: {path}")
    return kept


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
