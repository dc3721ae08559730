# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Mean matching accuracy on a folder laid out like HPatches, RootSIFT against a network.

Without a folder it writes a small one itself: random textures, seen again darker and from elsewhere.
S2DNet takes part when a file with its weights is given (see docs/models.md).

    python examples/matching_accuracy.py [FOLDER [S2DNET_WEIGHTS]]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pyloc_core.localization import DenseRootSIFT, hpatches


def write_folder(folder: Path, pairs: int = 2) -> Path:
    """A sequence of each kind, with `pairs` pictures beside the first."""
    rng = np.random.default_rng(0)
    for name in ("i_texture", "v_texture"):
        (folder / name).mkdir(parents=True)
        first = np.zeros((180, 240, 3), np.float32)
        for cells in (6, 12, 24, 48):
            noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
            first += cv2.resize(noise, (240, 180), interpolation=cv2.INTER_CUBIC)
        first = (127 + 40 * first).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / name / "1.ppm"), first)
        for index in range(2, 2 + pairs):
            homography, picture = np.eye(3), first * (1 - 0.2 * index)
            if name.startswith("v"):
                turn = cv2.getRotationMatrix2D((120.0, 90.0), 5.0 * index, 1 + 0.03 * index)
                homography = np.vstack([turn, [2e-4, 1e-4 * index, 1.0]])
                picture = cv2.warpPerspective(first, homography, (240, 180))
            cv2.imwrite(str(folder / name / f"{index}.ppm"), picture.astype(np.uint8))
            np.savetxt(folder / name / f"H_1_{index}", homography)
    return folder


def main(folder: Path | None = None, weights: Path | None = None) -> dict[str, dict[str, Any]]:
    """Prints a table; returns the results by method."""
    matchers = {"RootSIFT": hpatches.descriptor_matcher(DenseRootSIFT())}
    if weights is not None:
        from pyloc_core import models
        from pyloc_core.models.s2dnet.matching import match_points

        network = models.create("s2dnet").load_official(weights)
        matchers["S2DNet"] = lambda a, xy, b: match_points(network, a, xy, b)
    with tempfile.TemporaryDirectory() as own:
        data = folder or write_folder(Path(own))
        results = {
            name: hpatches.mean_matching_accuracy(data, matcher, progress=folder is not None)
            for name, matcher in matchers.items()
        }
    print(f"{'method':<10} {'kind':<13} {'1 px':>6} {'3 px':>6} {'10 px':>6}  matches per pair")
    for name, result in results.items():
        for kind, accuracy in result["mma"].items():
            shown = " ".join(f"{accuracy[i]:6.3f}" for i in (0, 2, 9))
            print(f"{name:<10} {kind:<13} {shown}  {result['matches_per_pair']:.0f}")
    return results


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
