# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Does a small MVSAnywhere learn? Errors on drawn scenes that it has not seen, before and after training.

    python benchmarks/depth_training.py --out benchmarks/results/depth_training

Networks with random weights, about a hundredth of the published size, learn on drawn streets, rooms and open
ground. Held-out scenes have other textures, layouts and views. Compared are the two variants (dot products, and
metadata), training with and without noise on the known range, each judged in three ranges of depth: the known
one, the known one widened at both ends, and that of the cameras with one refinement. Without weights: the plane
with the highest correlation of patches.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from report import machine

from pyloc_core import log_depth_planes, plane_sweep, scale_intrinsics
from pyloc_core.depth.metrics import benchmark_errors, mean_errors
from pyloc_core.depth.patch_descriptors import grey_picture, patch_descriptors
from pyloc_core.training import DepthOptions, RenderedScenes, train_depth
from pyloc_core.training.depth_batches import plain_tuple
from pyloc_core.training.depth_command import build
from pyloc_core.training.depth_task import DepthTask
from pyloc_core.training.loss import Batch

SIZE, VIEWS, PLANES = (64, 96), 3, 16
RATE, BATCH = 1e-3, 4
WIDER = (0.4, 2.5)  # factors on near and far
RANGES = {"known": "known", "wider": f"{WIDER[0]:g} near to {WIDER[1]:g} far", "cameras": "cameras"}
MEASURES = {"abs ln": ("log", 2), "rel": ("abs_rel", 1), "inliers": ("inliers", 1)}
RUNS = {
    "dot": ("small-dot", {}),
    "hero": ("small-hero", {}),
    "dot, exact range": ("small-dot", {"near_noise": 0.0, "far_noise": 0.0}),
}
Errors = dict[str, dict[str, float]]


def judged(network: Any, held_out: RenderedScenes) -> Errors:
    """Relative error and inliers in percent, by range."""
    task, found = DepthTask(network).eval(), {}
    items = [plain_tuple(scene, VIEWS - 1) for scene in held_out]
    batch: Batch = {k: torch.stack([item[k] for item in items]) for k in items[0]}
    for name in RANGES:
        given = dict(batch)
        if name == "wider":
            given["near"], given["far"] = batch["near"] * WIDER[0], batch["far"] * WIDER[1]
        with torch.no_grad():
            depth = task.estimated(given, known_range=name != "cameras").depth
        found[name] = errors(depth.numpy(), batch["depth"].numpy())
    return found


