# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth without weights, judged by the rules of the Robust Multi-View Depth benchmark, on drawn scenes.

    python benchmarks/depth_evaluation.py --out benchmarks/results/depth_evaluation.md

Drawn streets, open ground and rooms with exact depth are written in MVSNet's layout, read back by its reader
and evaluated like a benchmark. They are no benchmark: what the figures show is how the choices of the
evaluation (range, views, alignment) move them for one and the same method.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import pyloc_core as pl
from pyloc_core.depth import DepthSample, SweepPredictor, depth_table, evaluate_depth
from pyloc_core.depth.layouts import read_mvsnet
from pyloc_core.depth.patch_descriptors import grey_picture, patch_descriptors
from pyloc_core.training.rendered_scenes import DepthScene, RenderedScenes

KINDS, SIZE, VIEWS = ("street", "ground", "room"), (144, 192), 5


def write(folder: Path, scene: DepthScene) -> None:
    """One scene: all views are sources of the first, which alone has a depth map."""
    for part in ("images", "cams", "depths"):
        (folder / part).mkdir(parents=True)
    known = scene.depth[0][scene.depth[0] > 0]
    limits = f"{known.min() * 0.9} 0.1 64 {known.max() * 1.1}"
    for i, (image, pose, K) in enumerate(zip(scene.images, scene.cam_from_world, scene.K)):
        Image.fromarray(image).save(folder / "images" / f"{i:08d}.png")
        rows = [*pose.tolist(), [0, 0, 0, 1]]
        text = ["extrinsic", *(" ".join(map(repr, r)) for r in rows), "", "intrinsic"]
        text += [*(" ".join(map(repr, r)) for r in K.tolist()), "", limits]
        (folder / "cams" / f"{i:08d}_cam.txt").write_text("\n".join(text))
    np.save(folder / "depths" / "00000000.npy", scene.depth[0])
    others = " ".join(f"{i} 1.0" for i in range(1, len(scene.images)))
    (folder / "pair.txt").write_text(f"1\n0\n{len(scene.images) - 1} {others}\n")


class PlainCascade(SweepPredictor):
    """The operators one after the other, no smoothing: two sweeps, the expectation around the peak."""

    def __call__(self, sample: DepthSample) -> np.ndarray:
        reference, *sources = (self._posed(view) for view in (sample.reference, *sample.sources))
        size = reference.size
        maps = [patch_descriptors(grey_picture(v.image, size)) for v in (reference, *sources)]
        K, *Ks = (pl.scale_intrinsics(v.camera.K, size, size) for v in (reference, *sources))
        world = pl.inverse_pose(reference.cam_from_world)
        poses = np.stack([pl.compose_poses(v.cam_from_world, world) for v in sources])
        near, far = self.limits(sample, sources[0].camera.K, poses, size)
        for _ in range(2):
            depths = pl.log_depth_planes(near, far, 64)
            volume = pl.plane_sweep(
                maps[0], np.stack(maps[1:]), K, np.stack(Ks), poses, depths, reduce="valid_mean"
            )
            depth = pl.soft_argmax_depth(volume, depths, sharpness=30.0, window=2)
            sure = pl.volume_confidence(volume, sharpness=30.0, around="peak") > 0.5
            near, far = pl.refine_depth_range(depth, near, far, valid=sure)
        return depth


def constant(sample: DepthSample) -> np.ndarray:
    """The middle of the given range, in the logarithm: what knows nothing."""
    near, far = sample.depth_range or (1.0, 1.0)
    return np.full(SIZE, (near * far) ** 0.5)


METHODS = {
    "sweep, range from the cameras": (SweepPredictor(), {}),
    "the same, best set of views": (SweepPredictor(), {"view_order": "quasi_optimal"}),
    "the same, median scaling": (SweepPredictor(), {"alignment": "median"}),
    "the same, correlation of at least 0.9": (
        SweepPredictor(least_confidence=0.9),
        {"sparse": True},
    ),
    "sweep, range given": (SweepPredictor(range_from="given"), {}),
    "plain operators, range from the cameras": (PlainCascade(), {}),
    "plain operators, range given": (PlainCascade(range_from="given"), {}),
    "one depth, range given": (constant, {}),
    "one depth, median scaling": (constant, {"alignment": "median"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=4, help="scenes of each kind")
    given = parser.parse_args()
    found: dict[str, list] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            scenes = RenderedScenes(given.count, VIEWS, SIZE, seed=7, kinds=(kind,), textures=32)
            for i, scene in enumerate(scenes):
                write(Path(folder) / kind / f"{i:03d}", scene)
            read = read_mvsnet(Path(folder) / kind, name=kind)
            for name, (predict, options) in METHODS.items():
                found[name].append(evaluate_depth(read, predict, **options))
                print(kind, name, found[name][-1].mean, flush=True)
    table = depth_table(found)
    print(table)
    if given.out:
        given.out.write_text(
            REPORT.format(table=table, count=given.count, views=VIEWS, h=SIZE[0], w=SIZE[1])
        )


REPORT = """<!-- SPDX-FileCopyrightText: 2026 The pyloc_core authors -->
<!-- SPDX-License-Identifier: Apache-2.0 -->
# Depth without weights by the benchmark's rules, on drawn scenes

`python benchmarks/depth_evaluation.py --out benchmarks/results/depth_evaluation.md`: {count} scenes of each
kind, seed 7, {views} views of {h} x {w} pixels, exact depth everywhere, each scene with depths of at least
1 : 20. rel and tau (share within 3 %) in percent; seconds an image on a machine that did other work
meanwhile. Not a benchmark, and not comparable with its tables.

{table}
"""


if __name__ == "__main__":
    main()
