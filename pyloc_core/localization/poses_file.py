# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Poses of many photos as JSON (everything), CSV (tables) or text (name, quaternion, translation)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyloc_core.camera import Camera
from pyloc_core.pose import PoseEstimate, camera_center, quaternion_from_rotation

SUFFIXES = (".json", ".csv", ".txt")
_CSV_FIELDS = (
    "image", "success", "qw", "qx", "qy", "qz", "tx", "ty", "tz", "center_x", "center_y", "center_z",
    "rotation_std_deg", "center_std", "gain", "num_points", "num_consistent", "seconds", "reason", "scene",
)  # fmt: skip


def check_suffix(path: str | Path) -> Path:
    """The path, or ValueError if its ending names no format."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out must end in {', '.join(SUFFIXES)}, got {path}")
    return Path(path)


def standard_deviations(estimate: PoseEstimate) -> tuple[float, float]:
    """One sigma of the rotation (degrees) and of the camera centre (units of the points).

    The covariance is that of the left update R <- exp(w) R, t <- t + d; to first order the centre
    C = -R^T t moves by -R^T ([t]x w + d).
    """
    cov = np.asarray(estimate.covariance, np.float64)
    if not np.isfinite(cov).all():
        return float("inf"), float("inf")
    rotation, (x, y, z) = estimate.cam_from_world[:, :3], estimate.cam_from_world[:, 3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    jacobian = -rotation.T @ np.hstack([cross, np.eye(3)])
    centre = float(np.sqrt(max(0.0, np.trace(jacobian @ cov @ jacobian.T))))
    return float(np.degrees(np.sqrt(max(0.0, np.trace(cov[:3, :3]))))), centre


def pose_entry(image: str, camera: Camera | None, estimate: PoseEstimate) -> dict[str, Any]:
    """One photo's result as plain numbers; deviations that are not known are None."""
    pose: npt.NDArray[np.float64] = np.asarray(estimate.cam_from_world, np.float64)
    rotation_std, centre_std = standard_deviations(estimate)
    covariance = np.asarray(estimate.covariance, np.float64)
    known = bool(np.isfinite(covariance).all())
    return {
        "image": image,
        "success": bool(estimate.success),
        "reason": estimate.reason,
        "scene": estimate.scene,
        "cam_from_world": pose.tolist(),
        "qvec_wxyz": np.asarray(quaternion_from_rotation(pose[:, :3])).tolist(),
        "tvec": pose[:, 3].tolist(),
        "center": np.asarray(camera_center(pose)).tolist(),
        "rotation_std_deg": rotation_std if known else None,
        "center_std": centre_std if known else None,
        "covariance": covariance.tolist() if known else None,
        "camera": None if camera is None else camera.to_dict(),
        "gain": float(estimate.gain),
        "cost": float(estimate.cost),
        "num_points": len(estimate.inlier_probability),
        "num_consistent": int(estimate.num_consistent),
        "timings": {stage: float(value) for stage, value in estimate.timings.items()},
        "seconds": float(estimate.timings.get("total", sum(estimate.timings.values()))),
    }


def write_poses(path: str | Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write the entries of `pose_entry` in the format that the path's ending names.

    .json keeps everything, .csv one row per photo, .txt "name qw qx qy qz tx ty tz" for the photos
    that were localized, under a line "# scene NAME" where the map held several. Poses map world to
    camera.
    """
    path = check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps({"poses": list(entries)}, indent=1) + "\n")
    elif path.suffix.lower() == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, _CSV_FIELDS)
            writer.writeheader()
            writer.writerows(_csv_row(entry) for entry in entries)
    else:
        path.write_text("".join(line + "\n" for line in _text_lines(entries)))


def _text_lines(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Poses of different scenes have nothing to do with each other: each scene has its heading."""
    scene = ""
    for e in sorted((e for e in entries if e["success"]), key=lambda e: str(e.get("scene", ""))):
        if e.get("scene", "") != scene:
            scene = e["scene"]
            yield f"# scene {scene}"
        yield " ".join([e["image"], *(f"{v:.12g}" for v in [*e["qvec_wxyz"], *e["tvec"]])])


def _csv_row(entry: dict[str, Any]) -> dict[str, Any]:
    row = {name: entry.get(name) for name in _CSV_FIELDS if name in entry}
    row.update(zip(("qw", "qx", "qy", "qz"), entry["qvec_wxyz"]))
    row.update(zip(("tx", "ty", "tz"), entry["tvec"]))
    row.update(zip(("center_x", "center_y", "center_z"), entry["center"]))
    return row