def errors(depth: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    mean = mean_errors([benchmark_errors(d, t, clip=None) for d, t in zip(depth, truth)])
    logs = [float(np.abs(np.log(d / t)[t > 0]).mean()) for d, t in zip(depth, truth)]
    return {"abs_rel": mean.abs_rel, "inliers": mean.inliers, "log": float(np.mean(logs))}


def without_weights(held_out: RenderedScenes, cell: int, planes: int) -> dict[str, float]:
    """The plane of the highest mean correlation of 5 x 5 patches, cells of `cell` pixels, known range."""
    h, w = SIZE[0] // cell, SIZE[1] // cell
    to_map = torch.from_numpy(scale_intrinsics(np.eye(3), SIZE, (h, w)))
    depths, truths = [], []
    for scene in held_out:
        item = plain_tuple(scene, VIEWS - 1)
        maps = np.stack([patch_descriptors(grey_picture(image, (h, w))) for image in scene.images])
        steps = log_depth_planes(float(item["near"]), float(item["far"]), planes)
        volume = plane_sweep(
            torch.from_numpy(maps[0]), torch.from_numpy(maps[1:]), to_map @ item["K_reference"],
            to_map @ item["K_sources"], item["source_from_reference"],
            torch.as_tensor(np.asarray(steps), dtype=torch.float32),
        )  # fmt: skip
        chosen = np.asarray(steps)[volume.argmax(0).numpy()]
        depths.append(chosen.repeat(cell, 0).repeat(cell, 1))
        truths.append(scene.depth[0])
    return errors(np.stack(depths), np.stack(truths))


def best_constant(held_out: RenderedScenes) -> dict[str, float]:
    """The constant of least mean relative error, chosen for each image: the median by weights 1 / d."""
    chosen = []
    for scene in held_out:
        depth = np.sort(scene.depth[0].ravel())
        below = np.cumsum(1 / depth)
        chosen.append(np.full(SIZE, depth[np.searchsorted(below, below[-1] / 2)]))
    return errors(np.stack(chosen), np.stack([scene.depth[0] for scene in held_out]))


def trained(name: str, seed: int, steps: int, data: tuple[RenderedScenes, RenderedScenes]) -> dict:
    """A run's errors before and after, and what it took."""
    kind, changed = RUNS[name]
    network = build(kind, seed)
    options = DepthOptions(
        epochs=steps // (len(data[0]) // BATCH), patience=10**6, batch=BATCH, accumulation=1,
        sources=VIEWS - 1, seed=seed, learning_rate=RATE, mono_rate=RATE, decoder_rate=RATE,
        clip_norm=1.0, jitter=0.1, first_drop=int(0.7 * steps), second_drop=int(0.9 * steps),
        fade_steps=steps, final_share=0.02, **changed,
    )  # fmt: skip
    row: dict[str, Any] = {"run": name, "seed": seed, "before": judged(network, data[1])}
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        outcome = train_depth(
            network, data[0], RenderedScenes(count=4, views=VIEWS, size=SIZE, seed=3), folder,
            options, device="cpu", progress_bar=False, tensorboard=False,
        )  # fmt: skip
        row |= {"minutes": (time.process_time() - start) / 60, "steps": outcome.steps}
    row["after"] = judged(network, data[1])
    return row


def markdown(content: dict[str, Any]) -> str:
    rows, at = content["rows"], content["machine"]
    lines = [
        "# Training for multi-view depth, on drawn scenes", "",
        f"Made by `benchmarks/depth_training.py` on {at['date']}, {at['cpu']}, one thread (shared "
        f"machine), PyTorch {content['torch']}. {SIZE[0]} x {SIZE[1]} pixels, {VIEWS - 1} sources, "
        f"{PLANES} planes; {content['scenes']} scenes to learn from, {content['held_out']} held "
        "out (other textures, layouts and views; largest depth at least 20 times the smallest in every "
        "view). All parts learn at "
        f"{RATE:g} at the start, {BATCH} tuples a step. Minutes are of one core.", "",
        "abs ln: mean absolute difference of the logarithms of depth. rel and inliers: mean relative error and "
        "share of pixels within 3 %, in per cent (Robust Multi-View Depth benchmark). Three ranges of depth: "
        f"the true one, {RANGES['wider']}, and that of the cameras with one refinement, as the network is "
        "used.", "",
        "| network | seed | minutes | steps | "
        + " | ".join(f"{what}, {r}" for what in MEASURES for r in RANGES) + " |",
        "|---" * (4 + len(MEASURES) * len(RANGES)) + "|",
    ]  # fmt: skip
    for row in rows:
        for when in ("before", "after"):
            took = ["0", "0"] if when == "before" else [f"{row['minutes']:.1f}", str(row["steps"])]
            cells = [f"{row['run']}, {when}", str(row["seed"]), *took]
            for name, digits in MEASURES.values():
                cells += [f"{row[when][r][name]:.{digits}f}" for r in RANGES]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Without weights, in the true range: the plane of the highest mean correlation of "
              "5 x 5 patches.", "",
              "| cells of | planes | abs ln | rel | inliers |", "|---|---|---|---|---|"]  # fmt: skip
    for base in content["baseline"]:
        lines.append(
            f"| {base['cell']} pixels | {base['planes']} | {base['log']:.2f} | {base['abs_rel']:.1f} "
            f"| {base['inliers']:.1f} |"
        )
    lines += [
        "", "A single depth for all of an image, the one of least relative error for it: "
        f"{content['constant']['abs_rel']:.1f} % ({content['constant']['log']:.2f} abs ln). What is near the "
        "camera weighs much in this measure.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="results, without ending: .json and .md")
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = tuple(
        RenderedScenes(count=count, views=VIEWS, size=SIZE, seed=seed)
        for count, seed in ((given.scenes, 1), (given.held_out, 2))
    )
    for part in data:
        list(part)
    content: dict[str, Any] = {
        "machine": machine(), "torch": torch.__version__, "scenes": given.scenes,
        "held_out": given.held_out, "rows": [],
        "baseline": [
            {"cell": cell, "planes": planes, **without_weights(data[1], cell, planes)}
            for cell, planes in ((4, PLANES), (1, PLANES), (1, 128))
        ],
        "constant": best_constant(data[1]),
    }  # fmt: skip
    for name in given.runs:
        for seed in range(given.seeds):
            content["rows"].append(trained(name, seed, given.steps, data))
            print(json.dumps(content["rows"][-1]), flush=True)
            text = markdown(content)
            if given.out is not None:
                given.out.with_suffix(".md").write_text(text)
                given.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
