# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out localization in one map of several scenes, beside the map of the photo's own scene.

    python benchmarks/merged_map.py SCENE_FOLDER [...] --out benchmarks/results/merged_map

For every photo its own scene is built from its leave-one-out problem (docs/data.md), so that its
observations, its descriptors and its image are in no map; the other scenes are built from their models.
The vocabulary is learned for every photo anew from the images that are in the map. Both maps are asked
in turn in one process. Writes OUT.json (all rows) and OUT.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from report import machine

from pyloc_core.localization import (
    STAGES,
    DenseRootSIFT,
    Features,
    Localization,
    Localizer,
    Map,
    MapOptions,
)
from pyloc_core.localization.images import read_gray
from pyloc_core.localization.scene import Query, Scene
from pyloc_core.pose import pose_error

# Ways to localize: in the map of the scene alone, in the map of all scenes, and in the map of all scenes
# but the photo's own, where no pose is right.
WAYS = ("alone", "merged", "elsewhere")


class Remembering:
    """The default descriptor, which describes no image twice while maps are built."""

    def __init__(self) -> None:
        self.inner, self.known = DenseRootSIFT(), dict[str, Features]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def dense_coarse(self, image: np.ndarray) -> Features:
        key = hashlib.sha1(np.ascontiguousarray(image).tobytes()).hexdigest()
        if key not in self.known:
            self.known[key] = self.inner.dense_coarse(image)
        return self.known[key]


def rows_of(folders: list[Path], threads: int, only: int | None) -> Iterator[dict[str, Any]]:
    descriptor = Remembering()
    scenes = {folder.name: Scene.open(folder) for folder in folders}
    whole = {
        folder.name: Map.build(
            folder / "sparse", folder / "images", descriptor=descriptor, progress=False
        )
        for folder in folders
    }
    for name, scene in scenes.items():
        others = {other: model for other, model in whole.items() if other != name}
        elsewhere = Map.merge(others, descriptor=descriptor)
        for problem in scene.problems[:only]:
            query = scene.query(problem)
            alone = scene.build_map(query, descriptor, MapOptions())
            assert query.name not in alone.image_names
            merged = Map.merge({**whole, name: alone}, descriptor=descriptor)
            assert f"{name}/{query.name}" not in merged.image_names
            yield from every_way(query, name, dict(zip(WAYS, (alone, merged, elsewhere))), threads)


def every_way(
    query: Query, scene: str, maps: dict[str, Map], threads: int
) -> Iterator[dict[str, Any]]:
    image = read_gray(query.image)
    for way, model in maps.items():
        localizer = Localizer(model)
        localizer.localize(image, query.camera, num_threads=threads)  # maps settle in memory
        found = localizer.localize_detailed(image, query.camera, num_threads=threads)
        row = {"query": query.name, "scene": scene, "way": way, **result(query, found)}
        if way == "merged":
            level = localizer.descriptor.dense_coarse(image)
            nearest = localizer.nearby_views(level, None)[0]
            row["first_image"] = model.image_names[nearest]
            row["first_right"] = model.scenes[model.view_scene[nearest]] == scene
        yield row


def result(query: Query, found: Localization) -> dict[str, Any]:
    pose = np.asarray(found.estimate.cam_from_world)
    angle, distance = pose_error(pose, query.cam_from_world)
    return {
        "success": bool(found.estimate.success),
        "rotation_error_deg": angle,
        "centre_error_over_depth": distance / query.median_depth,
        "chosen_scene": found.scene,
        "chosen": found.chosen,
        "views": len(found.views),
        "clusters": [
            {
                "scene": c.scene,
                "views": len(c.views),
                "points": c.num_points,
                "success": bool(c.estimate.success),
                "gain": float(c.estimate.gain),
                "reason": c.estimate.reason,
                "union_gain": float(c.union_gain) if c.estimate.success else None,
            }
            for c in found.clusters
        ],
        "stages": {stage: float(found.estimate.timings[stage]) for stage in STAGES},
    }


def errors(rows: list[dict[str, Any]]) -> str:
    """Localized in the right scene, medians and maxima of the errors; others count as infinite."""
    right = np.array([r["success"] and r["chosen_scene"] in ("", r["scene"]) for r in rows])
    angle, centre = (
        np.where(right, [r[name] for r in rows], np.inf)
        for name in ("rotation_error_deg", "centre_error_over_depth")
    )
    return (
        f"{right.sum()}/{len(rows)} | {np.median(angle):.4f} | {np.median(centre):.5f} | "
        f"{angle.max():.3f} | {centre.max():.5f}"
    )


def retrieved(rows: list[dict[str, Any]]) -> str:
    """How often retrieval named the right scene first and among the clusters that were tried, clusters
    on average, and how many of a wrong scene gave a pose."""
    first = sum(r["first_right"] for r in rows)
    within = sum(any(c["scene"] == r["scene"] for c in r["clusters"]) for r in rows)
    clusters = np.mean([len(r["clusters"]) for r in rows])
    return f"{first}/{len(rows)} | {within}/{len(rows)} | {clusters:.2f} | {_wrong(rows)}"


