# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Test-time refinement of a depth network: SfM-TTR, its ablations, and photometric refinement.

    python benchmarks/sfm_ttr.py --out benchmarks/results/sfm_ttr

A small network learns metric depth on drawn drives through streets. It is then refined on each of several
drives that it has not seen, from a simulated SfM model (exact poses, noisy tracks with outliers, a scale of
its own), with the parts of the method left out one by one, and by the photometric loss between neighbouring
frames, and judged on the exact depth of all pixels. The trained weights are kept in the cache folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import machine
from sfm_ttr_report import BINS, draw, write

import pyloc_core as pl
from pyloc_core.depth import (
    PosedFrame,
    RefinementOptions,
    StepOptions,
    refine_network,
    refine_network_photometric,
    sfm_supervision,
)
from pyloc_core.depth.metrics import kitti_errors, mean_errors
from pyloc_core.models.depth_unet import DepthUNet
from pyloc_core.training.rendered_drives import RenderedDrives
from pyloc_core.training.rendered_scenes import DepthScene
from pyloc_core.training.simulated_sfm import simulated_sfm

SIZE, FRAMES, UNIT = (64, 96), 24, 0.37
SFM: dict[str, dict[str, Any]] = {
    "SfM-TTR": {},
    "mean of medians": {"estimator": "mean_of_medians"},
    "least squares": {"estimator": "least_squares"},
    "strict inliers": {"supervision": "consensus"},
    "all points": {"supervision": "all"},
    "weights off": {"weights": "uniform"},
    "whole network": {},
    "training mode": {"train_mode": True},
    "20 trials": {"trials": 20},
}


