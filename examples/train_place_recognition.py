# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Train a small network for place recognition on a drawn city, and see recall rise on another.

    pip install 'pyloc_core[training]'
    python examples/train_place_recognition.py

With pictures of your own, `read_table("places.csv")` or `read_folder("places")` stand where the drawn city is.
"""

from __future__ import annotations

import sys
import tempfile

import torch

from pyloc_core.training import PlaceLoss, PlaceOptions, RecallJudge, StreetScenes, train_places
from pyloc_core.training.distributed import Processes
from pyloc_core.training.place_networks import build

SIDE = 32


def main(epochs: int = 10, folder: str | None = None) -> tuple[float, float]:
    """Recall@1 on the city that was not seen, before and after."""
    # Six pictures of each place, with other views, light and cars in front.
    city = StreetScenes(streets=40, size=SIDE, pixels_per_metre=0.7, seed=1).places(6)
    other = StreetScenes(streets=15, size=SIDE, pixels_per_metre=0.7, seed=2).places(6)
    options = PlaceOptions(
        epochs=epochs, places=16, images=4, image_size=SIDE, learning_rate=2e-3, operations=1,
        decay_steps=100, patience=epochs,
    )  # fmt: skip
    network = build("small-mixer", SIDE)

    judge = RecallJudge(other, size=SIDE)
    here = Processes(0, 1, torch.device("cpu"))
    score, _ = judge(PlaceLoss(network, options).eval(), lambda describe, x: describe(x), here)
    with tempfile.TemporaryDirectory() as temporary:
        outcome = train_places(
            network, city, other, folder or temporary, options, device="cpu",
            progress_bar=sys.stderr.isatty(), tensorboard=False,
        )  # fmt: skip
    print(f"recall@1 before {1 - score:.1%}, after {outcome.steps} steps {1 - outcome.best:.1%}")
    return 1 - score, 1 - outcome.best


if __name__ == "__main__":
    main()
