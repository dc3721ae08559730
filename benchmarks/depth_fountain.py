# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Depth maps of real photos without weights, beside the models' triangulated points.

    python benchmarks/depth_fountain.py SCENE_FOLDER [...] --out benchmarks/results/depth_fountain

Writes OUT.md, OUT.json and OUT.png (depth maps of the first scene; no photo). A scene folder holds images/
and sparse/. For comparison: OpenCV's semi-global block matching on the rectified pair of every image and
its best source, and the sweep with that source alone.
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
from PIL import Image
from report import machine

from pyloc_core import compose_poses, inverse_pose
from pyloc_core.depth.depth_files import read_depth
from pyloc_core.depth.pipeline import DepthOptions, make_depth_maps, range_of
from pyloc_core.depth.posed_images import PosedImage, read_posed_images
from pyloc_core.depth.preview import depth_limits, depth_picture
from pyloc_core.depth.sweep_stereo import SweepStereo
from pyloc_core.depth.view_choice import choose_sources


def block_matching(view: PosedImage, source: PosedImage, near: float, far: float) -> np.ndarray:
    """Depths of cv2.StereoSGBM at the pixels of the points that `view` observes, 0 where it finds none, and
    everywhere where the pair is so far apart that rectified pictures do not overlap.

    Modes and penalties are those of OpenCV's documentation for 5 x 5 windows; the range of disparities is
    that of the depths.
    """
    relative = np.asarray(compose_poses(source.cam_from_world, inverse_pose(view.cam_from_world)))
    shift = np.array(
        [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    )  # OpenCV counts pixels from their centres
    K, K_source = view.camera.K - shift, source.camera.K - shift
    R, t = np.ascontiguousarray(relative[:, :3]), np.ascontiguousarray(relative[:, 3:])
    height, width = view.size
    straight = np.zeros(5)
    R1, R2, P1, P2, _, _, _ = cv2.stereoRectify(
        K, straight, K_source, straight, (width, height), R, t, flags=0, alpha=-1
    )
    upright = abs(P2[1, 3]) > abs(P2[0, 3])
    maps = [
        cv2.initUndistortRectifyMap(k, None, r, p, (width, height), cv2.CV_32FC1)
        for k, r, p in ((K, R1, P1), (K_source, R2, P2))
    ]
    grey = [cv2.cvtColor(v.image, cv2.COLOR_RGB2GRAY) for v in (view, source)]
    flat = [cv2.remap(g, *m, cv2.INTER_LINEAR) for g, m in zip(grey, maps)]
    if upright:
        flat = [np.ascontiguousarray(f.T) for f in flat]
    reach = P2[1, 3] if upright else P2[0, 3]  # focal length times baseline, with its sign
    centre = P1[1, 2] - P2[1, 2] if upright else P1[0, 2] - P2[0, 2]
    ends = sorted(-reach / depth + centre for depth in (near, far))
    low, count = int(np.floor(ends[0])), int(np.ceil((ends[1] - ends[0]) / 16) * 16)
    matcher = cv2.StereoSGBM_create(
        low, max(16, count), 5, P1=8 * 25, P2=32 * 25, disp12MaxDiff=1, uniquenessRatio=10,
        speckleWindowSize=100, speckleRange=2, mode=cv2.STEREO_SGBM_MODE_HH,
    )  # fmt: skip
    xy, _, _ = view.project_points()
    try:
        disparity = matcher.compute(*flat).astype(np.float32) / 16
    except cv2.error:
        return np.zeros(len(xy))
    if upright:
        disparity = disparity.T
    at = cv2.undistortPoints((xy - 0.5)[:, None], K, None, R=R1, P=P1)[:, 0]
    cell = np.clip(np.rint(at).astype(int), 0, (width - 1, height - 1))
    found = disparity[cell[:, 1], cell[:, 0]]
    inside = (np.abs(at - cell) <= 0.5).all(1) & (found > low - 1 + 0.5)
    depth_flat = -reach / np.where(inside, found - centre, 1)
    rays = np.column_stack([(at - P1[:2, 2]) / P1[0, 0], np.ones(len(at))]) @ R1
    return np.where(inside & (depth_flat > 0), depth_flat * rays[:, 2], 0)


def share(error: np.ndarray) -> str:
    return f"{100 * np.median(error):.3f} % | {100 * np.mean(error <= 0.03):.1f} %"


def pairs(views: list[PosedImage]) -> list[str]:
    """Rows of the comparison on one source per image: points with a depth, median, share within 3 %."""
    rows: dict[str, list[np.ndarray]] = {
        "cv2.StereoSGBM, rectified pair": [],
        "sweep, the same source": [],
    }
    seconds = dict.fromkeys(rows, 0.0)
    for view, chosen in zip(views, choose_sources(views, 1)):
        source = views[chosen[0]]
        near, far = range_of(view, [source])
        xy, truth, _ = view.project_points()
        start = time.process_time()
        estimates = [block_matching(view, source, near, far)]
        middle = time.process_time()
        depth, _ = SweepStereo()(view, [source], near, far)
        cell = np.minimum(xy.astype(int), np.array(view.size[::-1]) - 1)
        estimates.append(depth[cell[:, 1], cell[:, 0]])
        for name, found, spent in zip(
            rows, estimates, (middle - start, time.process_time() - middle)
        ):
            rows[name].append(np.where(found > 0, np.abs(found - truth) / truth, np.nan))
            seconds[name] += spent
    lines = []
    for name, parts in rows.items():
        every = np.concatenate(parts)
        known = every[np.isfinite(every)]
        if not len(known):
            lines.append(f"| {name} | refuses every pair | - | - | - | - |")
            continue
        total = 100 * np.mean(np.nan_to_num(every, nan=1) <= 0.03)
        lines.append(
            f"| {name} | {100 * len(known) / len(every):.1f} % | {share(known)} | {total:.1f} % | "
            f"{seconds[name] / len(views):.1f} |"
        )
    return lines


def table(report: dict[str, Any]) -> list[str]:
    lines = [
        "| image | pixels with a depth | points | median error | within 1 % | within 3 % | pixels kept | "
        "points kept | median error | within 1 % | within 3 % |",
        "|---" * 11 + "|",
    ]
    for image in report["images"]:
        a, b = image["before"], image["after"]
        cells = [f"{100 * image['estimated']:.1f} %", str(a["points"])]
        cells += [
            f"{100 * a['median']:.3f} %",
            *(f"{100 * a[k]:.1f} %" for k in ("within_1", "within_3")),
        ]
        cells += [f"{100 * image['kept']:.1f} %", f"{100 * b['covered']:.1f} %"]
        cells += [
            f"{100 * b['median']:.3f} %",
            *(f"{100 * b[k]:.1f} %" for k in ("within_1", "within_3")),
        ]
        lines.append(f"| {image['name']} | " + " | ".join(cells) + " |")
    means = [
        np.mean([i["estimated"] for i in report["images"]]),
        sum(i["before"]["points"] for i in report["images"]),
    ]
    texts = [f"{100 * means[0]:.1f} %", str(means[1])]
    for side, keys in (
        ("before", ("median", "within_1", "within_3")),
        ("after", ("covered", "median", "within_1", "within_3")),
    ):
        if side == "after":
            texts.append(f"{100 * np.mean([i['kept'] for i in report['images']]):.1f} %")
        for key in keys:
            value = 100 * np.mean([i[side][key] for i in report["images"]])
            texts.append(f"{value:.3f} %" if key == "median" else f"{value:.1f} %")
    return [*lines, "| **mean** | " + " | ".join(texts) + " |"]


def picture(out: Path, names: list[str], target: Path) -> None:
    """Depth maps before and after the check, one column per image, each with its bar of depths."""
    columns = []
    for name in names:
        raw, kept = (read_depth(out / folder / f"{name}.npy") for folder in ("raw", "depth"))
        limits = depth_limits(kept)
        scale = 480 / max(raw.shape)
        size = (round(raw.shape[1] * scale), round(raw.shape[0] * scale))
        maps = [cv2.resize(m, size, interpolation=cv2.INTER_NEAREST) for m in (raw, kept)]
        columns.append(np.vstack([depth_picture(m, limits) for m in maps]))
    height = max(c.shape[0] for c in columns)
    padded = [
        np.pad(c, ((0, height - c.shape[0]), (0, 6), (0, 0)), constant_values=255) for c in columns
    ]
    # 256 colours show no difference and take a third of the space.
    Image.fromarray(np.hstack(padded)).quantize(256).save(target, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-size", type=int, default=1024)
    parser.add_argument("--note", default="")
    args = parser.parse_args()
    info = machine()
    parts = [
        "# Depth of real photos without weights",
        "`pyloc-core depth` with its defaults, no weights: relative error of the depth at the pixels of the "
        "points that each image observes, before and after the check by other views. The points were "
        "triangulated from SIFT matches with the same poses; the sweep takes from them the range of depths "
        "and the choice of source images, no depth. They lie on texture: errors elsewhere may be larger.",
        f"{info['date']}, {info['cpu']}, {info['isa']}, version {info['version']}.",
    ]
    parts += [args.note] if args.note else []
    content: dict[str, Any] = {"machine": info, "scenes": {}}
    for number, scene in enumerate(args.scenes):
        views = read_posed_images(scene / "sparse", scene / "images", max_size=args.max_size)
        with tempfile.TemporaryDirectory() as folder:
            wall, cpu = time.perf_counter(), time.process_time()
            make_depth_maps(views, SweepStereo(), folder, DepthOptions())
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            report = json.loads((Path(folder) / "report.json").read_text())
            if number == 0:
                names = [
                    views[i].name for i in np.linspace(0, len(views) - 1, 4).round().astype(int)
                ]
                picture(Path(folder), names, args.out.with_suffix(".png"))
        parts += [f"## {scene.name}", "\n".join(table(report))]
        parts.append(
            f"{len(views)} images, longer side {max(views[0].size)}: {wall:.0f} s ({cpu:.0f} s of CPU), "
            f"{report['points']} points in the cloud."
        )
        head = (
            "| one source per image | points with a depth | median error | within 3 % | "
            "within 3 % of all points | CPU s per image |"
        )
        parts.append("\n".join([head, "|---" * 6 + "|", *pairs(views)]))
        content["scenes"][scene.name] = report | {"cpu_seconds": cpu}
    args.out.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    args.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