def pixels(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def trained(steps: int, cache: Path) -> tuple[DepthUNet, float]:
    """The network after `steps` batches of eight pictures, and the seconds that took (0: from the cache)."""
    network, path = DepthUNet(seed=0), cache / f"depth_unet_{steps}.pt"
    if path.is_file():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval(), 0.0
    start = time.perf_counter()
    scenes = list(RenderedDrives(count=250, views=4, size=SIZE, seed=1, spacing=1.2))
    images = np.concatenate([scene.images for scene in scenes])
    depth = torch.from_numpy(np.concatenate([scene.depth for scene in scenes]))[:, None]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        batch = rng.choice(len(images), 8, False)
        x, y = torch.cat([pixels(images[i]) for i in batch]), depth[batch]
        if rng.random() < 0.5:
            x, y = x.flip(3), y.flip(3)
        x = (x * float(np.exp(rng.normal(0, 0.15)))).clamp(0, 1)
        loss = (network(x).log() - y.log()).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return network.eval(), time.perf_counter() - start


def judged(network: DepthUNet, scene: DepthScene, frames: list[int]) -> dict[str, Any]:
    """KITTI's numbers, of metric depth and after median scaling; errors of metric depth by depth."""
    with torch.no_grad():
        found = np.stack([network(pixels(scene.images[i]))[0, 0].numpy() for i in frames])
    truth = scene.depth[frames]
    result: dict[str, Any] = {}
    for name, way in (("metric", None), ("median", "median")):
        each = [kitti_errors(d, t, alignment=way) for d, t in zip(found, truth)]
        result[name] = asdict(mean_errors(each))
    result["bins"] = []
    for low, high in BINS:
        part = (truth >= low) & (truth < high)
        error = np.abs(found - truth)[part]
        rel = float((error / truth[part]).mean())
        result["bins"].append([rel, float((error**2).mean() ** 0.5), int(part.sum())])
    return result


def sparse_errors(views: Any, scene: DepthScene, frames: list[int]) -> list[list[float]]:
    """Points of the SfM model by true depth: how many per frame, and their median relative error."""
    found = np.concatenate([view.depths for view in views]) / UNIT
    at = [
        scene.view(i).read_depth(view.xy * scene.depth.shape[2] / view.size[1])
        for i, view in zip(frames, views)
    ]
    truth, rows = np.concatenate(at), []
    for low, high in BINS:
        part = (truth >= low) & (truth < high)
        error = np.abs(found / truth - 1)[part]
        middle = float(np.median(error)) if part.any() else float("nan")
        rows.append([part.sum() / len(frames), middle])
    return rows


def photometric(
    network: DepthUNet, scene: DepthScene, frames: list[int], scale: float, per_frame: int = 0
) -> dict[str, Any]:
    """Refined for the sequence with 200 steps, or for each frame alone with `per_frame` steps."""
    K = pl.scale_intrinsics(scene.K[0], SIZE, SIZE)
    sequence = [
        PosedFrame(pixels(x), pixels(x)[0], K, np.column_stack([c[:, :3], UNIT * c[:, 3]]))
        for x, c in zip(scene.images, scene.cam_from_world)
    ]
    encoder = list(network.encoder.parameters())
    groups = [[i] for i in frames] if per_frame else [frames]
    options = StepOptions(steps=per_frame or 200)
    results = []
    for group in groups:
        done = refine_network_photometric(
            network, encoder, sequence, scale=scale, targets=group, options=options, progress=False
        )
        results.append(judged(network, scene, group))
        done.restore()
    return results[0] if len(results) == 1 else averaged(results)


def averaged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers of single frames as those of all of them."""
    mean: dict[str, Any] = {
        name: {k: float(np.mean([r[name][k] for r in results])) for k in results[0][name]}
        for name in ("metric", "median")
    }
    table = np.array([r["bins"] for r in results])
    count = table[..., 2]
    weight = count / np.maximum(count.sum(0), 1)
    rel = (np.nan_to_num(table[..., 0]) * weight).sum(0)
    rmse = (np.nan_to_num(table[..., 1]) ** 2 * weight).sum(0) ** 0.5
    mean["bins"] = np.stack([rel, rmse, count.sum(0)], 1).tolist()
    return mean


def run(network: DepthUNet, index: int) -> dict[str, Any]:
    """All refinements of one drive."""
    scene = RenderedDrives(count=100, views=FRAMES, size=SIZE, seed=7, spacing=0.5)[index]
    frames = list(range(1, FRAMES, 2))
    names = [f"frame_{i:03d}.png" for i in frames]
    model = simulated_sfm(scene, unit=UNIT, points=600, outliers=0.2, seed=index)
    views = sfm_supervision(model, names)
    images = {name: pixels(scene.images[i]) for name, i in zip(names, frames)}
    rows: dict[str, Any] = {"before": judged(network, scene, frames)}
    scale, seconds, losses = 1.0, {}, {}
    for name, change in SFM.items():
        part = network if name == "whole network" else network.encoder
        start = time.perf_counter()
        done = refine_network(
            network, part.parameters(), views, images, progress=False,
            options=RefinementOptions(**{"seed": index, **change}),
        )  # fmt: skip
        seconds[name] = time.perf_counter() - start
        losses[name] = [float(done.losses[:12].mean()), float(done.losses[-12:].mean())]
        rows[name] = {**judged(network, scene, frames), "scale": done.scale * UNIT}
        scale = done.scale if name == "SfM-TTR" else scale
        done.restore()
    start = time.perf_counter()
    rows["Ph-TTR"] = photometric(network, scene, frames, scale)
    seconds["Ph-TTR"] = time.perf_counter() - start
    rows["Ph-TTR per frame"] = photometric(network, scene, frames, scale, per_frame=17)
    rows["Ph-TTR true scale"] = photometric(network, scene, frames, 1 / UNIT)
    assert judged(network, scene, frames) == rows["before"]
    return {
        "rows": rows, "points": sparse_errors(views, scene, frames), "seconds": seconds,
        "losses": losses,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="NAME.md, NAME.json, NAME.png")
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1600, help="of the training")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sfm_ttr")
    parser.add_argument("--tables", action="store_true", help="write the tables of NAME.json again")
    given = parser.parse_args()
    if given.tables:
        report(json.loads(given.out.with_suffix(".json").read_text()), given.out)
        return
    torch.set_num_threads(1)
    network, seconds = trained(given.steps, given.cache)
    scenes = []
    for index in range(given.scenes):
        scenes.append(run(network, index))
        print(f"scene {index}: {sum(scenes[-1]['seconds'].values()):.0f} s", flush=True)
    data = {
        "machine": machine(), "torch": torch.__version__, "training": [given.steps, seconds],
        "size": SIZE, "parameters": sum(p.numel() for p in network.parameters()), "scenes": scenes,
    }  # fmt: skip
    given.out.with_suffix(".json").write_text(json.dumps(data) + "\n")
    report(data, given.out)


def report(data: dict[str, Any], out: Path) -> None:
    out.with_suffix(".md").write_text(write(data))
    draw(data, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