def _wrong(rows: list[dict[str, Any]]) -> str:
    wrong = [c for r in rows for c in r["clusters"] if c["scene"] != r["scene"]]
    collapsed = sum("fall on" in c["reason"] for c in wrong)
    return f"{sum(c['success'] for c in wrong)}/{len(wrong)} | {collapsed}/{len(wrong)}"


def document(rows: list[dict[str, Any]], info: dict[str, Any], note: str) -> str:
    scenes = list(dict.fromkeys(row["scene"] for row in rows))
    lines = [
        "# Localization in one map of several scenes",
        "",
        f"{', '.join(scenes)} in one map, every photo left out of it; `alone` is the leave-one-out map "
        "of the photo's own scene, asked in the same process (benchmarks/merged_map.py). Errors as in "
        "leave_one_out.md: degrees, camera centre over the median depth.",
        "",
        f"{info['date']}, {info['cpu']}, {info['isa']}, version {info['version']}. {note}".strip(),
        "",
        "| scene | way | right scene | rotation, median deg | centre / depth, median | rotation, max "
        "deg | centre / depth, max |",
        "|---|---|---|---|---|---|---|",
    ]
    for scene in scenes:
        for way in ("alone", "merged"):
            mine = [r for r in rows if r["scene"] == scene and r["way"] == way]
            lines.append(f"| {scene} | {way} | {errors(mine)} |")
    lines += [
        "",
        "Retrieval (a VLAD with 64 words of all scenes' images): the nearest image is of the right "
        "scene, the right scene is among the clusters, clusters tried on average. Clusters of a wrong "
        "scene: how many gave a pose, and how many had one that was refused because all points that "
        "agree lay in a few cells of the photo (localization/agreement.py).",
        "",
        "| scene | nearest right | among clusters | clusters | wrong, with a pose | wrong, collapsed |",
        "|---|---|---|---|---|---|",
    ]
    for scene in [*scenes, None]:
        mine = [r for r in rows if r["scene"] in (scene or scenes) and r["way"] == "merged"]
        mine = [r for r in mine if scene is None or r["scene"] == scene]
        lines.append(f"| {scene or 'all'} | {retrieved(mine)} |")
    lost = [r for r in rows if r["way"] == "elsewhere"]
    given, tried = sum(r["success"] for r in lost), sum(len(r["clusters"]) for r in lost)
    collapsed = sum("fall on" in c["reason"] for r in lost for c in r["clusters"])
    lines += [
        "",
        f"Every photo in the map of the other scenes alone, where no pose is right: {given} of {len(lost)} "
        f"photos were given one. Of {tried} clusters {collapsed} had one that was refused as collapsed.",
    ]
    lines += ["", "Milliseconds per stage, median over all photos:", ""]
    lines += ["| way | " + " | ".join(STAGES) + " |", "|---" * (len(STAGES) + 1) + "|"]
    for way in ("alone", "merged"):
        mine = [r["stages"] for r in rows if r["way"] == way]
        lines.append(
            f"| {way} | " + " | ".join(f"{1e3 * np.median([t[s] for t in mine]):.1f}" for s in STAGES)
            + " |"
        )  # fmt: skip
    lines += [
        "",
        "| photo | alone | merged | clusters of merged, the chosen one first |",
        "|---|---|---|---|",
    ]
    for row in (r for r in rows if r["way"] == "merged"):
        alone = next(
            r for r in rows
            if (r["query"], r["scene"], r["way"]) == (row["query"], row["scene"], "alone")
        )  # fmt: skip
        lines.append(
            f"| {row['scene']}/{row['query']} | {_error(alone)} | {_error(row)} | {_tried(row)} |"
        )
    return "\n".join(lines) + "\n"


def _error(row: dict[str, Any]) -> str:
    if not row["success"]:
        return "failed"
    return f"{row['rotation_error_deg']:.4f} / {row['centre_error_over_depth']:.5f}"


def _tried(row: dict[str, Any]) -> str:
    clusters = row["clusters"]
    order = sorted(range(len(clusters)), key=lambda i: i != row["chosen"])
    texts = []
    for i in order:
        c = clusters[i]
        gain = f"gain {c['union_gain']:.0f}" if c["success"] else "no pose"
        texts.append(f"{c['scene']} ({c['views']} images, {gain})")
    return ", ".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", type=int, help="photos per scene; default all")
    parser.add_argument("--note", default="", help="text under the head of the table")
    arguments = parser.parse_args()
    info, rows = machine(), []
    for row in rows_of(arguments.folders, arguments.threads, arguments.only):
        rows.append(row)
        print(row["scene"], row["query"], row["way"], _error(row), _tried(row), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": info, "rows": rows}
    arguments.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(document(rows, info, arguments.note))


if __name__ == "__main__":
    main()
